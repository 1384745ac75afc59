"""Intervals for means of bounded numbers, weighted or not, made for any number of draws.

The interval is Gaffke's (2005), "Three test statistics for a nonparametric one-sided hypothesis on
the mean of a nonnegative variable", as read by Phan, Thomas and Learned-Miller (2021),
arXiv:2106.03163: give the n draws, and one more at the end of the range, random weights from the
flat Dirichlet distribution; the quantile of the weighted mean is the bound. Of draws that are 0
or 1 it is Clopper and Pearson's interval, exactly; of draws that are all alike it reaches as far as
what n draws may have missed; of many draws that differ it is the normal interval. Betting intervals
(Waudby-Smith and Ramdas 2024, arXiv:2010.09686) hold at every stopping time too, and are one and a
half times as long.

That it covers at any number of draws is proven of two values, and conjectured of others
(Learned-Miller and Thomas 2019, arXiv:1905.06208); with weights, and for units that only
count as independent, it is an approximation. `docs/guides/coverage.md` counts it.

Weights are taken in by testing each candidate m: the mean is at least m where E[w (f − m)] ≥ 0, and
the further draw has the largest weight that is possible. So what no draw has shown counts with all
that it could weigh: where heavy draws can only have some of the values, with all that any of them
could pull the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from lmppl.posterior.cells import Cells

Floats = NDArray[np.float64]

_NEAR_ZERO = 1e-3
_NEGLIGIBLE = 1e-100
_FAR = 1e3
# As the methods of arrays, which take longer to find these than these take on few numbers.
_sum, _largest, _smallest = np.add.reduce, np.maximum.reduce, np.minimum.reduce


@dataclass(frozen=True, slots=True)
class Units:
    """Independent units with the weight and the weighted sum of each, `[units]`.

    A unit is a draw, or draws that depend on each other. `weight` sums to one and is not negative;
    `total` is Σ w f over the unit. `shape` is how many independent draws a unit is worth: 1, or
    less for the states of a Markov chain.

    `further` is the weight of one more draw of the heaviest kind, in the same scale; `missing` the
    weight of what is known to have been lost. Where it is known what the value of a draw can be
    that weighs so much, `beyond` is that weight instead, `cells` says what goes together, each of
    them on its own, and `further` is that of a draw like those that were made.
    """

    weight: Floats
    total: Floats
    shape: float = 1.0
    further: float = 0.0
    missing: float = 0.0
    beyond: float = 0.0
    cells: tuple[Cells, ...] = ()


def mean_interval(
    units: Units, lower: float, upper: float, confidence: float
) -> tuple[float, float]:
    """An interval for E[w f] / E[w] at `confidence`, where every f lies in [lower, upper].

    An end of the range that is infinite gives an infinite end of the interval.
    """
    tail = 0.5 * (1.0 - confidence)
    return lower_end(units, lower, tail), upper_end(units, upper, tail)


def upper_end(units: Units, highest: float, tail: float) -> float:
    """What E[w f] / E[w] exceeds with probability `tail` at most, where no f exceeds `highest`."""
    return _upper_end(_Candidates(units, highest), tail)


def lower_end(units: Units, lowest: float, tail: float) -> float:
    """What E[w f] / E[w] is below with probability `tail` at most, where no f is below `lowest`."""
    return -_upper_end(_Candidates(units, -lowest, negate=True), tail)


class _Candidates:
    """The probability that the mean is at least m, as a function of m."""

    def __init__(self, units: Units, end: float, *, negate: bool = False) -> None:
        total = -units.total if negate else units.total
        # Equal units are one term. Pairs as complex numbers: sorted a hundred times faster.
        pairs, counts = np.unique(units.weight + 1j * total, return_counts=True)
        self.weight, self.total = pairs.real, pairs.imag
        # The further draw stands last.
        self.shape = np.append(counts * units.shape, 1.0)
        self.end, self.further, self.missing = end, units.further, units.missing
        self.beyond = units.beyond
        self.cells = [(-each.lower if negate else each.upper, each.weight) for each in units.cells]
        self.mean = float(total.sum() / units.weight.sum())

    def log_probability(self, m: float) -> float:
        """log P(Σ G (total − m weight) + (G₀ further + missing) (end − m) ≥ 0), G gamma."""
        y = np.empty_like(self.shape)
        np.multiply(self.weight, -m, out=y[:-1])
        y[:-1] += self.total
        gap = max(self.end - m, 0.0)
        further = max(self.further * gap, self.beyond * self._heaviest_gap(m))
        y[-1] = further
        scale = max(float(_largest(np.abs(y))), self.missing * gap)
        if scale == 0.0:
            return 0.0
        y /= scale
        return log_tail(y, self.shape, self.missing * gap / scale)

    def _heaviest_gap(self, m: float) -> float:
        """The most by which one draw can pull the mean above m, relative to the heaviest."""
        gaps = [float((weight * np.maximum(ends - m, 0.0)).max()) for ends, weight in self.cells]
        return min(gaps, default=0.0)


def _upper_end(candidates: _Candidates, tail: float) -> float:
    end, mean = candidates.end, candidates.mean
    weighs = max(candidates.further, candidates.beyond, candidates.missing) > 0.0
    if end == math.inf:
        if weighs:
            return math.inf
        end = float((candidates.total / candidates.weight)[candidates.weight > 0.0].max())
    mean = min(mean, end)
    target = math.log(tail)

    def excess(m: float) -> float:
        return max(candidates.log_probability(m), -1e6) - target

    if end <= mean or excess(end) > 0.0:
        return end
    if excess(mean) <= 0.0:
        return mean
    return float(brentq(excess, mean, end, xtol=1e-14 * max(abs(mean), abs(end)), rtol=1e-8))


def log_tail(y: Floats, shape: Floats, shift: float = 0.0) -> float:
    """log P(Σ Gᵢ yᵢ + shift ≥ 0) for independent Gᵢ ~ Gamma(shapeᵢ, 1); y and shape `[terms]`.

    By Lugannani and Rice's (1980) saddlepoint formula, whose relative error is a few per cent down
    to a single term and vanishes with their number.
    """
    # Terms that small beside the largest change nothing, and their reciprocals overflow.
    size = np.abs(y)
    keep = (size > _NEGLIGIBLE * size.max(initial=0.0)) & (shape > 0.0)
    if not keep.all():
        y, shape, size = y[keep], shape[keep], size[keep]
    if y.size == 0 or (_smallest(y) > 0.0 and shift >= 0.0):
        return 0.0 if shift >= 0.0 else -math.inf
    if _largest(y) < 0.0 and shift <= 0.0:
        return -math.inf
    most = float(_largest(size))
    y, shift = y / most, shift / most
    if shift:
        # By Chernoff's bound a shift that far beyond what the terms against it weigh decides alone;
        # the saddlepoint would lie nearer to a pole than numbers can tell.
        against = np.where(y * shift < 0.0, size / most, 0.0)
        largest, sum_against = float(_largest(against)), float(_sum(shape * against))
        if abs(shift) > 2.0 * sum_against + _FAR * largest:
            if shift > 0.0:
                return 0.0
            return (0.5 * shift + math.log(2.0) * sum_against) / largest
    s = _saddlepoint(y, shape, shift)
    rest = 1.0 - s * y
    generating = float(-_sum(shape * np.log(rest)) + s * shift)
    part = y / rest
    weighted = shape * part * part
    curvature = float(_sum(weighted))
    if generating >= 0.0 or abs(s) * math.sqrt(curvature) < _NEAR_ZERO:
        third = 2.0 * float(_sum(weighted * part)) / curvature**1.5
        # Less than a tenth of a term is beyond the formula; too large a probability is too wide.
        return math.log(max(0.5 - third / (6.0 * math.sqrt(2.0 * math.pi)), 0.05))
    root = math.copysign(math.sqrt(-2.0 * generating), s)
    u = s * math.sqrt(curvature)
    # P = Φ(−r) + φ(r) (1/u − 1/r), in logs where Φ(−r) is tiny.
    density = -0.5 * root * root - 0.5 * math.log(2.0 * math.pi)
    correction = 1.0 / u - 1.0 / root
    if root < 5.0:
        return math.log(min(max(float(ndtr(-root)) + math.exp(density) * correction, 1e-300), 1.0))
    tail = float(log_ndtr(-root))
    return tail + math.log(max(1.0 + math.exp(density - tail) * correction, 1e-300))


def _saddlepoint(y: Floats, shape: Floats, shift: float) -> float:
    """The s at which the derivative of the cumulant generating function of the sum is zero."""
    low, high = _poles(y)
    s = 0.0
    # Newton's method from 0 does where the answer is far from the poles, as with many terms.
    for _ in range(12):
        part = y / (1.0 - s * y)
        weighted = shape * part
        step = (float(_sum(weighted)) + shift) / float(_sum(weighted * part))
        if abs(step) <= 1e-9 * abs(s):
            return s
        s -= step
        if not low < s < high:
            break

    def slope(s: float) -> float:
        return float(_sum(shape * y / (1.0 - s * y))) + shift

    return _root_between_poles(slope, low, high)


def _poles(y: Floats) -> tuple[float, float]:
    lowest, highest = float(_smallest(y)), float(_largest(y))
    low = 1.0 / lowest if lowest < 0.0 else -math.inf
    high = 1.0 / highest if highest > 0.0 else math.inf
    return low, high


def _root_between_poles(slope: Callable[[float], float], low: float, high: float) -> float:
    """The zero of an increasing function that goes to −∞ and ∞ at the ends, or crosses before."""
    if low == -math.inf:
        low = -1.0
        while slope(low) > 0.0:
            low *= 4.0
    else:
        low = _next_to(slope, low, high if high < math.inf else 0.0, negative=True)
    if high == math.inf:
        high = 1.0
        while slope(high) < 0.0:
            high *= 4.0
    else:
        high = _next_to(slope, high, low, negative=False)
    # Halving takes a thousand steps where the answer lies many orders of magnitude within.
    return float(brentq(slope, low, high, xtol=1e-300, rtol=1e-12, maxiter=5000))


def _next_to(
    slope: Callable[[float], float], pole: float, inside: float, *, negative: bool
) -> float:
    """A point next to a pole at which the function has the sign that it has there."""
    distance = 1e-3 * abs(inside - pole)
    for _ in range(200):
        s = pole + math.copysign(distance, inside - pole)
        value = slope(s)
        if (value < 0.0) if negative else (value > 0.0):
            return s
        distance *= 0.1
    return s
