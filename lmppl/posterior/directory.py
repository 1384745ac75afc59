"""A directory that is rewritten as a whole, and in which nothing is touched that others wrote.

The small file `posterior.json` names the files with the numbers, with their sizes and digests. A
rewrite puts new files beside the old ones under names that are free, and then replaces
`posterior.json`: that one rename is the moment in which the new result takes the place of the old
one. Whatever stops a rewrite, the directory holds the old result or the new one.

What a killed rewrite leaves behind is known by its place (a directory `.lmppl-save-…`) or is listed
in a `posterior.json` with its digest, so the next one can tell it from what is not ours.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lmppl.files import Unreadable, read_plain
from lmppl.jsons import read_json

JSON = "posterior.json"
FORMAT = "lmppl-posterior/2"
FIRST_FORMAT = "lmppl-posterior/1"
# Bytes of a `posterior.json`, which holds the words of all draws.
MOST_INDEX = 1 << 31
_LOCK = ".lmppl-lock"
_STAGING = re.compile(r"\.lmppl-save-\w+\Z")
_ENTRY = re.compile(r"guide(-\d+)?")
_NO_DIGEST = "0" * 64
_LEAST_FREE = 1 << 16
_PATIENCE = 60.0  # seconds that a writer waits for another one

# What `save_pretrained` writes into the guide of a result in the first format, which lists nothing.
_OF_A_GUIDE = re.compile(
    r"(lmppl_guide|config|generation_config|tokenizer|tokenizer_config|special_tokens_map"
    r"|added_tokens|vocab|adapter_config|(model|adapter_model)\.safetensors\.index)\.json"
    r"|(tables|model|adapter_model|model-\d+-of-\d+)\.safetensors"
    r"|merges\.txt|tokenizer\.model|chat_template\.jinja|README\.md"
)

# The size and the SHA-256 of a file, by its path in the directory, parts joined by "/".
Listed = dict[str, dict[str, Any]]


# Reading the list of files ----------------------------------------------------------------------


def sealed(document: Mapping[str, Any]) -> bytes:
    """`posterior.json` of a document: it holds the digest of all its own bytes."""
    text = json.dumps(
        {"format": FORMAT, "digest": _NO_DIGEST, **document}, allow_nan=False, indent=1
    )
    data = (text + "\n").encode("ascii")
    # The first 64 zeros are those of the digest: nothing of the document comes before it.
    return data.replace(_NO_DIGEST.encode(), _seal(data).encode(), 1)


def read_own(data: bytes) -> Any:
    """The value of a `posterior.json`. A draw may have half a character in it, from a parameter.

    Raises:
        ValueError: it is none that was written here.
    """
    return read_json(data.decode("ascii"), finite=True, half_characters=True)


def is_sealed(data: bytes, document: Mapping[str, Any]) -> bool:
    """Whether the digest in a `posterior.json` is that of its bytes."""
    digest = document.get("digest")
    if not isinstance(digest, str) or len(digest) != 64 or not digest.isascii():
        return False
    return _seal(data.replace(digest.encode(), _NO_DIGEST.encode(), 1)) == digest


def _seal(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest_of_file(path: Path) -> dict[str, Any]:
    """The size of a file and its SHA-256."""
    sha, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
            size += len(block)
    return {"bytes": size, "sha256": sha.hexdigest()}


def _read_list(path: Path) -> tuple[str, Listed] | None:
    """The format of a `posterior.json` of ours and the files it accounts for; None: not ours."""
    try:
        data = read_plain(path, MOST_INDEX)
        document = read_own(data)
        if document["format"] == FIRST_FORMAT and isinstance(document["fields"], dict):
            return FIRST_FORMAT, {}
        if document["format"] != FORMAT or not is_sealed(data, document):
            return None
        files, replaced = document["files"], document["replaces"]
        return FORMAT, {**replaced, **files}
    except (OSError, ValueError, KeyError, TypeError, Unreadable):
        return None


# Whose files are these? -------------------------------------------------------------------------


def check_destination(directory: str | os.PathLike[str]) -> None:
    """Refuses a path that a result cannot be saved to, or where saving would destroy something.

    Raises:
        FileExistsError: it is a file, or a directory with something in it that lmppl did not write.
        OSError: it cannot be written to, or looked at.
    """
    target = Path(directory)
    if os.path.lexists(target) and not target.is_dir():
        what = "is a link that leads nowhere" if target.is_symlink() else "is a file"
        raise FileExistsError(f"{target} {what}; a posterior is saved as a directory")
    if target.is_dir():
        _owned(target)
    place = target.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise NotADirectoryError(f"{place} is no directory, so {target} cannot be made")
    try:
        # Permissions do not tell everything: a file system may be read-only or out of entries.
        os.rmdir(tempfile.mkdtemp(prefix=".lmppl-save-", dir=place))
        if shutil.disk_usage(place).free < _LEAST_FREE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        why = error.strerror or str(error)
        raise OSError(f"{place}: nothing can be written there: {why}") from error


def _owned(target: Path) -> Listed:
    """All files that lmppl wrote into a directory, those left behind by killed rewrites included.

    Raises: FileExistsError, naming it, where anything else is there.
    """
    names = sorted(os.listdir(target))
    listed: Listed = {}
    first = False
    if JSON in names:
        found = _read_list(target / JSON) if _is_plain(target / JSON) else None
        if found is None:
            raise FileExistsError(
                f"{target / JSON} is not as lmppl wrote it, and saving would destroy it: move it"
                " away, or choose another directory"
            )
        first = found[0] == FIRST_FORMAT
        listed.update(found[1])
    leftovers = [name for name in names if _is_leftover(target, name)]
    for name in leftovers:
        # Killed between two renames: this list knows the files that were in place already.
        found = _read_list(target / name / JSON)
        listed.update({} if found is None else found[1])
    owned: Listed = {}
    for path in _files_below(target, [name for name in names if name not in leftovers]):
        if path in (JSON, _LOCK):
            continue
        of_first = first and (path == "draws.safetensors" or _is_of_a_guide(path))
        if not _is_plain(target / path) or not (of_first or path in listed):
            raise _foreign(target, path, "which lmppl did not write")
        if not of_first and (target / path).stat().st_size != listed[path].get("bytes"):
            raise _foreign(target, path, "which was changed after lmppl wrote it")
        digest = digest_of_file(target / path)
        if not of_first and digest != listed[path]:
            raise _foreign(target, path, "which was changed after lmppl wrote it")
        owned[path] = digest
    return owned


def _foreign(target: Path, path: str, why: str) -> FileExistsError:
    saved = "" if (target / JSON).exists() else ", and there is no saved posterior"
    return FileExistsError(
        f"{target} has files in it that saving would destroy: {path}, {why}{saved}. Move it away,"
        " or choose another directory"
    )


def _is_plain(path: Path) -> bool:
    """Whether a path is a regular file itself, and no link to one."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _is_leftover(target: Path, name: str) -> bool:
    path = target / name
    return bool(_STAGING.match(name)) and path.is_dir() and not path.is_symlink()


