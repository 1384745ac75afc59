"""The tail of a set of importance weights: its Pareto shape, and what may lie beyond it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_MIN_TAIL = 5
# Weights that differ by less than this share of them are alike, as those of texts are that met a
# requirement long ago; more than a density puts there are they where they are more than so large a
# part of the tail. Of shares of the largest weight so many decimals count.
_ALIKE, _MANY, _DIGITS = 0.002, 0.1, 9
# The shape that is assumed of weights that are too few to show one: means are just usable.
_UNKNOWN_SHAPE = 0.7


@dataclass(frozen=True, slots=True)
class ParetoTail:
    """The fit of a generalised Pareto distribution to the largest weights.

    `k` is the shape, None where there is nothing to fit, for the stated reason; `standard_error`
    is its error. `threshold` is the value above which averages over this many draws are unreliable.
    """

    k: float | None
    threshold: float
    num_tail: int
    reason: str = ""

    @property
    def standard_error(self) -> float:
        """Of k: (1 + k) / √tail, that of the largest likelihood (Smith 1987)."""
        return math.inf if self.k is None else (1.0 + self.k) / math.sqrt(self.num_tail)


def pareto_tail(log_weights: ArrayLike) -> ParetoTail:
    """The Pareto k-hat of importance weights `[draws]`.

    Averages have a finite variance for k < 1/2; up to min(1 − 1/log₁₀ S, 0.7) they are usable with
    S draws; beyond, the error is dominated by draws that were not made. Vehtari et al. (2024),
    arXiv:1507.02646, with the fit of Zhang and Stephens (2009) and its weak prior on k.
    """
    log_w = np.sort(np.asarray(log_weights, dtype=np.float64).ravel())
    size = log_w.size
    threshold = min(1.0 - 1.0 / math.log10(size), 0.7) if size > 10 else 0.0
    num_tail = math.ceil(min(size / 5, 3 * math.sqrt(size)))
    if np.isnan(log_w).any() or log_w[-1] in (-math.inf, math.inf):
        raise ValueError("log weights must be finite or −inf, and not all −inf")
    if log_w[-1] - log_w[0] < 1e-9:
        return ParetoTail(None, threshold, num_tail, "all weights are equal")
    if num_tail < _MIN_TAIL:
        return ParetoTail(None, threshold, num_tail, f"{size} draws are too few for a tail")
    weights = np.exp(log_w - log_w[-1])
    excess = weights[-num_tail:] - weights[-num_tail - 1]
    # Ties with the cutoff have an excess of 0, where the likelihood has a pole. Many that differ
    # from it by next to nothing are as good as tied, and make any tail look heavy.
    alike = excess <= _ALIKE * weights[-num_tail - 1]
    excess = excess[~alike] if alike.mean() > _MANY else excess[excess > 0.0]
    if np.unique(excess.round(_DIGITS)).size < max(_MIN_TAIL, num_tail / 2):
        # After resampling, or on a small support, the tail is a few atoms and not a density.
        return ParetoTail(None, threshold, num_tail, "most of the largest weights are equal")
    return ParetoTail(_fit_shape(excess), threshold, num_tail)


def heaviest_further(weights: Floats, tail_probability: float) -> float:
    """A weight that one further draw exceeds with about `tail_probability`, given those there are.

    `weights` `[units]` are not negative. The largest weight of n is about the quantile 1 − 1/n of a
    tail of shape k; that of 1 − δ/n is (1/δ)^k times as large. k is taken one standard error high.
    Weights that are all equal give just that weight: they say nothing of a tail.
    """
    positive = weights[weights > 0.0]
    largest = float(positive.max())
    tail = pareto_tail(np.log(positive))
    if tail.k is not None:
        shape = max(0.0, tail.k + tail.standard_error)
    elif float(positive.min()) > (1.0 - 1e-9) * largest or tail.num_tail >= _MIN_TAIL:
        return largest
    else:
        shape = _UNKNOWN_SHAPE
    return float(largest * tail_probability**-shape)


def _fit_shape(excess: Floats) -> float:
    """The shape of a generalised Pareto distribution from sorted excesses `[tail]`."""
    size = excess.size
    num_grid = 30 + int(math.sqrt(size))
    grid = 1.0 - np.sqrt(num_grid / (np.arange(1, num_grid + 1) - 0.5))
    theta = grid / (3.0 * excess[int(size / 4 + 0.5) - 1]) + 1.0 / excess[-1]
    shapes = np.log1p(-theta[:, None] * excess).mean(axis=1)
    log_likelihood = size * (np.log(-theta / shapes) - shapes - 1.0)
    posterior = np.exp(log_likelihood - log_likelihood.max())
    posterior /= posterior.sum()
    shape = float(np.log1p(-float(np.sum(theta * posterior)) * excess).mean())
    # A prior worth ten observations pulls k towards 1/2, which steadies it for short tails.
    return (size * shape + 10 * 0.5) / (size + 10)
