"""Which files of a directory lmppl wrote, and may therefore replace."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lmppl.posterior.index import FIRST_FORMAT, JSON, Listed, digest_of_file, read_list

LOCK = ".lmppl-lock"
_STAGING = re.compile(r"\.lmppl-save-\w+\Z")
_LEAST_FREE = 1 << 16

# What `save_pretrained` writes into the guide of a result in the first format, which lists nothing.
_OF_A_GUIDE = re.compile(
    r"(lmppl_guide|config|generation_config|tokenizer|tokenizer_config|special_tokens_map"
    r"|added_tokens|vocab|adapter_config|(model|adapter_model)\.safetensors\.index)\.json"
    r"|(tables|model|adapter_model|model-\d+-of-\d+)\.safetensors"
    r"|merges\.txt|tokenizer\.model|chat_template\.jinja|README\.md"
)


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
        owned_files(target)
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


def owned_files(target: Path) -> Listed:
    """All files that lmppl wrote into a directory, those left behind by killed rewrites included.

    Raises: FileExistsError, naming it, where anything else is there.
    """
    names = sorted(os.listdir(target))
    listed: Listed = {}
    first = False
    if JSON in names:
        found = read_list(target / JSON) if is_plain(target / JSON) else None
        if found is None:
            raise FileExistsError(
                f"{target / JSON} is not as lmppl wrote it, and saving would destroy it: move it"
                " away, or choose another directory"
            )
        first = found[0] == FIRST_FORMAT
        listed.update(found[1])
    leftovers = [name for name in names if is_leftover(target, name)]
    for name in leftovers:
        # Killed between two renames: this list knows the files that were in place already.
        found = read_list(target / name / JSON)
        listed.update({} if found is None else found[1])
    owned: Listed = {}
    for path in files_below(target, [name for name in names if name not in leftovers]):
        if path in (JSON, LOCK):
            continue
        of_first = first and (path == "draws.safetensors" or _is_of_a_guide(path))
        if not is_plain(target / path) or not (of_first or path in listed):
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


def is_plain(path: Path) -> bool:
    """Whether a path is a regular file itself, and no link to one."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def is_leftover(target: Path, name: str) -> bool:
    path = target / name
    return bool(_STAGING.match(name)) and path.is_dir() and not path.is_symlink()


def _is_of_a_guide(path: str) -> bool:
    parts = path.split("/")
    return parts[0] == "guide" and len(parts) <= 3 and bool(_OF_A_GUIDE.fullmatch(parts[-1]))


def files_below(place: Path, names: list[str]) -> Iterator[str]:
    """Every entry below a directory, from `names` on, that is no directory itself."""
    for name in names:
        path = place / name
        if path.is_symlink() or not path.is_dir():
            yield name
        else:
            yield from (f"{name}/{below}" for below in files_below(path, sorted(os.listdir(path))))
