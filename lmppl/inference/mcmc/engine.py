"""Metropolis–Hastings on texts: parts of them regenerated, discrete sites by Gibbs."""

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
from lmppl.density.steering.lookahead import PrefixLookahead
from lmppl.inference.bounds import weight_bound
from lmppl.inference.conditional import Particles, particle_move
from lmppl.inference.failures import NoMass, by_binding
from lmppl.inference.loop import WHOLE, Draws, Info, Shard
from lmppl.inference.mcmc import MCMC
from lmppl.inference.mcmc.mix import KINDS, Mix, together
from lmppl.inference.mcmc.starts import start
from lmppl.inference.moves import Move, chains_of, gibbs_move, redraw_move, restart_move
from lmppl.rng import Stream

_CUT_BINS = 10
_ADAPT_EVERY = 10
# The share of steps that draw everything anew, where a step otherwise changes one of several sites.
_RESTARTS = 0.1


@dataclass(frozen=True, slots=True)
class State:
    """All chains at one step; rows are `[bindings, chains]` flat.

    `kept` are the states after warmup. `accepted` and `proposed` `[rows]` count text moves;
    `by_cut` `[2, bins]` counts accepted and proposed suffix moves by relative cut position, and
    `mix` says how often each kind of text move is made.
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
    mix: Mix
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
    in the middle and keeps what follows, an infill move puts more or fewer in their place, and a
    particle move draws the text among particles. A discrete site is drawn from its full
    conditional. Where there are several sites, a tenth of the steps draw all of them anew;
    where there is a `proposal`, as many as the settings say, from that.
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
        method, chains = self.settings.start, self.settings.num_chains
        traces, log_evidence, num_looks = start(method, self.target, self._stream(shard), chains)
        zeros = torch.zeros(self.num_rows, dtype=torch.long, device=self.target.device)
        return State(
            traces=traces,
            num_steps=0,
            kept=(),
            accepted=zeros,
            proposed=zeros,
            moved=zeros.bool(),
            by_cut=torch.zeros((2, _CUT_BINS), dtype=torch.long, device=self.target.device),
            mix=Mix.begin(self.settings),
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

        def joined(traces: Sequence[Traces]) -> Traces:
            return concatenate([each.light() for each in traces]).select(order)

        share = torch.tensor([size / sum(sizes) for size in sizes], dtype=torch.float64).log()
        return replace(
            states[0],
            traces=joined([state.traces for state in states]),
            kept=tuple(joined(step) for step in zip(*(s.kept for s in states), strict=True)),
            accepted=side_by_side([state.accepted for state in states]),
            proposed=side_by_side([state.proposed for state in states]),
            moved=side_by_side([state.moved for state in states]),
            by_cut=sum((state.by_cut for state in states[1:]), states[0].by_cut),
            mix=together([state.mix for state in states]),
            log_evidence=torch.stack(
                [s.log_evidence + part for s, part in zip(states, share, strict=True)]
            ).logsumexp(0),
            num_looks=sum((state.num_looks for state in states[1:]), states[0].num_looks),
            memories=(),
        )

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
            kind = None
        else:
            move, kind = self._move(state, site, pick[1], stream)
        new = self._record(state, move)
        if kind is not None:
            new = replace(new, mix=state.mix.recorded(kind, state.traces, move))
        new = self._adapted(replace(new, num_steps=number + 1))
        after = new.num_steps - self.settings.warmup_steps
        if after > 0 and after % self.settings.thinning == 0:
            new = replace(new, kept=(*new.kept, new.traces.light()))
        rate = float(new.accepted.sum()) / max(1, int(new.proposed.sum()))
        stage = "warmup" if after <= 0 else "steps"
        message = f"acceptance {rate:.2f}" if int(new.proposed.sum()) else ""
        return new, Info(stage, new.num_steps, self.total, message, move.num_tokens)

    def _move(
        self, state: State, site: int, pick: float, stream: Stream
    ) -> tuple[Move, int | None]:
        """A draw from the full conditional where the site's values can be listed, else a redraw.

        Also the kind of a text move.
        """
        target, traces, settings = self.target, state.traces, self.settings
        every = target.stages[site].alternatives(target.rows(site, traces))
        if every is not None:
            return gibbs_move(target, traces, site, every, stream), None
        kind = None
        if target.stages[site].text is not None:
            learns = settings.adapt and state.num_steps < settings.warmup_steps
            kind = state.mix.picked(pick, try_all=learns)
        name = "suffix" if kind is None else KINDS[kind]
        if name == "particles":
            particles = Particles(
                settings.num_particles,
                settings.joints,
                settings.resampling,
                guides=(PrefixLookahead,) if settings.lookahead == "prefix" else (),
            )
            return particle_move(target, traces, site, particles, stream), kind
        how = Redraw(
            stream,
            chains_of(target, traces),
            in_block=name != "suffix",
            block_size=settings.block_size,
            resized=name == "infill",
        )
        return redraw_move(target, traces, site, how, state.memories[site]), kind

    def _adapted(self, state: State) -> State:
        """The state with the shares that the moves so far suggest, in warm-up; never after it:
        what hangs on the past of a chain does not keep to its target."""
        if not self.settings.adapt or state.num_steps > self.settings.warmup_steps:
            return state
        at_end = state.num_steps == self.settings.warmup_steps
        if at_end or state.num_steps % _ADAPT_EVERY == 0:
            return replace(state, mix=state.mix.adapted())
        return state

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
        diagnostics: dict[str, Any] = {
            "num_chains": chains,
            "num_draws_per_chain": draws,
            "num_chains_that_never_moved": still,
        }
        if proposed:
            # Gibbs draws are not proposals: without a text there is nothing to accept.
            diagnostics["acceptance_rate"] = int(state.accepted[here].sum()) / proposed
        if len(moves := state.mix.report()) > 1:
            diagnostics["moves"] = moves
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
