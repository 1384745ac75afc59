"""A discrete site inside Pyro: an index into its values."""

from __future__ import annotations

import math
from dataclasses import replace

import pyro.distributions as dist
import torch
from pyro.ops.provenance import track_provenance
from torch import Tensor, nn

from lmppl.density import ChoiceBatch, ChoiceStage, SiteRows
from lmppl.density.stages.at_once import AtOnceRun
from lmppl.lowering.dead_ends import DeadEnds
from lmppl.lowering.isolation import Choice
from lmppl.lowering.sites import Batch, Proposing, SitePart, SiteValues, table_rates


class LoweredChoice:
    """A discrete site, whose values are indices `[]` into its support."""

    event_dim = 0

    def __init__(self, stage: ChoiceStage) -> None:
        self.stage = stage

    def prior(self, rows: SiteRows, batch: Batch) -> dist.Categorical:
        """A categorical distribution over the values."""
        return _choice(self.stage.log_probs(rows), batch)

    def read(self, rows: SiteRows, value: Tensor) -> ChoiceBatch:
        """The values with these indices `[rows]`."""
        return self.stage.batch(value.long())

    def written(self, value: ChoiceBatch) -> Tensor:
        """The indices `[rows]`."""
        return value.index

    def given(self, values: SiteValues) -> Tensor:
        """The indices of values of the program."""
        return self.stage.given(list(values)).index

    def guide(self, num_contexts: int, *, kind: str, lora_rank: int) -> ChoiceGuide:
        """A table of logits."""
        return ChoiceGuide(self.stage, num_contexts)


def _choice(log_probs: Tensor, batch: Batch) -> dist.Categorical:
    logits = track_provenance(log_probs.reshape(*batch.index.shape, -1), batch.marks)
    return Choice(logits=logits, validate_args=False)


class ChoiceGuide(SitePart):
    """The trainable distribution of a discrete site: the prior's logits plus a table, masked."""

    def __init__(self, stage: ChoiceStage, num_contexts: int) -> None:
        super().__init__()
        self.stage = stage
        self.logits = nn.Parameter(torch.zeros(num_contexts, stage.size, dtype=torch.float64))

    def rates(self, *, lr: float, table_lr: float, num_draws: int) -> dict[str, float]:
        return table_rates(table_lr, num_draws)

    def forward(self, contexts: Tensor, log_prior: Tensor, allowed: Tensor | None) -> Tensor:
        """log q(value), `[rows, values]` float64; −inf where the prior or `allowed` forbids."""
        logits = log_prior + self.logits[contexts]
        if allowed is not None:
            logits = logits.masked_fill(~allowed, -math.inf)
        return logits.log_softmax(-1)

    def distribution(
        self, rows: SiteRows, contexts: Tensor, batch: Batch, ends: DeadEnds
    ) -> dist.Categorical:
        log_prior = self.stage.log_probs(rows)
        allowed = ends.allowed_values(rows)
        if allowed is not None:
            possible = allowed & (log_prior > -math.inf)
            if not bool(possible.any(-1).all()):
                raise ends.met(rows.number)
        return _choice(self(contexts, log_prior, allowed), batch)

    def start(self, at: Proposing, *steering: object) -> AtOnceRun:
        log_prior = self.stage.log_probs(at.rows)
        allowed = at.ends.allowed_values(at.rows)
        if allowed is not None:
            # Where nothing can be met any more the draws die later, as those of the prior do.
            nothing = ~(allowed & (log_prior > -math.inf)).any(-1, keepdim=True)
            allowed = allowed | nothing
        log_guide = self(at.contexts, log_prior, allowed)
        log_guide = torch.where(log_guide.isnan(), log_prior, log_guide)
        share = math.log1p(-at.floor) if at.floor < 1.0 else -math.inf
        log_q = torch.logaddexp(share + log_guide, math.log(at.floor) + log_prior)
        run: AtOnceRun = at.stage.start(at.rows)
        return replace(run, log_q=log_q.detach())
