"""Drawing a diagnostic: the user's own lines, underlined."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lmppl.errors.diagnostic import Diagnostic, Label, Span
from lmppl.errors.plain import BIDIRECTIONAL
from lmppl.records import dataclass

_TAB_STOP = 4
# Beyond, a report of what is no program would be as long as what it reports.
_MOST_SHOWN = 50
_WIDEST_LINE = 300
_WINDOW = 200
_BEFORE = 60


@dataclass(frozen=True, slots=True)
class _Mark:
    """One underline on one line, in screen columns counted from 0."""

    start: int
    end: int
    sign: str
    text: str


def render(
    diagnostics: Sequence[Diagnostic], sources: Mapping[str | None, str] | None = None
) -> str:
    """The diagnostics as plain text, one blank line between two; of very many the first."""
    shown = [render_diagnostic(each, sources) for each in diagnostics[:_MOST_SHOWN]]
    more = len(diagnostics) - len(shown)
    if more > 0:
        shown.append(f"… and {more:,} more")
    return "\n\n".join(shown)


def render_diagnostic(
    diagnostic: Diagnostic, sources: Mapping[str | None, str] | None = None
) -> str:
    """One diagnostic as plain text, laid out as rustc does, with the lines that it points at."""
    sources = sources or {}
    head = f"{diagnostic.severity}[{diagnostic.code}]: {diagnostic.message}"
    groups = _group_by_file(diagnostic)
    shown = [label for labels in groups.values() for label, _ in labels]
    width = max((len(str(label.span.end_line)) for label in shown), default=1)
    margin = " " * (width + 1)
    lines = [head]
    for number, (path, labels) in enumerate(groups.items()):
        first = labels[0][0].span
        arrow = "-->" if number == 0 else ":::"
        lines.append(f"{' ' * width}{arrow} {path or '<input>'}:{first.line}:{first.column}")
        if path in sources:
            lines.append(f"{margin}|")
            lines.extend(_draw_file(labels, sources[path], width))
    # Notes line up with the bars when there are bars.
    indent = margin if groups else "  "
    for note in diagnostic.notes:
        lines.extend(_remark(f"{indent}= note: ", note))
    if diagnostic.help:
        lines.extend(_remark(f"{indent}= help: ", diagnostic.help))
    return "\n".join(_printable(line.rstrip()) for line in lines)


def _remark(lead: str, text: str) -> list[str]:
    first, *rest = text.split("\n")
    return [lead + first, *(" " * len(lead) + line for line in rest)]


def _group_by_file(diagnostic: Diagnostic) -> dict[str | None, list[tuple[Label, str]]]:
    """Labels with their underline sign, by file; the file of the diagnostic's span comes first."""
    if diagnostic.span is None:
        primary: list[tuple[Label, str]] = []
        secondary = [(label, "-") for label in diagnostic.labels]
    else:
        remarks = [label.text for label in diagnostic.labels if label.span == diagnostic.span]
        primary = [(Label(diagnostic.span, " / ".join(filter(None, remarks))), "^")]
        secondary = [(label, "-") for label in diagnostic.labels if label.span != diagnostic.span]
    groups: dict[str | None, list[tuple[Label, str]]] = {}
    for label, sign in primary + secondary:
        groups.setdefault(label.span.path, []).append((label, sign))
    return groups


