"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file whose place holds what was there before, or all that is new, at every moment.

    Links stay, and so do permissions. A pipe or a device is written to as it is.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    target = Path(os.path.realpath(path))
    try:
        before = os.stat(target)
    except FileNotFoundError:
        before = None
    if before is not None and not stat.S_ISREG(before.st_mode):
        # A pipe or a device cannot be replaced, and a directory says so itself.
        target.write_bytes(data)
        return
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:100]}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o666 & ~_mask() if before is None else stat.S_IMODE(before.st_mode))
        os.replace(name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


@contextmanager
def whole_directory(directory: str | os.PathLike[str], last: str) -> Iterator[Path]:
    """A new directory to write to, whose files are moved to `directory` where the block succeeds.

    Files of other names stay. While files are moved there is no file `last`, so that a directory
    that has one is whole.
    """
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".lmppl-save-", dir=target))
    try:
        yield staging
        with suppress(FileNotFoundError):
            os.unlink(target / last)
        names = [path.relative_to(staging) for path in sorted(staging.rglob("*"))]
        names.sort(key=lambda name: str(name) == last)
        for name in names:
            if (staging / name).is_dir():
                (target / name).mkdir(exist_ok=True)
            else:
                os.replace(staging / name, target / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _mask() -> int:
    """What the process takes away from the permissions of new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
