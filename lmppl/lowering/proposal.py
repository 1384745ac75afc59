"""A fitted guide as what proposes draws for another method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lmppl.density import Run, SiteRows, Target
from lmppl.lm.protocol import LanguageModel
from lmppl.lowering.dead_ends import DeadEnds
from lmppl.lowering.guide import Guide
from lmppl.lowering.sites import Proposing
from lmppl.records import brief


@dataclass(frozen=True)
class GuideProposal:
    """A guide q beside the prior: every site is drawn from (1 − ε) q + ε prior.

    Both are kept to what the requirements leave open, and mixed as distributions over the site's
    whole value, a text as a whole: what a guide never draws is drawn as the prior does at a rate of
    `floor` = ε (a defensive mixture: Hesterberg 1995, *Weighted average importance sampling and
    defensive mixture distributions*). `groups` says which of the guide's bindings each binding of
    the target draws from; `change` is done to the language models of the guide, as to the target's.
    """

    target: Target
    guide: Guide
    groups: tuple[int, ...]
    floor: float
    change: Callable[[LanguageModel], LanguageModel]

    __repr__ = brief

    @property
    def log_bound(self) -> float:
        return -len(self.target.stages) * float(torch.tensor(self.floor).double().log())

    @cached_property
    def _ends(self) -> DeadEnds:
        return DeadEnds(self.target)

    def _at(self, rows: SiteRows) -> Proposing:
        """How the site of the rows is proposed."""
        traces = rows.traces
        groups = torch.tensor(self.groups, device=traces.group.device)[traces.group]
        contexts = self.guide.contexts[rows.number].of(replace(traces, group=groups))
        stage = self.target.stages[rows.number]
        return Proposing(stage, rows, contexts, self.floor, self._ends, self.change)

    def tokens_per_step(self, number: int) -> int:
        return self.target.stages[number].tokens_per_step

    @torch.no_grad()
    def start(
        self, rows: SiteRows, *steering: Any, record: bool = False, looks_ahead: bool = False
    ) -> Run:
        at = replace(self._at(rows), record=record, looks_ahead=looks_ahead)
        return self.guide.part(rows.number).start(at, *steering)

    @torch.no_grad()
    def recovered(self, run: Any, rows: SiteRows) -> Run:
        return self.guide.part(rows.number).recovered(self._at(rows), run)

    @torch.no_grad()
    def log_ratio(self, rows: SiteRows, steering: tuple[Any, ...], value: Any) -> Tensor:
        run = self.start(rows, *steering)
        return self.target.stages[rows.number].log_ratio(rows, run, value)
