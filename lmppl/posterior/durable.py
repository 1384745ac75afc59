"""Writing that survives a power cut, and one writer at a time."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lmppl.posterior.index import JSON
from lmppl.posterior.ownership import LOCK

_PATIENCE = 60.0  # seconds that a writer waits for another one


def make_directories(target: Path) -> list[Path]:
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


def write_synced(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def share(staging: Path) -> None:
    """Gives all files the permissions of `posterior.json`, which follow the user's mask.

    Libraries write some for their owner alone.
    """
    mode = os.stat(staging / JSON).st_mode & 0o777
    for path in staging.rglob("*"):
        if path.is_file():
            os.chmod(path, mode)


def sync_tree(directory: Path) -> None:
    """Makes sure that everything below a directory is on the disk."""
    for path in sorted(directory.rglob("*")):
        if path.is_dir():
            sync_directory(path)
        else:
            # Windows syncs only what is open for writing.
            descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
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
def locked(target: Path) -> Iterator[None]:
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

        return os.open(target / LOCK, os.O_RDWR | os.O_CREAT, 0o666), take_byte

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
        return os.open(target / LOCK, os.O_RDWR | os.O_CREAT, 0o666), take_whole
    return descriptor, take_whole
