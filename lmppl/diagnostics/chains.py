"""Whether Markov chains have mixed, and what their draws are worth.

Everything follows Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), arXiv:1903.08008.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import fdtri

from lmppl.posterior.chains import autocorrelation_ess

Floats = NDArray[np.float64]

_NORMAL = NormalDist()


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

    Between 1.01 and 1.1. With m half chains, each worth e independent draws by its own
    autocorrelation, the variance between them is to that within as F / e, F of m − 1 and m (e − 1)
    degrees of freedom: with few draws, R-hat is above 1.01 by chance alone.
    """
    halves = split_chains(chains)
    number, length = halves.shape
    if length < 2:
        return 1.01
    sizes = [autocorrelation_ess(half[None, :]) for half in halves]
    known = [min(size, float(length)) for size in sizes if not math.isnan(size)]
    size = max(float(np.mean(known)), 1.5) if known else float(length)
    between = float(fdtri(number - 1, number * (size - 1.0), probability))
    return min(max(1.01, math.sqrt(1.0 - 1.0 / length + between / size)), 1.1)


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


def mean_standard_error(chains: ArrayLike) -> float:
    """The Monte Carlo standard error of the mean of `[chains, draws]`: sd / √ESS.

    Infinite where the effective sample size is unknown; 0 where the values never change.
    """
    x = np.atleast_2d(np.asarray(chains, dtype=np.float64))
    if np.ptp(x) == 0.0:
        return 0.0
    size = autocorrelation_ess(split_chains(x))
    return math.inf if math.isnan(size) else float(x.std(ddof=1)) / math.sqrt(size)


def stuck_chains(chains: ArrayLike) -> int:
    """How many of the chains `[chains, draws]` never move."""
    x = np.atleast_2d(np.asarray(chains, dtype=np.float64))
    return int(np.sum(np.all(x == x[:, :1], axis=1)))
