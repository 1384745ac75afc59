"""Discrete sites: `categorical` and `bernoulli`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ChoiceStage:
    """A discrete site; its support is the same for every row, its probabilities need not be."""

    name: str
    support: tuple[object, ...]

    @property
    def size(self) -> int:
        return len(self.support)


def draw_choices(log_probs: Tensor, uniforms: Tensor) -> Tensor:
    """An index per row, `[rows]`, drawn from `log_probs` `[rows, values]` (normalised, float64)."""
    cumulative = log_probs.exp().cumsum(-1)
    total = cumulative[:, -1]
    point = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, point.unsqueeze(-1), right=True).squeeze(-1)


def normalise_weights(weights: Tensor) -> Tensor | None:
    """Log probabilities of non-negative weights `[rows, values]`; None where a row is not one."""
    weights = weights.double()
    total = weights.sum(-1, keepdim=True)
    valid = bool(((weights >= 0).all(-1) & (total.squeeze(-1) > 0)).all()) and bool(
        torch.isfinite(weights).all()
    )
    return (weights / total).log().clamp(min=-math.inf) if valid else None
