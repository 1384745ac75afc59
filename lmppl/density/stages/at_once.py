"""Sites whose value is drawn in one step: all that a new kind of them need not write."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from lmppl.density.rows import SiteRows
from lmppl.density.stages.alternatives import Alternatives, Children
from lmppl.density.stages.redrawing import Redraw, Redrawn
from lmppl.density.stages.run import Step
from lmppl.density.steering.steered import Steered
from lmppl.errors import InternalError
from lmppl.lm.protocol import LanguageModel
from lmppl.rng import Uniforms


@dataclass(frozen=True, slots=True)
class AtOnceRun:
    """Executions at such a site, before it is drawn or after: a `Run` of one step.

    `rows` are None once `value`, a `SiteValue`, and `log_prior` `[rows]` are there. Where something
    else than the prior draws the value, `log_q` `[rows, values]` float64 is the log probability of
    every one of its values.
    """

    rows: SiteRows | None
    value: Any
    log_prior: Tensor
    log_q: Tensor | None = None

    steered: ClassVar[Steered] = Steered((), (), ())

    @property
    def num_rows(self) -> int:
        return self.log_prior.shape[0]

    @property
    def weighs_tokens(self) -> bool:
        """Whether the value is weighed when it is drawn: the prior's need not be."""
        return self.log_q is not None

    @property
    def position(self) -> int:
        return int(self.rows is None)

    @property
    def num_open(self) -> int:
        return 0 if self.rows is None else self.num_rows

    @property
    def open(self) -> Tensor:
        return torch.arange(self.num_open, device=self.log_prior.device)

    def unsteered(self, log_weight: Tensor) -> Tensor:
        """The log weights: nothing is to be divided out."""
        return log_weight

    def select(self, indices: Tensor) -> AtOnceRun:
        """The rows `indices`, in that order, with repeats."""
        return AtOnceRun(
            None if self.rows is None else self.rows.select(indices),
            None if self.value is None else self.value.select(indices),
            self.log_prior[indices],
            None if self.log_q is None else self.log_q[indices],
        )

    def close(self, keep: Tensor) -> AtOnceRun:
        """The run: no row is given up before its one step."""
        return self

    def is_whole(self) -> Tensor:
        """Of all rows alike: nobody is given up."""
        return torch.full_like(self.log_prior, bool(self.position), dtype=torch.bool)

    def most_steps_left(self) -> int:
        """One for every row that is not drawn."""
        return self.num_open


