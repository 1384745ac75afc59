"""When a population should have more particles: for the tokens in which weights come apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# The most that a population is multiplied by, and the most tokens that this may add, as a share of
# those of the run.
_MOST = 4
_DEARER = 0.5
# Copies have in common what was drawn before: how much of the weights that a later token brings
# hangs on that is taken to fall by so much with every token between.
_ALIKE = 0.6
# What tokens a pilot takes beside the run, as a share; and by how much the product of variance
# and cost must fall for a larger population to pay.
_PILOT = 0.5
_PAYS = 0.65


@dataclass(frozen=True, slots=True)
class Growth:
    """After `step` tokens there are to be `factor` times the particles."""

    step: int
    factor: int


def growth_of(log_shares: Tensor) -> Growth | None:
    """When a population should grow, by what a pilot found; None: that would not pay.

    `log_shares` `[T]` are logs of the share of the effective sample size that the weights of each
    token leave. The variance of the evidence is a sum over tokens of V_t / N_t, with V_t the
    relative variance of the weights that token t brings and N_t the particles; copies that were
    made s tokens before count as different to 1 − 0.6^s. The moment and the size are those for
    which the variance times the tokens of the run is least.
    """
    variance = torch.expm1(-log_shares.double().clamp(max=0.0))
    steps = variance.shape[0]
    tokens = torch.arange(steps, device=variance.device)
    best, least = None, _PAYS * float(variance.sum())
    for step in range(1, steps):
        apart = 1.0 - _ALIKE ** (tokens - step).clamp(min=0)
        for factor in range(2, _MOST + 1):
            dearer = (factor - 1) * (steps - step) / steps
            if dearer > _DEARER:
                continue
            left = float((variance * (1.0 - apart * (1.0 - 1.0 / factor))).sum())
            found = left * (1.0 + dearer / (1.0 + _PILOT))
            if found < least:
                best, least = Growth(step, factor), found
    return best
