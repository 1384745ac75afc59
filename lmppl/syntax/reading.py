"""The bytes of a program, from a path or from the host, or LMP027."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from lmppl.errors import Diagnostic, LmpError, closest
from lmppl.files import MOST_PROGRAM_BYTES, NotPlain, read_plain

_SUFFIX = ".lmp"


def read_program(path: str | os.PathLike[str]) -> bytes:
    """What a file holds.

    Raises:
        LmpError: LMP027, there is no such file or it cannot be read.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise _unreadable(
            f"a program is loaded from a path, not from {_kind_of(path)}",
            "give the path of a .lmp file; `lmppl.compile` takes the text of a program",
        )
    name = os.fspath(path)
    try:
        return read_plain(name, MOST_PROGRAM_BYTES)
    except NotPlain as problem:
        is_directory = os.path.isdir(name)
        reason = os.strerror(errno.EISDIR) if is_directory else f"it {problem.reason}"
        help = _help(name)
    except OSError as problem:
        reason, help = problem.strerror or "it cannot be read", _help(name)
    except ValueError as problem:
        # A NUL in the path, or half a character.
        reason, help = str(problem), None
    raise _unreadable(f"cannot read {name}: {reason}", help)


def require_text(source: object) -> str | bytes:
    """What the host gave for the text of a program.

    Raises:
        LmpError: LMP027, it is neither text nor bytes, or the path of a program.
    """
    if isinstance(source, str) and source.strip().endswith(_SUFFIX) and "\n" not in source.strip():
        raise _unreadable(
            f"a program is compiled from its text, and {source.strip()!r} is a path",
            "`lmppl.load(path)` reads a file",
        )
    if isinstance(source, (str, bytes)):
        return source
    raise _unreadable(
        f"a program is compiled from its text, not from {_kind_of(source)}",
        "`lmppl.load(path)` reads a file",
    )


def _unreadable(message: str, help: str | None) -> LmpError:
    return LmpError([Diagnostic("LMP027", "error", message, help=help)])


def _kind_of(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"


def _help(path: str) -> str:
    """What may have been meant by a path that cannot be read."""
    if os.path.isdir(path):
        programs = _programs_in(path)
        if not programs:
            return "give the path of a .lmp file"
        return f"it is a directory; name a program in it, such as {os.path.join(path, programs[0])}"
    directory, name = os.path.split(path)
    near = closest(name, _programs_in(directory or "."))
    if near is not None and near != name:
        return f"did you mean {os.path.join(directory, near)}?"
    if os.path.isabs(path):
        return "give the path of a .lmp file"
    return "relative paths are looked up from the working directory"


def _programs_in(directory: str) -> Sequence[str]:
    try:
        return sorted(name for name in os.listdir(directory) if name.endswith(_SUFFIX))
    except OSError:
        return []
