"""The largest log weight that the ranges of a program allow: declared, or found at binding."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lmppl.density import Target
from lmppl.evaluation.powers import sites_scored
from lmppl.ir.model import Potential
from lmppl.posterior import Unseen

# A bound that nobody declared says nothing where this share of the posterior may be unseen.
_SAYS_NOTHING = 0.5


@dataclass(frozen=True, slots=True)
class WeightBound:
    """`log_bound` is an upper bound of Σ log φ in nats, inf where `unbounded` is a factor.

    `derived` is the factor with the largest bound among those that the program does not bound, and
    the vocabulary with `max_tokens` does; `largest` is that bound. `elsewhere`: texts were not
    drawn as the prior draws them, so that a rare one can weigh more than its factors say.
    `is_of_power`: what is not bounded asks how likely choices were. `by_factors`: weights are
    what the factors make them, up to a constant.
    """

    log_bound: float
    unbounded: Potential | None = None
    derived: Potential | None = None
    largest: float = 0.0
    elsewhere: bool = False
    is_of_power: bool = False
    by_factors: bool = True

    @property
    def reason(self) -> str:
        """Why draws that are weighted cannot settle a claim; empty where a bound is known."""
        if self.elsewhere:
            return (
                "texts were not drawn as the prior draws them: what no draw showed could weigh"
                ' anything; with lookahead="none" and enough particles that is bounded'
            )
        if self.unbounded is None:
            return ""
        lacking = (
            f"{self.unbounded.title} has no upper bound, so what no draw showed could weigh"
            " anything"
        )
        return lacking if self.is_of_power else f"{lacking}; declare the range of its reward"

    def unseen(self, log_total: float, num_looks: float, log_missing: float = -math.inf) -> Unseen:
        """What draws may have missed that weigh exp(`log_total`) each, on average.

        `num_looks` independent draws of the prior have looked; `log_missing`, in nats, is what is
        known to have been lost. A derived bound so large that it says nothing is no bound here.
        """
        log_further = self.log_bound - log_total - math.log(max(num_looks, 1.0))
        reason = self.reason
        if self.derived is not None and Unseen(log_further).share() > _SAYS_NOTHING:
            log_further = math.inf
            reason = (
                f"no range is declared that bounds {self.derived.title}, and as far as the"
                f" vocabulary and max_tokens tell it may reach {self.largest:.4g} nats, so what no"
                " draw showed could weigh more than all that were drawn; declare the range of its"
                " reward"
            )
        return Unseen(log_further, log_missing - log_total, reason, self.by_factors)


def weight_bound(
    target: Target,
    group: int,
    log_certain: float = 0.0,
    followed: frozenset[str] = frozenset(),
) -> WeightBound:
    """The bound of Σ log φ for one binding of the parameters: a requirement adds at most 0.

    `log_certain` is the log of what is known to be left of every weight by the masks: that of the
    first token is the same for all texts. Factors that are `followed` are left out.
    """
    total, largest = log_certain, -math.inf
    derived = None
    for potential in target.model.potentials:
        if potential.kind != "factor" or potential.label in followed:
            continue
        upper = target.number_range(potential.expr, group).upper
        if upper == math.inf:
            is_of_power = bool(sites_scored(target.model, potential.expr))
            return WeightBound(math.inf, potential, is_of_power=is_of_power)
        total += upper
        if upper > largest and target.declared_range(potential.expr, group).upper == math.inf:
            derived, largest = potential, upper
    return WeightBound(total, derived=derived, largest=largest)
