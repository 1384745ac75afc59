"""Importance sampling from the prior, masked by the constraints or not, or from a fitted guide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmppl.density import Target, Traces, concatenate
from lmppl.density.proposal import Proposal
from lmppl.inference.batches import Batch, Hurry, numbers_of
from lmppl.inference.bounds import weight_bound
from lmppl.inference.failures import NoMass, by_binding
from lmppl.inference.importance import PRIOR, Importance
from lmppl.inference.loop import WHOLE, Draws, Info, Shard
from lmppl.inference.proposing import (
    Proposals,
    Unfinished,
    advance,
    begin,
    completed,
    is_complete,
)
from lmppl.inference.zero_mass import zero_mass
from lmppl.posterior import Estimate
from lmppl.rng import Stream


@dataclass(frozen=True, slots=True)
class State:
    """The batches that are complete, with `num_done` draws of every binding, and the one at work.

    `limit` draws are wanted: those that were asked for, or as many as there is time for.
    `log_certain` is what the mask of the first token took from all weights alike, by binding. The
    first draw is number `first`.
    """

    batches: tuple[Proposals, ...]
    num_done: int
    limit: int
    batch: Batch | None = None
    log_certain: tuple[float, ...] = ()
    first: int = 0


@dataclass(frozen=True, slots=True)
class ImportanceEngine:
    """Draws xᵢ ~ q with weights wᵢ = π0(xᵢ)·Πφ(xᵢ) / q(xᵢ).

    The mean weight is an unbiased estimate of the evidence; q is the prior, the prior restricted
    token by token to what the constraints allow, or a mixture of that with a `proposal`.
    """

    settings: Importance
    target: Target
    stream: Stream
    proposal: Proposal | None = None

    def init(self, shard: Shard = WHOLE) -> State:
        size = self.settings.num_samples
        return State((), 0, size, first=shard.index * size)

    def merge(self, states: Sequence[State]) -> State:
        certain = [state.log_certain for state in states if state.log_certain]
        return State(
            batches=tuple(batch for state in states for batch in state.batches),
            num_done=sum(state.num_done for state in states),
            limit=sum(state.num_done for state in states),
            log_certain=tuple(map(max, zip(*certain, strict=True))),
            first=min(state.first for state in states),
        )

    def is_done(self, state: State) -> bool:
        return state.batch is None and state.num_done >= state.limit

    def step(self, state: State) -> tuple[State, Info]:
        """One token, or choice, more of every draw of a batch."""
        target, batch = self.target, state.batch
        if batch is None:
            size = min(self.settings.batch_size, state.limit - state.num_done)
            groups = tuple(range(target.num_groups))
            numbers = numbers_of(groups, state.first + state.num_done, size)
            batch = Batch(begin(target, *numbers), groups, size)
        before = batch.unfinished.num_tokens
        unfinished = batch.unfinished
        if not is_complete(target, unfinished):
            masked = self.settings.proposal != PRIOR
            unfinished = advance(
                target, unfinished, self.stream, masked=masked, proposal=self.proposal
            )
            if not state.log_certain:
                state = replace(state, log_certain=self._certain(unfinished, masked))
        num_tokens = unfinished.num_tokens - before
        if not is_complete(target, unfinished):
            new = replace(state, batch=replace(batch, unfinished=unfinished))
        else:
            batches = (*state.batches, completed(unfinished))
            new = replace(state, batches=batches, num_done=state.num_done + batch.size, batch=None)
        return new, Info("draws", new.num_done, self.settings.num_samples, num_tokens=num_tokens)

    def _certain(self, unfinished: Unfinished, masked: bool) -> tuple[float, ...]:
        """What the mask of the first token left of every weight: texts are all the same before.

        What a proposal leaves differs; no weight is above its bound.
        """
        if self.proposal is not None:
            return (self.proposal.log_bound,) * self.target.num_groups
        certain = [0.0] * self.target.num_groups
        log_mass, group = unfinished.log_mass, unfinished.traces.group
        if masked and unfinished.site == 0 and unfinished.step == 1 and log_mass is not None:
            for number in range(self.target.num_groups):
                alive = log_mass[(group == number) & (log_mass > -math.inf)]
                if alive.numel():
                    certain[number] = float(alive.max())
        return tuple(certain)

    def hurry(self, state: State, *, spent: float, left: float) -> State:
        """Fewer draws, as many as can be finished; not before half of the budget is spent."""
        batch, limit = Hurry(self.target, self.stream, spent, left, self.proposal).shortened(
            state.batch,
            state.num_done,
            state.limit,
            size=min(self.settings.batch_size, state.limit - state.num_done),
            num_groups=self.target.num_groups,
        )
        return replace(state, batch=batch, limit=limit)

    def recover(self, state: State) -> State:
        batch = state.batch
        return (
            state
            if batch is None
            else replace(state, batch=batch.recovered(self.target, self.proposal))
        )

    def result(self, state: State, *, complete: bool) -> list[Draws]:
        if not state.batches:
            empty = self.target.start(torch.zeros(0, dtype=torch.long))
            return [Draws(empty, empty.log_density(), None, complete=False)]
        traces = concatenate(
            [batch.traces for batch in state.batches if batch.rows.numel()]
            or [state.batches[0].traces]
        )
        log_weight = torch.cat([batch.log_weight for batch in state.batches])
        if log_weight.shape[0] == 0:
            raise zero_mass(self.target, f"none of {state.num_done} draws has positive weight")

        def of_group(group: int) -> Draws:
            at = (traces.group == group).nonzero().squeeze(-1)
            found, weights = traces.select(at), log_weight[at]
            certain = state.log_certain[group] if state.log_certain else 0.0
            return self._of_group(found, weights, group, state.num_done, complete, certain)

        return by_binding(self.target, of_group)

    def _of_group(
        self,
        traces: Traces,
        log_weight: Tensor,
        group: int,
        num_draws: int,
        complete: bool,
        log_certain: float,
    ) -> Draws:
        if traces.num_rows == 0:
            raise NoMass(f"none of {num_draws} draws has positive weight")
        dead = torch.full((num_draws - traces.num_rows,), -torch.inf, dtype=torch.float64)
        every = torch.cat([log_weight.cpu(), dead])
        bound = weight_bound(self.target, group, log_certain)
        total = float(torch.logsumexp(every, 0)) - math.log(num_draws)
        return Draws(
            traces,
            log_weight,
            Estimate.from_weights(every.numpy(), log_bound=bound.log_bound),
            from_prior=self.proposal is None,
            unseen=bound.unseen(total, num_draws),
            diagnostics={"num_draws": num_draws, "num_dead": num_draws - traces.num_rows},
            complete=complete,
        )
