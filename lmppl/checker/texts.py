"""The text of a program, with mistakes of syntax in it or not."""

from __future__ import annotations

from collections.abc import Container

from lmppl.builtins import named
from lmppl.checker.analysis import Analysis
from lmppl.checker.programs import analyse
from lmppl.errors import Diagnostic, LmpError
from lmppl.files import ProgramFiles
from lmppl.records import replace
from lmppl.syntax.parser import SyntaxFailure, parse


def analyse_text(
    text: str | bytes, path: str | None, files: ProgramFiles, *, pedantic: bool = False
) -> Analysis:
    """All that is known of the text of a program, as `analyse` says.

    Where the syntax is wrong, what is left of the program is looked at: its errors are among those
    of the syntax, its warnings are not, and its model is without what was left out. `path` only
    names the file.
    """
    try:
        program = parse(text, path)
    except SyntaxFailure as failure:
        return _with_remains(failure, path, files)
    except LmpError as error:
        return Analysis(None, tuple(error.diagnostics), error.sources)
    return analyse(program, files, pedantic=pedantic)


def _with_remains(failure: SyntaxFailure, path: str | None, files: ProgramFiles) -> Analysis:
    """The syntax errors of a program and what is wrong with the meaning of all that is left."""
    left = failure.remains(frozenset(named("distribution")))
    if left is None:
        return Analysis(None, tuple(failure.diagnostics), failure.sources)
    program, lost, declares = left
    found = analyse(program, files)
    meant = [
        each
        for each in found.errors
        # What an imported file has of its own is said when the main file can be read.
        if (each.span is None or each.span.path == path)
        and not _is_doubtful(each, program.source, lost, declares)
    ]
    diagnostics = sorted([*failure.diagnostics, *meant], key=_place)
    return replace(found, diagnostics=tuple(diagnostics), sources=failure.sources)


def _place(diagnostic: Diagnostic) -> tuple[bool, int]:
    span = diagnostic.span
    return (span is None, 0 if span is None else span.start)


# Errors about what is missing, which may stand in what could not be read.
_ABSENCES = frozenset(("LMP101", "LMP111", "LMP116", "LMP201", "LMP220", "LMP223"))


def _is_doubtful(diagnostic: Diagnostic, source: str, lost: Container[str], declares: bool) -> bool:
    if diagnostic.code not in _ABSENCES:
        return False
    span = diagnostic.span
    if span is None or diagnostic.code not in ("LMP101", "LMP111"):
        return True
    help = diagnostic.help or ""
    if diagnostic.code == "LMP101":
        is_vague = not help.startswith("did you mean")
    else:
        is_vague = help.startswith("to have a value of that name")
        if not is_vague:
            return False
    return source[span.start : span.end] in lost or (declares and is_vague)
