"""The largest log weight that the declared ranges of a program allow."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lmppl.factors.ranges import expr_range
from lmppl.ir.model import Potential
from lmppl.posterior import Unseen
from lmppl.target import Target


@dataclass(frozen=True, slots=True)
class WeightBound:
    """`log_bound` is an upper bound of Σ log φ in nats, inf where `unbounded` is a factor."""

    log_bound: float
    unbounded: Potential | None = None

    @property
    def reason(self) -> str:
        """Why draws that are weighted cannot settle a claim; empty where a bound is known."""
        if self.unbounded is None:
            return ""
        return (
            f"factor {self.unbounded.label} has no upper bound, so what no draw showed could weigh"
            " anything; declare the range of its reward"
        )

    def unseen(self, log_total: float, num_looks: float, log_missing: float = -math.inf) -> Unseen:
        """What draws may have missed that weigh exp(`log_total`) each, on average.

        `num_looks` independent draws of the prior have looked; `log_missing`, in nats, is what is
        known to have been lost.
        """
        return Unseen(
            log_further=self.log_bound - log_total - math.log(max(num_looks, 1.0)),
            log_missing=log_missing - log_total,
            reason=self.reason,
        )


def weight_bound(target: Target, group: int) -> WeightBound:
    """The bound of Σ log φ for one binding of the parameters: a requirement adds at most 0."""
    values = target.bindings[group]
    total = 0.0
    for potential in target.model.potentials:
        if potential.kind != "factor":
            continue
        upper = expr_range(potential.expr, target.model, values).upper
        if upper == math.inf:
            return WeightBound(math.inf, potential)
        total += upper
    return WeightBound(total)
