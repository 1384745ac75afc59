"""What draws the sites of a program in the prior's place."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from lmppl.density.rows import SiteRows
from lmppl.density.stages.protocol import Run
from lmppl.density.target import Target


class Proposal(Protocol):
    """Draws of something else than the prior, which whoever uses it weighs to the prior.

    At every site it is a mixture with the masked prior, so that whatever else it draws from costs
    draws and never truth: it can draw all that the prior can, and no weight is above a bound.
    """

    @property
    def log_bound(self) -> float:
        """The most that the log of (masked) prior over proposal can be, of a whole execution."""
        ...

    def tokens_per_step(self, number: int) -> int:
        """How many tokens of language models a step of site `number` takes beside the prior's."""
        ...

    def start(
        self, rows: SiteRows, *steering: Any, record: bool = False, looks_ahead: bool = False
    ) -> Run:
        """A `Run` of the site in which nothing is drawn yet, as that of its stage.

        What it draws costs log prior − log proposal, which is in `Step.log_weight`; with
        `looks_ahead` as a twist, which `unsteered` divides out when the value is whole.
        """
        ...

    def recovered(self, run: Any, rows: SiteRows) -> Run:
        """The run before a step that was broken off, good to be stepped again."""
        ...

    def log_ratio(self, rows: SiteRows, steering: tuple[Any, ...], value: Any) -> Tensor:
        """log prior − log proposal of given values of the site, `[rows]` float64.

        −inf for a value that could not have been drawn.
        """
        ...


def start_site(
    target: Target,
    proposal: Proposal | None,
    rows: SiteRows,
    *steering: Any,
    record: bool = False,
    looks_ahead: bool = False,
) -> Run:
    """A site in which nothing is drawn yet, to be drawn by the proposal; None: by the prior."""
    if proposal is not None:
        return proposal.start(rows, *steering, record=record, looks_ahead=looks_ahead)
    run: Run = target.stages[rows.number].start(rows, *steering, record=record)
    return run


def recovered_site(target: Target, proposal: Proposal | None, run: Run, rows: SiteRows) -> Run:
    """The run of a site before a step that was broken off, good to be stepped again."""
    if proposal is not None:
        return proposal.recovered(run, rows)
    found: Run = target.stages[rows.number].recovered(run, rows)
    return found


def tokens_per_step(target: Target, proposal: Proposal | None, number: int) -> int:
    """How many tokens of language models each row of site `number` draws in a step."""
    beside = 0 if proposal is None else proposal.tokens_per_step(number)
    return target.stages[number].tokens_per_step + beside
