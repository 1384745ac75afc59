"""The parts of a diagnostic.

Offsets are 0-based character positions into the source; lines and columns are 1-based and count
characters; ends are exclusive.
"""

from __future__ import annotations

from typing import Literal

from lmppl.records import dataclass

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of source text in one file; `path` is None for text that came from no file."""

    path: str | None
    start: int
    end: int
    line: int
    column: int
    end_line: int
    end_column: int

    @classmethod
    def of(cls, source: str, start: int, end: int, path: str | None = None) -> Span:
        """The span of `source[start:end]`, with its lines and columns counted."""
        line = source.count("\n", 0, start) + 1
        end_line = line + source.count("\n", start, end)
        column = start - source.rfind("\n", 0, start)
        end_column = end - source.rfind("\n", 0, end)
        return cls(path, start, end, line, column, end_line, end_column)

    def to(self, other: Span) -> Span:
        """The span from the start of this one to the end of `other`, in the same file."""
        return Span(
            self.path,
            self.start,
            other.end,
            self.line,
            self.column,
            other.end_line,
            other.end_column,
        )


@dataclass(frozen=True, slots=True)
class Label:
    """A remark on a span; the text may be empty, which underlines and says nothing."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One problem of a program.

    `span` is underlined with carets. A label on the very same span is the remark beside the carets;
    labels on other spans are underlined with dashes.
    """

    code: str
    severity: Severity
    message: str
    span: Span | None = None
    labels: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    help: str | None = None
