"""Every execution listed, or summed over by dynamic programming."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from lmppl.builtins import distribution_of
from lmppl.errors import Diagnostic
from lmppl.evaluation.constants import NotConstant, constant_value
from lmppl.inference.settings import Referee, Settings, Values, noisy, option
from lmppl.ir.model import Model
from lmppl.records import dataclass

if TYPE_CHECKING:
    from lmppl.inference.exact.structure import Obstacle


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact(Settings):
    """Enumeration of every execution that the constraints leave open: the referee of all others.

    Where they are too many, the texts of finite-state language models are summed over instead.
    """

    name: ClassVar[str] = "exact"
    summary: ClassVar[str] = (
        "lists the support, or sums over it by dynamic programming; exact evidence and draws"
    )
    engine: ClassVar[str] = "lmppl.inference.exact.engine:ExactEngine"
    num_draws_option: ClassVar[str] = ""
    referee: ClassVar[Referee] = "weighted"
    is_exact: ClassVar[bool] = True
    more_draws: ClassVar[str] = "draw more (num_samples), or leave it out for the whole support"

    num_samples: int | None = option(
        None,
        "number of independent exact draws; by default the whole weighted support is returned, and"
        " 1,000 draws where texts are summed over",
        lower=1,
    )
    max_sequences: int = option(
        1_000_000,
        "how many executions may be enumerated before texts are summed over, or the method refuses",
        lower=1,
    )

    @classmethod
    def suits(cls, model: Model) -> bool:
        return not model.text_sites

    @classmethod
    def is_random(cls, options: Mapping[str, object]) -> bool:
        return "num_samples" in options

    def unsupported(self, model: Model, values: Values) -> tuple[Diagnostic, ...]:
        return noisy(model, self.name)

    def unknowns(self, model: Model, values: Values) -> tuple[Diagnostic, ...]:
        if _num_executions(model, values) <= self.max_sequences:
            return ()
        obstacle = _foreseen(model, values)
        if obstacle is None:
            return ()
        return (
            Diagnostic(
                "LMP416",
                "error",
                f"exact refuses where more than {self.max_sequences:,} executions are open, and"
                f" only running it counts them; they cannot be summed: {obstacle}",
                span=obstacle.span,
                help=f"{obstacle.remedy}; or raise max_sequences",
            ),
        )

    def how(self, model: Model, values: Values) -> str:
        if _num_executions(model, values) <= self.max_sequences:
            return "lists every execution"
        if _foreseen(model, values) is not None:
            return "lists every execution, up to max_sequences"
        texts = " and ".join(site.name for site in model.text_sites)
        return (
            f"lists every execution; where they are more than {self.max_sequences:,}, sums over the"
            f" texts of {texts} by dynamic programming"
        )


def _foreseen(model: Model, values: Values) -> Obstacle | None:
    # What reads sums is needed for models that are run by this method only.
    from lmppl.inference.exact.structure import foreseen

    return foreseen(model, values)


def _num_executions(model: Model, values: Values) -> float:
    """At most how many executions a model has; ∞ where it draws a text or that is not known."""
    product = 1.0
    for site in model.sites:
        described = distribution_of(site.distribution)
        known = [each.name for each in described.arguments if each.known == "bind"]
        given = {name: site.distribution.argument(name) for name in known}
        try:
            support = described.listed(
                **{n: constant_value(e, model, values) for n, e in given.items() if e is not None}
            )
        except (NotConstant, ArithmeticError, ValueError):
            return math.inf
        if support is None:
            return math.inf
        product *= len(support)
    return product