class DrawnAtOnce(ABC):
    """A `Stage` of one step. A kind of site says how it is drawn and scored, and no more.

    Its values can be enumerated where `alternatives` lists them; moves that cannot list them
    propose draws of the prior, unless `redraw` knows better.
    """

    __slots__ = ()

    num_steps: ClassVar[int] = 1
    tokens_per_step: ClassVar[int] = 0
    text: ClassVar[None] = None
    language_models: ClassVar[tuple[LanguageModel, ...]] = ()

    name: str

    @abstractmethod
    def draw(self, rows: SiteRows, uniforms: Tensor) -> tuple[Any, Tensor]:
        """A draw of the prior from a uniform number for every row, and its log prior `[rows]`."""

    @abstractmethod
    def log_prob(self, rows: SiteRows, value: Any) -> Tensor:
        """log p(value | parents) of the value of every row, `[rows]` float64."""

    def draw_from(
        self, rows: SiteRows, log_q: Tensor, uniforms: Tensor
    ) -> tuple[Any, Tensor, Tensor]:
        """A draw from `log_q` `[rows, values]`, a mixture with the prior; its log prior and log q.

        A kind of site whose values cannot be listed is proposed by its prior, and not so.
        """
        raise InternalError(f"nothing but the prior proposes values of {self.name}")

    def log_ratio(self, rows: SiteRows, run: AtOnceRun, value: Any) -> Tensor:
        """Zeros `[rows]`: the prior proposes."""
        return torch.zeros_like(run.log_prior)

    def alternatives(self, rows: SiteRows) -> Alternatives | None:
        """None: the values cannot be listed."""
        return None

    def with_language_models(self, change: Callable[[LanguageModel], LanguageModel]) -> Self:
        """The stage itself: it has no language model."""
        return self

    def start(self, rows: SiteRows, *steering: object, record: bool = False) -> AtOnceRun:
        """Nothing is drawn yet."""
        zeros = torch.zeros(rows.num_rows, dtype=torch.float64, device=rows.device)
        return AtOnceRun(rows, None, zeros)

    def unsteered(self, rows: SiteRows) -> tuple[()]:
        """None is needed: a value is drawn in one step."""
        return ()

    def step(
        self, run: AtOnceRun, uniforms: Tensor, *, masked: bool = True
    ) -> tuple[AtOnceRun, Step]:
        """A value of the prior, or of what proposes in its place, for every row."""
        assert run.rows is not None
        if run.log_q is None:
            value, log_prior = self.draw(run.rows, uniforms)
            step = Step(run.open, log_prior, torch.zeros_like(log_prior))
        else:
            value, log_prior, log_base = self.draw_from(run.rows, run.log_q, uniforms)
            mass = torch.zeros_like(log_prior)
            step = Step(run.open, log_prior, mass, None, log_base, is_floored=True)
        return AtOnceRun(None, value, log_prior, run.log_q), step

    def advance(
        self,
        run: AtOnceRun,
        log_mass: Tensor,
        uniforms: Uniforms,
        number: int,
        *,
        masked: bool = True,
    ) -> tuple[AtOnceRun, Tensor]:
        """A value for every row; no mask takes anything from the prior's."""
        new, step = self.step(run, uniforms(run.open, number))
        return new, log_mass + step.log_weight if new.weighs_tokens else log_mass

    def children(self, run: AtOnceRun) -> tuple[AtOnceRun, Children]:
        """Every value of positive probability.

        Raises:
            InferenceError: LMP416, they cannot be listed.
        """
        assert run.rows is not None
        every = self.alternatives(run.rows)
        if every is None:
            raise run.rows.failure(
                "LMP416", f"the values of {self.name} cannot be listed", "use smc, or importance"
            )
        drawn = (every.log_prob > -math.inf).nonzero().squeeze(-1)
        children = Children(drawn // every.size, drawn, every.log_prob[drawn])
        return replace(run, value=every.value), children

    def grown(self, run: AtOnceRun, children: Children) -> AtOnceRun:
        """A row for each value."""
        return AtOnceRun(None, run.value.select(children.drawn), children.log_prob)

    def recovered(self, run: AtOnceRun, rows: SiteRows) -> AtOnceRun:
        """The run: nothing in it can be broken off."""
        return run

    def finish(self, run: AtOnceRun) -> Any:
        """The values drawn."""
        return run.value

    def retraced(
        self, rows: SiteRows, steering: tuple[object, ...], value: Any
    ) -> tuple[Any, Tensor]:
        """The values, which cost nothing but their prior."""
        return value, self.log_prob(rows, value)

    def memory(self, num_rows: int) -> None:
        """None: nothing is kept between redraws."""
        return None

    def redraw(
        self, rows: SiteRows, steering: tuple[object, ...], value: Any, how: Redraw, memory: None
    ) -> Redrawn:
        """A draw of the prior, whatever the value was: its ratio and that of proposals cancel."""
        uniforms = how.stream.child("value").uniforms(how.chains)
        drawn, log_prior = self.draw(rows, uniforms)
        return Redrawn(drawn, log_prior, torch.zeros_like(log_prior), 0)

    @abstractmethod
    def given(self, values: Sequence[object]) -> Any:
        """Values as people see them, one for each row, as a `SiteValue`.

        Raises:
            ValueError: one that the site cannot have.
        """

    @abstractmethod
    def described(self) -> dict[str, Any]:
        """What the site is, as plain values."""
