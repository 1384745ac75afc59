"""The one way in which this room says no."""

from __future__ import annotations

from lmppl.errors import Diagnostic, InferenceError


def refusal(
    code: str, message: str, *, notes: tuple[str, ...] = (), help: str | None = None
) -> InferenceError:
    """An error without a span: the caller, who knows the site, adds the place in the program."""
    return InferenceError(
        [Diagnostic(code=code, severity="error", message=message, notes=notes, help=help)]
    )


def first_line(error: BaseException) -> str:
    """The first line of what a library says; empty where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else ""
