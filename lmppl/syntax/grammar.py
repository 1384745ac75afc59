"""The grammar file and the parser tables made from it.

Making the tables takes about a second, so they are kept in a cache directory of the user, under a
name that holds a digest of everything they depend on. Nothing here runs at import.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import sys
import tempfile
from importlib import resources
from pathlib import Path

from lark import Lark, __version__

from lmppl.errors import InternalError

START = "program"

# Words that only count as keywords right after `extern`; elsewhere they are names.
AFTER_EXTERN = {"lm": "LM", "function": "FUNCTION"}


@functools.cache
def grammar_text() -> str:
    """The text of `lmp.lark`, from the installed package or from the checkout it runs in."""
    packaged = resources.files("lmppl").joinpath("grammar", "lmp.lark")
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    checkout = Path(__file__).parents[2] / "grammar" / "lmp.lark"
    if checkout.is_file():
        return checkout.read_text(encoding="utf-8")
    raise InternalError("the grammar file lmp.lark is missing from the installation")


def build_parser(*, strict: bool = False) -> Lark:
    """A parser made from the grammar text, without the cache.

    `strict` refuses every conflict, also among terminals; it needs the package interegular.
    """
    return Lark(
        grammar_text(),
        parser="lalr",
        lexer="contextual",
        start=START,
        strict=strict,
        propagate_positions=False,
        maybe_placeholders=False,
        keep_all_tokens=True,
    )


@functools.cache
def parser() -> Lark:
    """The parser of this process: from the cache where there is one, else built and cached."""
    for directory in _cache_directories():
        file = directory / f"grammar-{_digest()}.bin"
        loaded = _load(file)
        if loaded is not None:
            return loaded
    built = build_parser()
    for directory in _cache_directories():
        if _save(built, directory / f"grammar-{_digest()}.bin"):
            break
    return built


@functools.cache
def terminals() -> re.Pattern[str]:
    """One pattern over all terminals of the grammar; the name of the group is the terminal."""
    # The order is that of lark's own lexers: what is longer or more particular is tried first.
    ordered = sorted(
        parser().terminals,
        key=lambda each: (
            -each.priority,
            -each.pattern.max_width,
            -len(each.pattern.value),
            each.name,
        ),
    )
    return re.compile(
        "|".join(
            f"(?P<{each.name}>{each.pattern.to_regexp()})"
            for each in ordered
            if each.name not in AFTER_EXTERN.values()
        )
    )


@functools.cache
def keywords() -> dict[str, str]:
    """The reserved words, each with its terminal."""
    # A keyword is a terminal whose pattern is a word followed by \b.
    found: dict[str, str] = {}
    for each in parser().terminals:
        word = each.pattern.value.removesuffix(r"\b")
        if word.isalpha() and word != each.pattern.value and each.name not in AFTER_EXTERN.values():
            found[word] = each.name
    return found


def _digest() -> str:
    parts = (grammar_text(), __version__, sys.version, START)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _cache_directories() -> list[Path]:
    """Where the tables may lie, best first."""
    given = os.environ.get("LMPPL_CACHE_DIR")
    if given:
        return [Path(given)]
    directories: list[Path] = []
    xdg = os.environ.get("XDG_CACHE_HOME")
    if xdg:
        directories.append(Path(xdg) / "lmppl")
    else:
        with contextlib.suppress(RuntimeError):
            directories.append(Path.home() / ".cache" / "lmppl")
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    directories.append(Path(tempfile.gettempdir()) / f"lmppl-{user}")
    return directories


def _is_private(path: Path) -> bool:
    """Whether nobody else can have written `path`: the tables are unpickled, which runs code."""
    if not hasattr(os, "getuid"):
        return True
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def _load(file: Path) -> Lark | None:
    try:
        if not (_is_private(file.parent) and _is_private(file)):
            return None
        with file.open("rb") as stream:
            return Lark.load(stream)
    except Exception:
        # Missing, truncated or from elsewhere: whatever it is, the tables can be built again.
        return None


def _save(built: Lark, file: Path) -> bool:
    """Write the tables under a passing name first, so that no reader ever sees half a file."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(file.parent):
            return False
        descriptor, passing = tempfile.mkstemp(dir=file.parent, prefix="grammar-")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                built.save(stream)
            os.replace(passing, file)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(passing)
            raise
    except OSError:
        return False
    return True
