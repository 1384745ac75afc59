"""Diagnostics: what is wrong, where, why, and what to do about it.

Offsets are 0-based character positions into the source; lines and columns are 1-based and count
characters; ends are exclusive.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]

__all__ = [
    "Diagnostic",
    "InferenceError",
    "InternalError",
    "Label",
    "LmpError",
    "Severity",
    "Span",
    "closest",
    "render",
    "render_diagnostic",
]


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


class LmpError(Exception):
    """A mistake of the user, as one or more diagnostics; its text is the rendered report.

    `sources` maps paths to the texts that the spans point into.
    """

    def __init__(
        self,
        diagnostics: Sequence[Diagnostic],
        sources: Mapping[str | None, str] | None = None,
    ) -> None:
        self.diagnostics: tuple[Diagnostic, ...] = tuple(diagnostics)
        self.sources: dict[str | None, str] = dict(sources or {})
        # The arguments are kept as given, so that the error survives pickling between processes.
        super().__init__(self.diagnostics, self.sources)

    def __str__(self) -> str:
        return render(self.diagnostics, self.sources)


class InferenceError(LmpError):
    """A refusal to run (4xx) or a failure while running (9xx)."""


class InternalError(Exception):
    """A mistake of ours; the message asks for a report."""

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)

    def __str__(self) -> str:
        return (
            f"internal error: {self.message}\n"
            "This is a bug in lmppl, not in your program; please report it with the program."
        )


def closest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `word` was probably meant to be, or None when nothing is near."""
    names = sorted(set(candidates))
    folded = {name.lower(): name for name in names}
    if word.lower() in folded:
        return folded[word.lower()]
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.7)
    return near[0] if near else None


def render(
    diagnostics: Sequence[Diagnostic], sources: Mapping[str | None, str] | None = None
) -> str:
    """All diagnostics as plain text, one blank line between two."""
    return "\n\n".join(render_diagnostic(each, sources) for each in diagnostics)


def render_diagnostic(
    diagnostic: Diagnostic, sources: Mapping[str | None, str] | None = None
) -> str:
    """One diagnostic as plain text, laid out as rustc does."""
    # Imported here because the drawing is needed only when there is something to report.
    from lmppl.errors.rendering import draw

    return draw(diagnostic, sources or {})
