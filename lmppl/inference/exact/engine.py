"""Exact inference, by enumeration or by dynamic programming: the referee of every other method."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from lmppl.density import Run, Stage, Target, Traces
from lmppl.errors import Diagnostic, InferenceError
from lmppl.inference.exact import Exact
from lmppl.inference.exact.structure import Obstacle
from lmppl.inference.exact.summing import NUM_DRAWS, drawn
from lmppl.inference.exact.sums import Sums, sums_of
from lmppl.inference.failures import NoMass, by_binding
from lmppl.inference.loop import Draws, Info
from lmppl.inference.proposing import most_tokens_to_come
from lmppl.inference.remainder import Remainder, sample_remainder, with_remainder
from lmppl.posterior import Estimate
from lmppl.rng import Stream
from lmppl.sequences.weights import normalise


@dataclass(frozen=True, slots=True)
class State:
    """All executions up to `stage`, and the values of that stage in the making.

    `branching` is how many tokens could follow an open text in the last step. Where there is no
    time to go on, `num_draws` is not 0: so many draws are to stand for what is not enumerated yet,
    and then `remainder` holds them.

    Where texts are summed, nothing is enumerated: `sums` says what, and `log_evidences` are those
    done so far. `obstacle` is why they cannot be, and `spare` what they come to where they can.
    """

    traces: Traces
    stage: int
    run: Run | None
    branching: float = 1.0
    num_draws: int = 0
    remainder: Remainder | None = None
    sums: Sums | None = None
    log_evidences: tuple[float, ...] = ()
    obstacle: Obstacle | None = None
    spare: Sums | None = None


# Combinations of choices for each of which the weights of texts are looked at.
_MOST_COMBINATIONS = 10_000

# Draws for what is left when the time is over: as many as there is time for, within these.
_FEWEST_DRAWS, _ENOUGH_DRAWS, _MOST_DRAWS = 16, 64, 1000


@dataclass(frozen=True, slots=True)
class ExactEngine:
    """Every execution of positive prior probability, level by level, dead prefixes pruned.

    The evidence is Σ prior·Πφ over all of them and each one's weight is its posterior probability.
    Where they are more than it may list, and what weighs the texts can be followed by automata,
    texts are summed instead (see `sums`), and the result has independent draws. Where it has to end
    sooner, draws stand for what is not enumerated yet (see `remainder`).
    """

    settings: Exact
    target: Target
    stream: Stream

    def init(self) -> State:
        every = self.target.start(torch.arange(self.target.num_groups))
        sums, obstacle = None, None
        try:
            sums = sums_of(self.target, min(_MOST_COMBINATIONS, self.settings.max_sequences))
            size = sums.log_num_executions()
            # Where there are none at all, many beginnings may seem to lead to some.
            if size == -math.inf or size > math.log(self.settings.max_sequences) + 1e-9:
                return State(every, 0, None, sums=sums)
        except Obstacle as found:
            obstacle = found
        return State(self._prune(every), 0, None, obstacle=obstacle, spare=sums)

    def is_done(self, state: State) -> bool:
        if state.sums is not None:
            return len(state.log_evidences) == len(state.sums.texts)
        # Where nothing is alive any more there is nothing to enumerate, and the result says so.
        nothing_left = state.run is None and state.traces.num_rows == 0
        return nothing_left or state.stage >= len(self.target.stages)

    def step(self, state: State) -> tuple[State, Info]:
        if state.sums is not None:
            return self._summed(state, state.sums)
        stage = self.target.stages[state.stage]
        if state.num_draws:
            return self._sample_rest(state)
        new, num_children = self._grown(state, stage)
        rows = new.traces.num_rows if new.run is None else new.run.num_rows
        done = stage.num_steps if new.run is None else int(new.run.position or 0)
        tokens = num_children * stage.tokens_per_step
        return new, Info(stage.name, done, stage.num_steps, f"{rows} executions", tokens)

    def _summed(self, state: State, sums: Sums) -> tuple[State, Info]:
        """One sum over texts more."""
        number = len(state.log_evidences)
        each = sums.texts[number]
        try:
            tables = sums.tables(number)
        except Obstacle as obstacle:
            raise self._refusal(obstacle) from obstacle
        (found,) = tables.log_evidence([each.prompt]).tolist()
        new = replace(
            state, log_evidences=(*state.log_evidences, found + each.weight.form.constant)
        )
        size = tables.log_value[0].numel()
        return new, Info(each.stage.name, number + 1, len(sums.texts), f"{size:,} states")

    def _grown(self, state: State, stage: Stage) -> tuple[State, int]:
        """All that one step more can make of every execution: its values, or next tokens."""
        number, traces, run = state.stage, state.traces, state.run
        if run is None:
            at = self.target.rows(number, traces)
            run = stage.start(at, *self.target.steering(at))
        run, children = stage.children(run)
        size = children.rows.shape[0]
        if size > self.settings.max_sequences and state.spare is not None:
            # Executions are few, and what is begun and leads to none of them is not.
            every = self.target.start(torch.arange(self.target.num_groups))
            return State(every, 0, None, sums=state.spare), children.num_children
        self._check_budget(size, state.obstacle)
        num_open = run.num_open
        traces, run = traces.select(children.rows), stage.grown(run, children)
        if run.num_open:
            branching = children.num_children / max(1, num_open)
            return replace(
                state, traces=traces, run=run, branching=branching
            ), children.num_children
        traces = traces.with_value(stage.name, stage.finish(run), run.log_prior)
        traces = self._prune(self.target.apply_potentials(traces, number))
        new = State(traces, number + 1, None, obstacle=state.obstacle, spare=state.spare)
        return new, children.num_children

    def hurry(self, state: State, *, spent: float, left: float) -> State:
        """Draws for the rest, where neither the next step nor what comes after it has time."""
        if state.num_draws or state.sums is not None:
            return state
        first, run = state.stage, state.run
        begun = 0 if run is None else int(run.position or 0)
        to_come = most_tokens_to_come(self.target, first, None, 1) - begun
        # A step costs a forward pass for a row, however many tokens may follow there.
        next_step = state.branching * (state.traces.num_rows if run is None else run.num_open)
        one_draw = state.branching * max(to_come, 1) * self.target.num_groups
        reserve = 0.0 if to_come <= 1 else _ENOUGH_DRAWS * one_draw
        if spent < math.inf and next_step + reserve <= left:
            return state
        wanted = min(0.5 * left / one_draw, _MOST_DRAWS)
        return replace(state, num_draws=max(_FEWEST_DRAWS, int(wanted)))

    def recover(self, state: State) -> State:
        if state.run is None:
            return state
        rows = self.target.rows(state.stage, state.traces)
        return replace(state, run=self.target.stages[state.stage].recovered(state.run, rows))

    def _sample_rest(self, state: State) -> tuple[State, Info]:
        stream = self.stream.child("rest")
        whole, remainder = sample_remainder(
            self.target, state.traces, state.stage, state.run, state.num_draws, stream
        )
        new = replace(
            state,
            traces=self._prune(whole),
            stage=len(self.target.stages),
            run=None,
            remainder=remainder,
        )
        return new, Info("draws", 1, 1, num_tokens=remainder.drawn.num_tokens)

    def _prune(self, traces: Traces) -> Traces:
        alive = traces.total_log_potential() > -math.inf
        return traces if bool(alive.all()) else traces.select(alive.nonzero().squeeze(-1))

    def _check_budget(self, size: int, obstacle: Obstacle | None) -> None:
        if size > self.settings.max_sequences:
            raise self._refusal(obstacle, f" ({size:,} so far)")

    def _refusal(self, obstacle: Obstacle | None, so_far: str = "") -> InferenceError:
        notes: tuple[str, ...] = ()
        ways = "lower max_tokens, use a smaller vocabulary, or raise max_sequences"
        if obstacle is not None:
            notes = (f"they cannot be summed by dynamic programming: {obstacle}",)
            ways = f"{obstacle.remedy}; or {ways}"
        else:
            ways = f"{ways}, or use smc"
        return InferenceError(
            [
                Diagnostic(
                    "LMP416",
                    "error",
                    f"exact needs more than {self.settings.max_sequences:,} executions{so_far}",
                    span=None if obstacle is None else obstacle.span,
                    notes=notes,
                    help=ways,
                )
            ],
            self.target.model.sources,
        )

    def result(self, state: State, *, complete: bool) -> list[Draws]:
        if not self.is_done(state):
            nothing = state.traces.select(torch.zeros(0, dtype=torch.long))
            return [Draws(nothing, nothing.log_density(), None, complete=False)]
        if state.sums is not None:
            size = self.settings.num_samples or NUM_DRAWS
            return by_binding(self.target, partial(self._of_sums, state, size))
        traces, remainder = state.traces, state.remainder
        if remainder is not None:
            return by_binding(self.target, partial(with_remainder, self.target, traces, remainder))
        return by_binding(self.target, partial(self._of_group, traces))

    def _of_sums(self, state: State, size: int, group: int) -> Draws:
        assert state.sums is not None
        return drawn(
            self.target, state.sums, state.log_evidences, group, size, self.stream.child("sums")
        )

    def _of_group(self, traces: Traces, group: int) -> Draws:
        traces = traces.select((traces.group == group).nonzero().squeeze(-1))
        if traces.num_rows == 0:
            raise NoMass("no execution has positive weight")
        log_density = traces.log_density()
        evidence = Estimate.exact(float(torch.logsumexp(log_density, 0)))
        order = log_density.argsort(descending=True, stable=True)
        traces, log_density = traces.select(order), log_density[order]
        diagnostics = {"num_executions": traces.num_rows}
        if self.settings.num_samples is None:
            return Draws(traces, log_density, evidence, exact=True, diagnostics=diagnostics)
        chosen = self._sample(log_density, self.settings.num_samples, group)
        uniform = torch.zeros(chosen.shape[0], dtype=torch.float64)
        return Draws(traces.select(chosen), uniform, evidence, diagnostics=diagnostics)

    def _sample(self, log_density: Tensor, size: int, group: int) -> Tensor:
        cumulative = normalise(log_density).exp().cumsum(-1)
        stream = self.stream.child("draws", 0)
        points = stream.uniforms(torch.arange(size, device=log_density.device)) * cumulative[-1]
        return torch.searchsorted(cumulative, points, right=True).clamp_(
            max=log_density.shape[0] - 1
        )
