"""A directory that is rewritten as a whole, and in which nothing is touched that others wrote.

The small file `posterior.json` names the files with the numbers, with their sizes and digests. A
rewrite puts new files beside the old ones under names that are free, and then replaces
`posterior.json`: that one rename is the moment in which the new result takes the place of the old
one. Whatever stops a rewrite, the directory holds the old result or the new one.

What a killed rewrite leaves behind is known by its place (a directory `.lmppl-save-…`) or is listed
in a `posterior.json` with its digest, so the next one can tell it from what is not ours.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lmppl.posterior.durable import (
    locked,
    make_directories,
    share,
    sync_directory,
    sync_tree,
    write_synced,
)
from lmppl.posterior.index import FIRST_FORMAT, JSON, Listed, digest_of_file, read_own, sealed
from lmppl.posterior.ownership import (
    check_destination,
    files_below,
    is_leftover,
    is_plain,
    owned_files,
)

_ENTRY = re.compile(r"guide(-\d+)?")


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
    made = make_directories(target)
    try:
        with locked(target):
            _rewrite_locked(target, write)
    except BaseException:
        for each in made:
            # Only what is empty goes: a lock file or a new result of another writer may be there.
            with suppress(OSError):
                os.rmdir(each)
        raise
    for each in made:
        sync_directory(each.parent)


def _rewrite_locked(target: Path, write: Callable[[Path], Mapping[str, Any]]) -> None:
    old = owned_files(target)
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
        for path in files_below(staging, entries):
            entry, slash, below = path.partition("/")
            files[names[entry] + slash + below] = digest_of_file(staging / path)
        new = sealed({**document, "names": names, "files": files, "replaces": old})
        write_synced(staging / JSON, new)
        share(staging)
        sync_tree(staging)
        for entry in entries:
            os.rename(staging / entry, target / names[entry])
        sync_directory(target)
        os.replace(staging / JSON, target / JSON)
        sync_directory(target)
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
        if _ENTRY.fullmatch(name) and not is_plain(target / name):
            _remove_empty(target / name)
    if any(_exists(target / path) for path in unneeded):
        return  # a list in a staging directory may be the only one that knows them
    for name in os.listdir(target):
        if is_leftover(target, name):
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
            return set(files_below(target, [n for n in names if (target / n).exists()]))
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
