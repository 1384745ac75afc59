"""What a program may read: files in its own folder, and in those that the host allows.

Whatever a file names (`file`, `import`, `markov`, `ngram`, `lexicon`, …) is read through a
`Folder`, when the program is checked and when it is bound, and through nothing else. A path is
followed to where it really is, links and `..` included; then it is opened from the allowed folder
downwards without following a link any more, so that what was looked at is what is read. Pipes,
devices and files beyond a size are refused before a byte is read.

Files that the person at the command line names (the program, `--data`) may lie anywhere, and are
read by `read_plain`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from typing import Protocol

from lmppl.records import dataclass, replace

# A program of 4 MiB has a hundred thousand lines.
MOST_PROGRAM_BYTES = 4 * 2**20
MOST_DATA_BYTES = 256 * 2**20

_BENEATH = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
_OPEN = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
# Opening a pipe must not wait for somebody to write, nor a terminal become ours.
_OPEN_FILE = _OPEN | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)

AnyPath = str | os.PathLike[str]


class Unreadable(Exception):
    """A file that is not read; `reason` ends a sentence that begins with its path."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Outside(Unreadable):
    """A file outside every folder that a program may read."""

    def __init__(self, path: str, real: str, roots: tuple[str, ...]) -> None:
        self.real = real
        self.folder = roots[0]
        self.others = roots[1:]
        leads = "" if os.path.normpath(path) == real else f" (it leads to {real})"
        super().__init__(f"lies outside the folder of the program{leads}")

    @property
    def note(self) -> str:
        """What may be read instead."""
        others = "".join(f", and {each}" for each in self.others)
        return f"a program reads what is in its own folder: {self.folder}{others}"

    @property
    def help(self) -> str:
        """How the host lets the program read it."""
        directory = os.path.dirname(self.real) or os.sep
        return (
            f"move the file there, or allow its folder: `--allow-path {directory}`, in Python"
            f" `allow=[{directory!r}]`"
        )


class NotPlain(Unreadable):
    """A pipe, a device, a directory or a file that is too large."""


class Files(Protocol):
    """What reads the files that a program names."""

    def read(self, path: str) -> bytes:
        """What a file holds.

        Raises:
            Unreadable: it may not be read, or cannot be.
        """
        ...

    def list(self, directory: str) -> list[str]:
        """The names in a directory; none where it may not be looked into."""
        ...


class ProgramFiles(Files, Protocol):
    """The files that a program may read, as they are seen from the folder of one of them."""

    @property
    def base(self) -> str:
        """The folder that relative paths begin in."""
        ...

    @property
    def roots(self) -> tuple[str, ...]:
        """Real paths of the folders that may be read, that of the program first."""
        ...

    def at(self, base: str) -> ProgramFiles:
        """The same files as seen from another folder."""
        ...

    def where(self, path: str) -> str:
        """What a file is, by whatever path it is called: its real path.

        Raises:
            Unreadable: it may not be read.
        """
        ...

    def read(self, path: str, most_bytes: int | None = None) -> bytes:
        """What a file holds; it has at most `most_bytes`.

        Raises:
            Unreadable: it may not be read, or cannot be.
        """
        ...


@dataclass(frozen=True, slots=True)
class Folder:
    """The files that a program in a folder may read.

    Relative paths begin in `base`. `roots` are the real paths of the folders that may be read, that
    of the program first.
    """

    base: str
    roots: tuple[str, ...]
    most_bytes: int = MOST_DATA_BYTES

    @classmethod
    def of(cls, base: AnyPath, allow: Iterable[AnyPath] = ()) -> Folder:
        """The folder `base` and those that the host allows.

        Raises:
            Unreadable: an allowed path is no path.
        """
        base = os.fspath(base) or "."
        return cls(base, tuple(dict.fromkeys(_real(os.fspath(each)) for each in (base, *allow))))

    def at(self, base: str) -> Folder:
        """The same rights for a file that lies in another folder."""
        return replace(self, base=base)

    def where(self, path: str) -> str:
        """The real path of a file that may be read.

        Raises:
            Outside: it may not.
            Unreadable: the path is no path.
        """
        real = _real(os.path.join(self.base, path))
        if self._root(real) is None:
            raise Outside(path, real, self.roots)
        return real

    def read(self, path: str, most_bytes: int | None = None) -> bytes:
        """What a file holds; it has at most `most_bytes`.

        Raises:
            Outside, NotPlain, Unreadable: why it is not read.
        """
        real = self.where(path)
        root = self._root(real)
        assert root is not None
        try:
            return _read(_open_beneath(root, real), most_bytes or self.most_bytes)
        except (OSError, ValueError) as problem:
            raise Unreadable(f"cannot be read: {in_words(problem)}") from problem

    def list(self, directory: str) -> list[str]:
        """The names in a directory; none where it may not be looked into."""
        try:
            return sorted(os.listdir(self.where(directory)))
        except (OSError, Unreadable):
            return []

    def _root(self, real: str) -> str | None:
        return next((root for root in self.roots if _is_beneath(real, root)), None)


