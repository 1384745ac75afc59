"""How many independent draws a set of Markov chains is worth."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_HUGE = 1e140


def autocorrelation_ess(chains: ArrayLike) -> float:
    """The effective sample size of the mean of `[chains, draws]`; NaN where it has no meaning.

    Geyer's (1992) initial monotone sequence on autocorrelations combined over the chains, as in
    Vehtari et al. (2021), arXiv:1903.08008, section 3.2. Values that never change, or fewer than
    four draws a chain, give NaN. No split and no ranks here: see `lmppl.diagnostics`.
    """
    x = np.asarray(chains, dtype=np.float64)
    num_chains, num_draws = x.shape
    if num_draws < 4 or not np.isfinite(x).all():
        return float("nan")
    largest = float(np.abs(x).max())
    if largest > _HUGE:
        # A common factor changes nothing, and squares would be infinite.
        x = x / largest
    if np.ptp(x) == 0.0:
        return float("nan")
    if np.all(x == x[:, :1]):
        # Every chain stands still at its own value: each is worth one draw at the very most.
        return float("nan")
    covariance = autocovariance(x)
    within = float(covariance[:, 0].mean()) * num_draws / (num_draws - 1)
    pooled = within * (num_draws - 1) / num_draws
    if num_chains > 1:
        pooled += float(x.mean(axis=1).var(ddof=1))
    rho = 1.0 - (within - covariance.mean(axis=0)) / pooled
    rho[0] = 1.0
    return float(x.size / max(integrated_time(rho), 1.0 / np.log10(x.size)))


def integrated_time(rho: Floats) -> float:
    """How many draws are worth one, from their autocorrelations `[lags]`: Geyer's sum."""
    pairs = rho[: 2 * (rho.size // 2)].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(pairs < 0.0)
    stop = int(negative[0]) if negative.size else pairs.size
    monotone = np.minimum.accumulate(pairs[: max(stop, 1)])
    # The first even lag past the cut is added where positive, as Stan does.
    tail = max(0.0, float(rho[2 * stop])) if 2 * stop < rho.size else 0.0
    return -1.0 + 2.0 * float(monotone.sum()) + tail


def autocovariance(x: Floats) -> Floats:
    """Autocovariances `[chains, lags]` divided by the number of draws, by FFT."""
    num_draws = x.shape[1]
    centred = x - x.mean(axis=1, keepdims=True)
    length = 1 << (2 * num_draws - 1).bit_length()
    spectrum = np.fft.rfft(centred, n=length, axis=1)
    power = np.fft.irfft(spectrum * spectrum.conj(), n=length, axis=1)
    return np.asarray(power[:, :num_draws] / num_draws, dtype=np.float64)
