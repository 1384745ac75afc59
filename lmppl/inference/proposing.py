"""Complete executions drawn from the prior, masked or not: what most methods start from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from lmppl.density import Run, Target, Traces
from lmppl.density.proposal import Proposal, start_site, tokens_per_step
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
    """Executions in the making, up to site `site`, whose values are `run` where they are begun.

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
    run: Run | None = None
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

    def most_tokens_to_come(self, target: Target, proposal: Proposal | None = None) -> int:
        """How many tokens are drawn from here to the end, if no text ends sooner."""
        return most_tokens_to_come(target, self.site, self.run, self.traces.num_rows, proposal)


def most_tokens_to_come(
    target: Target, site: int, run: Run | None, num_rows: int, proposal: Proposal | None = None
) -> int:
    """How many tokens `num_rows` executions draw from a site on, if no text ends sooner."""
    tokens = 0
    for number, stage in list(enumerate(target.stages))[site:]:
        steps = num_rows * stage.num_steps
        if number == site and run is not None:
            steps = run.most_steps_left()
        tokens += steps * tokens_per_step(target, proposal, number)
    return tokens


def propose(
    target: Target,
    group: Tensor,
    counters: Tensor,
    stream: Stream,
    *,
    masked: bool = True,
    record: bool = False,
    proposal: Proposal | None = None,
) -> Proposals:
    """One execution per entry of `group` `[rows]`, site by site from the (masked) prior, or
    from a `proposal`.

    `counters` `[rows]` names each row's random numbers, so that a row's draw does not depend on
    the batch that it is part of.
    """
    unfinished = begin(target, group, counters)
    while not is_complete(target, unfinished):
        unfinished = advance(
            target, unfinished, stream, masked=masked, record=record, proposal=proposal
        )
    return completed(unfinished)


def go_on(
    target: Target,
    traces: Traces,
    log_weight: Tensor,
    counters: Tensor,
    stream: Stream,
    *,
    first: int = 0,
    run: Run | None = None,
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


def go_to(target: Target, unfinished: Unfinished, site: int, stream: Stream) -> Unfinished:
    """The executions before a site, those before it drawn as `propose` draws them."""
    while unfinished.site < site and unfinished.traces.num_rows:
        unfinished = advance(target, unfinished, stream)
    return unfinished


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
    proposal: Proposal | None = None,
) -> Unfinished:
    """One step more of the site that is being drawn: a choice, or a token of every open text."""
    number, traces = unfinished.site, unfinished.traces
    stage = target.stages[number]
    uniforms = stream.child("site", number)
    counters = unfinished.counters[unfinished.rows]
    run, log_mass = unfinished.run, unfinished.log_mass
    if run is None or log_mass is None:
        rows = target.rows(number, traces)
        run = start_site(target, proposal, rows, *target.steering(rows), record=record)
        log_mass = torch.zeros_like(unfinished.log_weight)
    num_tokens = unfinished.num_tokens + run.num_open * tokens_per_step(target, proposal, number)
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
    return unfinished if run.num_open else _with_value(target, unfinished)


def _with_value(target: Target, unfinished: Unfinished) -> Unfinished:
    """The executions whose site is drawn, with what was drawn for its value."""
    run, log_mass = unfinished.run, unfinished.log_mass
    stage = target.stages[unfinished.site]
    assert run is not None and log_mass is not None
    traces = unfinished.traces.with_value(stage.name, stage.finish(run), run.log_prior)
    log_weight = unfinished.log_weight + run.unsteered(log_mass)
    # A row that was given up before its end has no value to be scored.
    log_weight = torch.where(run.is_whole(), log_weight, -math.inf)
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
