"""Sequential Monte Carlo over tokens."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmppl.density import Run, SiteRows, Stage, Target, TextStage, Traces
from lmppl.density.steering.protocol import Steering
from lmppl.inference.bounds import WeightBound, weight_bound
from lmppl.inference.failures import NoMass, by_binding
from lmppl.inference.loop import Draws, Info
from lmppl.inference.proposing import most_tokens_to_come
from lmppl.inference.smc import LOOKAHEADS, SMC
from lmppl.inference.zero_mass import zero_mass
from lmppl.posterior import Estimate
from lmppl.posterior.pareto import pareto_tail
from lmppl.rng import Stream
from lmppl.sequences.resampling import systematic_resample
from lmppl.sequences.weights import effective_sample_size, log_mean_exp
from lmppl.timing import timed

Lookahead = Callable[[Target, int, TextStage, Traces], Steering]

# Fewer than this say nothing about their own error.
_FEWEST_PARTICLES = 4
# Resamplings whose weights are judged, the last ones.
_MAX_TAILS = 64


@dataclass(frozen=True, slots=True)
class State:
    """Populations of particles, one per binding and run; rows are `[populations, particles]` flat.

    `log_weight` `[populations, particles]` is since the last resampling, whose factors
    `log_evidence` `[populations]` holds. `eve` `[rows]` is each particle's ancestor at the start,
    numbered over all populations.
    `resampled` has, for every resampling, the log weights before it; `given_up` and
    `given_up_prior` `[populations]` are the logs of what the particles lighter than every one that
    was kept were worth, with their lookahead score and without it.
    `unlooked` `[populations]` counts the first particles of which no living descendant was kept at
    some resampling: those that died by themselves have looked as far as there was anything to see.
    `log_certain` `[populations]` is what the mask of the first token took from all weights alike.
    `own_steps` `[populations]` counts the steps of each, without those in which it waited for the
    texts of others.
    `is_masked_prior` says that nothing but masks and looking ahead has steered any text.
    `blind` says why unfinished texts could not be scored, where that happened.
    """

    traces: Traces
    stage: int
    run: Run | None
    log_weight: Tensor
    log_evidence: Tensor
    eve: Tensor
    given_up: Tensor
    given_up_prior: Tensor
    unlooked: Tensor
    log_certain: Tensor
    num_resamplings: Tensor
    num_steps: int
    own_steps: Tensor
    ess: tuple[Tensor, ...]
    num_ancestors: tuple[Tensor, ...] = ()
    resampled: tuple[Tensor, ...] = ()
    blind: str | None = None
    is_masked_prior: bool = True


class SMCEngine:
    """A population of texts grown token by token (Doucet and Johansen 2009; Lew et al. 2023,
    arXiv:2306.03081).

    The proposal is the prior masked by what the constraints allow with the tokens that remain; the
    weight is the mass that the mask kept. With lookahead, log φ of the unfinished text multiplies
    the weights as a twist and is divided out when the text is complete, so the target is the same.
    Resampling is systematic, when the effective sample size falls below a share of the particles,
    and never after the last step. The evidence estimate is unbiased.
    """

    def __init__(
        self, settings: SMC, target: Target, stream: Stream, *, record: bool = False
    ) -> None:
        """`record` keeps what each token cost, for methods that go on from the particles."""
        self.settings, self.target, self.stream = settings, target, stream
        self.record = record
        self.num_populations = target.num_groups * settings.num_runs
        self.shape = (self.num_populations, settings.num_particles)
        # A binding draws what it would draw alone.
        one_binding = torch.arange(settings.num_runs * settings.num_particles)
        self.counters = one_binding.repeat(target.num_groups).to(target.device)

    def init(self) -> State:
        device = self.target.device
        groups = torch.arange(self.target.num_groups).repeat_interleave(
            self.settings.num_runs * self.settings.num_particles
        )
        traces = self.target.start(groups)
        flat = torch.zeros(traces.num_rows, dtype=torch.float64, device=device)
        return State(
            traces=traces,
            stage=0,
            run=None,
            log_weight=traces.total_log_potential().view(self.shape),
            log_evidence=flat.new_zeros(self.num_populations),
            eve=self.counters.clone(),
            given_up=flat.new_full((self.num_populations,), -math.inf),
            given_up_prior=flat.new_full((self.num_populations,), -math.inf),
            unlooked=torch.zeros(self.num_populations, dtype=torch.long, device=device),
            log_certain=flat.new_zeros(self.num_populations),
            num_resamplings=torch.zeros(self.num_populations, dtype=torch.long, device=device),
            num_steps=0,
            own_steps=torch.zeros(self.num_populations, dtype=torch.long, device=device),
            ess=(),
        )

    def is_done(self, state: State) -> bool:
        return state.stage >= len(self.target.stages)

    def step(self, state: State) -> tuple[State, Info]:
        number = state.stage
        stage = self.target.stages[number]
        own_steps = state.own_steps + self._is_open(state)
        new, changed, num_drawn = self._draw(state, stage)
        tokens, total = num_drawn * stage.tokens_per_step, stage.num_steps
        done = total if new.run is None else int(new.run.position or 0)
        new = replace(new, num_steps=state.num_steps + 1, own_steps=own_steps)
        if not changed:
            return new, Info(stage.name, done, total, num_tokens=tokens)
        self._require_mass(new)
        ess = effective_sample_size(new.log_weight)
        families = num_families(new.eve.view_as(new.log_weight), new.log_weight)
        new = replace(new, ess=(*new.ess, ess), num_ancestors=(*new.num_ancestors, families))
        if not self.is_done(new):
            new = self._resample(new, ess)
        return new, Info(stage.name, done, total, num_tokens=tokens)

    def _draw(self, state: State, stage: Stage) -> tuple[State, bool, int]:
        """One step more of the site; whether weights changed; how many rows were open."""
        number, run = state.stage, state.run
        if run is None:
            rows = self.target.rows(number, state.traces)
            run = stage.start(rows, *self.steering(rows), record=self.record)
        # Before the first token of all, every text of a binding is the same.
        first = number == 0 and not run.position and run.num_open == run.num_rows
        uniforms = self.stream.child("site", number).uniforms(
            self._counters(state), run.position or 0
        )
        run, step = stage.step(run, uniforms)
        state = replace(state, run=run)
        changed = False
        if run.weighs_tokens:
            gain = self._zeros(state).index_copy(0, step.rows, step.log_weight)
            state = self._weighed(state, gain)
            if not step.is_masked_prior:
                state = replace(state, is_masked_prior=False)
            elif first:
                state = replace(state, log_certain=gain.view(self.num_populations, -1).amax(-1))
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
        return state, changed, step.rows.shape[0]

    def steering(self, rows: SiteRows) -> tuple[Steering, ...]:
        """What guides the draws of a site: the requirements, and what is looked ahead to."""
        found = self.target.steering(rows)
        text, where = self.target.stages[rows.number].text, LOOKAHEADS[self.settings.lookahead]
        if text is None or where is None:
            return found
        module, _, name = where.partition(":")
        look_ahead: Lookahead = getattr(importlib.import_module(module), name)
        return *found, look_ahead(self.target, rows.number, text, rows.traces)

    def _zeros(self, state: State) -> Tensor:
        return torch.zeros_like(state.log_weight).view(-1)

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
        return self._weighed(state, self._zeros(state).index_copy(0, rows, gain)), True

    def _finish(self, state: State, stage: Stage) -> State:
        """What was drawn becomes the site's value; the twist goes out, the factors come in."""
        self._require_mass(state)
        state = self._without_dead(state)
        run = state.run
        assert run is not None
        before = state.traces.total_log_potential()
        traces = state.traces.with_value(stage.name, stage.finish(run), run.log_prior)
        traces = self.target.apply_potentials(traces, state.stage)
        gain = run.unsteered(traces.total_log_potential() - before)
        state = replace(state, traces=traces, run=None, stage=state.stage + 1)
        return self._weighed(state, gain)

    def _without_dead(self, state: State) -> State:
        """Dead particles hold unfinished values that must not be scored: they take the place of a
        living one, keeping weight zero."""
        log_weight = state.log_weight.view(-1)
        alive = log_weight > -math.inf
        if bool(alive.all()):
            return state
        by_binding = alive.view(self.target.num_groups, -1)
        first = by_binding.long().argmax(-1)
        first += torch.arange(first.shape[0], device=first.device) * by_binding.shape[1]
        # A binding that is dead as a whole borrows from another.
        first = torch.where(by_binding.any(-1), first, alive.nonzero()[0])
        living = first.repeat_interleave(by_binding.shape[1])
        source = torch.where(alive, torch.arange(alive.shape[0], device=alive.device), living)
        moved = self._select(state, source)
        return replace(moved, log_weight=state.log_weight, eve=state.eve)

    def _weighed(self, state: State, gain: Tensor) -> State:
        # A dead particle stays dead whatever the gain: −inf + inf must not become NaN.
        log_weight = state.log_weight.view(-1)
        new = torch.where(log_weight == -math.inf, log_weight, log_weight + gain)
        return replace(state, log_weight=new.view_as(state.log_weight))

    def _require_mass(self, state: State) -> None:
        if not bool((state.log_weight > -math.inf).any()):
            raise zero_mass(self.target, f"all {state.log_weight.numel()} particles died")

    def _select(self, state: State, indices: Tensor) -> State:
        return replace(
            state,
            traces=state.traces.select(indices),
            run=None if state.run is None else state.run.select(indices),
            eve=state.eve[indices],
        )

    @timed("resample")
    def _resample(self, state: State, ess: Tensor) -> State:
        """Resamples the populations whose effective sample size is too small."""
        num_particles = state.log_weight.shape[1]
        low = (ess < self.settings.ess_threshold * num_particles) & (ess > 0)
        low &= self._is_open(state)
        if not bool(low.any()):
            return state
        numbers = torch.arange(self.num_populations, device=ess.device)
        points = torch.zeros(self.num_populations, dtype=torch.float64, device=ess.device)
        for step in sorted(set(state.own_steps[low].tolist())):
            drawn = self.stream.child("resample").uniforms(numbers % self.settings.num_runs, step)
            points = torch.where(state.own_steps == step, drawn, points)
        here = low.nonzero().squeeze(-1)
        ancestors = torch.arange(num_particles, device=ess.device).repeat(self.num_populations, 1)
        ancestors[here] = systematic_resample(state.log_weight[here], points[here])
        state = self._give_up(state, ancestors, low)
        flat = (ancestors + numbers.unsqueeze(-1) * num_particles).view(-1)
        state = self._counted(self._select(state, flat), state, low)
        kept = low.unsqueeze(-1)
        gain = torch.where(low, log_mean_exp(state.log_weight), 0.0)
        return replace(
            state,
            log_weight=torch.where(kept, 0.0, state.log_weight),
            log_evidence=state.log_evidence + gain,
            num_resamplings=state.num_resamplings + low,
        )

    def _is_open(self, state: State) -> Tensor:
        """Of which bindings some text is open or all are complete, `[populations]`.

        The others wait for the texts of other bindings, as they would not alone.
        """
        device = state.log_weight.device
        num_groups = self.target.num_groups
        if num_groups == 1 or state.run is None:
            return torch.ones(self.num_populations, dtype=torch.bool, device=device)
        found = torch.zeros(num_groups, dtype=torch.bool, device=device)
        found[state.run.open // (state.run.num_rows // num_groups)] = True
        return found.repeat_interleave(self.settings.num_runs)

    def _counters(self, state: State) -> Tensor:
        """The number of every particle, which names its random numbers, `[rows]`."""
        size = state.log_weight.shape[1]
        if size == self.shape[1]:
            return self.counters
        return self.counters.view(self.shape)[:, :size].reshape(-1)

    def hurry(self, state: State, *, spent: float, left: float) -> State:
        """Fewer particles, as many as can be finished; not before half of the budget is spent.

        The fewer are drawn by weight, which is a resampling like any other: Ẑ stays unbiased, and
        so it does whenever that is decided from what was seen until then, as from the time.
        """
        size = state.log_weight.shape[1]
        needed = most_tokens_to_come(self.target, state.stage, state.run, state.log_weight.numel())
        if spent < left or needed <= left:
            return state
        # A step takes longer for each particle, the fewer there are.
        fewer = max(int(0.9 * size * left / needed), min(_FEWEST_PARTICLES, size))
        return state if fewer >= size else self._shrink(state, fewer)

    def _shrink(self, state: State, size: int) -> State:
        """Every population with `size` particles, resampled."""
        numbers = torch.arange(self.num_populations, device=state.log_weight.device)
        points = self.stream.child("shrink").uniforms(numbers, state.num_steps)
        alive = (state.log_weight > -math.inf).any(-1)
        ancestors = torch.arange(size, device=numbers.device).repeat(self.num_populations, 1)
        here = alive.nonzero().squeeze(-1)
        ancestors[here] = systematic_resample(state.log_weight[here], points[here], size)
        flat = (ancestors + numbers.unsqueeze(-1) * state.log_weight.shape[1]).view(-1)
        moved = self._counted(self._select(state, flat), state, alive)
        alike = torch.where(alive, 0.0, -math.inf).double().unsqueeze(-1).repeat(1, size)
        return replace(
            moved,
            log_weight=alike,
            log_evidence=state.log_evidence
            + torch.where(alive, log_mean_exp(state.log_weight), 0.0),
            num_resamplings=state.num_resamplings + alive,
        )

    def _counted(self, moved: State, before: State, here: Tensor) -> State:
        """The state after resampling some populations, with the first particles that this lost."""
        living = num_families(before.eve.view(here.shape[0], -1), before.log_weight)
        kept = moved.eve.view(here.shape[0], -1)
        lost = living - num_families(kept, torch.zeros_like(kept, dtype=torch.float64))
        return replace(moved, unlooked=moved.unlooked + torch.where(here, lost, 0))

    def recover(self, state: State) -> State:
        if state.run is None:
            return state
        rows = self.target.rows(state.stage, state.traces)
        return replace(state, run=self.target.stages[state.stage].recovered(state.run, rows))

    def _give_up(self, state: State, ancestors: Tensor, low: Tensor) -> State:
        """Counts what a resampling throws away that nothing like it is left of.

        Particles lighter than the lightest with offspring are represented by none. Where their
        weight was low only because of the lookahead's guess, the guess may have been wrong.
        """
        weight = state.log_weight
        offspring = torch.zeros_like(weight).scatter_add(1, ancestors, torch.ones_like(weight))
        lightest = weight.masked_fill(offspring == 0, math.inf).amin(-1, keepdim=True)
        lost = (weight < lightest) & low.unsqueeze(-1)
        scale = state.log_evidence - math.log(weight.shape[1])
        worth = weight.masked_fill(~lost, -math.inf)
        run = state.run
        unsteered = weight if run is None else run.unsteered(weight.view(-1)).view_as(weight)
        prior = torch.where(lost, unsteered, -math.inf)
        return replace(
            state,
            given_up=torch.logaddexp(state.given_up, worth.logsumexp(-1) + scale),
            given_up_prior=torch.logaddexp(state.given_up_prior, prior.logsumexp(-1) + scale),
            resampled=(*state.resampled, weight),
        )

    @timed("result")
    def result(self, state: State, *, complete: bool) -> list[Draws]:
        if not self.is_done(state):
            nothing = self.target.start(torch.zeros(0, dtype=torch.long))
            return [Draws(nothing, nothing.log_density(), None, complete=False)]
        return by_binding(self.target, partial(self._of_group, state, complete))

    def _of_group(self, state: State, complete: bool, group: int) -> Draws:
        runs, size = self.settings.num_runs, state.log_weight.shape[1]
        here = slice(group * runs, (group + 1) * runs)
        log_weight = state.log_weight[here]
        log_z = (state.log_evidence[here] + log_mean_exp(log_weight)).cpu()
        total = (state.log_evidence[here].unsqueeze(-1) + log_weight).reshape(-1)
        rows = torch.arange(group * runs * size, (group + 1) * runs * size, device=total.device)
        alive = (total > -math.inf).nonzero().squeeze(-1)
        if alive.shape[0] == 0:
            raise NoMass(f"all {total.shape[0]} particles died")
        traces = state.traces.select(rows[alive])
        eve = state.eve[rows].view(runs, size).cpu().numpy()
        log_final = total.view(runs, size).cpu().numpy()
        bound = WeightBound(math.inf, elsewhere=True)
        if state.is_masked_prior:
            bound = weight_bound(self.target, group, float(state.log_certain[here].max()))
        log_missing, misled = self._misled(state, here, bound, log_z)
        first = self.settings.num_particles
        num_looks = float(first * runs - int(state.unlooked[here].sum()))
        evidence = Estimate.from_genealogy(
            log_final,
            eve % first,
            num_first=first,
            num_looks=num_looks,
            log_bound=bound.log_bound,
            log_missing=log_missing,
        )
        clusters = eve.reshape(-1)[alive.cpu().numpy()]
        unseen = bound.unseen(evidence.value, num_looks, log_missing)
        info = {}
        if state.ess:
            info["ess"] = torch.stack([e[here] for e in state.ess]).cpu().numpy()
            families = torch.stack([n[here] for n in state.num_ancestors]).cpu()
            info["num_ancestors"] = families.numpy()
        dead_runs = int((log_z == -math.inf).sum())
        diagnostics = {
            "num_particles": size,
            "num_runs": runs,
            "num_resamplings": state.num_resamplings[here].tolist(),
            "num_ancestors": families[-1].tolist() if state.ess else [size] * runs,
            "num_dead_runs": dead_runs,
            "log_evidence_runs": log_z.tolist(),
            **self._tails(state, here),
        }
        warnings = [] if misled is None else [misled]
        if size < self.settings.num_particles:
            warnings.append(
                f"only {size} of {self.settings.num_particles} particles"
                f"{' of each run' if runs > 1 else ''} could be finished in the time there was:"
                " the others were resampled away, so the result is right, and worth that many"
            )
        if dead_runs:
            warnings.append(
                f"{dead_runs} of {runs} runs lost all their particles; their evidence counts as"
                " zero. Use more particles"
            )
        if state.blind is not None:
            warnings.append(
                f"unfinished texts could not always be scored ({state.blind}), so particles were"
                ' steered less; the answer is right all the same. Use lookahead="none" where'
                " the factor makes sense on finished texts only"
            )
        return Draws(
            traces,
            total[alive],
            evidence,
            clusters=clusters,
            unseen=unseen,
            diagnostics=diagnostics,
            warnings=warnings,
            info=info,
            complete=complete,
        )

    def _misled(
        self, state: State, here: slice, bound: WeightBound, log_z: Tensor
    ) -> tuple[float, str | None]:
        """The log of what the lookahead may have thrown away, and a warning where that matters.

        At every resampling less than one particle's share is given up for good. Where that is more
        than a few particles' shares of the evidence in the end, the lookahead promised more than
        came of what was kept, and what it gave up can have become as heavy as the bound allows.
        """
        given_up = float(log_mean_exp(state.given_up[here]))
        value = float(log_mean_exp(log_z))
        resamplings = float(state.num_resamplings[here].double().mean())
        usual = 3.0 * resamplings / state.log_weight.shape[1]
        if given_up == -math.inf or given_up - value < math.log(max(usual, 1e-3)):
            return -math.inf, None
        prior = float(log_mean_exp(state.given_up_prior[here]))
        share = math.exp(min(given_up - value, 0.0))
        if any(potential.kind == "factor" for potential in self.target.model.potentials):
            words = (
                f"the lookahead was misled: texts that it gave up were worth {share:.0%} of the"
                " evidence by its own guess, and more if that was wrong of them too; use"
                ' lookahead="none", or more particles'
            )
        else:
            words = (
                f"texts that were given up on the way were worth {share:.0%} of the evidence then:"
                " most of those that were kept met the requirements only by unlikely words, and"
                " the others might have met them by likely ones; use more particles"
            )
        return prior + bound.log_bound, words

    def _tails(self, state: State, here: slice) -> dict[str, float]:
        """The worst k-hat and the largest share of one particle over all weights that were used:
        those before every resampling, and the last."""
        weights = [*state.resampled[-_MAX_TAILS:], state.log_weight]
        rows = [row for weight in weights for row in weight[here].cpu().numpy()]
        living = [row for row in rows if row.max() > -math.inf]
        found = {"max_weight": max(float(np.exp(row - _log_sum_exp(row)).max()) for row in living)}
        shapes = [k for row in living if (k := pareto_tail(row).k) is not None]
        return {**found, "pareto_k": max(shapes)} if shapes else found


def _log_sum_exp(row: np.ndarray) -> float:
    """Log of the sum of weights given in logs."""
    return float(np.logaddexp.reduce(row))


def num_families(eve: Tensor, log_weight: Tensor) -> Tensor:
    """How many first particles the living ones descend from, `[populations]`."""
    ordered = eve.masked_fill(log_weight == -math.inf, -1).sort(-1).values
    new = (ordered[:, 1:] != ordered[:, :-1]).sum(-1) + 1
    return new - (ordered[:, 0] == -1).long()
