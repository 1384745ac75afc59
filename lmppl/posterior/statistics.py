"""Means, deviations and quantiles of weighted draws, with intervals that know what was not seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lmppl.posterior.cells import Cells
from lmppl.posterior.chains import autocorrelation_ess
from lmppl.posterior.estimate import Estimate, Kind, cluster_sums, hangs_on_few, honest_error
from lmppl.posterior.mean_bounds import Units, lower_end, mean_interval, upper_end
from lmppl.posterior.pareto import heaviest_further
from lmppl.posterior.unseen import Unseen

Floats = NDArray[np.float64]
Range = tuple[float, float]

ANYTHING: Range = (-math.inf, math.inf)
# Of the allowed misses of a standard deviation's lower end, the part that goes to the mean.
_MEAN_PART = 0.2


@dataclass(frozen=True, slots=True)
class Sample:
    """What the error of a statistic depends on, beside the values.

    `weights` `[draws]` sum to one. Draws with the same number in `clusters` may depend on each
    other; `num_chains` says instead that the draws are `[chains, draws]` flattened. `mixing` gives
    the effective sample size of the chains where the values themselves show none. `cells` say what
    values draws can have that weigh much, as far as that is known.
    """

    weights: Floats
    clusters: NDArray[np.int64] | None
    num_chains: int | None
    enumerated: bool
    unseen: Unseen | None
    mixing: Callable[[], float]
    cells: tuple[Cells, ...] = ()

    def __repr__(self) -> str:
        return f"<Sample of {len(self.weights)} draws>"

    @property
    def kind(self) -> Kind:
        """Of what statistics of the draws say."""
        unseen = self.unseen
        is_open = unseen is not None and unseen.log_further == math.inf
        return "of what was seen" if is_open else "consistent"

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Which draws have positive weight, `[draws]`."""
        return np.asarray(self.weights > 0.0)

    def expect(self, x: Floats) -> float:
        """Σ W x, within the range of the values."""
        values = x[self.alive]
        mean = float(np.sum(self.weights[self.alive] * values))
        # Rounding may carry a mean of equal values out of their range.
        return min(max(mean, float(values.min())), float(values.max()))

    def units(self, x: Floats, tail: float, cells: tuple[Cells, ...]) -> Units:
        """The independent units that the draws make up, with the values `[draws]`."""
        weight, total = self.weights, self.weights * x
        further, missing = self._unseen(weight, tail)
        if self.unseen is None or self.unseen.log_further == math.inf:
            # Cells tell how far draws are below a largest weight that is not known then.
            cells = ()
        elif not self.unseen.by_factors:
            cells = ()
        if self.num_chains is not None:
            shape = self._chain_size(x) / weight.size
            units = Units(weight, total, shape, 1.0 / weight.size, shape * missing)
            if cells:
                return replace(units, beyond=shape * further, cells=cells)
            return replace(units, further=max(units.further, shape * further))
        weight, total = cluster_sums(weight, self.clusters), cluster_sums(total, self.clusters)
        largest = float(weight.max())
        # Units that are heavier than one draw can be are families of draws that resampling made
        # many, of which cells do not hold.
        if cells and largest <= further * (1.0 + 1e-9):
            return Units(weight, total, 1.0, 0.0, missing, further, cells)
        return Units(weight, total, 1.0, max(largest, further), missing)

    def _unseen(self, weight: Floats, tail: float) -> tuple[float, float]:
        """The weight of one further unit of the heaviest kind, and what is known to be lost."""
        if self.unseen is None:
            return 0.0, 0.0
        missing = math.exp(min(self.unseen.log_missing, 500.0))
        if self.unseen.log_further == math.inf:
            return heaviest_further(cluster_sums(weight, self.clusters), tail), missing
        return math.exp(min(self.unseen.log_further, 500.0)), missing

    def _chain_size(self, x: Floats) -> float:
        """How many independent draws the chains are worth for the mean of x."""
        size = autocorrelation_ess(x.reshape(self.num_chains or 1, -1))
        if math.isnan(size):
            # Values that never change say nothing of mixing; other things about the draws may.
            # Chains that stand still, or are too short, count as one draw each.
            constant = bool(np.ptp(x) == 0.0)
            size = self.mixing() if constant else float(self.num_chains or 1)
        return min(max(size, 1.0), float(x.size))

    @property
    def is_single(self) -> bool:
        """Whether all the weight is on one unit, which says nothing of its own error."""
        shares = cluster_sums(self.weights, self.clusters)
        return self.num_chains is None and float(shares.max()) >= 1.0 - 1e-9

    @property
    def hangs_on_few(self) -> bool:
        """Whether few of many units carry the weight; the states of chains weigh all the same."""
        if self.num_chains is not None:
            return False
        return hangs_on_few(cluster_sums(self.weights, self.clusters), self.weights.size)

    def delta_error(self, x: Floats, mean: float) -> float:
        """The standard error of the weighted mean of x by the delta method, summed by unit.

        Infinite for a single unit, which says nothing of its own error.
        """
        if self.num_chains is not None:
            chains = x.reshape(self.num_chains, -1)
            size = self._chain_size(x)
            if size <= 1.0 or x.size < 2:
                return math.inf
            if np.ptp(x) == 0.0:
                return 0.0
            if math.isnan(autocorrelation_ess(chains)):
                return float(chains.mean(axis=1).std(ddof=1)) / math.sqrt(self.num_chains)
            return float(x.std(ddof=1)) / math.sqrt(size)
        shares = cluster_sums(self.weights, self.clusters)
        influence = cluster_sums(self.weights * (x - mean), self.clusters)
        size = 1.0 / float(np.sum(shares**2))
        if size <= 1.0 + 1e-9:
            return math.inf
        return math.sqrt(float(np.sum(influence**2)) * size / (size - 1.0))