def _is_of_a_guide(path: str) -> bool:
    parts = path.split("/")
    return parts[0] == "guide" and len(parts) <= 3 and bool(_OF_A_GUIDE.fullmatch(parts[-1]))


def _files_below(place: Path, names: list[str]) -> Iterator[str]:
    """Every entry below a directory, from `names` on, that is no directory itself."""
    for name in names:
        path = place / name
        if path.is_symlink() or not path.is_dir():
            yield name
        else:
            yield from (f"{name}/{below}" for below in _files_below(path, sorted(os.listdir(path))))


# Rewriting --------------------------------------------------------------------------------------


def rewrite(
    directory: str | os.PathLike[str],
    write: Callable[[Path], Mapping[str, Any]],
) -> None:
    """Makes a directory hold what `write` writes, and nothing else.

    `write` fills an empty directory and returns the document of `posterior.json`; to it are added
    `files` (what there is, with sizes and digests), `replaces` (what the last result consisted of)
    and `names` (what each entry that `write` made is called in the end).

    Raises: FileExistsError as `check_destination`; what `write` raises; OSError. The directory then
        is as it was.
    """
    target = Path(directory)
    if os.path.lexists(target) and not target.is_dir():
        check_destination(target)
    made = _make_directories(target)
    try:
        with _locked(target):
            _rewrite_locked(target, write)
    except BaseException:
        for each in made:
            # Only what is empty goes: a lock file or a new result of another writer may be there.
            with suppress(OSError):
                os.rmdir(each)
        raise
    for each in made:
        _sync_directory(each.parent)


def _rewrite_locked(target: Path, write: Callable[[Path], Mapping[str, Any]]) -> None:
    old = _owned(target)
    _clear(target, old)
    old = {path: digest for path, digest in old.items() if (target / path).exists()}
    staging = Path(tempfile.mkdtemp(prefix=".lmppl-save-", dir=target))
    names: dict[str, str] = {}
    new = b""
    try:
        document = write(staging)
        entries = sorted(os.listdir(staging))
        names = {entry: _free_name(target, entry) for entry in entries}
        files = {}
        for path in _files_below(staging, entries):
            entry, slash, below = path.partition("/")
            files[names[entry] + slash + below] = digest_of_file(staging / path)
        new = sealed({**document, "names": names, "files": files, "replaces": old})
        _write_synced(staging / JSON, new)
        _share(staging)
        _sync_tree(staging)
        for entry in entries:
            os.rename(staging / entry, target / names[entry])
        _sync_directory(target)
        os.replace(staging / JSON, target / JSON)
        _sync_directory(target)
    except BaseException:
        _roll_back(target, staging, names, new)
        raise
    with suppress(OSError):
        _clear(target, old)


