"""Discrete sites: one of a few values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmppl.builtins.kinds import ChoiceDistribution
from lmppl.density.columns import column_of
from lmppl.density.rows import SiteRows
from lmppl.density.stages.alternatives import Alternatives, Children
from lmppl.density.stages.redrawing import Redraw, Redrawn
from lmppl.density.stages.run import Step
from lmppl.density.steering.steered import Steered
from lmppl.evaluation.columns import Column
from lmppl.lm.protocol import LanguageModel
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


@dataclass(frozen=True, slots=True)
class ChoiceRun:
    """Executions at a discrete site that is not drawn yet, or is: a `Run` of one step.

    `log_probs` is `[rows, values]`, `index` `[rows]` means nothing before it is drawn.
    """

    log_probs: Tensor
    index: Tensor
    position: int

    @property
    def num_rows(self) -> int:
        return self.log_probs.shape[0]

    @property
    def open(self) -> Tensor:
        return torch.arange(self.num_open, device=self.index.device)

    @property
    def num_open(self) -> int:
        return 0 if self.position else self.num_rows

    @property
    def log_prior(self) -> Tensor:
        chosen = self.log_probs.gather(1, self.index.unsqueeze(-1)).squeeze(-1)
        return chosen if self.position else torch.zeros_like(chosen)

    @property
    def weighs_tokens(self) -> bool:
        """No: the value is a draw of the prior."""
        return False

    @property
    def steered(self) -> Steered:
        """By nothing."""
        return Steered((), (), ())

    def unsteered(self, log_weight: Tensor) -> Tensor:
        """The log weights: nothing is to be divided out."""
        return log_weight

    def select(self, indices: Tensor) -> ChoiceRun:
        """The rows `indices`, in that order, with repeats."""
        return ChoiceRun(self.log_probs[indices], self.index[indices], self.position)

    def close(self, keep: Tensor) -> ChoiceRun:
        """The run: no row is given up before its one step."""
        return self

    def is_whole(self) -> Tensor:
        """Of all rows alike: nobody is given up."""
        return torch.full_like(self.index, bool(self.position), dtype=torch.bool)

    def most_steps_left(self) -> int:
        """One for every row that is not drawn."""
        return self.num_open


# The probabilities of the values in every row, `[rows, values]`.
Weights = Callable[[SiteRows], np.ndarray]


@dataclass(frozen=True, slots=True)
class ChoiceStage:
    """A discrete site; its support is the same for every row, its probabilities need not be."""

    name: str
    support: tuple[object, ...]
    weights: Weights

    lowered: ClassVar[str] = "lmppl.lowering.choices:LoweredChoice"
    num_steps: ClassVar[int] = 1
    tokens_per_step: ClassVar[int] = 0
    text: ClassVar[None] = None
    language_models: ClassVar[tuple[LanguageModel, ...]] = ()

    __repr__ = brief

    @property
    def size(self) -> int:
        return len(self.support)

    def with_language_models(self, change: Callable[[LanguageModel], LanguageModel]) -> Self:
        """The stage itself: it has no language model."""
        return self

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

    # ------------------------------------------------------------------ drawing

    def start(self, rows: SiteRows, *steering: object, record: bool = False) -> ChoiceRun:
        """Nothing is drawn yet."""
        nothing = torch.zeros(rows.num_rows, dtype=torch.long, device=rows.device)
        return ChoiceRun(self.log_probs(rows), nothing, 0)

    def unsteered(self, rows: SiteRows) -> tuple[()]:
        """None is needed: a value is drawn in one step."""
        return ()

    def step(
        self, run: ChoiceRun, uniforms: Tensor, *, masked: bool = True
    ) -> tuple[ChoiceRun, Step]:
        """A value of the prior for every row."""
        new = replace(run, index=draw_choices(run.log_probs, uniforms), position=1)
        return new, Step(run.open, new.log_prior, torch.zeros_like(new.log_prior))

    def advance(
        self,
        run: ChoiceRun,
        log_mass: Tensor,
        uniforms: Callable[[Tensor, int], Tensor],
        number: int,
        *,
        masked: bool = True,
    ) -> tuple[ChoiceRun, Tensor]:
        """A value of the prior for every row; no mask takes anything from it."""
        return self.step(run, uniforms(run.open, number))[0], log_mass

    def children(self, run: ChoiceRun) -> tuple[ChoiceRun, Children]:
        """Every value of positive probability."""
        rows, value = (run.log_probs > -math.inf).nonzero(as_tuple=True)
        return run, Children(rows, value, run.log_probs[rows, value])

    def grown(self, run: ChoiceRun, children: Children) -> ChoiceRun:
        """A row for each value."""
        return replace(run.select(children.rows), index=children.drawn, position=1)

    def recovered(self, run: ChoiceRun, rows: SiteRows) -> ChoiceRun:
        """The run: nothing in it can be broken off."""
        return run

    def finish(self, run: ChoiceRun) -> ChoiceBatch:
        """The values drawn."""
        return self.batch(run.index)

    # ------------------------------------------------------------------ densities

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

    def retraced(
        self, rows: SiteRows, steering: tuple[object, ...], value: ChoiceBatch
    ) -> tuple[ChoiceBatch, Tensor]:
        """The values, which cost nothing but their prior."""
        return value, self.log_prob(rows, value)

    def memory(self, num_rows: int) -> None:
        """None: nothing is kept."""

    def redraw(
        self,
        rows: SiteRows,
        steering: tuple[object, ...],
        value: ChoiceBatch,
        how: Redraw,
        memory: None,
    ) -> Redrawn:
        """A draw of the prior, whatever the value was: its ratio and that of proposals cancel."""
        log_probs = self.log_probs(rows)
        drawn = self.batch(draw_choices(log_probs, how.stream.child("value").uniforms(how.chains)))
        log_prior = log_probs.gather(1, drawn.index.unsqueeze(-1)).squeeze(-1)
        return Redrawn(drawn, log_prior, torch.zeros_like(log_prior), 0)

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
