"""Complete executions drawn from the prior, masked or not: what most methods start from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lmppl.rng import Stream
from lmppl.target import ChoiceStage, Target, TextRun, Traces, draw_choices


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
    traces = target.start(group)
    weights = traces.total_log_potential()
    return go_on(target, traces, weights, counters, stream, masked=masked, record=record)


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
    group = traces.group
    counters = counters.to(target.device)
    rows = torch.arange(traces.num_rows, device=target.device)
    num_tokens = 0
    for number, stage in list(enumerate(target.stages))[first:]:
        alive = log_weight > -math.inf
        if not bool(alive.all()):
            at = alive.nonzero().squeeze(-1)
            traces, log_weight, rows = traces.select(at), log_weight[at], rows[at]
            run = None if run is None else run.select(at)
        if traces.num_rows == 0:
            break
        before = traces.total_log_potential()
        uniforms = stream.child("site", number)
        if isinstance(stage, ChoiceStage):
            traces = draw_choice_site(target, number, traces, uniforms, counters[rows])
        else:
            given = 0
            if run is None:
                prompts = target.prompts(number, traces)
                automata = target.automata(number, traces, prompts)
                run = stage.begin(prompts, automata, record=record)
            else:
                given = int(run.positions.sum())
            run, log_mass = stage.complete(
                run, partial(_uniforms_of, uniforms, counters[rows]), masked=masked
            )
            num_tokens += int(run.positions.sum()) - given
            text = stage.finish(run)
            open_rows = torch.zeros_like(log_mass, dtype=torch.bool)
            if not run.automata.is_trivial:
                # A row that was given up before its end has no text to be scored.
                complete = run.finished | (run.positions >= stage.max_tokens)
                open_rows = ~complete
            traces = traces.with_text(stage.name, text, run.log_prior)
            run = None
            log_weight = torch.where(open_rows, -math.inf, log_weight + log_mass)
            alive = log_weight > -math.inf
            if not bool(alive.all()):
                at = alive.nonzero().squeeze(-1)
                traces, log_weight, rows = traces.select(at), log_weight[at], rows[at]
                before = before[at]
            if traces.num_rows == 0:
                break
        traces = target.apply_potentials(traces, number)
        log_weight = log_weight + traces.total_log_potential() - before
    alive = log_weight > -math.inf
    if not bool(alive.all()):
        at = alive.nonzero().squeeze(-1)
        traces, log_weight, rows = traces.select(at), log_weight[at], rows[at]
    return Proposals(traces, rows, log_weight, group.shape[0], num_tokens)


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
    return traces.with_choice(stage.name, index, log_prob)
