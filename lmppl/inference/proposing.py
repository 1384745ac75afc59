"""Complete executions drawn from the prior, masked or not: what most methods start from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from lmppl.density import ChoiceStage, Target, TextRun, TextStage, Traces, draw_choices
from lmppl.rng import Stream


@dataclass(frozen=True, slots=True)
class Proposals:
    """Executions that were not ruled out on the way, and their importance weights.

    `rows` `[alive]` are their positions among the `num_rows` that were asked for; all others have
    weight zero. `log_weight` `[alive]` float64 is log(target density / proposal density).
    `num_tokens` counts language-model tokens drawn.
    """

    traces: Traces
    rows: Tensor
    log_weight: Tensor
    num_rows: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Executions in the making, up to site `site`, whose texts are `run` where they are begun.

    `rows` `[alive]` are the positions of those that are not ruled out yet, among the `num_rows`
    that `counters` `[num_rows]` names; `log_weight` `[alive]` is what they weigh without the text
    in the making, `log_mass` `[alive]` what the masks of that allowed, `step` how many tokens were
    drawn since it was begun or taken up.
    """

    traces: Traces
    log_weight: Tensor
    counters: Tensor
    rows: Tensor
    num_rows: int
    site: int = 0
    run: TextRun | None = None
    log_mass: Tensor | None = None
    step: int = 0
    num_tokens: int = 0

    def select(self, at: Tensor) -> Unfinished:
        """The alive executions at positions `at`, in that order."""
        return replace(
            self,
            traces=self.traces.select(at),
            log_weight=self.log_weight[at],
            rows=self.rows[at],
            run=None if self.run is None else self.run.select(at),
            log_mass=None if self.log_mass is None else self.log_mass[at],
        )

    def thinned(self, kept: Tensor) -> Unfinished:
        """Those of the `num_rows` whose positions `kept` names, ascending, numbered anew."""
        number = torch.full((self.num_rows,), -1, dtype=torch.long, device=self.rows.device)
        number[kept] = torch.arange(kept.shape[0], device=kept.device)
        new = self.select((number[self.rows] >= 0).nonzero().squeeze(-1))
        return replace(
            new,
            rows=number[new.rows],
            counters=self.counters[kept],
            num_rows=kept.shape[0],
        )

    def most_tokens_to_come(self, target: Target) -> int:
        """How many tokens are drawn from here to the end, if no text ends sooner."""
        tokens = 0
        for number, stage in list(enumerate(target.stages))[self.site :]:
            if isinstance(stage, ChoiceStage):
                continue
            if number == self.site and self.run is not None:
                run = self.run
                tokens += int((stage.max_tokens - run.positions[run.open]).sum())
            else:
                tokens += self.traces.num_rows * stage.max_tokens
        return tokens


def propose(
    target: Target,
    group: Tensor,
    counters: Tensor,
    stream: Stream,
    *,
    masked: bool = True,
    record: bool = False,
) -> Proposals:
    """One execution per entry of `group` `[rows]`, site by site from the (masked) prior.

    `counters` `[rows]` names each row's random numbers, so that a row's draw does not depend on
    the batch that it is part of.
    """
    unfinished = begin(target, group, counters)
    return _completed(target, unfinished, stream, masked=masked, record=record)


def go_on(
    target: Target,
    traces: Traces,
    log_weight: Tensor,
    counters: Tensor,
    stream: Stream,
    *,
    first: int = 0,
    run: TextRun | None = None,
    masked: bool = True,
    record: bool = False,
) -> Proposals:
    """Executions completed from site `first` on, as `propose` draws them.

    `log_weight` `[rows]` is what they weigh already; `run` holds their texts of the first site,
    where these are begun.
    """
    unfinished = _alive(_unfinished(target, traces, log_weight, counters, first))
    if run is not None:
        run = run.select(unfinished.rows)
        unfinished = replace(unfinished, run=run, log_mass=torch.zeros_like(unfinished.log_weight))
    return _completed(target, unfinished, stream, masked=masked, record=record)


def begin(target: Target, group: Tensor, counters: Tensor) -> Unfinished:
    """Executions of which nothing is drawn yet, to be advanced as `propose` draws them."""
    traces = target.start(group)
    return _alive(_unfinished(target, traces, traces.total_log_potential(), counters, 0))


def _unfinished(
    target: Target, traces: Traces, log_weight: Tensor, counters: Tensor, first: int
) -> Unfinished:
    rows = torch.arange(traces.num_rows, device=target.device)
    counters = counters.to(target.device)
    return Unfinished(traces, log_weight, counters, rows, traces.num_rows, first)


