"""Quasi-rejection: how far draws are from the posterior where weights exceed the bound.

Attempts of the prior have weights w = Πφ, and are kept with probability min(1, w/β) (Eikema,
Kruszewski, Dance, Elsahar and Dymetman 2022, "An approximate sampler for energy-based models with
divergence diagnostics", arXiv:2112.05702). What is kept are independent draws of

    p_β ∝ π0 min(w, β),   Z_β = E min(w, β),   acceptance Z_β/β,

and the posterior is the mixture (Z_β/Z) p_β + (1 − Z_β/Z) p_above with p_above ∝ π0 (w − β)₊: what
is lacking is what lies above the bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmppl.posterior import Estimate

Floats = NDArray[np.float64]

# Distances at which the frontier is told.
_TOLD = (0.2, 0.1, 0.05, 0.02, 0.01)
# Parts of the attempts that are left out in turn, for the error of a distance.
_PARTS = 50
# The share of times that what lies above the bound may be more than is allowed for.
_TAIL = 0.005


@dataclass(frozen=True, slots=True)
class Distance:
    """The total variation distance between p_β and the posterior, and its standard error."""

    value: float
    standard_error: float

    def __str__(self) -> str:
        error = "unknown" if math.isinf(self.standard_error) else f"{self.standard_error:.2g}"
        return f"{self.value:.3g} ± {error}"


def distance(log_weights: ArrayLike, log_bound: float) -> Distance:
    """½ E|w/Z − min(w, β)/Z_β|, estimated from attempts `[attempts]` (−inf: ruled out).

    The error is the jackknife's. Both know of weights that were seen and of no others.
    """
    log_w = np.asarray(log_weights, dtype=np.float64)
    weight, capped = _relative(log_w, log_bound)
    if weight.sum() == 0.0:
        return Distance(1.0, math.inf)
    value = _distance(weight, capped)
    parts = np.arange(log_w.size) % min(_PARTS, log_w.size)
    without = [parts != part for part in range(parts.max() + 1)]
    left = [_distance(weight[rest], capped[rest]) for rest in without if weight[rest].any()]
    if log_w.max() <= log_bound:
        # No weight is above the bound: of what may be there nothing is known.
        return Distance(0.0, math.inf)
    if len(left) < 2:
        return Distance(value, math.inf)
    spread = (len(left) - 1) * float(np.var(left))
    return Distance(value, math.sqrt(spread))


def acceptance(log_weights: ArrayLike, log_bound: float) -> float:
    """E min(1, w/β), the share of attempts that is kept."""
    log_w = np.asarray(log_weights, dtype=np.float64)
    return float(np.exp(np.minimum(log_w - log_bound, 0.0)).mean())


def smallest_bound(log_weights: ArrayLike, tolerance: float) -> float:
    """The smallest log β at which the distance is `tolerance` at most, as far as attempts tell.

    The distance falls as β grows, and is 0 at the largest weight.
    """
    log_w = np.asarray(log_weights, dtype=np.float64)
    alive = np.unique(log_w[log_w > -math.inf])
    low, high = 0, alive.size - 1
    while low < high:
        middle = (low + high) // 2
        if _distance(*_relative(log_w, float(alive[middle]))) <= tolerance:
            high = middle
        else:
            low = middle + 1
    return float(alive[high])


def frontier(log_weights: ArrayLike) -> dict[str, float]:
    """The acceptance at the smallest bound for each of a few distances, by distance."""
    log_w = np.asarray(log_weights, dtype=np.float64)
    if not (log_w > -math.inf).any():
        return {}
    return {f"{at:g}": acceptance(log_w, smallest_bound(log_w, at)) for at in _TOLD}


def log_odds_above(log_weights: ArrayLike, log_bound: float, log_largest: float) -> float:
    """log of (Z − Z_β)/Z_β at its highest: what the draws lack, beside what they stand for.

    No weight is larger than exp(`log_largest`); where that is infinite, the highest is that of the
    weights that were seen.
    """
    log_w = np.asarray(log_weights, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_above = np.where(
            log_w > log_bound,
            log_w + np.log(-np.expm1(np.minimum(log_bound - log_w, 0.0))),
            -math.inf,
        )
    log_capped = np.minimum(log_w, log_bound)
    confidence = 1.0 - 2.0 * _TAIL
    is_known = log_largest < math.inf
    room = log_largest if is_known else float(log_w.max())
    if room <= log_bound:
        return -math.inf
    room += math.log(-math.expm1(log_bound - room))
    lacking = Estimate.from_units(log_above, log_bound=room, confidence=confidence)
    stood_for = Estimate.from_units(log_capped, log_bound=log_bound, confidence=confidence)
    return lacking.upper - stood_for.lower


def unbiased_weights(log_weights: Floats) -> Floats:
    """The attempts whose mean weight is unbiased although they stop at the last draw wanted.

    That draw is left out, as it is why they stop: the others before it are exchangeable, so their
    mean is what the first attempt weighs on average, given where it stops (Girshick, Mosteller and
    Savage 1946 have this for proportions). With one attempt there is only that.
    """
    return log_weights[:-1] if log_weights.size > 1 else log_weights


def _relative(log_w: Floats, log_bound: float) -> tuple[Floats, Floats]:
    """Weights and what the bound leaves of them, on a common scale."""
    highest = float(log_w.max())
    if highest == -math.inf:
        return np.zeros_like(log_w), np.zeros_like(log_w)
    weight = np.exp(log_w - highest)
    return weight, np.minimum(weight, math.exp(min(log_bound - highest, 700.0)))


def _distance(weight: Floats, capped: Floats) -> float:
    return 0.5 * float(np.abs(weight / weight.sum() - capped / capped.sum()).sum())