def mean(sample: Sample, x: Floats, bounds: Range, confidence: float) -> Estimate:
    """The posterior mean of x `[draws]`, which lies in `bounds`, with Gaffke's interval.

    See `lmppl.posterior.mean_bounds`. A bound that is infinite gives an infinite end.
    """
    value = sample.expect(x)
    if sample.enumerated or bounds[0] == bounds[1] == value:
        return Estimate.exact(value)
    lower, upper = _interval(sample, x, bounds, confidence, sample.cells)
    delta = sample.delta_error(x, value)
    error = honest_error(delta, lower, upper, confidence, on_few=sample.hangs_on_few)
    return Estimate(value, error, min(lower, value), max(upper, value), sample.kind, confidence)


def _interval(
    sample: Sample, x: Floats, bounds: Range, confidence: float, cells: tuple[Cells, ...]
) -> Range:
    units = sample.units(x, 0.5 * (1.0 - confidence), cells)
    # Values outside of their declared range are met elsewhere; here they widen it.
    alive = x[sample.alive]
    low, high = min(bounds[0], float(alive.min())), max(bounds[1], float(alive.max()))
    return mean_interval(units, low, high, confidence)


def standard_deviation(sample: Sample, x: Floats, bounds: Range, confidence: float) -> Estimate:
    """The posterior standard deviation of x `[draws]`, which lies in `bounds`.

    With c the estimated mean, σ² = E (x − c)² − (μ − c)²: the interval of the first term is that of
    a mean, and the second lies between 0 and the square of what μ may be away from c.
    """
    centre = sample.expect(x)
    squares = np.where(sample.alive, (x - centre) ** 2, 0.0)
    value = math.sqrt(sample.expect(squares))
    if sample.enumerated:
        return Estimate.exact(value)
    # Not by `**`, which raises where the product is infinite.
    far = max((end - centre) * (end - centre) for end in bounds)
    tail = 1.0 - confidence
    cells = tuple(each.squares(centre) for each in sample.cells)
    _, upper = _interval(sample, squares, (0.0, far), confidence, cells)
    # Half of the misses are the lower end's, of which both ends of the mean take their part.
    lower, _ = _interval(sample, squares, (0.0, far), 1.0 - (1.0 - _MEAN_PART) * tail, cells)
    ends = _interval(sample, x, bounds, 1.0 - 0.5 * _MEAN_PART * tail, sample.cells)
    away = max(abs(end - centre) for end in ends)
    lower = math.sqrt(max(0.0, lower - away * away)) if math.isfinite(away) else 0.0
    # Nothing is further apart than the two ends of its range.
    upper = min(math.sqrt(upper), 0.5 * (bounds[1] - bounds[0]))
    delta = math.inf
    if value > 0.0:
        delta = sample.delta_error(squares, value**2) / (2.0 * value)
    delta = delta if delta > 0.0 else 0.0
    error = honest_error(delta, lower, upper, confidence, on_few=sample.hangs_on_few)
    return Estimate(value, error, min(lower, value), max(upper, value), sample.kind, confidence)


def quantile(sample: Sample, x: Floats, q: float, bounds: Range, confidence: float) -> Estimate:
    """The posterior quantile of x `[draws]` at level q, with Woodruff's (1952) interval.

    Its ends are the values at which the interval of the probability to lie at or below, or below,
    excludes q; the ends of the range where no value does.
    """
    order = np.argsort(x, kind="stable")
    order = order[sample.weights[order] > 0.0]
    values, cumulative = x[order], np.cumsum(sample.weights[order])
    # A level that a cumulative weight reaches up to rounding counts as reached.
    index = int(np.searchsorted(cumulative, q - 1e-12))
    value = float(values[min(index, values.size - 1)])
    if sample.enumerated:
        return Estimate.exact(value)
    levels = np.unique(values)
    tail = 0.5 * (1.0 - confidence)

    def surely_below(number: int) -> bool:
        """Whether the probability of less than this level is surely less than q."""
        below = (x < levels[number]).astype(np.float64)
        cells = tuple(each.below(float(levels[number])) for each in sample.cells)
        return upper_end(sample.units(below, tail, cells), 1.0, tail) < q

    def surely_reached(number: int) -> bool:
        """Whether the probability of at most this level is surely at least q."""
        reached = (x <= levels[number]).astype(np.float64)
        cells = tuple(each.reached(float(levels[number])) for each in sample.cells)
        return lower_end(sample.units(reached, tail, cells), 0.0, tail) >= q

    first_not_below = _first(levels.size, lambda number: not surely_below(number))
    first_reached = _first(levels.size, surely_reached)
    lower = bounds[0] if first_not_below == 0 else float(levels[first_not_below - 1])
    upper = bounds[1] if first_reached == levels.size else float(levels[first_reached])
    error = honest_error(0.0, lower, upper, confidence)
    return Estimate(value, error, min(lower, value), max(upper, value), sample.kind, confidence)


def _first(size: int, holds: Callable[[int], bool]) -> int:
    """The first number at which a condition holds that then stays true; `size` where never."""
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def extended(bounds: Range, values: Floats) -> Range:
    """The range with what is not known of it taken from the values `[draws]`.

    An end that is infinite is put as far beyond the values as they are apart: an assumption, and no
    more. Values that are all alike say nothing of their range.
    """
    low, high = float(values.min()), float(values.max())
    if low == high:
        return bounds
    apart = high - low
    return (
        bounds[0] if bounds[0] > -math.inf else low - apart,
        bounds[1] if bounds[1] < math.inf else high + apart,
    )
