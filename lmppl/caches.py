"""Where what was made once lies for the next process: the user's cache, and whom to trust there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


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
