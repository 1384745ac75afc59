"""The path of powers along which the factors are brought in."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Powers grow at least by this ratio, so that a path ends.
_SLOWEST = 1.05
# The least first power: factors of a million nats are no worse than this.
_LEAST = 1e-6
# Where a pilot run has lost all its draws, there is nothing to choose a path by.
_BLIND = tuple((number / 8) ** 3 for number in range(1, 9))


def conditional_ess(log_weight: Tensor, log_gain: Tensor) -> float:
    """(Σ W w)² / Σ W w², between 0 and 1, with W ∝ exp(`log_weight`) and w = exp(`log_gain`).

    Both are `[particles]`, and some particle has positive weight. What share of the particles a
    reweighting by w leaves, whatever they weighed before it (Zhou, Johansen and Aston 2016,
    arXiv:1303.3123, section 3.3.2).
    """
    alive = log_weight > -math.inf
    log_w, gain = log_weight[alive], log_gain[alive]
    log_w = log_w - log_w.logsumexp(0)
    return math.exp(float(2.0 * (log_w + gain).logsumexp(0) - (log_w + 2.0 * gain).logsumexp(0)))


def next_power(log_weight: Tensor, log_factors: Tensor, power: float, share: float) -> float:
    """The largest power at which a reweighting from `power` leaves `share` of `[particles]`.

    At most 1. By bisection; where it leaves less however small the step, a small one.
    """
    gain = torch.where(log_weight == -math.inf, 0.0, log_factors)

    def leaves(other: float) -> float:
        return conditional_ess(log_weight, (other - power) * gain)

    least = max(_SLOWEST * power, _LEAST)
    if least >= 1.0 or leaves(1.0) >= share:
        return 1.0
    low, high = power, 1.0
    while high > low * 1.001 + 1e-9:
        # Powers span orders of magnitude where factors are large.
        middle = math.sqrt(low * high) if low > _LEAST else 0.5 * (low + high)
        middle = middle if low < middle < high else 0.5 * (low + high)
        if leaves(middle) >= share:
            low = middle
        else:
            high = middle
    return min(max(low, least), 1.0)


def finished(path: tuple[float, ...]) -> tuple[float, ...]:
    """A path that may end early, carried on to 1 by the ratio of its last two powers."""
    if not path:
        return _BLIND
    ratio = max(path[-1] / path[-2] if len(path) > 1 else 2.0, 1.25)
    while path[-1] < 1.0:
        path = (*path, min(1.0, path[-1] * ratio))
    return path
