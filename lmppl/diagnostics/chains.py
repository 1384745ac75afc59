"""Whether Markov chains have mixed, and what their draws are worth.

Everything follows Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), arXiv:1903.08008.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import fdtri

from lmppl.posterior.chains import autocorrelation_ess, autocovariance, integrated_time

Floats = NDArray[np.float64]

_NORMAL = NormalDist()
_MOST_BY_CHANCE = 1.2
# What is hidden in longer pieces is scaled from these.
_LONGEST_PIECE = 256


def split_chains(chains: ArrayLike) -> Floats:
    """`[chains, draws]` as `[2 · chains, draws // 2]`: each chain against its own second half.

    An odd number of draws leaves out the middle one.
    """
    x = np.atleast_2d(np.asarray(chains, dtype=np.float64))
    half = x.shape[1] // 2
    return np.concatenate([x[:, :half], x[:, x.shape[1] - half :]])


def rank_normalise(chains: ArrayLike) -> Floats:
    """Normal scores of the ranks over all chains, `[chains, draws]`; ties get their mean rank."""
    x = np.asarray(chains, dtype=np.float64)
    _, index, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank = last - (counts - 1) / 2.0
    scores = [_NORMAL.inv_cdf((rank - 0.375) / (x.size + 0.25)) for rank in mean_rank]
    return np.asarray(scores, dtype=np.float64)[index.ravel()].reshape(x.shape)


def r_hat(chains: ArrayLike) -> float:
    """The rank-normalised split R-hat of `[chains, draws]`: the larger of bulk and folded.

    1 at convergence; above 1.01 the chains disagree about the location or the spread. NaN where it
    has no meaning: values that never change (a chain that never moves is not converged), values
    that are not finite, fewer than four draws a chain. Chains that each stand still at different
    values give +inf.
    """
    x = np.atleast_2d(np.asarray(chains, dtype=np.float64))
    if x.shape[1] < 4 or not np.isfinite(x).all() or np.ptp(x) == 0.0:
        return math.nan
    halves = split_chains(x)
    folded = np.abs(halves - np.median(halves))
    scores = [_plain_r_hat(rank_normalise(halves))]
    if np.ptp(folded) > 0.0:
        scores.append(_plain_r_hat(rank_normalise(folded)))
    return max(scores)


def r_hat_limit(chains: ArrayLike, probability: float) -> float:
    """The R-hat of `[chains, draws]` that chains which agree exceed with 1 − `probability`.

    Between 1.01 and 1.2, where half a chain is worth hardly more than two draws and nothing can be
    said of agreement. With m half chains, each worth e independent draws by its own
    autocorrelation, the variance between them is to that within as F / e, F of m − 1 and m (e − 1)
    degrees of freedom: with few draws, R-hat is above 1.01 by chance alone.
    """
    halves = split_chains(chains)
    number, length = halves.shape
    if length < 4:
        return _MOST_BY_CHANCE
    covariance = autocovariance(halves).mean(axis=0)
    time = 1.0 if covariance[0] <= 0.0 else integrated_time(covariance / covariance[0])
    size = max(length / _unshortened(time, length), 1.05)
    # Of the bulk and of what is folded: the larger of two.
    level = 0.5 + 0.5 * probability
    between = float(fdtri(number - 1, number * (size - 1.0), level))
    return min(max(1.01, math.sqrt(1.0 - 1.0 / length + between / size)), _MOST_BY_CHANCE)


def _unshortened(time: float, length: int) -> float:
    """The autocorrelation time of chains that is found to be `time` in pieces of some length.

    A short piece is centred at its own mean, which hides how slowly the chain moves. How much is
    computed for autoregressions of the first order, for which all is known.
    """
    size = min(length, _LONGEST_PIECE)
    scale = length / size
    times, found = _times_found(size)
    if time <= found[0] * scale:
        return max(time, 1.0 / math.log10(max(length, 11)))
    return float(np.interp(time / scale, found, times)) * scale


@lru_cache(maxsize=32)
def _times_found(length: int) -> tuple[Floats, Floats]:
    """Autocorrelation times, and what is found of them on average in pieces `[times]`."""
    times = np.exp(np.linspace(0.0, math.log(2.0 * length), 24))
    lags = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    found = []
    for time in times:
        covariance = ((time - 1.0) / (time + 1.0)) ** lags
        means = covariance.mean(axis=0)
        centred = covariance - means - means[:, None] + covariance.mean()
        summed = np.array([np.trace(centred, offset=lag) for lag in range(length)])
        found.append(integrated_time(summed / summed[0]))
    return times, np.maximum.accumulate(np.array(found))


def _plain_r_hat(chains: Floats) -> float:
    num_draws = chains.shape[1]
    # By comparison, not by a variance of 0: that of equal numbers is rounding noise.
    if stuck_chains(chains) == chains.shape[0]:
        return math.inf
    within = float(chains.var(axis=1, ddof=1).mean())
    between = num_draws * float(chains.mean(axis=1).var(ddof=1))
    return math.sqrt((between / within + num_draws - 1) / num_draws)


def bulk_ess(chains: ArrayLike) -> float:
    """The effective sample size of the centre of the distribution, from `[chains, draws]`.

    NaN where R-hat is NaN.
    """
    x = np.atleast_2d(np.asarray(chains, dtype=np.float64))
    if not np.isfinite(x).all() or np.ptp(x) == 0.0:
        return math.nan
    return autocorrelation_ess(rank_normalise(split_chains(x)))


def tail_ess(chains: ArrayLike) -> float:
    """The effective sample size of the 5 % and 95 % quantiles, the smaller of the two.

    NaN where R-hat is NaN, or where a quantile is the largest value, so that nothing lies beyond.
    """
    x = np.atleast_2d(np.asarray(chains, dtype=np.float64))
    if not np.isfinite(x).all() or np.ptp(x) == 0.0:
        return math.nan
    sizes = [
        autocorrelation_ess((split_chains(x) <= np.quantile(x, level)).astype(np.float64))
        for level in (0.05, 0.95)
    ]
    known = [size for size in sizes if not math.isnan(size)]
    return min(known) if known else math.nan


def stuck_chains(chains: ArrayLike) -> int:
    """How many of the chains `[chains, draws]` never move."""
    x = np.atleast_2d(np.asarray(chains, dtype=np.float64))
    return int(np.sum(np.all(x == x[:, :1], axis=1)))