@dataclass(frozen=True, slots=True)
class Edited:
    """The files of a folder some of which are open in an editor: `buffers` have, by real path, what
    is in them and may not be on disk yet."""

    folder: Folder
    buffers: Mapping[str, bytes]

    @property
    def base(self) -> str:
        return self.folder.base

    @property
    def roots(self) -> tuple[str, ...]:
        return self.folder.roots

    def at(self, base: str) -> Edited:
        """The same files as seen from another folder."""
        return replace(self, folder=self.folder.at(base))

    def where(self, path: str) -> str:
        """The real path of a file that may be read.

        Raises:
            Outside, Unreadable: why it may not.
        """
        return self.folder.where(path)

    def read(self, path: str, most_bytes: int | None = None) -> bytes:
        """What the buffer of a file holds, or else the file.

        Raises:
            Outside, NotPlain, Unreadable: why it is not read.
        """
        content = self.buffers.get(self.where(path))
        if content is None:
            return self.folder.read(path, most_bytes)
        if len(content) > (most_bytes or self.folder.most_bytes):
            raise NotPlain(_too_large(most_bytes or self.folder.most_bytes))
        return content

    def list(self, directory: str) -> list[str]:
        """The names in a directory, on disk or in a buffer."""
        try:
            here = self.where(directory)
        except Unreadable:
            return []
        open_here = {
            os.path.basename(path) for path in self.buffers if os.path.dirname(path) == here
        }
        return sorted({*self.folder.list(directory), *open_here})


def read_plain(path: AnyPath, most_bytes: int = MOST_DATA_BYTES) -> bytes:
    """What a file holds that a person named, wherever it is.

    Raises:
        NotPlain: it is a pipe, a device, a directory, or larger than `most_bytes`.
        OSError, ValueError: it cannot be opened.
    """
    _require_plain(os.stat(path), most_bytes)
    return _read(os.open(path, _OPEN_FILE), most_bytes)


def in_words(problem: OSError | ValueError) -> str:
    """Why a path could not be opened, as the end of a sentence."""
    if isinstance(problem, UnicodeError):
        return "half a character is in its path"
    if isinstance(problem, ValueError):
        return "a NUL is in its path"
    return (problem.strerror or "the system says no more").lower()


def _real(path: str) -> str:
    try:
        return os.path.realpath(path)
    except (OSError, ValueError) as problem:
        raise Unreadable(f"cannot be read: {in_words(problem)}") from problem


def _is_beneath(real: str, root: str) -> bool:
    return real == root or real.startswith(root if root.endswith(os.sep) else root + os.sep)


def _open_beneath(root: str, real: str) -> int:
    """A descriptor of the file at a real path, reached from `root` without following a link."""
    if not _BENEATH:
        _require_plain(os.lstat(real), None)
        return os.open(real, _OPEN_FILE)
    parts = os.path.relpath(real, root).split(os.sep)
    here = os.open(root, _OPEN | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            below = os.open(part, _OPEN | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
        # Some devices act when they are opened, so it is looked at before and after.
        _require_plain(os.stat(parts[-1], dir_fd=here, follow_symlinks=False), None)
        return os.open(parts[-1], _OPEN_FILE | os.O_NOFOLLOW, dir_fd=here)
    finally:
        os.close(here)


def _read(descriptor: int, most_bytes: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        _require_plain(os.fstat(descriptor), most_bytes)
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise NotPlain(_too_large(most_bytes))
    return content


def _require_plain(status: os.stat_result, most_bytes: int | None) -> None:
    kinds = (
        (stat.S_ISDIR, "is a directory"),
        (stat.S_ISFIFO, "is a pipe, not a file"),
        (stat.S_ISSOCK, "is a socket, not a file"),
        (lambda mode: not stat.S_ISREG(mode), "is a device, not a file"),
    )
    for is_kind, words in kinds:
        if is_kind(status.st_mode):
            raise NotPlain(words)
    if most_bytes is not None and status.st_size > most_bytes:
        raise NotPlain(_too_large(most_bytes))


def _too_large(most_bytes: int) -> str:
    return f"is larger than {most_bytes // 2**20} MiB, the most that is read"