def _draw_file(labels: list[tuple[Label, str]], source: str, width: int) -> list[str]:
    text_lines = source.split("\n")
    labels_of: dict[int, list[tuple[Label, str]]] = {}
    for label, sign in labels:
        line = min(max(label.span.line, 1), len(text_lines))
        labels_of.setdefault(line, []).append((label, sign))
    by_line: dict[int, list[_Mark]] = {}
    for line, here in labels_of.items():
        text, moved = _window(text_lines[line - 1], min(label.span.column for label, _ in here))
        text_lines[line - 1] = text
        for label, sign in here:
            span = label.span
            if moved or len(text) > _WINDOW:
                # What is far away on a very long line is pointed at where the line is cut off.
                column, end = (
                    min(max(each + moved, 1), len(text) + 1)
                    for each in (span.column, span.end_column)
                )
                span = replace(span, column=column, end_column=end)
            by_line.setdefault(line, []).append(_mark(span, text, sign, label.text))
    drawn: list[str] = []
    previous: int | None = None
    for line in sorted(by_line):
        if previous is not None and line == previous + 2:
            # One line between two shown ones takes no more room than the dots would.
            drawn.append(_source_line(previous + 1, text_lines[previous], width))
        elif previous is not None and line > previous + 2:
            drawn.append("...")
        drawn.append(_source_line(line, text_lines[line - 1], width))
        drawn.extend(f"{' ' * (width + 1)}| {row}" for row in _underline(by_line[line]))
        previous = line
    return drawn


def _window(text: str, column: int) -> tuple[str, int]:
    """The part of a very long line around a column, and how far its columns have moved."""
    if len(text) <= _WIDEST_LINE:
        return text, 0
    start = max(column - 1 - _BEFORE, 0)
    end = start + _WINDOW
    lead = "…" if start else ""
    return lead + text[start:end] + ("…" if end < len(text) else ""), len(lead) - start


def _source_line(number: int, text: str, width: int) -> str:
    return f"{number:>{width}} | {_expand(text)}"


def _mark(span: Span, text: str, sign: str, remark: str) -> _Mark:
    start = _screen_width(text[: span.column - 1])
    # A span over several lines is underlined to the end of its first line.
    stop = span.end_column - 1 if span.end_line == span.line else len(text.rstrip())
    end = _screen_width(text[: max(min(stop, len(text)), span.column - 1)])
    # A column past the end of the line points at what is missing there.
    start += max(0, span.column - 1 - len(text))
    return _Mark(start, max(end, start + 1), sign, remark)


def _underline(marks: list[_Mark]) -> list[str]:
    """Rows under a source line: the underlines, then the remarks that do not fit beside them."""
    marks = sorted(marks, key=lambda mark: (mark.start, mark.end))
    row: list[str] = [" "] * max(mark.end for mark in marks)
    # Carets are drawn last, so that the main span stays visible where two overlap.
    for mark in sorted(marks, key=lambda mark: mark.sign == "^"):
        row[mark.start : mark.end] = mark.sign * (mark.end - mark.start)
    first = "".join(row)
    last = marks[-1]
    waiting = [mark for mark in marks[:-1] if mark.text]
    if last.text and max(mark.end for mark in marks) == last.end:
        first += " " + last.text
    elif last.text:
        waiting.append(last)
    rows = [first]
    while waiting:
        bars = [" "] * (waiting[-1].start + 1)
        for mark in waiting:
            bars[mark.start] = "|"
        rows.append("".join(bars))
        mark = waiting.pop()
        line = [" "] * mark.start
        for other in waiting:
            if other.start < mark.start:
                line[other.start] = "|"
        rows.append("".join(line) + mark.text)
    return rows


def _expand(text: str) -> str:
    """The text with tabs as spaces up to the next tab stop."""
    out: list[str] = []
    column = 0
    for character in text:
        if character == "\t":
            step = _TAB_STOP - column % _TAB_STOP
            out.append(" " * step)
        else:
            step = _character_width(character)
            out.append(character)
        column += step
    return "".join(out)


def _screen_width(text: str) -> int:
    column = 0
    for character in text:
        if character == "\t":
            column += _TAB_STOP - column % _TAB_STOP
        else:
            column += _character_width(character)
    return column


def _character_width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def _printable(text: str) -> str:
    """The text with what could act on a terminal, or reorder a line, shown as U+FFFD."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        "\ufffd"
        if unicodedata.category(character) in ("Cc", "Cs") or character in BIDIRECTIONAL
        else character
        for character in text
    )
