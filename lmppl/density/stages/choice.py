"""Discrete sites: one of a few values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmppl.builtins.kinds import ChoiceDistribution
from lmppl.density.columns import column_of
from lmppl.density.rows import SiteRows
from lmppl.density.stages.alternatives import Alternatives
from lmppl.density.stages.at_once import AtOnceRun, DrawnAtOnce
from lmppl.evaluation.columns import Column
from lmppl.records import brief


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


# The probabilities of the values in every row, `[rows, values]`.
Weights = Callable[[SiteRows], np.ndarray]


@dataclass(frozen=True, slots=True)
class ChoiceStage(DrawnAtOnce):
    """A discrete site; its support is the same for every row, its probabilities need not be."""

    name: str
    support: tuple[object, ...]
    weights: Weights

    lowered: ClassVar[str] = "lmppl.lowering.choices:LoweredChoice"

    __repr__ = brief

    @property
    def size(self) -> int:
        return len(self.support)

    def batch(self, index: Tensor) -> ChoiceBatch:
        """The values with these indices, `[rows]`."""
        return ChoiceBatch(self.support, index)

    def given(self, values: Sequence[object]) -> ChoiceBatch:
        """Values of the program, one for each row, as a `SiteValue`.

        Raises:
            ValueError: one that the site cannot have.
        """
        index = [self.support.index(value) for value in values]
        return self.batch(torch.tensor(index, dtype=torch.long))

    def draw(self, rows: SiteRows, uniforms: Tensor) -> tuple[ChoiceBatch, Tensor]:
        """A value for every row, and its log prior."""
        log_probs = self.log_probs(rows)
        index = draw_choices(log_probs, uniforms)
        return self.batch(index), log_probs.gather(1, index.unsqueeze(-1)).squeeze(-1)

    def draw_from(
        self, rows: SiteRows, log_q: Tensor, uniforms: Tensor
    ) -> tuple[ChoiceBatch, Tensor, Tensor]:
        """A value for every row from `log_q` `[rows, values]`, its log prior and its log q."""
        index = draw_choices(log_q, uniforms)
        at = index.unsqueeze(-1)
        log_prior = self.log_probs(rows).gather(1, at).squeeze(-1)
        return self.batch(index), log_prior, log_q.gather(1, at).squeeze(-1)

    def log_ratio(self, rows: SiteRows, run: AtOnceRun, value: ChoiceBatch) -> Tensor:
        """log p(value) − log q(value) of given values, `[rows]` float64."""
        if run.log_q is None:
            return torch.zeros_like(run.log_prior)
        log_q = run.log_q.gather(1, value.index.unsqueeze(-1)).squeeze(-1)
        return self.log_prob(rows, value) - log_q

    def log_probs(self, rows: SiteRows) -> Tensor:
        """log p(value | parents), `[rows, values]` float64.

        Raises:
            InferenceError: LMP925, the probabilities of a row are none.
        """
        weights = self.weights(rows)
        log_probs = None
        if weights.shape[-1] == self.size and np.allclose(weights.sum(-1), 1.0, atol=1e-6):
            log_probs = normalise_weights(torch.from_numpy(np.array(weights)))
        if log_probs is None:
            raise rows.failure(
                "LMP925",
                f"the probabilities of {self.name} are not {self.size} non-negative"
                f" numbers that sum to 1: {weights[0].tolist()}",
                "give one probability per value; divide weights by their sum",
            )
        return log_probs.to(rows.device)

    def log_prob(self, rows: SiteRows, value: ChoiceBatch) -> Tensor:
        """log p(value | parents) of the value of every row, `[rows]` float64."""
        return self.log_probs(rows).gather(1, value.index.unsqueeze(-1)).squeeze(-1)

    def alternatives(self, rows: SiteRows) -> Alternatives:
        """Every value that each row can have."""
        every = torch.arange(self.size, device=rows.device).repeat(rows.num_rows)
        return Alternatives(self.size, self.batch(every), self.log_probs(rows).reshape(-1))

    def described(self) -> dict[str, Any]:
        """The kind and the values."""
        return {"kind": "choice", "values": list(self.support)}


def weights_of(described: ChoiceDistribution, size: int, rows: SiteRows) -> np.ndarray:
    """What a distribution makes of its arguments, those that may differ by row."""
    given: dict[str, np.ndarray | None] = {}
    for each in described.arguments:
        if each.known == "draw":
            expr = rows.argument(each.name)
            value = rows.matrix if each.accepts == "numbers" else rows.numbers
            given[each.name] = None if expr is None else value(expr)
    return described.weights(rows.num_rows, size, **given)


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
