"""Every expression of a model."""

from __future__ import annotations

from collections.abc import Iterator

from lmppl.ir.expr import Expr
from lmppl.ir.model import Model


def expressions_of(model: Model) -> Iterator[Expr]:
    """The outermost expressions of a model, in no particular order."""
    for let in model.lets:
        yield let.expr
    for site in model.sites:
        yield from site.distribution.arguments.values()
    for potential in model.potentials:
        yield potential.expr
        if potential.when is not None:
            yield potential.when
    for output in model.outputs:
        yield output.expr
    for expectation in model.expectations:
        yield from (expectation.expr, expectation.bound)
