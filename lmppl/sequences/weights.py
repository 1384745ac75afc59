"""Log weights: means, normalisation and effective sample size, in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """Log of the mean weight over the last axis, in nats; an estimate of the log evidence.

    `log_weights` is `[..., particles]`, unnormalised; −inf marks a dead particle.
    All dead gives −inf, not NaN.
    """
    return torch.logsumexp(log_weights.double(), -1) - math.log(log_weights.shape[-1])


def normalise(log_weights: Tensor) -> Tensor:
    """Log weights that sum to one over the last axis, float64.

    `log_weights` is `[..., particles]`. A batch whose particles are all dead gives −inf throughout.
    """
    log_weights = log_weights.double()
    total = torch.logsumexp(log_weights, -1, keepdim=True)
    return torch.where(total == -math.inf, log_weights, log_weights - total)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """(Σw)² / Σw² over the last axis, between 1 and the number of particles; 0 if all are dead.

    `log_weights` is `[..., particles]`, unnormalised (Kong, Liu and Wong 1994).
    """
    log_weights = normalise(log_weights)
    return torch.exp(-torch.logsumexp(2.0 * log_weights, -1)).nan_to_num(0.0, posinf=0.0)
