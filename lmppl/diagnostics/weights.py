"""How far importance weights can be trusted."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def normalised_weights(log_weights: ArrayLike) -> Floats:
    """Weights `[draws]` that sum to one, from log weights in nats (−inf is a dead draw).

    Raises: ValueError where all are −inf, or one is NaN or +inf.
    """
    log_w = np.asarray(log_weights, dtype=np.float64).ravel()
    if log_w.size == 0 or np.isnan(log_w).any() or np.isposinf(log_w).any():
        raise ValueError("log weights must be given, and be finite or −inf")
    highest = log_w.max()
    if highest == -math.inf:
        raise ValueError("every weight is zero")
    weights = np.exp(log_w - highest)
    return np.asarray(weights / weights.sum())


def effective_sample_size(log_weights: ArrayLike) -> float:
    """How many equal weights have the same sum of squares: (Σ w)² / Σ w² (Kong 1992).

    Between 1 and the number of draws. Large does not mean good: weights that are all equal because
    the proposal misses a mode have the largest.
    """
    return float(1.0 / np.sum(normalised_weights(log_weights) ** 2))


def max_weight(log_weights: ArrayLike) -> float:
    """The share of the heaviest draw."""
    return float(normalised_weights(log_weights).max())
