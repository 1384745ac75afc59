"""Where what was made once lies for the next process: the user's cache, and whom to trust there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")


def cache_directories() -> Iterator[Path]:
    """Where things may lie, best first: `$LMPPL_CACHE_DIR` alone where it is given."""
    given = os.environ.get("LMPPL_CACHE_DIR")
    if given:
        yield Path(given)
        return
    xdg = os.environ.get("XDG_CACHE_HOME")
    if xdg:
        yield Path(xdg) / "lmppl"
    else:
        with contextlib.suppress(RuntimeError):
            yield Path.home() / ".cache" / "lmppl"
    # Seldom needed, and slow to load.
    import tempfile

    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    yield Path(tempfile.gettempdir()) / f"lmppl-{user}"


def is_private(path: Path) -> bool:
    """Whether nobody else can have written `path`.

    Raises:
        OSError: there is no such file.
    """
    if not hasattr(os, "getuid"):
        return True
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def make_private(directory: Path) -> bool:
    """Makes a directory, and those above it, for this user alone; False where that cannot be."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return is_private(directory)
    except OSError:
        return False


def kept(
    name: str, read: Callable[[bytes], _T], make: Callable[[], _T], write: Callable[[_T], bytes]
) -> _T:
    """What a file of that name in the user's cache says; made, and kept there, where none does.

    The name holds what the content depends on. `read` raises where bytes are none of it. No place
    to write to, or nothing whole in it, only costs the time of making it.
    """
    for directory in cache_directories():
        try:
            return load(directory / name, read)
        except Exception:
            # Missing, truncated or from elsewhere: whatever it is, it can be made again.
            continue
    made = make()
    for directory in cache_directories():
        if save(directory / name, write(made)):
            break
    return made


def load(file: Path, read: Callable[[bytes], _T]) -> _T:
    """What is in a file that nobody else can have written.

    Raises: OSError where there is no such file, and whatever `read` does.
    """
    if not (is_private(file.parent) and is_private(file)):
        raise PermissionError(f"others can write {file}")
    return read(file.read_bytes())


def save(file: Path, data: bytes) -> bool:
    """Writes a file for this user alone; False where that cannot be.

    Under a passing name first, so that no reader ever sees half of it.
    """
    try:
        # Whoever could write there would decide what is read.
        if not make_private(file.parent):
            return False
        import tempfile

        descriptor, passing = tempfile.mkstemp(dir=file.parent, prefix=f"{file.stem}-")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
            os.replace(passing, file)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(passing)
            raise
    except OSError:
        return False
    return True
