"""What is said of draws that were kept by a bound which weights may exceed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmppl.density import Target
from lmppl.inference.bounds import WeightBound, weight_bound
from lmppl.inference.rejection.frontier import (
    Distance,
    acceptance,
    distance,
    frontier,
    log_odds_above,
    unbiased_weights,
)
from lmppl.posterior import Estimate, Unseen
from lmppl.posterior.estimate import Kind
from lmppl.posterior.pareto import pareto_tail

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Quasi:
    """Log weights `[attempts]` up to the attempt that gave the last draw, the log of the bound that
    they were kept by, and the bound that the ranges of the program give."""

    log_weights: Floats
    log_bound: float
    known: WeightBound

    @property
    def is_exact(self) -> bool:
        """Whether no weight can exceed the bound."""
        return self.known.log_bound <= self.log_bound

    @property
    def distance(self) -> Distance:
        """The total variation distance between the draws' distribution and the posterior."""
        return Distance(0.0, 0.0) if self.is_exact else distance(self.log_weights, self.log_bound)

    def evidence(self, *, stops: bool, alone: bool) -> Estimate:
        """The mean weight of the attempts, of which the last one `stops` the run or does not.

        Of a run that is `alone` it is unbiased.
        """
        used = unbiased_weights(self.log_weights) if stops and alone else self.log_weights
        kind: Kind = "unbiased" if alone else "consistent"
        return Estimate.from_units(used, log_bound=self.known.log_bound, kind=kind)

    @property
    def unseen(self) -> Unseen:
        """The share of the posterior that lies above the bound, at its highest."""
        if self.is_exact:
            return Unseen()
        log_total = float(np.logaddexp.reduce(self.log_weights)) - math.log(self.log_weights.size)
        further = self.known.unseen(log_total, self.log_weights.size)
        if further.log_further < math.inf:
            log_odds = log_odds_above(self.log_weights, self.log_bound, self.known.log_bound)
            return Unseen(log_missing=log_odds)
        return replace(
            further, log_missing=log_odds_above(self.log_weights, self.log_bound, math.inf)
        )

    @property
    def diagnostics(self) -> Mapping[str, Any]:
        found = self.distance
        return {
            "total_variation": found.value,
            "total_variation_error": found.standard_error,
            "acceptance_by_distance": frontier(self.log_weights),
            "expected_acceptance": acceptance(self.log_weights, self.log_bound),
        }

    @property
    def warnings(self) -> tuple[str, ...]:
        if self.is_exact:
            return ()
        made = f"{self.log_weights.size:,} attempts"
        if float(self.log_weights.max()) <= self.log_bound:
            return (
                "the draws may be approximate: the bound that they were kept by is not proven,"
                f" though none of {made} weighed more. Declare the ranges of rewards, or use smc",
            )
        sentence = (
            "the draws are approximate: weights above the bound were not made up for, and the total"
            f" variation distance to the posterior is about {self.distance}, estimated from {made}"
        )
        tail = pareto_tail(self.log_weights)
        if tail.k is not None and tail.k > tail.threshold:
            uneven = f"Pareto k-hat {tail.k:.2f}"
            sentence += f"; weights are so uneven ({uneven}) that it is probably more"
        return (f"{sentence}. Lower `tolerance`, or use smc",)


def quasi_of(target: Target, group: int, log_ratios: Floats, log_bound: float) -> Quasi:
    """What attempts of a binding say, with weights `log_ratios` `[attempts]` above the bound."""
    return Quasi(log_ratios + log_bound, log_bound, weight_bound(target, group))
