"""What draws are asked: the statistic of a function or an expression, with its error.

A question is a function of a draw, an expression of the language, or its values `[draws]`. Where an
expression asks for another statistic than the mean, as in an `expect` line, that is what is
returned: `"quantile(sentiment(text), 0.9)"`, `"probability(short)"`.

A mean is Σ W f over the normalised weights; its error is the delta method's for a self-normalised
mean, summed by cluster; for chains it comes from the autocorrelation of f; for an enumerated
posterior it is 0.

The interval is Gaffke's, within the range of f: the one that is given, or what is known of an
expression or a condition (see `mean_bounds`). It counts with one more draw at the end of the range,
of the largest weight that is possible, so that "never seen" does not become "impossible". Where the
range is not known, it is taken to reach as far beyond the values as they are apart; values that are
all alike then give an infinite interval.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lmppl.posterior import statistics
from lmppl.posterior.cells import Cells
from lmppl.posterior.chains import autocorrelation_ess
from lmppl.posterior.draws import WeightedDraws
from lmppl.posterior.estimate import Estimate, cluster_sums
from lmppl.posterior.expectation import MEAN, PROBABILITY, QUANTILE, STD, Statistic
from lmppl.posterior.features import text_features
from lmppl.posterior.plain import frozen_array, plain
from lmppl.posterior.statistics import ANYTHING, Range, Sample

Floats = NDArray[np.float64]
Question: TypeAlias = Callable[[Any], Any] | str | Any

# Squares of numbers beyond this, times a number of draws, may be infinite.
_HUGE = 1e140


def statistic(
    draws: WeightedDraws,
    f: Question,
    kind: Statistic = MEAN,
    *,
    q: float | None = None,
    bounds: Range | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """The mean, probability, quantile (at level `q`) or standard deviation of f.

    An expression may name its statistic itself. `bounds` is the range of f, or what is known of it.
    """
    if isinstance(f, str) and kind == MEAN:
        asked = getattr(draws.evaluator, "asked", None)
        if asked is not None:
            kind, f, q = asked(f)
    x, known = numbers(draws, f, kind, bounds)
    cells = cells_of(draws, f) if bounds is None else ()
    return draws.drawn(estimated(draws, x, kind, q, extended(draws, known, x), confidence, cells))


def factor_mean(draws: WeightedDraws, label: str, confidence: float = 0.95) -> Estimate:
    """The mean of a factor, in nats."""
    bounds = draws.ranges.get(label)
    return statistic(draws, draws.log_potential(label), bounds=bounds, confidence=confidence)


def numbers(
    draws: WeightedDraws, f: Question, kind: Statistic, bounds: Range | None
) -> tuple[Floats, Range]:
    """The values of f `[draws]`, 0 where the weight is, and the range that is known of it."""
    values = values_of(draws, f)
    is_condition = values.dtype.kind == "b"
    if kind == PROBABILITY and not is_condition:
        raise ValueError("a probability is of something that is true or false")
    x = values.astype(np.float64)
    alive = draws.alive
    if not np.isfinite(x[alive]).all():
        raise ValueError("the function is not a finite number on every draw")
    if bounds is None:
        bounds = (0.0, 1.0) if is_condition else _range_of(draws, f)
    return np.where(alive, x, 0.0), bounds


def values_of(draws: WeightedDraws, f: Question) -> NDArray[Any]:
    """The values of f on the draws, `[draws]`, boolean where they are conditions.

    A function is called on draws of positive weight only; the others read as 0.
    """
    size = len(draws)
    if isinstance(f, str):
        values = frozen_array(_evaluated(draws, f))
    elif callable(f):
        alive = np.flatnonzero(draws.alive)
        results = [plain(f(draws.draw(int(index)))) for index in alive]
        wrong = next((r for r in results if not isinstance(r, (bool, int, float))), None)
        if wrong is not None or None in results:
            raise ValueError(f"the function of a draw returned {wrong!r}, which is no number")
        dtype = np.bool_ if all(isinstance(r, bool) for r in results) else np.float64
        values = np.zeros(size, dtype=dtype)
        values[alive] = results
    else:
        values = frozen_array(f)
    if values.shape != (size,) or values.dtype.kind not in "biuf":
        raise ValueError(f"expected one number for each of {size} draws, got shape {values.shape}")
    return values


def _evaluated(draws: WeightedDraws, source: str) -> Any:
    if draws.evaluator is not None:
        return draws.evaluator(source)
    name = source.strip()
    if name in draws:
        return draws.column(name)
    raise ValueError(
        f"cannot evaluate {source!r}: a posterior that was saved or pickled without its program"
        f" knows the names {', '.join(draws.outputs)}; give a Python function of a draw instead"
    )


def _range_of(draws: WeightedDraws, f: Question) -> Range:
    if not isinstance(f, str):
        return ANYTHING
    name = f.strip()
    if name in draws.ranges and name in draws:
        return draws.ranges[name]
    range_of = getattr(draws.evaluator, "range_of", None)
    return ANYTHING if range_of is None else range_of(f)


def cells_of(draws: WeightedDraws, f: Question) -> tuple[Cells, ...]:
    """What an expression can be where draws are heavy, as far as its program tells."""
    cells = getattr(draws.evaluator, "cells_of", None)
    return cells(f) if isinstance(f, str) and cells is not None else ()


def extended(draws: WeightedDraws, known: Range, x: Floats) -> Range:
    """The range with what is not known of it assumed, where the draws say anything of it."""
    sample = sample_of(draws)
    return known if sample.is_single else statistics.extended(known, x[sample.alive])


def estimated(
    draws: WeightedDraws,
    x: Floats,
    kind: Statistic,
    q: float | None,
    bounds: Range,
    confidence: float,
    cells: tuple[Cells, ...],
) -> Estimate:
    """The statistic of values `[draws]` in a range."""
    sample = dataclasses.replace(sample_of(draws), cells=cells)
    alive = x[sample.alive]
    largest = float(np.abs(alive).max())
    if largest > _HUGE:
        # Squares would be infinite; everything here scales with the values.
        scale = 2.0 ** (math.frexp(largest)[1] - 1)
        smaller = bounds[0] / scale, bounds[1] / scale
        return estimated(draws, x / scale, kind, q, smaller, confidence, ()) * scale
    # Values outside of a range that was given widen it.
    bounds = min(bounds[0], float(alive.min())), max(bounds[1], float(alive.max()))
    if kind == QUANTILE:
        if q is None or not 0.0 <= q <= 1.0:
            raise ValueError(f"a quantile needs a level q in [0, 1], not {q}")
        return statistics.quantile(sample, x, q, bounds, confidence)
    if kind == STD:
        return statistics.standard_deviation(sample, x, bounds, confidence)
    return statistics.mean(sample, x, bounds, confidence)


def sample_of(draws: WeightedDraws) -> Sample:
    """What the error of every statistic of the draws depends on."""
    return Sample(
        draws.weights,
        draws.clusters,
        draws.num_chains,
        draws.enumerated,
        draws.unseen,
        lambda: mixing(draws),
    )


def mixing(draws: WeightedDraws) -> float:
    """The smallest effective sample size of what can be told of the chains' draws."""
    chains = draws.num_chains or 1
    sizes = [autocorrelation_ess(x.reshape(chains, -1)) for x in text_features(draws).values()]
    if draws.log_prior is not None:
        sizes.append(autocorrelation_ess(draws.log_density.reshape(chains, -1)))
    known = [size for size in sizes if not math.isnan(size)]
    return min(known) if known else float(chains)


def num_independent(draws: WeightedDraws) -> float:
    """How many independent draws these are worth, of those that count in the weights; of chains
    by the slowest thing that can be told of them."""
    if draws.num_chains is not None:
        return min(mixing(draws), float(len(draws)))
    shares = cluster_sums(draws.weights, draws.clusters)
    return float(1.0 / np.sum(shares**2))
