"""Collecting the problems of a program, in its own words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lmppl.errors import Diagnostic, Label, LmpError, Span, closest


class Report:
    """The diagnostics found so far and the texts of the files that they point into."""

    def __init__(self, path: str | None, source: str) -> None:
        self.diagnostics: list[Diagnostic] = []
        self.sources: dict[str | None, str] = {path: source}
        self._order: dict[str | None, int] = {path: 0}

    def add_source(self, path: str | None, source: str) -> None:
        """Lets spans point into an imported file too."""
        self.sources.setdefault(path, source)
        self._order.setdefault(path, len(self._order))

    def error(
        self,
        code: str,
        span: Span,
        message: str,
        *,
        label: str = "",
        labels: Sequence[Label] = (),
        notes: Sequence[str] = (),
        help: str | None = None,
    ) -> None:
        """Adds an error; `label` is the remark beside the carets."""
        self._add("error", code, span, message, label, labels, notes, help)

    def warning(
        self,
        code: str,
        span: Span,
        message: str,
        *,
        label: str = "",
        labels: Sequence[Label] = (),
        notes: Sequence[str] = (),
        help: str | None = None,
    ) -> None:
        """Adds a warning, which is certain but does not stop anything."""
        self._add("warning", code, span, message, label, labels, notes, help)

    def _add(
        self,
        severity: str,
        code: str,
        span: Span,
        message: str,
        label: str,
        labels: Sequence[Label],
        notes: Sequence[str],
        help: str | None,
    ) -> None:
        remarks = (Label(span, label), *labels) if label else tuple(labels)
        self.diagnostics.append(
            Diagnostic(
                code,
                "error" if severity == "error" else "warning",
                message,
                span,
                remarks,
                tuple(notes),
                help,
            )
        )

    @property
    def has_errors(self) -> bool:
        return any(each.severity == "error" for each in self.diagnostics)

    def text(self, span: Span) -> str:
        """The user's own words at a span, in one line."""
        return " ".join(self.sources.get(span.path, "")[span.start : span.end].split())

    def silence(self, path: str | None, allowances: Iterable[tuple[int, tuple[str, ...]]]) -> None:
        """Drops the warnings that `# lmp: allow …` allows on their line of the file."""
        self.diagnostics = without_allowed(self.diagnostics, path, allowances)

    def sorted(self) -> tuple[Diagnostic, ...]:
        """All diagnostics in the order of the text, the main file first."""

        def place(each: Diagnostic) -> tuple[int, int, int, str]:
            if each.span is None:
                return (0, -1, -1, each.code)
            order = self._order.get(each.span.path, len(self._order))
            return (order, each.span.start, each.span.end, each.code)

        return tuple(sorted(self.diagnostics, key=place))

    def raise_errors(self) -> None:
        """Raises all that was found when there is an error among it.

        Raises:
            LmpError: with errors and warnings, in the order of the text.
        """
        if self.has_errors:
            raise LmpError(self.sorted(), self.sources)


def did_you_mean(word: str, candidates: Iterable[str]) -> str | None:
    """The help line that suggests the nearest candidate, or None."""
    near = closest(word, candidates)
    return None if near is None else f"did you mean `{near}`?"


def without_allowed(
    diagnostics: Sequence[Diagnostic],
    path: str | None,
    allowances: Iterable[tuple[int, tuple[str, ...]]],
) -> list[Diagnostic]:
    """The diagnostics without the warnings that `# lmp: allow …` allows on their line of a file."""
    allowed = {(line, code) for line, codes in allowances for code in codes}

    def is_allowed(each: Diagnostic) -> bool:
        return (
            each.severity == "warning"
            and each.span is not None
            and each.span.path == path
            and (each.span.line, each.code) in allowed
        )

    return [each for each in diagnostics if not is_allowed(each)]
