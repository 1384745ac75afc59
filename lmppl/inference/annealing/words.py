"""What methods that bring factors in by degrees have to say beforehand."""

from __future__ import annotations

from lmppl.errors import Diagnostic
from lmppl.ir.model import Model


def nothing_to_temper(model: Model, method: str) -> tuple[Diagnostic, ...]:
    """LMP414 where a program has no factor."""
    if any(potential.kind == "factor" for potential in model.potentials):
        return ()
    return (
        Diagnostic(
            "LMP414",
            "warning",
            f"{method} has no factor to bring in by degrees: it is importance sampling here, with"
            " moves after it",
            span=model.span,
            help="requirements hold from the first token on; use `smc` or `importance`",
        ),
    )
