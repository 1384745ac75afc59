"""Programs that read in another order than they have."""

from __future__ import annotations

from lmppl.checker.report import Report
from lmppl.errors import Span
from lmppl.errors.plain import BIDIRECTIONAL
from lmppl.syntax import ast

_MOST = 5


def warn_of_reordering(program: ast.Program, report: Report) -> None:
    """LMP137 for bidirectional controls in the text of a program, the first few."""
    source = program.source
    if source.isascii():
        return
    places = [at for at, character in enumerate(source) if character in BIDIRECTIONAL]
    for at in places[:_MOST]:
        report.warning(
            "LMP137",
            Span.of(source, at, at + 1, program.path),
            f"a bidirectional control, U+{ord(source[at]):04X}: this line may not read as it runs",
            help="take it out, or write it as an escape in a string",
        )
