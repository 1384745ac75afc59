"""The exceptions: the user's mistakes, refusals to run, and our own mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lmppl.errors.diagnostic import Diagnostic
from lmppl.errors.rendering import render


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

    def __repr__(self) -> str:
        first = [f"{each.code}: {each.message}" for each in self.diagnostics[:1]]
        rest = [each.code for each in self.diagnostics[1:4]]
        more = ["…"] if len(self.diagnostics) > 4 else []
        return f"{type(self).__name__}({', '.join((*first, *rest, *more))})"


class InferenceError(LmpError):
    """A refusal to run (4xx) or a failure while running (9xx)."""


class StorageError(LmpError, ValueError):
    """A saved posterior that is damaged, or does not fit what it is loaded with (96x)."""


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
