"""Drawing a diagnostic: the user's own lines, underlined."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lmppl.errors.diagnostic import Diagnostic, Label, Span

_TAB_STOP = 4


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
    """All diagnostics as plain text, one blank line between two."""
    return "\n\n".join(render_diagnostic(each, sources) for each in diagnostics)


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
    by_line: dict[int, list[_Mark]] = {}
    for label, sign in labels:
        line = min(max(label.span.line, 1), len(text_lines))
        mark = _mark(label.span, text_lines[line - 1], sign, label.text)
        by_line.setdefault(line, []).append(mark)
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


def _source_line(number: int, text: str, width: int) -> str:
    return f"{number:>{width}} | {_expand(text)}"


def _mark(span: Span, text: str, sign: str, remark: str) -> _Mark:
    start = _screen_width(text[: span.column - 1])
    # A span over several lines is underlined to the end of its first line.
    stop = span.end_column - 1 if span.end_line == span.line else len(text.rstrip())
    end = _screen_width(text[: max(stop, span.column - 1)])
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
    """The text with control characters and lone surrogates shown as U+FFFD."""
    return "".join(
        "\ufffd" if unicodedata.category(character) in ("Cc", "Cs") else character
        for character in text
    )
