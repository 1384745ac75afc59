"""Whether the texts of a program can be summed by dynamic programming, as far as the program says.

Free of torch, so that a plan can say it. What only the language models and the data can tell comes
in `sums`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lmppl.builtins import distribution_of
from lmppl.builtins.kinds import TextDistribution
from lmppl.errors import Span
from lmppl.evaluation.facts import stand_ins, texts_read
from lmppl.evaluation.text_weight import NotFollowed, TextWeight, text_weight
from lmppl.ir.expr import Expr
from lmppl.ir.model import Model, Potential
from lmppl.ir.types import Interval


class Obstacle(Exception):
    """Why the texts of a program are not summed, in a sentence; what to change, and where."""

    def __init__(self, why: str, remedy: str, span: Span | None = None) -> None:
        super().__init__(why)
        self.remedy = remedy
        self.span = span


def require_apart(model: Model) -> None:
    """Given all choices, the texts are independent.

    Raises:
        Obstacle: there is none, one looks at another, or a requirement looks at several.
    """
    texts = {site.name for site in model.text_sites}
    if not texts:
        raise Obstacle("there is no text to sum over", "use smc")
    for site in model.sites:
        for expr in site.distribution.arguments.values():
            looked_at = sorted(model.sites_of(expr) & texts)
            if looked_at:
                raise Obstacle(
                    f"{site.name} is drawn given the text of {looked_at[0]}, so that the two have"
                    " to be summed together",
                    "make it depend on choices only, or use smc",
                    expr.span,
                )
    for potential in model.potentials:
        read = sorted(texts_read(model, potential))
        # A factor may be a sum with a part for each text.
        if potential.kind == "require" and len(read) > 1:
            raise Obstacle(
                f"{potential.title} looks at {' and '.join(read)}, so that they have to be summed"
                " together",
                "link the texts by a choice that both depend on, or use smc",
                potential.span,
            )


def not_followed(problem: NotFollowed) -> Obstacle:
    """The obstacle that a potential is which no automaton follows."""
    span = problem.potential.span if problem.expr is None else problem.expr.span
    return Obstacle(
        f"{problem.potential.title} is neither an automaton nor a sum of counts: {problem.why}",
        f"{problem.remedy or _BY_COUNTS}, or use smc",
        span,
    )


_BY_COUNTS = "say it by conditions, counts and lengths of the text"


class _Few:
    """Counts are bounded once a language model is loaded, and what is counted is known once
    rewards are; how far and what does not matter here."""

    def reward(self, name: str, site: str | None) -> Interval:
        return Interval(0.0, 1.0)

    def measure(self, measure: object, arguments: object, site: str) -> Interval:
        return Interval(0.0, 1.0)

    def summands(self, name: str) -> Sequence[tuple[float, Mapping[str, object]]]:
        return ()


def foreseen(model: Model, values: Mapping[str, object]) -> Obstacle | None:
    """Why the texts cannot be summed, as far as the program says it."""
    known = {**stand_ins(model), **values}

    def anything(expr: Expr) -> float:
        return 1.0

    try:
        require_apart(model)
        for site in model.text_sites:
            described = distribution_of(site.distribution)
            states = described.states if isinstance(described, TextDistribution) else "none"
            if states == "none":
                raise Obstacle(
                    f"{site.name} has no finitely many states",
                    "use a language model that is a table of finitely many states",
                    site.span,
                )
            warped = [name for name in _WARPS if site.distribution.argument(name) is not None]
            if states == "hidden" and warped:
                raise Obstacle(
                    f"{warped[0]} changes what is drawn after a text, and not in a hidden state",
                    "leave it out, or write it into the weights of the file",
                    site.span,
                )
            own = [p for p in model.potentials if site.name in texts_read(model, p)]
            weight = _weight(model, site.name, own, known, anything)
            if states == "hidden" and weight.form.power:
                raise Obstacle(
                    "a power of a mixture over hidden states is no sum over them",
                    "leave log_prob of this text out, or use smc",
                    site.span,
                )
    except Obstacle as found:
        return found
    return None


_WARPS = ("temperature", "top_k", "top_p")


def _weight(
    model: Model,
    site: str,
    potentials: list[Potential],
    values: Mapping[str, object],
    known: Callable[[Expr], object],
) -> TextWeight:
    try:
        return text_weight(model, site, potentials, values, ranges=_Few(), known=known)
    except NotFollowed as problem:
        raise not_followed(problem) from problem
