"""What a kind of site is: asked by every engine, tested by none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

from torch import Tensor

from lmppl.density.rows import SiteRows
from lmppl.density.stages.alternatives import Alternatives, Children
from lmppl.density.stages.redrawing import Redraw, Redrawn
from lmppl.density.stages.run import Step
from lmppl.density.stages.text import TextStage
from lmppl.density.steering.steered import Steered
from lmppl.lm.protocol import LanguageModel
from lmppl.rng import Uniforms


class Run(Protocol):
    """Values of a site in the making, a row for each execution; `select` is indexing.

    A value that is drawn at once is one that takes one step.
    """

    @property
    def num_rows(self) -> int: ...

    @property
    def open(self) -> Tensor:
        """The rows whose value is not whole yet, LongTensor `[open]`."""
        ...

    @property
    def num_open(self) -> int: ...

    @property
    def position(self) -> int | None:
        """How many steps were drawn; None where rows differ."""
        ...

    @property
    def log_prior(self) -> Tensor:
        """log p of what is drawn, `[rows]` float64."""
        ...

    def select(self, indices: Tensor) -> Self:
        """The rows `indices`, in that order, with repeats."""
        ...

    @property
    def weighs_tokens(self) -> bool:
        """Whether a row's weight changes with its steps, and may become zero."""
        ...

    @property
    def steered(self) -> Steered:
        """Where each row is under what guides the drawing."""
        ...

    def unsteered(self, log_weight: Tensor) -> Tensor:
        """Log weights `[rows]` with ψ of what is drawn divided out."""
        ...

    def is_whole(self) -> Tensor:
        """Of which rows the value is one, bool `[rows]`: others were given up."""
        ...

    def most_steps_left(self) -> int:
        """How many steps all open rows together may still take."""
        ...


class Stage(Protocol):
    """A kind of site. A new kind is one class that keeps this.

    Engines step a `Run` of any kind and do not know which it is, so runs and values are `Any` in
    the signatures: those of one stage go together.
    """

    @property
    def name(self) -> str: ...

    @property
    def lowered(self) -> str:
        """What the site is inside Pyro, as "module:class"; see `lmppl.lowering.sites`."""
        ...

    @property
    def num_steps(self) -> int:
        """The most steps in which a value is drawn."""
        ...

    @property
    def tokens_per_step(self) -> int:
        """How many tokens of language models each row draws in a step."""
        ...

    @property
    def support(self) -> tuple[object, ...] | None:
        """The values, where they are the same for all rows and known beforehand.

        A `SiteValue` then has an `index` `[rows]` into them.
        """
        ...

    @property
    def text(self) -> TextStage | None:
        """The site as a text, where it is one: automata and language models are about those."""
        ...

    @property
    def language_models(self) -> tuple[LanguageModel, ...]:
        """Those that the site draws from."""
        ...

    def with_language_models(self, change: Callable[[LanguageModel], LanguageModel]) -> Self:
        """The same site with others of the same vocabularies."""
        ...

    def start(self, rows: SiteRows, *steering: Any, record: bool = False) -> Any:
        """A `Run` in which nothing of the site is drawn yet.

        `record` keeps what each token cost, for methods that go on from the value.
        """
        ...

    def unsteered(self, rows: SiteRows) -> tuple[Any, ...]:
        """The steering that knows where a value ends, and none of the requirements."""
        ...

    def step(self, run: Any, uniforms: Tensor, *, masked: bool = True) -> tuple[Any, Step]:
        """One step more for every open row; `uniforms` `[rows]` has a number for every row.

        With `masked` a draw keeps to what may still meet the requirements, and `Step.log_mass`
        says how much of the prior that was.
        """
        ...

    def advance(
        self, run: Any, log_mass: Tensor, uniforms: Uniforms, number: int, *, masked: bool = True
    ) -> tuple[Any, Tensor]:
        """One step more for every open row, the `number`-th since the run was begun or taken up.

        `log_mass` `[rows]` is that of the masks met so far. Rows that are dead are closed. Without
        `masked` draws are the prior's.
        """
        ...

    def children(self, run: Any) -> tuple[Any, Children]:
        """The run, and all that one step more can make of it."""
        ...

    def grown(self, run: Any, children: Children) -> Any:
        """The run with a row for each of its children."""
        ...

    def recovered(self, run: Any, rows: SiteRows) -> Any:
        """The run before a step that was broken off, good to be stepped again."""
        ...

    def finish(self, run: Any) -> Any:
        """The `SiteValue` of a run in which no row is open any more."""
        ...

    def log_prob(self, rows: SiteRows, value: Any) -> Tensor:
        """log p(value | parents) of the value of every row, `[rows]` float64."""
        ...

    def retraced(self, rows: SiteRows, steering: tuple[Any, ...], value: Any) -> tuple[Any, Tensor]:
        """Given values with what each cost under this steering, and the log prior `[rows]`.

        −inf for a value that could not have been drawn.
        """
        ...

    def log_ratio(self, rows: SiteRows, run: Any, value: Any) -> Tensor:
        """log prior − log proposal of given values, `[rows]` float64, with the proposal of a run in
        which nothing is drawn yet; −inf for a value that it could not have drawn."""
        ...

    def memory(self, num_rows: int) -> Any:
        """What is kept between redraws of the same rows; None: nothing.

        Its `select(rows)` says that row i goes on with the value of row `rows[i]`.
        """
        ...

    def redraw(
        self, rows: SiteRows, steering: tuple[Any, ...], value: Any, how: Redraw, memory: Any
    ) -> Redrawn:
        """A part of every row's value drawn again given the rest of it, for Metropolis–Hastings."""
        ...

    def alternatives(self, rows: SiteRows) -> Alternatives | None:
        """Every value that each row can have; None where that cannot be listed."""
        ...

    def given(self, values: Sequence[object]) -> Any:
        """Values as people see them, one for each row, as a `SiteValue`.

        Raises:
            ValueError: one that the site cannot have, or that people do not see all of.
        """
        ...

    def described(self) -> dict[str, Any]:
        """What the site is, as plain values: a saved guide keeps it."""
        ...
