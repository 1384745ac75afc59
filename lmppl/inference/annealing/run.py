"""Populations of executions brought from the prior to the posterior along a path of powers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmppl.density import Target
from lmppl.density.tempered import Tempered
from lmppl.inference.annealing.moving import moved, selected, set_off
from lmppl.inference.annealing.path import finished, next_power
from lmppl.inference.annealing.state import Path, State
from lmppl.inference.families import num_families
from lmppl.inference.loop import Info
from lmppl.inference.proposing import (
    Unfinished,
    advance,
    begin,
    is_complete,
    most_tokens_to_come,
)
from lmppl.inference.zero_mass import zero_mass
from lmppl.rng import Stream
from lmppl.sequences.resampling import systematic_resample
from lmppl.sequences.weights import effective_sample_size, log_mean_exp

# Fewer than this say nothing about their own error.
_FEWEST = 4
# A path is chosen by a share of the particles of all runs, but by so many at least.
_PILOT_SHARE, _FEWEST_OF_PILOT, _MOST_OF_PILOT = 0.25, 32, 256
_RESAMPLE_PILOT = 0.5


def log_gain(before: Tensor, after: Tensor, log_factors: Tensor) -> Tensor:
    """log φ^(λ' − λ), `[populations, particles]`, for powers `before` and `after` `[groups]`.

    One may not weigh by φ^λ' itself: what was weighed before is in the draws already.
    """
    steps = (after - before).repeat_interleave(log_factors.shape[0] // after.shape[0])
    return steps.unsqueeze(-1) * log_factors


@dataclass(frozen=True, slots=True)
class Annealing:
    """Sequential Monte Carlo on whole executions (Del Moral, Doucet and Jasra 2006), or, without
    resampling, annealed importance sampling (Neal 2001).

    At λ = 0 executions are draws of the prior under the requirements, with what the masks took in
    their weights. For every λ' of the path they are weighed by φ^(λ' − λ), resampled where the
    effective sample size is below `resample_below` of the particles, and moved `num_moves` times by
    kernels that keep prior · φ^λ'. Along a path that does not look at these particles the mean
    weight is an unbiased estimate of the evidence. So a pilot run of its own chooses the path: the
    next λ leaves `stage_ess` of its particles, by conditional effective sample size.
    """

    target: Target
    stream: Stream
    num_runs: int
    size: int
    num_moves: int
    stage_ess: float
    resample_below: float

    def begin(self, shard: int) -> State:
        """A pilot run, the same one whatever the part."""
        size = int(_PILOT_SHARE * self.size * self.num_runs)
        size = min(max(size, _FEWEST_OF_PILOT), _MOST_OF_PILOT)
        nowhere = ((),) * self.target.num_groups
        return replace(self._drawn(1, size, nowhere, 0), is_pilot=True, shard=shard)

    def is_done(self, state: State) -> bool:
        return not state.is_pilot and self._has_arrived(state)

    def step(self, state: State) -> tuple[State, Info]:
        """A token of all draws of the prior, or a move of all executions."""
        before = state.num_tokens
        if state.traces is None:
            state = self._draw(state)
        elif state.is_pilot and self._has_arrived(state):
            state = self._set_out(state)
        else:
            if state.num_stages == 0 or state.num_moves >= self.num_moves:
                state = self._next_stage(state)
            if not (state.is_pilot and self._has_arrived(state)):
                if state.afoot is None:
                    # After a hurry, or a step that was broken off.
                    state = set_off(self.target, state, self._under_way(state, state.num_stages))
                stream = self._stream(state).child("move", state.num_stages, state.num_moves)
                state = moved(state, stream)
        return state, self._info(state, state.num_tokens - before)

    def _info(self, state: State, num_tokens: int) -> Info:
        if state.is_pilot:
            return Info("path", state.num_stages, None, num_tokens=num_tokens)
        total = max(map(len, state.paths)) * self.num_moves
        done = max(state.num_stages - 1, 0) * self.num_moves + state.num_moves
        proposed = int(state.proposed.sum())
        rate = float(state.accepted.sum()) / max(1, proposed)
        message = f"acceptance {rate:.2f}" if proposed else ""
        return Info("moves", done, total, message, num_tokens)

    def _stream(self, state: State) -> Stream:
        if state.is_pilot:
            return self.stream.child("pilot")
        return self.stream.child("shard", state.shard) if state.shard else self.stream

    # ------------------------------------------------------------------ draws of the prior

    def _drawn(self, num_runs: int, size: int, paths: tuple[Path, ...], shard: int) -> State:
        """Executions of which nothing is drawn yet."""
        groups, device = self.target.num_groups, self.target.device
        per_binding, populations = num_runs * size, groups * num_runs
        first = shard * self.num_runs * self.size
        counters = (torch.arange(per_binding) + first).repeat(groups).to(device)
        zeros = torch.zeros(populations, dtype=torch.float64, device=device)
        counts = torch.zeros(groups, dtype=torch.long, device=device)
        group = torch.arange(groups).repeat_interleave(per_binding)
        return State(
            counters=counters,
            log_weight=zeros.unsqueeze(-1).repeat(1, size),
            log_evidence=zeros,
            eve=counters,
            paths=paths,
            num_resamplings=torch.zeros(populations, dtype=torch.long, device=device),
            accepted=counts,
            proposed=counts,
            is_pilot=False,
            drawing=begin(Tempered.of(self.target, counts.double()), group, counters),
            first_run=shard * self.num_runs,
            shard=shard,
        )

    def _draw(self, state: State) -> State:
        """One token, or choice, more of every execution, whose factors count for nothing yet."""
        drawing = state.drawing
        assert drawing is not None
        prior = Tempered.of(self.target, state.powers(0))
        before = drawing.num_tokens
        if not is_complete(prior, drawing):
            # The pilot's draws are its own; those of parts are told apart by their counters.
            stream = self.stream.child("pilot") if state.is_pilot else self.stream
            drawing = advance(prior, drawing, stream, record=True)
        num_tokens = state.num_tokens + drawing.num_tokens - before
        state = replace(state, drawing=drawing, num_tokens=num_tokens)
        return self._settled(state, drawing) if is_complete(prior, drawing) else state

    def _settled(self, state: State, drawn: Unfinished) -> State:
        """All executions are drawn; a dead one takes the place of a living one, of weight zero.

        Raises:
            InferenceError: LMP901, all are dead, and this is no pilot.
        """
        size, device = drawn.num_rows, state.log_weight.device
        if drawn.rows.numel() == 0:
            if not state.is_pilot:
                raise zero_mass(self.target, f"none of {size} draws has positive weight")
            return self._set_out(state)
        log_weight = torch.full((size,), -math.inf, dtype=torch.float64, device=device)
        log_weight[drawn.rows] = drawn.log_weight
        alive = (log_weight > -math.inf).view(self.target.num_groups, -1)
        per_binding = alive.shape[1]
        first = alive.long().argmax(-1) + torch.arange(alive.shape[0], device=device) * per_binding
        # A binding that is dead as a whole borrows from another, and goes nowhere.
        first = torch.where(alive.any(-1), first, drawn.rows[0]).repeat_interleave(per_binding)
        slot = torch.zeros(size, dtype=torch.long, device=device)
        slot[drawn.rows] = torch.arange(drawn.rows.shape[0], device=device)
        every = torch.arange(size, device=device)
        rows = torch.where(alive.view(-1), every, first)
        lives = zip(state.paths, alive.any(-1).tolist(), strict=True)
        return replace(
            state,
            drawing=None,
            paths=tuple(path if lives_on else () for path, lives_on in lives),
            traces=drawn.traces.select(slot[rows]),
            log_weight=log_weight.view_as(state.log_weight),
        )

    # ------------------------------------------------------------------ the path

    def _has_arrived(self, state: State) -> bool:
        """A pilot has come to λ = 1; a run has done its moves there as well."""
        if state.traces is None or not state.num_stages:
            return False
        if state.is_pilot:
            return all(path[-1] == 1.0 for path in state.paths if path)
        return state.num_stages >= max(map(len, state.paths)) and state.num_moves >= self.num_moves

    def _set_out(self, pilot: State) -> State:
        """The run itself, along the path of the pilot."""
        paths = tuple(map(finished, pilot.paths))
        state = self._drawn(self.num_runs, self.size, paths, pilot.shard)
        return replace(
            state,
            num_tokens=pilot.num_tokens,
            moved_tokens=pilot.moved_tokens,
            moved_rows=pilot.moved_rows,
        )

    def _next_stage(self, state: State) -> State:
        """All executions weighed for the next power, and resampled where few would count."""
        state = set_off(self.target, state, self._under_way(state, state.num_stages + 1))
        traces = state.traces
        assert traces is not None
        log_factors = Tempered.of(self.target, state.powers(0)).log_factors(traces)
        if log_factors is None:
            log_factors = torch.zeros_like(state.log_weight)
        log_factors = log_factors.view_as(state.log_weight)
        before = state.powers(state.num_stages)
        if state.is_pilot:
            state = replace(state, paths=self._longer(state, log_factors, before.tolist()))
        after = state.powers(state.num_stages + 1)
        dead = state.log_weight == -math.inf
        gain = log_gain(before, after, log_factors.masked_fill(dead, 0.0))
        state = replace(
            state,
            log_weight=state.log_weight + gain,
            traces=Tempered.of(self.target, after).corrected(traces),
            num_stages=state.num_stages + 1,
            num_moves=0,
        )
        return self._resampled(state)

    def _under_way(self, state: State, stage: int) -> list[int]:
        """The bindings that have living particles, and a power to come to at this stage."""
        alive = (state.log_weight > -math.inf).view(self.target.num_groups, -1).any(-1).tolist()
        return [
            number
            for number, path in enumerate(state.paths)
            if alive[number] and (len(path) >= stage or (state.is_pilot and path[-1:] != (1.0,)))
        ]

    def _longer(self, state: State, log_factors: Tensor, powers: list[float]) -> tuple[Path, ...]:
        """The paths of a pilot with the next power of every binding that is on the way."""
        assert state.afoot is not None
        paths = list(state.paths)
        weights = state.log_weight.view(len(paths), -1)
        factors = log_factors.view(len(paths), -1)
        for group in state.afoot.groups:
            power = next_power(weights[group], factors[group], powers[group], self.stage_ess)
            paths[group] = (*paths[group], power)
        return tuple(paths)

    def _resampled(self, state: State) -> State:
        """Populations on the way whose effective sample size is too small, resampled."""
        size, device = state.size, state.log_weight.device
        populations = state.log_weight.shape[0]
        runs = populations // self.target.num_groups
        ess = effective_sample_size(state.log_weight)
        families = num_families(state.eve.view_as(state.log_weight), state.log_weight)
        state = replace(
            state, ess=(*state.ess, ess), num_ancestors=(*state.num_ancestors, families)
        )
        assert state.afoot is not None
        share = _RESAMPLE_PILOT if state.is_pilot else self.resample_below
        moving = torch.zeros(self.target.num_groups, dtype=torch.bool, device=device)
        moving[list(state.afoot.groups)] = True
        low = (ess < share * size) & (ess > 0) & moving.repeat_interleave(runs)
        if not bool(low.any()):
            return state
        numbers = torch.arange(populations, device=device)
        # Runs of parts are told apart by their numbers.
        stream = self.stream.child("pilot") if state.is_pilot else self.stream
        points = stream.child("resample").uniforms(
            state.first_run + numbers % runs, state.num_stages
        )
        ancestors = torch.arange(size, device=device).repeat(populations, 1)
        here = low.nonzero().squeeze(-1)
        ancestors[here] = systematic_resample(state.log_weight[here], points[here])
        new = selected(state, (ancestors + numbers.unsqueeze(-1) * size).view(-1))
        return replace(
            new,
            log_weight=torch.where(low.unsqueeze(-1), 0.0, state.log_weight),
            log_evidence=state.log_evidence + torch.where(low, log_mean_exp(state.log_weight), 0.0),
            num_resamplings=state.num_resamplings + low,
            resampled=(*state.resampled, state.log_weight),
        )

    # ------------------------------------------------------------------ an end that comes sooner

    def hurry(self, state: State, spent: float, left: float) -> State:
        """Fewer particles, as many as can be brought to the end; of a pilot, no more of it.

        What is left of the path stays as it is, so that the mean weight stays unbiased: the number
        of particles may hang on what was seen, the path and the moves may not.
        """
        if spent < left:
            return state
        if state.is_pilot:
            return self.hurry(self._set_out(state), spent, left)
        needed = self._tokens_to_come(state)
        if needed <= left:
            return state
        # A step takes longer for each particle, the fewer there are.
        fewer = max(int(0.9 * state.size * left / needed), min(_FEWEST, state.size))
        return state if fewer >= state.size else self._shrunk(state, fewer)

    def _tokens_to_come(self, state: State) -> float:
        """About how many tokens are drawn to the end, by what moves have cost as yet."""
        drawing = state.drawing
        drawn = 0.0 if drawing is None else float(drawing.most_tokens_to_come(self.target))
        longest = most_tokens_to_come(self.target, 0, None, 1)
        cost = state.moved_tokens / state.moved_rows if state.moved_rows else 0.5 * longest
        moves = -state.num_moves if state.num_stages else 0
        per_binding = state.log_weight.numel() / self.target.num_groups
        for path in state.paths:
            to_come = (len(path) - max(state.num_stages - 1, 0)) * self.num_moves + moves
            drawn += max(to_come, 0) * cost * per_binding
        return drawn

    def _shrunk(self, state: State, size: int) -> State:
        """Every population with `size` particles: drawn by weight, or, where nothing is resampled
        or weighed yet, the first ones."""
        populations, device = state.log_weight.shape[0], state.log_weight.device
        numbers = torch.arange(populations, device=device)
        ancestors = torch.arange(size, device=device).repeat(populations, 1)
        by_weight = self.resample_below > 0.0 and state.num_stages > 0
        alive = (state.log_weight > -math.inf).any(-1) & by_weight
        if bool(alive.any()):
            first = state.first_run * self.target.num_groups
            points = self.stream.child("shrink").uniforms(
                first + numbers, state.num_stages * self.num_moves + state.num_moves
            )
            here = alive.nonzero().squeeze(-1)
            ancestors[here] = systematic_resample(state.log_weight[here], points[here], size)
        kept = (ancestors + numbers.unsqueeze(-1) * state.size).view(-1)
        log_weight = state.log_weight.gather(1, ancestors)
        gain = torch.where(alive, log_mean_exp(state.log_weight), 0.0)
        drawing, traces = state.drawing, state.traces
        return replace(
            state,
            drawing=None if drawing is None else drawing.thinned(kept),
            traces=None if traces is None else traces.select(kept),
            afoot=None,
            counters=state.counters[kept],
            eve=state.eve[kept],
            log_weight=torch.where(alive.unsqueeze(-1), 0.0, log_weight),
            log_evidence=state.log_evidence + gain,
            num_resamplings=state.num_resamplings + alive,
            resampled=(),
        )

    def recover(self, state: State) -> State:
        """The state before a step that was broken off, good to be stepped again."""
        drawing = state.drawing
        if drawing is not None and drawing.run is not None:
            rows = self.target.rows(drawing.site, drawing.traces)
            run = self.target.stages[drawing.site].recovered(drawing.run, rows)
            state = replace(state, drawing=replace(drawing, run=run))
        return replace(state, afoot=None)
