"""Rejection sampling."""

from __future__ import annotations

import math
from typing import ClassVar

from lmppl.errors import Diagnostic
from lmppl.evaluation.powers import sites_scored
from lmppl.evaluation.ranges import expr_range
from lmppl.inference.settings import Referee, Settings, Values, noisy, option, refusal
from lmppl.ir.model import Model, Potential
from lmppl.records import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection(Settings):
    """Draws from the prior, each kept with probability exp(factors − upper bound)."""

    name: ClassVar[str] = "rejection"
    summary: ClassVar[str] = "independent exact draws, at a cost of one over the acceptance rate"
    engine: ClassVar[str] = "lmppl.inference.rejection.engine:RejectionEngine"
    referee: ClassVar[Referee] = "independent"
    is_exact: ClassVar[bool] = True
    steers: ClassVar[bool] = False
    more_draws: ClassVar[str] = "draw more (num_samples)"

    num_samples: int = option(100, "number of accepted draws to stop at", lower=1)
    max_attempts: int = option(
        100_000, "attempts after which what was accepted is returned as incomplete", lower=1
    )
    upper_bound: str = option(
        "proven",
        "what draws are kept by: 'proven', the upper bound that declared ranges give; 'estimated',"
        " one that weights may exceed: the draws are approximate then (quasi-rejection)",
        choices=("proven", "estimated"),
    )
    tolerance: float = option(
        0.05,
        "total variation distance to the posterior, as estimated, that the estimated bound is for",
        lower=0.0,
        upper=1.0,
    )
    num_pilot: int = option(
        1000,
        "attempts that find the estimated bound and are put away, and the fewest made after it",
        lower=50,
    )
    batch_size: int = option(256, "attempts run together; the draws do not depend on it", lower=1)

    def unsupported(self, model: Model, values: Values) -> tuple[Diagnostic, ...]:
        if self.upper_bound == "estimated":
            return noisy(model, self.name)
        unbounded = tuple(
            refusal(
                "LMP410",
                f"rejection needs an upper bound of {p.title}, which has none: its range"
                f" is {p.facts.range}",
                p,
                to_bound(model, p),
            )
            for p in model.potentials
            if p.kind == "factor"
            and not p.facts.range.is_bounded_above
            and expr_range(p.expr, model, values).upper == math.inf
        )
        return unbounded + noisy(model, self.name)


def to_bound(model: Model, potential: Potential) -> str:
    """What gives a factor an upper bound."""
    if sites_scored(model, potential.expr):
        return "a power below 1 of a probability has no bound: use smc, or importance"
    return "declare the reward's range, as in `reward r(t: string): real<lower=-1, upper=1>`"