def is_complete(target: Target, unfinished: Unfinished) -> bool:
    return unfinished.site >= len(target.stages) or unfinished.traces.num_rows == 0


def completed(unfinished: Unfinished) -> Proposals:
    """The executions that are complete."""
    return Proposals(
        unfinished.traces,
        unfinished.rows,
        unfinished.log_weight,
        unfinished.num_rows,
        unfinished.num_tokens,
    )


def _completed(
    target: Target, unfinished: Unfinished, stream: Stream, *, masked: bool, record: bool
) -> Proposals:
    while not is_complete(target, unfinished):
        unfinished = advance(target, unfinished, stream, masked=masked, record=record)
    return completed(unfinished)


def advance(
    target: Target,
    unfinished: Unfinished,
    stream: Stream,
    *,
    masked: bool = True,
    record: bool = False,
) -> Unfinished:
    """One choice more, or one token of every open text."""
    number, traces = unfinished.site, unfinished.traces
    stage = target.stages[number]
    uniforms = stream.child("site", number)
    counters = unfinished.counters[unfinished.rows]
    if isinstance(stage, ChoiceStage):
        traces = draw_choice_site(target, number, traces, uniforms, counters)
        return _scored(target, replace(unfinished, traces=traces))
    run, log_mass = unfinished.run, unfinished.log_mass
    if run is None or log_mass is None:
        prompts = target.prompts(number, traces)
        run = stage.begin(
            prompts, target.requirements.automata(number, traces, prompts), record=record
        )
        log_mass = torch.zeros_like(unfinished.log_weight)
    num_tokens = unfinished.num_tokens + run.num_open
    if run.num_open:
        run, log_mass = stage.advance(
            run, log_mass, partial(_uniforms_of, uniforms, counters), unfinished.step, masked=masked
        )
    unfinished = replace(
        unfinished,
        run=run,
        log_mass=log_mass,
        step=unfinished.step + 1,
        num_tokens=num_tokens,
    )
    return unfinished if run.num_open else _with_text(target, unfinished)


def _with_text(target: Target, unfinished: Unfinished) -> Unfinished:
    """The executions whose text no longer goes on, with that text for their site's value."""
    number, run, log_mass = unfinished.site, unfinished.run, unfinished.log_mass
    stage = target.stages[number]
    assert isinstance(stage, TextStage) and run is not None and log_mass is not None
    traces = unfinished.traces.with_value(stage.name, stage.finish(run), run.log_prior)
    log_weight = unfinished.log_weight + run.unsteered(log_mass)
    if run.weighs_tokens:
        # A row that was given up before its end has no text to be scored.
        complete = run.finished | (run.positions >= stage.max_tokens)
        log_weight = torch.where(complete, log_weight, -math.inf)
    new = replace(unfinished, traces=traces, log_weight=log_weight, run=None, log_mass=None, step=0)
    return _scored(target, _alive(new))


def _scored(target: Target, unfinished: Unfinished) -> Unfinished:
    """The executions past their site, with what its value is worth."""
    if unfinished.traces.num_rows == 0:
        return unfinished
    before = unfinished.traces.total_log_potential()
    traces = target.apply_potentials(unfinished.traces, unfinished.site)
    log_weight = unfinished.log_weight + traces.total_log_potential() - before
    new = replace(unfinished, traces=traces, log_weight=log_weight, site=unfinished.site + 1)
    return _alive(new)


def _alive(unfinished: Unfinished) -> Unfinished:
    alive = unfinished.log_weight > -math.inf
    return unfinished if bool(alive.all()) else unfinished.select(alive.nonzero().squeeze(-1))


def _uniforms_of(stream: Stream, counters: Tensor, at: Tensor, step: int) -> Tensor:
    """The random numbers of the rows `at` for the token at `step`."""
    return stream.uniforms(counters[at], step)


def draw_choice_site(
    target: Target, number: int, traces: Traces, stream: Stream, counters: Tensor
) -> Traces:
    """The traces with a discrete site drawn from its prior."""
    stage = target.stages[number]
    log_probs = target.choice_log_probs(number, traces)
    index = draw_choices(log_probs, stream.uniforms(counters))
    log_prob = log_probs.gather(1, index.unsqueeze(-1)).squeeze(-1)
    assert isinstance(stage, ChoiceStage)
    return traces.with_value(stage.name, stage.batch(index), log_prob)