def _roll_back(target: Path, staging: Path, names: Mapping[str, str], new: bytes) -> None:
    # The last rename may have happened although something was raised: only the disk knows.
    if not _holds(target / JSON, new):
        placed = [target / names[entry] for entry in names if not _exists(staging / entry)]
        for path in placed:
            _remove(path)
        if any(_exists(path) for path in placed):
            return  # the list in the staging directory knows them, for the next rewrite
    _remove(staging)


def _clear(target: Path, owned: Listed) -> None:
    """Removes what earlier rewrites left behind, and those of our files that nothing names."""
    needed = _needed(target)
    unneeded = sorted(owned.keys() - needed)
    for path in unneeded:
        with suppress(OSError):
            os.unlink(target / path)
    for name in os.listdir(target):
        if _ENTRY.fullmatch(name) and not _is_plain(target / name):
            _remove_empty(target / name)
    if any(_exists(target / path) for path in unneeded):
        return  # a list in a staging directory may be the only one that knows them
    for name in os.listdir(target):
        if _is_leftover(target, name):
            _remove(target / name)


def _remove_empty(directory: Path) -> None:
    """Removes the directories, from this one on, that hold nothing."""
    with suppress(OSError):
        for each in os.listdir(directory):
            _remove_empty(directory / each)
        os.rmdir(directory)


def _needed(target: Path) -> set[str]:
    """The files that the `posterior.json` in place names."""
    try:
        document = read_own((target / JSON).read_bytes())
        if document["format"] == FIRST_FORMAT:
            names = ["draws.safetensors", "guide"]
            return set(_files_below(target, [n for n in names if (target / n).exists()]))
        return set(document["files"])
    except FileNotFoundError:
        return set()


def _free_name(target: Path, name: str) -> str:
    stem, dot, ending = name.partition(".")
    number, found = 1, name
    while os.path.lexists(target / found):
        number += 1
        found = f"{stem}-{number}{dot}{ending}"
    return found


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


def _holds(path: Path, data: bytes) -> bool:
    try:
        return bool(data) and path.read_bytes() == data
    except OSError:
        return False


def _remove(path: Path) -> None:
    """Removes a file or a directory as far as that goes."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            os.unlink(path)


# Durability and locking -------------------------------------------------------------------------


def _make_directories(target: Path) -> list[Path]:
    """Makes a directory with its parents; returns those that were missing, the deepest first."""
    missing = []
    place = target
    while not place.is_dir():
        missing.append(place)
        if place.parent == place:
            break
        place = place.parent
    made: list[Path] = []
    try:
        for place in reversed(missing):
            place.mkdir(exist_ok=True)
            made.insert(0, place)
    except BaseException:
        for place in made:
            with suppress(OSError):
                os.rmdir(place)
        raise
    return made


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _share(staging: Path) -> None:
    """Gives all files the permissions of `posterior.json`, which follow the user's mask.

    Libraries write some for their owner alone.
    """
    mode = os.stat(staging / JSON).st_mode & 0o777
    for path in staging.rglob("*"):
        if path.is_file():
            os.chmod(path, mode)


def _sync_tree(directory: Path) -> None:
    """Makes sure that everything below a directory is on the disk."""
    for path in sorted(directory.rglob("*")):
        if path.is_dir():
            _sync_directory(path)
        else:
            # Windows syncs only what is open for writing.
            descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    _sync_directory(directory)


def _sync_directory(directory: Path) -> None:
    """Makes sure that the entries of a directory are on the disk, where the system can do that."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Keeps other writers out of a directory while the block runs.

    Raises: BlockingIOError where another one does not finish within a minute.
    """
    descriptor, take = _lock_of(target)
    try:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                take(descriptor)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                    raise
                if time.monotonic() > until:
                    raise BlockingIOError(f"another process is saving to {target}") from error
                time.sleep(0.02)
        yield
    finally:
        # Closing gives the lock up, as the end of the process does.
        os.close(descriptor)


def _lock_of(target: Path) -> tuple[int, Callable[[int], None]]:
    """An open file that stands for the directory, and how it is locked without waiting."""
    try:
        import fcntl
    except ImportError:
        import msvcrt

        def take_byte(descriptor: int) -> None:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]

        return os.open(target / _LOCK, os.O_RDWR | os.O_CREAT, 0o666), take_byte

    def take_whole(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    descriptor = os.open(target, os.O_RDONLY)
    try:
        # Some network file systems lock only what is open for writing, which no directory is.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL):
            return descriptor, take_whole
        os.close(descriptor)
        return os.open(target / _LOCK, os.O_RDWR | os.O_CREAT, 0o666), take_whole
    return descriptor, take_whole
