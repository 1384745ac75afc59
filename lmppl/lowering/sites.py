"""What a site is inside Pyro, and the part of a guide that draws it: asked, never tested."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from lmppl.density import Run, SiteRows, Stage
from lmppl.lm.protocol import LanguageModel
from lmppl.lowering.dead_ends import DeadEnds

# A value per draw: strings or token ids of a text, values of a discrete choice.
SiteValues = Sequence[object] | Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """How the rows of a target lie in a batch of Pyro.

    `index`, of the batch's shape, has the row of every element; `marks` are the sites that what
    is drawn depends on (see `Execution`).
    """

    index: Tensor
    marks: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Proposing:
    """The rows of a site that a part of a guide is to propose values for.

    `contexts` `[rows]` are theirs, `floor` is the prior's share in the mixture, `ends` knows what
    leads nowhere, and `change` is done to language models before they are run. `record` and
    `looks_ahead` are as in `Proposal.start`.
    """

    stage: Any
    rows: SiteRows
    contexts: Tensor
    floor: float
    ends: DeadEnds
    change: Callable[[LanguageModel], LanguageModel]
    record: bool = False
    looks_ahead: bool = False


class Lowered(Protocol):
    """A site inside Pyro. The stage names its class; it is made from the stage."""

    @property
    def event_dim(self) -> int:
        """The dimensions of one value as Pyro has it."""
        ...

    def prior(self, rows: SiteRows, batch: Batch) -> TorchDistribution:
        """The prior given the values before it."""
        ...

    def read(self, rows: SiteRows, value: Tensor) -> Any:
        """Pyro's values `[rows, …event]` as a `SiteValue`."""
        ...

    def written(self, value: Any) -> Tensor:
        """A `SiteValue` as Pyro has it, `[rows, …event]`."""
        ...

    def given(self, values: SiteValues) -> Tensor:
        """What a user gives, a value per draw, as Pyro has it, `[draws, …event]`.

        Raises:
            ValueError: a value that the site cannot have.
        """
        ...

    def guide(self, num_contexts: int, *, kind: str, lora_rank: int) -> SitePart:
        """The trainable part of a guide that draws the site, at first from its prior.

        It has parameters for each of `num_contexts` contexts where it does not see them otherwise.
        `kind` is "full" or "lora": what is trained of a neural language model.
        """
        ...


def lowered(stage: Stage) -> Lowered:
    """What a site is inside Pyro."""
    module, _, name = stage.lowered.partition(":")
    found: Lowered = getattr(importlib.import_module(module), name)(stage)
    return found


class SitePart(nn.Module):
    """The part of a guide that draws one site."""

    # Whether the part is a network that other tools can load.
    is_network: bool = False
    # Whether low-rank adapters are trained beside its weights.
    uses_adapters: bool = False

    @abstractmethod
    def distribution(
        self, rows: SiteRows, contexts: Tensor, batch: Batch, ends: DeadEnds
    ) -> TorchDistribution:
        """The part's distribution given the values before it, for rows with `contexts` `[rows]`.

        Kept to the values after which the requirements can still be met, as `ends` knows them.

        Raises:
            InferenceError: LMP411, no value is left to a row.
        """

    def start(self, at: Proposing, *steering: Any) -> Run:
        """A run of the site, to be drawn from the part mixed with the prior.

        A part that cannot be mixed leaves the site to the prior.
        """
        run: Run = at.stage.start(at.rows, *steering, record=at.record)
        return run

    def recovered(self, at: Proposing, run: Any) -> Run:
        """The run before a step that was broken off, good to be stepped again."""
        found: Run = at.stage.recovered(run, at.rows)
        return found

    @abstractmethod
    def rates(self, *, lr: float, table_lr: float, num_draws: int) -> dict[str, float]:
        """The settings of Adam for the part's parameters.

        `lr` is for weights that were trained before, `table_lr` for what starts from nothing.
        """

    @property
    def slow_paths(self) -> tuple[str, ...]:
        """What makes the part slower than it could be, a sentence each."""
        return ()

    def save_network(self, place: Path, *, merge: bool) -> None:
        """Writes a network as a model directory; adapters are merged, or kept beside it."""

    def load_network(self, place: Path) -> None:
        """Takes the weights of a network that was written so."""


def table_rates(table_lr: float, num_draws: int) -> dict[str, float]:
    """The settings of Adam for tables of logits.

    An entry that is rarely drawn gets a gradient of about 1/`num_draws` now and then, which Adam
    would blow up to several steps of full length; an `eps` of that size makes one visit move it by
    about `table_lr`.
    """
    return {"lr": table_lr, "eps": 1.0 / num_draws}
