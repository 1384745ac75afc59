"""The one loop over the sites of a program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lmppl.density.rows import SiteRows
from lmppl.density.stages.completing import complete
from lmppl.density.target import Target
from lmppl.density.traces import Traces
from lmppl.rng import Stream


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a site is given: a `SiteValue`, and its log prior `[rows]` where that is known.

    `parents` `[rows]` says which row each continues, where they are not the rows as they were.
    """

    value: Any
    log_prior: Tensor | None = None
    parents: Tensor | None = None


Choose = Callable[[SiteRows], Chosen]
Score = Callable[[Traces, int], Traces]


def walk(
    target: Target,
    traces: Traces,
    choose: Choose,
    *,
    first: int = 0,
    score: Score | None = None,
) -> Traces:
    """Gives every site from `first` on the value that `choose` says, in program order.

    As soon as a site has its value, `score` is given the executions and its number; by default the
    potentials whose inputs exist then are applied.
    """
    score = target.apply_potentials if score is None else score
    for number in range(first, len(target.stages)):
        chosen = choose(target.rows(number, traces))
        if chosen.parents is not None:
            traces = traces.select(chosen.parents)
        name = target.stages[number].name
        traces = score(traces.with_value(name, chosen.value, chosen.log_prior), number)
    return traces


def from_prior(target: Target, counters: Tensor, stream: Stream) -> Choose:
    """Draws of the prior, whatever the requirements say; row i has the numbers of `counters[i]`."""

    def choose(rows: SiteRows) -> Chosen:
        stage, uniforms = target.stages[rows.number], stream.child("site", rows.number)

        def of_rows(at: Tensor, step: int) -> Tensor:
            return uniforms.uniforms(counters[at], step)

        # What follows requirements is dead, and deaf to stop strings, once one is broken.
        run = stage.start(rows, *stage.unsteered(rows))
        run, _ = complete(stage, run, of_rows, masked=False)
        return Chosen(stage.finish(run), run.log_prior)

    return choose


def scored(target: Target, values: Traces) -> Choose:
    """The values that executions have already, with the prior's log probability of each."""

    def choose(rows: SiteRows) -> Chosen:
        stage = target.stages[rows.number]
        value = values.values[stage.name]
        return Chosen(value, stage.log_prob(rows, value))

    return choose
