"""Metropolis–Hastings on texts: suffixes and blocks regenerated, discrete sites by Gibbs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmppl.density import Target, Traces, concatenate
from lmppl.density.proposal import Proposal
from lmppl.density.stages.redrawing import Redraw
from lmppl.inference.bounds import weight_bound
from lmppl.inference.failures import NoMass, by_binding
from lmppl.inference.loop import WHOLE, Draws, Info, Shard
from lmppl.inference.mcmc import MCMC
from lmppl.inference.moves import Move, chains_of, gibbs_move, redraw_move, restart_move
from lmppl.inference.proposing import propose
from lmppl.inference.starting import population
from lmppl.inference.zero_mass import zero_mass
from lmppl.rng import Stream
from lmppl.sequences.weights import log_mean_exp, normalise

_START_PARTICLES = 16
_CUT_BINS = 10
# The share of steps that draw everything anew, where a step otherwise changes one of several sites.
_RESTARTS = 0.1


@dataclass(frozen=True, slots=True)
class State:
    """All chains at one step; rows are `[bindings, chains]` flat.

    `kept` are the states after warmup. `accepted` and `proposed` `[rows]` count text moves;
    `by_cut` `[2, bins]` counts accepted and proposed suffix moves by relative cut position.
    `log_evidence` `[bindings]` is what the draws that the chains were picked from say of it, and
    `num_looks` `[bindings]` counts these draws, and the moves that proposed another one like them:
    independent draws of the (masked) prior, of everything that is drawn. `memories` are what each
    site keeps between its moves, and `shard` is the part of the run that it is.
    """

    traces: Traces
    num_steps: int
    kept: tuple[Traces, ...]
    accepted: Tensor
    proposed: Tensor
    moved: Tensor
    by_cut: Tensor
    log_evidence: Tensor
    num_looks: Tensor
    memories: tuple[Any, ...]
    shard: Shard = WHOLE


@dataclass(frozen=True, slots=True)
class MCMCEngine:
    """Vectorised Metropolis–Hastings chains over executions.

    A suffix move keeps the first c tokens, c uniform on 0..L−1, and draws the rest from the
    (masked) prior; with masses m_t of the mask it is accepted with probability

        min(1, Πφ(x')/Πφ(x) · Π_{t≥c} m'_t / Π_{t≥c} m_t · L/L'),

    where L/L' is there because a text of L tokens offers L cuts. A block move redraws a few tokens
    in the middle and keeps what follows. A discrete site is drawn from its full conditional. Where
    there are several sites, a tenth of the steps draw all of them anew; where there is a
    `proposal`, as many as the settings say, from that.
    """

    settings: MCMC
    target: Target
    stream: Stream
    proposal: Proposal | None = None

    @property
    def num_rows(self) -> int:
        """The chains of all bindings."""
        return self.target.num_groups * self.settings.num_chains

    @property
    def total(self) -> int:
        """The steps of every chain."""
        return self.settings.warmup_steps + self.settings.num_samples * self.settings.thinning

    def _stream(self, shard: Shard) -> Stream:
        return self.stream.child("shard", shard.index) if shard.index else self.stream

    def init(self, shard: Shard = WHOLE) -> State:
        stream = self._stream(shard)
        start = self.settings.start
        traces, log_evidence, num_looks = (
            self._start_from_prior(stream)
            if start == "prior"
            else self._start_from_particles(start, stream)
        )
        zeros = torch.zeros(self.num_rows, dtype=torch.long, device=self.target.device)
        return State(
            traces=traces,
            num_steps=0,
            kept=(),
            accepted=zeros,
            proposed=zeros,
            moved=zeros.bool(),
            by_cut=torch.zeros((2, _CUT_BINS), dtype=torch.long, device=self.target.device),
            log_evidence=log_evidence,
            num_looks=num_looks,
            memories=tuple(stage.memory(self.num_rows) for stage in self.target.stages),
            shard=shard,
        )

    def merge(self, states: Sequence[State]) -> State:
        """All chains of the parts: those of every binding side by side."""
        if len({len(state.kept) for state in states}) > 1:
            raise ValueError("the chains of the parts are not equally long")

        num_groups = self.target.num_groups
        sizes = [state.traces.num_rows for state in states]
        numbers = torch.split(torch.arange(sum(sizes), device=self.target.device), sizes)
        order = torch.cat([rows.view(num_groups, -1) for rows in numbers], dim=-1).view(-1)

        def side_by_side(rows: Sequence[Tensor]) -> Tensor:
            return torch.cat(list(rows))[order]

        def together(traces: Sequence[Traces]) -> Traces:
            return concatenate([each.light() for each in traces]).select(order)

        share = torch.tensor([size / sum(sizes) for size in sizes], dtype=torch.float64).log()
        return replace(
            states[0],
            traces=together([state.traces for state in states]),
            kept=tuple(together(step) for step in zip(*(s.kept for s in states), strict=True)),
            accepted=side_by_side([state.accepted for state in states]),
            proposed=side_by_side([state.proposed for state in states]),
            moved=side_by_side([state.moved for state in states]),
            by_cut=sum((state.by_cut for state in states[1:]), states[0].by_cut),
            log_evidence=torch.stack(
                [s.log_evidence + part for s, part in zip(states, share, strict=True)]
            ).logsumexp(0),
            num_looks=sum((state.num_looks for state in states[1:]), states[0].num_looks),
            memories=(),
        )

    def _start_from_particles(self, method: str, stream: Stream) -> tuple[Traces, Tensor, Tensor]:
        """One particle of an independent small run for every chain, the log evidence, and how many
        first particles were not lost by resampling."""
        found = population(
            method,
            self.target,
            stream.child("start"),
            num_runs=self.settings.num_chains,
            size=_START_PARTICLES,
        )
        return (
            self._pick(found.traces, found.log_weight, stream),
            log_mean_exp(found.log_evidence.view(self.target.num_groups, -1)),
            found.num_looks.view(self.target.num_groups, -1).sum(-1),
        )

    def _start_from_prior(self, stream: Stream) -> tuple[Traces, Tensor, Tensor]:
        size = self.num_rows * _START_PARTICLES
        groups = torch.arange(self.target.num_groups).repeat_interleave(
            self.settings.num_chains * _START_PARTICLES
        )
        found = propose(
            self.target,
            groups,
            torch.arange(size // self.target.num_groups).repeat(self.target.num_groups),
            stream.child("start"),
            record=True,
        )
        if found.rows.numel() == 0:
            raise zero_mass(self.target, f"none of {size} draws of the prior has positive weight")
        weight = torch.full((size,), -math.inf, dtype=torch.float64, device=self.target.device)
        weight[found.rows] = found.log_weight
        log_evidence = log_mean_exp(weight.view(self.target.num_groups, -1))
        weight[found.rows] = 0.0
        slot = torch.zeros(size, dtype=torch.long, device=self.target.device)
        slot[found.rows] = torch.arange(found.rows.shape[0], device=self.target.device)
        picked = self._pick(found.traces.select(slot), weight.view(self.num_rows, -1), stream)
        num_looks = torch.full_like(log_evidence, size // self.target.num_groups, dtype=torch.long)
        return picked, log_evidence, num_looks

    def _pick(self, traces: Traces, log_weight: Tensor, stream: Stream) -> Traces:
        """One row for every chain by weight; a chain without a living one takes another chain's.

        Where a binding has no living one, its chains take those of other bindings: they are run
        beside them, and dropped in the end.
        """
        alive = (log_weight > -math.inf).any(-1)
        if not bool(alive.any()):
            raise zero_mass(self.target, "no chain found a start of positive weight")
        groups = torch.arange(self.num_rows, device=alive.device) // self.settings.num_chains
        donor = torch.arange(self.num_rows, device=alive.device)
        for group in range(self.target.num_groups):
            mine = (groups == group) & alive
            mine = mine if bool(mine.any()) else alive
            living = mine.nonzero().squeeze(-1)
            lost = ((groups == group) & ~alive).nonzero().squeeze(-1)
            donor[lost] = living[torch.arange(lost.shape[0], device=lost.device) % living.shape[0]]
        weights = normalise(log_weight[donor]).exp().cumsum(-1)
        numbers = torch.arange(self.num_rows, device=weights.device) % self.settings.num_chains
        points = stream.child("pick").uniforms(numbers) * weights[:, -1]
        chosen = torch.searchsorted(weights, points.unsqueeze(-1), right=True).squeeze(-1)
        size = log_weight.shape[1]
        return traces.select(donor * size + chosen.clamp(max=size - 1))

    @property
    def _restarts(self) -> float:
        """The share of steps that draw everything anew."""
        if self.proposal is not None:
            return self.settings.guide_probability
        return _RESTARTS if len(self.target.stages) > 1 else 0.0

    def is_done(self, state: State) -> bool:
        return state.num_steps >= self.total

    def step(self, state: State) -> tuple[State, Info]:
        number = state.num_steps
        stream = self._stream(state.shard).child("step", number)
        choice = torch.arange(3)
        pick = stream.child("kind").uniforms(choice).tolist()
        stages = self.target.stages
        site = min(int(pick[0] * len(stages)), len(stages) - 1)
        if pick[2] < self._restarts:
            move = restart_move(self.target, state.traces, stream, self.proposal)
        else:
            move = self._move(state, site, pick[1], stream)
        new = self._record(state, move)
        new = replace(new, num_steps=number + 1)
        after = new.num_steps - self.settings.warmup_steps
        if after > 0 and after % self.settings.thinning == 0:
            new = replace(new, kept=(*new.kept, new.traces.light()))
        rate = float(new.accepted.sum()) / max(1, int(new.proposed.sum()))
        stage = "warmup" if after <= 0 else "steps"
        message = f"acceptance {rate:.2f}" if int(new.proposed.sum()) else ""
        return new, Info(stage, new.num_steps, self.total, message, move.num_tokens)

    def _move(self, state: State, site: int, pick: float, stream: Stream) -> Move:
        """A draw from the full conditional where the site's values can be listed, else a redraw."""
        target, traces = self.target, state.traces
        every = target.stages[site].alternatives(target.rows(site, traces))
        if every is not None:
            return gibbs_move(target, traces, site, every, stream)
        settings = self.settings
        in_block = pick < settings.block_probability
        how = Redraw(stream, chains_of(target, traces), in_block, settings.block_size)
        return redraw_move(target, traces, site, how, state.memories[site])

    def _record(self, state: State, move: Move) -> State:
        num_looks = state.num_looks
        if move.from_start is not None and (len(self.target.stages) == 1 or not move.is_proposal):
            # With other sites a text that is new is new beside what these are already.
            num_looks = num_looks + move.from_start.view(self.target.num_groups, -1).sum(-1)
        state = replace(
            state, traces=move.traces, moved=state.moved | move.moved, num_looks=num_looks
        )
        if not move.is_proposal:
            return state
        by_cut = state.by_cut
        if move.cut is not None:
            bins = (move.cut * _CUT_BINS).long().clamp(0, _CUT_BINS - 1)
            by_cut = by_cut.clone()
            by_cut[0].index_add_(0, bins, move.accepted.long())
            by_cut[1].index_add_(0, bins, torch.ones_like(bins))
        return replace(
            state,
            accepted=state.accepted + move.accepted,
            proposed=state.proposed + 1,
            by_cut=by_cut,
        )

    def result(self, state: State, *, complete: bool) -> list[Draws]:
        if not state.kept:
            nothing = state.traces.select(torch.zeros(0, dtype=torch.long))
            empty = Draws(
                nothing,
                nothing.log_density(),
                None,
                complete=False,
                lacking=self._lacking(state.num_steps),
            )
            return [empty] * self.target.num_groups
        return by_binding(self.target, partial(self._of_group, state, complete))

    def _lacking(self, num_steps: int) -> tuple[str, str]:
        """Why there are no draws yet: where a chain is in its warmup is where it was started."""
        warmup, thinning = self.settings.warmup_steps, self.settings.thinning
        first = warmup + thinning
        return (
            f"{num_steps:,} steps were done, of which warmup is {warmup:,}; a chain's states count"
            f" as draws after that, the first after {first:,} steps",
            "allow more time"
            + (f", or write `warmup_steps={num_steps // 2}`" if 2 <= num_steps <= warmup else "")
            + ", or use smc, which ends in the time that there is",
        )

    def _of_group(self, state: State, complete: bool, group: int) -> Draws:
        if float(state.log_evidence[group]) == -math.inf:
            raise NoMass("no chain found a start of positive weight")
        chains, draws = state.traces.num_rows // self.target.num_groups, len(state.kept)
        here = torch.arange(group * chains, (group + 1) * chains, device=state.moved.device)
        kept = concatenate([traces.select(here) for traces in state.kept])
        # Kept step by step; the Posterior wants each chain's draws together.
        order = torch.arange(draws * chains).view(draws, chains).t().reshape(-1)
        traces = kept.select(order.to(here.device))
        proposed = int(state.proposed[here].sum())
        still = int((~state.moved[here]).sum())
        by_cut = state.by_cut.cpu().numpy()
        diagnostics: dict[str, float] = {
            "num_chains": chains,
            "num_draws_per_chain": draws,
            "num_chains_that_never_moved": still,
        }
        if proposed:
            # Gibbs draws are not proposals: without a text there is nothing to accept.
            diagnostics["acceptance_rate"] = int(state.accepted[here].sum()) / proposed
        checks = {"every chain moved": still == 0}
        unseen = weight_bound(self.target, group).unseen(
            float(state.log_evidence[group]), int(state.num_looks[group])
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            rates = by_cut[0] / by_cut[1]
        return Draws(
            traces,
            torch.zeros(traces.num_rows, dtype=torch.float64),
            None,
            log_evidence_reason="Markov chains do not estimate the evidence; use smc or importance",
            num_chains=chains,
            unseen=unseen,
            diagnostics=diagnostics,
            checks=checks,
            info={"acceptance_by_cut": rates, "proposals_by_cut": by_cut[1]},
            complete=complete,
        )
