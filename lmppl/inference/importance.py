"""Importance sampling from the prior, or from the prior masked by the constraints."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from lmppl.inference.bounds import weight_bound
from lmppl.inference.loop import Draws, Info
from lmppl.inference.proposing import Proposals, propose
from lmppl.inference.settings import Importance
from lmppl.inference.zero_mass import zero_mass
from lmppl.posterior import Estimate
from lmppl.rng import Stream
from lmppl.target import Target, concatenate


@dataclass(frozen=True, slots=True)
class State:
    batches: tuple[Proposals, ...]
    num_done: int


class ImportanceEngine:
    """Draws xᵢ ~ q with weights wᵢ = π0(xᵢ)·Πφ(xᵢ) / q(xᵢ).

    The mean weight is an unbiased estimate of the evidence; q is the prior, or the prior
    restricted token by token to what the constraints allow.
    """

    def __init__(self, settings: Importance, target: Target, stream: Stream) -> None:
        self.settings, self.target, self.stream = settings, target, stream

    def init(self) -> State:
        return State((), 0)

    def is_done(self, state: State) -> bool:
        return state.num_done >= self.settings.num_samples

    def step(self, state: State) -> tuple[State, Info]:
        total = self.settings.num_samples
        size = min(self.settings.batch_size, total - state.num_done)
        groups = torch.arange(self.target.num_groups).repeat_interleave(size)
        draws = torch.arange(state.num_done, state.num_done + size)
        # A binding draws what it would draw alone.
        counters = draws.repeat(self.target.num_groups)
        proposals = propose(
            self.target,
            groups,
            counters,
            self.stream,
            masked=self.settings.proposal == "masked",
        )
        new = State((*state.batches, proposals), state.num_done + size)
        return new, Info("draws", new.num_done, total, num_tokens=proposals.num_tokens)

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
        return [
            self._of_group(traces.select(at), log_weight[at], group, state.num_done, complete)
            for group in range(self.target.num_groups)
            for at in [(traces.group == group).nonzero().squeeze(-1)]
        ]

    def _of_group(self, traces, log_weight, group: int, num_draws: int, complete: bool) -> Draws:  # type: ignore[no-untyped-def]
        if traces.num_rows == 0:
            raise zero_mass(self.target, f"none of {num_draws} draws has positive weight")
        dead = torch.full((num_draws - traces.num_rows,), -torch.inf, dtype=torch.float64)
        every = torch.cat([log_weight.cpu(), dead])
        bound = weight_bound(self.target, group)
        total = float(torch.logsumexp(every, 0)) - math.log(num_draws)
        return Draws(
            traces,
            log_weight,
            Estimate.from_weights(every.numpy(), log_bound=bound.log_bound),
            unseen=bound.unseen(total, num_draws),
            diagnostics={"num_draws": num_draws, "num_dead": num_draws - traces.num_rows},
            complete=complete,
        )
