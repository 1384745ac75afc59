"""Sequential Monte Carlo over tokens."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lmppl.density import SiteRows, Stage, Target, TextStage, Traces
from lmppl.density.proposal import Proposal, recovered_site, start_site, tokens_per_step
from lmppl.density.steering.likely import likely
from lmppl.density.steering.power import power
from lmppl.density.steering.protocol import Steering
from lmppl.inference.failures import by_binding
from lmppl.inference.families import num_families
from lmppl.inference.loop import WHOLE, Draws, Info, Shard
from lmppl.inference.proposing import most_tokens_to_come
from lmppl.inference.smc import SMC
from lmppl.inference.smc.ahead import Ahead, next_ahead
from lmppl.inference.smc.alignment import compared_weights
from lmppl.inference.smc.ancestors import ancestors_of
from lmppl.inference.smc.findings import draws_of
from lmppl.inference.smc.knowing import most_of_factors, population_of, with_known
from lmppl.inference.smc.lookaheads import LOOKAHEADS
from lmppl.inference.smc.losses import counted, given_up
from lmppl.inference.smc.moving import cost_of_moves, due, moved, traced, with_trail
from lmppl.inference.smc.plain import PlainDraws
from lmppl.inference.smc.resizing import grown, resized
from lmppl.inference.smc.scouting import (
    following,
    is_watched,
    settings_of,
    size_of,
    without_scouts,
)
from lmppl.inference.smc.state import (
    State,
    is_open,
    selected,
    side_by_side,
    weighed,
    without_dead,
)
from lmppl.inference.smc.watching import Watch
from lmppl.inference.starting import Population
from lmppl.inference.twists import LookAhead
from lmppl.inference.zero_mass import zero_mass
from lmppl.rng import Stream
from lmppl.sequences.weights import effective_sample_size, log_mean_exp
from lmppl.timing import timed

Lookahead = Callable[[Target, int, TextStage, Traces], Steering]

# Fewer than this say nothing about their own error.
_FEWEST_PARTICLES = 4


@dataclass(frozen=True, slots=True)
class SMCEngine:
    """A population of texts grown token by token (Doucet and Johansen 2009; Lew et al. 2023,
    arXiv:2306.03081).

    The proposal is the prior masked by what the constraints allow with the tokens that remain; the
    weight is the mass that the mask kept. With lookahead, log φ of the unfinished text multiplies
    the weights as a twist and is divided out when the text is complete, so the target is the same.
    Where a `proposal` draws, its ratio to the prior is the twist, and nothing else looks ahead.
    Resampling is systematic, or by another scheme, when the effective sample size falls below a
    share of the particles, and never after the last step. The evidence estimate is unbiased.
    """

    settings: SMC
    target: Target
    stream: Stream
    record: bool = False  # keeps what each token cost, for methods that go on from the particles
    proposal: Proposal | None = None
    learned: LookAhead | None = None
    leads: tuple[Ahead, ...] | None = None  # how the run looks ahead whose scouts these are

    @property
    def num_populations(self) -> int:
        """The runs of all bindings."""
        return self.target.num_groups * self.settings.num_runs

    @property
    def shape(self) -> tuple[int, int]:
        return self.num_populations, self.settings.num_particles

    def init(self, shard: Shard = WHOLE) -> State:
        device, settings = self.target.device, self.settings
        per_binding = settings.num_runs * settings.num_particles
        groups = torch.arange(self.target.num_groups).repeat_interleave(per_binding)
        first_run = shard.index * settings.num_runs
        counters = torch.arange(per_binding) + shard.index * per_binding
        counters = counters.repeat(self.target.num_groups).to(device)
        traces = self.target.start(groups)
        flat = torch.zeros(traces.num_rows, dtype=torch.float64, device=device)
        counts = torch.zeros(self.num_populations, dtype=torch.long, device=device)
        return State(
            traces=traces,
            stage=0,
            run=None,
            log_weight=traces.total_log_potential().view(self.shape),
            compared=traces.total_log_potential().view(self.shape),
            log_evidence=flat.new_zeros(self.num_populations),
            counters=counters,
            eve=counters,
            given_up=flat.new_full((self.num_populations,), -math.inf),
            given_up_prior=flat.new_full((self.num_populations,), -math.inf),
            unlooked=counts,
            log_most=most_of_factors(self.target, settings.num_runs, -1, -1) + self._log_bound,
            log_constant=flat.new_full((self.num_populations,), math.nan),
            num_resamplings=counts,
            proposed=counts,
            accepted=counts,
            num_steps=0,
            own_steps=counts,
            ess=(),
            first_run=first_run,
            watch=None if self.leads is None else Watch.begin(self.target, 0),
        )

    @property
    def _log_bound(self) -> float:
        """The most that the log of prior over proposal can be."""
        return 0.0 if self.proposal is None else self.proposal.log_bound

    def merge(self, states: Sequence[State]) -> State:
        return side_by_side(states, self.target.num_groups)

    def is_drawn(self, state: State) -> bool:
        """Whether all sites are drawn; scouts may be on their way still."""
        return state.stage >= len(self.target.stages)

    def is_done(self, state: State) -> bool:
        return self.is_drawn(state) and (state.scouts is None or self.is_drawn(state.scouts))

    def step(self, state: State) -> tuple[State, Info]:
        number = state.stage
        if state.scouts is not None:
            if (plain := state.plain) is not None and not plain.is_done:
                plain, told = plain.stepped(self.target, self.stream.child("p", state.first_run))
                return replace(state, plain=plain), told
            scouts, told = self._scouting(state).step(state.scouts)
            return replace(state, scouts=scouts), replace(told, stage=f"checking {told.stage}")
        if self.is_drawn(state):
            return state, Info("checking", 0, None)  # in a hurry no scouts are waited for
        stage = self.target.stages[number]
        if state.moves_left:
            return moved(state, self.target, self.settings, self.stream)
        if state.run is None and stage.text is not None:
            state, info = self._looking_ahead(state, stage.text)
            if info is not None:
                return state, info
        own_steps = state.own_steps + self._is_open(state)
        new, changed, num_drawn = self._draw(state, stage)
        if self.is_drawn(new) and new.watch is not None and self.leads is None:
            plain = PlainDraws.begin(self.target, size_of(self.settings))
            new = replace(new, scouts=self._scouting(new).init(), plain=plain)
        tokens = num_drawn * tokens_per_step(self.target, self.proposal, number)
        total = stage.num_steps
        done = total if new.run is None else int(new.run.position or 0)
        compared = compared_weights(self.settings.resample_at, state, new, stage)
        new = replace(new, num_steps=state.num_steps + 1, own_steps=own_steps, compared=compared)
        info = Info(stage.name, done, total, num_tokens=tokens)
        if not changed:
            return due(grown(new, self.settings.num_particles, self._resized), self.settings), info
        self._require_mass(new)
        ess = effective_sample_size(new.log_weight)
        families = num_families(new.eve.view_as(new.log_weight), new.log_weight)
        new = replace(new, ess=(*new.ess, ess), num_ancestors=(*new.num_ancestors, families))
        if not self.is_drawn(new):
            new = self._resample(new, effective_sample_size(new.compared))
        return due(grown(new, self.settings.num_particles, self._resized), self.settings), info

    def _draw(self, state: State, stage: Stage) -> tuple[State, bool, int]:
        """One step more of the site; whether weights changed; how many rows were open."""
        number, run, settings = state.stage, state.run, self.settings
        if run is None:
            record = self.record or bool(settings.num_moves)
            rows = self.target.rows(number, state.traces)
            steering = self.steering(rows)
            if (ahead := state.ahead) is not None:
                state = with_known(self.target, settings.num_runs, state, ahead, steering)
                steering = *(part.without(ahead.labels) for part in steering), *ahead.steering()
                told = *state.told, ahead.told(stage.name)
                grows = not record and settings.resample_at == "token" and settings.ess_threshold
                growth = ahead.growth if grows else None
                state = replace(state, ahead=None, told=told, growth=growth)
                if is_watched(ahead, settings):
                    watch = state.watch or Watch.begin(self.target, number)
                    state = replace(state, watch=watch, aheads=(*state.aheads, ahead))
            run = start_site(
                self.target, self.proposal, rows, *steering, record=record, looks_ahead=True
            )
            state = with_trail(replace(state, run=run), stage, settings)
        # Before the first token of all, every text of a binding is the same.
        first = number == 0 and not run.position and run.num_open == run.num_rows
        stream, seen = self.stream.child("site", number), None
        if state.log_weight.shape[1] > settings.num_particles:
            stream = stream.child("grown")
        uniforms = stream.uniforms(state.counters, run.position or 0)
        if state.watch is None:
            run, step = stage.step(run, uniforms)
        else:
            watch = state.watch.at(self.target, number, run)
            run, step, watch, seen = watch.stepped(stage, run, uniforms)
            state = replace(state, watch=watch)
        state = traced(replace(state, run=run), step)
        changed = False
        if run.weighs_tokens:
            gain = torch.zeros_like(state.log_weight).view(-1)
            gain = gain.index_copy(0, step.rows, step.log_weight)
            state = weighed(state, gain, seen)
            if not step.is_bounded and not state.is_known:
                state = replace(state, is_bounded=False)
            elif first and step.log_base is None and not state.is_known:
                most = gain.view(self.num_populations, -1).amax(-1)
                state = replace(state, log_most=state.log_most + most)
            if run.num_open:
                alive = state.log_weight.view(-1)[run.open] > -math.inf
                run = run.close(alive) if not bool(alive.all()) else run
                state = replace(state, run=run)
            changed = True
        if run.num_open == 0:
            return self._finish(state, stage), True, step.rows.shape[0]
        if run.steered.by_value:
            state, looked = self._look_ahead(state, step.rows)
            changed = changed or looked
            state = traced(state, None)
        return state, changed, step.rows.shape[0]

    def steering(self, rows: SiteRows) -> tuple[Steering, ...]:
        """What guides the draws of a site: the requirements, and what is looked ahead to."""
        found: tuple[Steering, ...] = self.target.steering(rows)
        text = self.target.stages[rows.number].text
        if text is not None and self.proposal is None and not self.record:
            # Who goes on from the particles knows of no masks but those of the automata.
            found = (*found, likely(self.target, rows.number, text, rows.traces))
        settings, twist = _looking(self.settings, self.learned)
        if text is not None and twist is not None and self.proposal is None:
            return *found, twist.steering(rows.number, rows.traces)
        where = LOOKAHEADS.get(settings.lookahead)
        if text is None or where is None or self.proposal is not None:
            # What proposes looks ahead by its own ratio to the prior: scores of the prefix would
            # count twice what it prefers already.
            return found
        module, _, name = where.partition(":")
        look_ahead: Lookahead = getattr(importlib.import_module(module), name)
        asked = self.target, rows.number, text, rows.traces
        return *found, power(*asked), look_ahead(*asked)

    def _looking_ahead(self, state: State, text: TextStage) -> tuple[State, Info | None]:
        """One step of what is done before texts are begun; no information once all is done."""
        settings, twist = _looking(self.settings, self.learned)
        if self.proposal is not None or twist is not None:
            return state, None  # what was fitted knows the end by itself
        if self.leads is not None:
            return following(self.leads, self.target, state), None
        stream = self.stream.child("ahead", state.stage)
        where = self.target, state.stage, text, state.traces
        ahead, info = next_ahead(state.ahead, *where, stream, settings)
        return (state if ahead is state.ahead else replace(state, ahead=ahead)), info

    def _scouting(self, state: State) -> SMCEngine:
        """What draws the scouts of a run, which does not look ahead by itself."""
        stream = self.stream.child("scouts", state.first_run)
        settings = settings_of(self.settings)
        return replace(self, settings=settings, stream=stream, record=False, leads=state.aheads)

    def _look_ahead(self, state: State, moved: Tensor) -> tuple[State, bool]:
        """Scores unfinished texts every few tokens, and those that have just ended at once."""
        run: Any = state.run
        assert run is not None and run.position is not None
        rows = moved
        if run.position % self.settings.lookahead_every:
            rows = moved[run.finished[moved]]
            if rows.shape[0] == 0:
                return state, False
        alive = state.log_weight.view(-1)[rows] > -math.inf
        rows = rows[alive]
        if self.target.num_groups > 1:
            # A binding whose last text has ended is scored when its texts are complete, as alone.
            rows = rows[self._is_open(state)[rows // state.log_weight.shape[1]]]
            if rows.shape[0] == 0:
                return state, False
        steered, gain, blind = run.steered.look(run, rows)
        state = replace(state, run=replace(run, steered=steered), blind=state.blind or blind)
        every = torch.zeros_like(state.log_weight).view(-1).index_copy(0, rows, gain)
        return weighed(state, every), True

    def _finish(self, state: State, stage: Stage) -> State:
        """What was drawn becomes the site's value; the twist goes out, the factors come in."""
        self._require_mass(state)
        state = without_dead(state, self.target.num_groups)
        run = state.run
        assert run is not None
        before = state.traces.total_log_potential()
        traces = state.traces.with_value(stage.name, stage.finish(run), run.log_prior)
        traces = self.target.apply_potentials(traces, state.stage)
        of_factors = traces.total_log_potential() - before
        seen = None if state.watch is None else state.watch.unsteered(run, of_factors)
        where = self.target, self.settings.num_runs, state.stage, state.stage
        most = state.log_most + most_of_factors(*where, state.followed)
        state = replace(
            state,
            traces=traces,
            run=None,
            trail=None,
            stage=state.stage + 1,
            log_most=most,
            is_known=False,
        )
        return weighed(state, run.unsteered(of_factors), seen)

    def _require_mass(self, state: State) -> None:
        if not bool((state.log_weight > -math.inf).any()):
            raise zero_mass(self.target, f"all {state.log_weight.numel()} particles died")

    @timed("resample")
    def _resample(self, state: State, ess: Tensor) -> State:
        """Resamples the populations whose effective sample size is too small."""
        num_particles = state.log_weight.shape[1]
        low = (ess < self.settings.ess_threshold * num_particles) & (ess > 0)
        low &= self._is_open(state)
        if not bool(low.any()):
            return state
        numbers = torch.arange(self.num_populations, device=ess.device)
        here = low.nonzero().squeeze(-1)
        ancestors = torch.arange(num_particles, device=ess.device).repeat(self.num_populations, 1)
        ancestors[here] = ancestors_of(state, here, self.settings, self.stream)
        # Each goes on with what it has gained since it was compared.
        since = (state.log_weight - state.compared).gather(1, ancestors)
        new_weight = torch.where(low.unsqueeze(-1), since, state.log_weight)
        gain = torch.where(low, log_mean_exp(state.compared), 0.0)
        where = self.target, self.settings.num_runs, state.stage, len(self.target.stages)
        to_come = most_of_factors(*where, state.followed)
        state = given_up(state, ancestors, low, to_come)
        flat = (ancestors + numbers.unsqueeze(-1) * num_particles).view(-1)
        state = counted(selected(state, flat), state, low)
        return replace(
            state,
            log_weight=new_weight,
            compared=torch.where(low.unsqueeze(-1), 0.0, state.compared),
            log_evidence=state.log_evidence + gain,
            num_resamplings=state.num_resamplings + low,
        )

    def _is_open(self, state: State) -> Tensor:
        """Of which bindings some text is open or all are complete, `[populations]`."""
        return is_open(state, self.target.num_groups)

    def hurry(self, state: State, *, spent: float, left: float) -> State:
        """Fewer particles, as many as can be finished; not before half of the budget is spent.

        The fewer are drawn by weight, which is a resampling like any other: Ẑ stays unbiased, and
        so it does whenever that is decided from what was seen until then, as from the time.
        """
        size = state.log_weight.shape[1]
        needed = most_tokens_to_come(
            self.target, state.stage, state.run, state.log_weight.numel(), self.proposal
        ) * (1.0 + cost_of_moves(self.settings))
        enough = spent < left or needed <= left
        if state.scouts is not None and (math.isinf(spent) or left <= 0):
            return without_scouts(state)
        # Whoever interrupts does not want to wait for a pilot, either.
        if state.ahead is not None and (math.isinf(spent) or not enough):
            state = replace(state, ahead=state.ahead.without_pilot())
        if enough:
            return state
        # A step takes longer for each particle, the fewer there are.
        fewer = max(int(0.9 * size * left / needed), min(_FEWEST_PARTICLES, size))
        if fewer >= size:
            return state
        counters = state.counters.view(-1, size)[:, :fewer].reshape(-1)
        return replace(self._shrink(state, fewer), counters=counters)

    def _shrink(self, state: State, size: int) -> State:
        """Every population with fewer particles."""
        return self._resized(state, size, "shrink")

    def _resized(self, state: State, size: int, name: str) -> State:
        """Every population with `size` particles, resampled."""
        numbers = torch.arange(self.num_populations, device=state.log_weight.device)
        runs = state.first_run * self.target.num_groups + numbers
        return resized(state, size, self.stream.child(name), selected, runs)

    def recover(self, state: State) -> State:
        if state.scouts is not None:
            return without_scouts(state)
        if state.run is None:
            # What a pilot has in caches may be half written.
            return replace(state, ahead=state.ahead and state.ahead.without_pilot())
        rows = self.target.rows(state.stage, state.traces)
        return replace(state, run=recovered_site(self.target, self.proposal, state.run, rows))

    def population(self, state: State) -> Population:
        """All particles of a state that is done."""
        return population_of(self.settings, state)

    @timed("result")
    def result(self, state: State, *, complete: bool) -> list[Draws]:
        if not self.is_done(state):
            nothing = self.target.start(torch.zeros(0, dtype=torch.long))
            return [Draws(nothing, nothing.log_density(), None, complete=False)]
        return by_binding(
            self.target, partial(draws_of, self.target, self.settings, state, complete)
        )


def _looking(settings: SMC, learned: LookAhead | None) -> tuple[SMC, LookAhead | None]:
    """What a run looks ahead by; as by default where a fit has found no twist that pays."""
    if learned is None or not learned.says_nothing:
        return settings, learned
    return replace(settings, lookahead=SMC().lookahead), None
