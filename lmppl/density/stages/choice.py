"""Discrete sites: `categorical` and `bernoulli`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from lmppl.density.columns import column_of
from lmppl.evaluation.values import Column


@dataclass(frozen=True, slots=True)
class ChoiceBatch:
    """The values of a discrete site, one per row: a `SiteValue`.

    `index` `[rows]` says which of `support` each row has.
    """

    support: tuple[object, ...]
    index: Tensor

    def select(self, indices: Tensor) -> ChoiceBatch:
        """The rows `indices` (LongTensor), in that order, with repeats."""
        return replace(self, index=self.index[indices])

    def merge(self, other: ChoiceBatch, take: Tensor) -> ChoiceBatch:
        """These values with the rows of `other` where `take` (bool `[rows]`) is true."""
        return replace(self, index=torch.where(take, other.index, self.index))

    def concatenate(self, others: Sequence[ChoiceBatch]) -> ChoiceBatch:
        """These rows, and then those of the others in order."""
        return replace(self, index=torch.cat([self.index, *(other.index for other in others)]))

    def differs(self, other: ChoiceBatch) -> Tensor:
        """Where the two are different values, bool `[rows]`."""
        return self.index != other.index

    def log_mass(self) -> Tensor:
        """Zeros `[rows]`: no mask was laid on the prior."""
        return torch.zeros(self.index.shape[0], dtype=torch.float64, device=self.index.device)

    def light(self) -> ChoiceBatch:
        """The values themselves: moves need no more."""
        return self

    def token_ids(self) -> None:
        """None: the values are not written in tokens."""

    def kept(self) -> dict[str, NDArray[Any]]:
        """Nothing: what people see says it all."""
        return {}

    def column(self) -> Column:
        """The values as expressions see them."""
        return column_of(self.listed())

    def listed(self) -> list[Any]:
        """The values of the program, one for each row."""
        return [self.support[index] for index in self.index.tolist()]


@dataclass(frozen=True, slots=True)
class ChoiceStage:
    """A discrete site; its support is the same for every row, its probabilities need not be."""

    name: str
    support: tuple[object, ...]

    @property
    def size(self) -> int:
        return len(self.support)

    def batch(self, index: Tensor) -> ChoiceBatch:
        """The values with these indices, `[rows]`."""
        return ChoiceBatch(self.support, index)


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
