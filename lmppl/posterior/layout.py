"""Tables as plain text, laid out by rich; widths are counted as terminals count them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich.box import Box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

# A rule under the head, and nothing else.
_RULED = Box("    \n    \n ─  \n    \n    \n    \n    \n    ")


class Cell:
    """A text that is wrapped to its column, with an ellipsis after `max_lines` lines."""

    def __init__(self, text: str, max_lines: int) -> None:
        self.text, self.max_lines = Text(text), max_lines

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.text)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        lines = self.text.wrap(console, width, overflow="fold")
        for number, line in enumerate(lines[: self.max_lines]):
            line.rstrip()
            if number == self.max_lines - 1 and len(lines) > self.max_lines:
                line.truncate(width - 1)
                line.append("…")
            yield line


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    width: int | None = None,
    ruled: bool = True,
    max_lines: int = 6,
) -> list[str]:
    """The lines of a table of at most `width` columns; as wide as it must be where that is None.

    Narrow columns get what they need, wide ones share the rest.
    """
    found = Table(
        box=_RULED if ruled else None,
        show_edge=False,
        # With a rule, a column of its own stands between two.
        padding=(0, 1 if ruled else 2, 0, 0),
        pad_edge=False,
        header_style="",
    )
    for name in head:
        found.add_column(Text(name), overflow="fold")
    for row in rows:
        found.add_row(*(Cell(cell, max_lines) for cell in row))
    file = io.StringIO()
    console = Console(
        file=file,
        width=width if width is not None else 1_000_000,
        color_system=None,
        force_terminal=False,
        force_jupyter=False,
        legacy_windows=False,
        _environ={},
    )
    console.print(found, end="")
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    if ruled:
        # The rule of a column is as long as the column, without the space after it.
        rule = next(i for i, line in enumerate(lines) if line and not line.strip("─ "))
        lines[rule] = lines[rule].replace("─ ", "  ")
    return lines
