"""Exact inference by enumeration: the referee of every other method."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from lmppl.density import ChoiceStage, Target, TextRun, Traces
from lmppl.errors import Diagnostic, InferenceError
from lmppl.inference.exact import Exact
from lmppl.inference.failures import NoMass, by_binding
from lmppl.inference.loop import Draws, Info
from lmppl.inference.remainder import Remainder, sample_remainder, with_remainder
from lmppl.posterior import Estimate
from lmppl.rng import Stream
from lmppl.sequences.weights import normalise


@dataclass(frozen=True, slots=True)
class State:
    """All executions up to `stage`, and the texts of that stage in the making.

    `branching` is how many tokens could follow an open text in the last step. Where there is no
    time to go on, `num_draws` is not 0: so many draws are to stand for what is not enumerated yet,
    and then `remainder` holds them.
    """

    traces: Traces
    stage: int
    run: TextRun | None
    branching: float = 1.0
    num_draws: int = 0
    remainder: Remainder | None = None


# Draws for what is left when the time is over: as many as there is time for, within these.
_FEWEST_DRAWS, _ENOUGH_DRAWS, _MOST_DRAWS = 16, 64, 1000


class ExactEngine:
    """Every execution of positive prior probability, level by level, dead prefixes pruned.

    The evidence is Σ prior·Πφ over all of them and each one's weight is its posterior probability.
    Where it has to end sooner, draws stand for what is not enumerated yet (see `remainder`).
    """

    def __init__(self, settings: Exact, target: Target, stream: Stream) -> None:
        self.settings, self.target, self.stream = settings, target, stream

    def init(self) -> State:
        return State(self._prune(self.target.start(torch.arange(self.target.num_groups))), 0, None)

    def is_done(self, state: State) -> bool:
        # Where nothing is alive any more there is nothing to enumerate, and the result says so.
        nothing_left = state.run is None and state.traces.num_rows == 0
        return nothing_left or state.stage >= len(self.target.stages)

    def step(self, state: State) -> tuple[State, Info]:
        stage = self.target.stages[state.stage]
        if state.num_draws:
            return self._sample_rest(state)
        tokens = 0
        if isinstance(stage, ChoiceStage):
            new = State(self._all_values(state), state.stage + 1, None)
        else:
            new, tokens = self._all_tokens(state)
        rows = new.traces.num_rows if new.run is None else new.run.num_rows
        done = new.stage if new.run is None else int(new.run.position or 0)
        total = None if isinstance(stage, ChoiceStage) else stage.max_tokens
        return new, Info(stage.name, done, total, f"{rows} executions", tokens)

    def _all_values(self, state: State) -> Traces:
        """Every value of a discrete site after every execution so far."""
        traces, number = state.traces, state.stage
        stage = self.target.stages[number]
        assert isinstance(stage, ChoiceStage)
        log_probs = self.target.choice_log_probs(number, traces)
        parent, value = (log_probs > -math.inf).nonzero(as_tuple=True)
        self._check_budget(parent.shape[0])
        log_prob = log_probs[parent, value]
        new = traces.select(parent).with_value(stage.name, stage.batch(value), log_prob)
        return self._prune(self.target.apply_potentials(new, number))

    def _all_tokens(self, state: State) -> tuple[State, int]:
        """Every token that may follow every text that is still open."""
        stage, number = self.target.stages[state.stage], state.stage
        assert not isinstance(stage, ChoiceStage)
        traces, run = state.traces, state.run
        if run is None:
            prompts = self.target.prompts(number, traces)
            run = stage.begin(prompts, self.target.requirements.automata(number, traces, prompts))
        run = stage.extend(run)
        assert run.prefixes is not None
        log_probs = stage.warp(run.prefixes.row_logits()).double().log_softmax(-1)
        stage.require_numbers(log_probs)
        possible = log_probs > -math.inf
        mask = stage.mask(run)
        if mask is not None:
            possible &= mask
        parent, token = possible.nonzero(as_tuple=True)
        is_open = torch.zeros(run.num_rows, dtype=torch.bool, device=run.tokens.device)
        is_open[run.open] = True
        closed = (~is_open).nonzero().squeeze(-1)
        rows = torch.cat([closed, run.open[parent]])
        self._check_budget(rows.shape[0])
        traces, run = traces.select(rows), run.select(rows)
        run = stage.place(run, token, log_probs[parent, token])
        if run.num_open:
            branching = token.shape[0] / max(1, is_open.sum().item())
            return State(traces, number, run, branching), token.shape[0]
        traces = traces.with_value(stage.name, stage.finish(run), run.log_prior)
        traces = self._prune(self.target.apply_potentials(traces, number))
        return State(traces, number + 1, None), token.shape[0]

    def hurry(self, state: State, *, spent: float, left: float) -> State:
        """Draws for the rest, where neither the next step nor what comes after it has time."""
        if state.num_draws:
            return state
        first, run = state.stage, state.run
        begun = 0 if run is None else int(run.position or 0)
        to_come = -begun + sum(
            stage.max_tokens
            for stage in self.target.stages[first:]
            if not isinstance(stage, ChoiceStage)
        )
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
        stage = self.target.stages[state.stage]
        assert not isinstance(stage, ChoiceStage)
        prompts = self.target.prompts(state.stage, state.traces)
        return replace(state, run=stage.recomputed(state.run, prompts))

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

    def _check_budget(self, size: int) -> None:
        if size > self.settings.max_sequences:
            raise InferenceError(
                [
                    Diagnostic(
                        "LMP416",
                        "error",
                        f"exact needs more than {self.settings.max_sequences:,} executions"
                        f" ({size:,} so far)",
                        help="lower max_tokens, use a smaller vocabulary, raise max_sequences, or"
                        " use smc",
                    )
                ]
            )

    def result(self, state: State, *, complete: bool) -> list[Draws]:
        if not self.is_done(state):
            nothing = state.traces.select(torch.zeros(0, dtype=torch.long))
            return [Draws(nothing, nothing.log_density(), None, complete=False)]
        traces, remainder = state.traces, state.remainder
        if remainder is not None:
            return by_binding(self.target, partial(with_remainder, self.target, traces, remainder))
        return by_binding(self.target, partial(self._of_group, traces))

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
