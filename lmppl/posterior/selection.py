"""Some of the draws, or copies of them, as draws of their own."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from lmppl.posterior.cells import Cells
from lmppl.posterior.draws import KINDS, WeightedDraws
from lmppl.posterior.expectation import MEAN, Statistic
from lmppl.posterior.statistics import ANYTHING, Range
from lmppl.posterior.unseen import Unseen

# Diagnostics that describe a set of draws, and say nothing of others taken from it.
_OF_THESE_DRAWS = frozenset(
    (
        "ess max_weight pareto_k pareto_k_reason num_unique_draws r_hat_limit"
        " r_hat ess_bulk ess_tail chains num_chains_that_never_moved"
    ).split()
)


def selected(draws: WeightedDraws, indices: Any, *, weighted: bool = True) -> WeightedDraws:
    """The draws at some indices, in that order, with their weights or with equal ones.

    `indices` may also be a truth value for each draw, `[draws]`.

    Raises: IndexError, TypeError where they are none of these draws; ValueError for no draw.
    """
    rows = _rows_at(draws, indices)
    size = len(draws)
    if draws.enumerated and not weighted:
        clusters = None
    elif draws.num_chains is not None:
        clusters = (np.arange(size) // (size // draws.num_chains))[rows]
    else:
        clusters = (np.arange(size) if draws.clusters is None else draws.clusters)[rows]
    taken = {name: kind.select(getattr(draws, name), rows) for name, kind in KINDS.items()}
    kept = {k: v for k, v in draws.diagnostics.items() if k not in _OF_THESE_DRAWS}
    return WeightedDraws(
        **{
            **taken,
            "log_weights": taken["log_weights"] if weighted else np.zeros(rows.size),
            "clusters": clusters,
            "num_chains": None,
            "enumerated": False,
            "unseen": _unseen_beside(draws, rows) if weighted else draws.unseen,
            "diagnostics": kept,
            "evaluator": None if draws.evaluator is None else _Selected(draws.evaluator, rows),
        }
    )


def picked(draws: WeightedDraws, key: slice | SupportsIndex) -> Any:
    """A draw by its number, or by a slice a list of draws.

    Raises: IndexError where there is none; TypeError for what is no number.
    """
    if isinstance(key, slice):
        return [draws.draw(index) for index in range(len(draws))[key]]
    try:
        return draws.draw(range(len(draws))[operator.index(key)])
    except IndexError:
        raise IndexError(f"there is no draw {key}: there are {len(draws)}") from None
    except TypeError:
        raise TypeError(
            "a posterior is indexed by a name, the number of a draw or a slice, not by"
            f" {type(key).__name__}; `select` takes several indices"
        ) from None


def resampled_indices(draws: WeightedDraws, n: int | None = None, seed: int = 0) -> NDArray[Any]:
    """Which draws to take for `n` of equal weight, `[n]`; as many as there are by default."""
    count = len(draws) if n is None else n
    if count < 1:
        raise ValueError(f"cannot draw {count} times")
    cumulative = np.cumsum(draws.weights)
    points = np.random.Generator(np.random.Philox(seed)).random(count) * cumulative[-1]
    points = np.minimum(points, np.nextafter(cumulative[-1], 0.0))
    return np.asarray(np.searchsorted(cumulative, points, side="right"), dtype=np.int64)


def _rows_at(draws: WeightedDraws, indices: Any) -> NDArray[np.int64]:
    given = np.asarray(indices)
    if given.dtype.kind == "b":
        if given.shape != (len(draws),):
            raise IndexError(f"{given.size} truth values for {len(draws)} draws")
        return np.flatnonzero(given)
    if given.size and given.dtype.kind not in "iu":
        raise TypeError("draws are selected by their numbers, or by a truth value for each")
    return given.astype(np.int64)


def _unseen_beside(draws: WeightedDraws, rows: NDArray[np.int64]) -> Unseen | None:
    """What may have been missed, relative to what only these draws weigh."""
    log_kept = float(np.logaddexp.reduce(draws.log_weights[np.unique(rows % len(draws))]))
    # All of them weigh 1 but for rounding; of draws of weight zero nothing is made.
    if draws.unseen is None or not -math.inf < log_kept < -1e-9:
        return draws.unseen
    return dataclasses.replace(
        draws.unseen,
        log_further=draws.unseen.log_further - log_kept,
        log_missing=draws.unseen.log_missing - log_kept,
    )


@dataclass(frozen=True, slots=True)
class _Selected:
    """The values of expressions on some of the draws."""

    evaluator: Callable[[str], Any]
    rows: NDArray[np.int64]

    def __call__(self, source: str) -> NDArray[Any]:
        return np.asarray(self.evaluator(source))[self.rows]

    def asked(self, source: str) -> tuple[Statistic, str, float | None]:
        asked = getattr(self.evaluator, "asked", None)
        return (MEAN, source, None) if asked is None else asked(source)

    def range_of(self, source: str) -> Range:
        range_of = getattr(self.evaluator, "range_of", None)
        return ANYTHING if range_of is None else range_of(source)

    def cells_of(self, source: str) -> tuple[Cells, ...]:
        cells_of = getattr(self.evaluator, "cells_of", None)
        return () if cells_of is None else cells_of(source)
