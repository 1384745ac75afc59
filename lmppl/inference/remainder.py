"""Draws for what an enumeration has not reached."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lmppl.errors import Diagnostic, InferenceError
from lmppl.factors.ranges import expr_range
from lmppl.inference.loop import Draws
from lmppl.inference.proposing import Proposals, go_on
from lmppl.posterior import Estimate
from lmppl.rng import Stream
from lmppl.sequences.weights import normalise
from lmppl.target import Target, TextRun, TextStage, Traces, concatenate


@dataclass(frozen=True, slots=True)
class Remainder:
    """Draws that stand for the executions that were begun and not enumerated to their end.

    `num_draws` for each binding, of which `drawn` holds those that no requirement has ruled out.
    `log_open` `[bindings]` is the mass of what was begun, prior times potentials so far; from
    `stage` on nothing is in it.
    """

    drawn: Proposals
    num_draws: int
    log_open: tuple[float, ...]
    stage: int


def sample_remainder(
    target: Target,
    traces: Traces,
    number: int,
    run: TextRun | None,
    num_draws: int,
    stream: Stream,
) -> tuple[Traces, Remainder]:
    """The executions that are whole, and draws for the others.

    `traces` and `run` are those of an enumeration at site `number`: one row for every execution
    begun, with its prior probability. A draw takes one of them by its mass so far, independently of
    the others, and completes it from the masked prior. With M the mass of all of them, it weighs
    M / n times what its continuation gains, so that the weights of n draws add up to an unbiased
    estimate of what a full enumeration would have found there.
    """
    log_mass = traces.log_density()
    is_open = torch.ones(traces.num_rows, dtype=torch.bool, device=log_mass.device)
    whole = traces.select(torch.zeros(0, dtype=torch.long, device=log_mass.device))
    stage = target.stages[number]
    if run is not None:
        log_mass = log_mass + run.log_prior
        if number == len(target.stages) - 1:
            assert isinstance(stage, TextStage)
            is_open = torch.zeros_like(is_open)
            is_open[run.open] = True
            closed = (~is_open).nonzero().squeeze(-1)
            ended = run.select(closed)
            whole = traces.select(closed)
            whole = whole.with_text(stage.name, stage.finish(ended), ended.log_prior)
            whole = target.apply_potentials(whole, number)
    rows: list[Tensor] = []
    weights: list[Tensor] = []
    log_open = []
    for group in range(target.num_groups):
        at = (is_open & (traces.group == group)).nonzero().squeeze(-1)
        if at.shape[0] == 0:
            log_open.append(-math.inf)
            continue
        total = torch.logsumexp(log_mass[at], 0)
        log_open.append(float(total))
        cumulative = normalise(log_mass[at]).exp().cumsum(-1)
        points = stream.child("row", group).uniforms(torch.arange(num_draws, device=at.device))
        chosen = torch.searchsorted(cumulative, points * cumulative[-1], right=True)
        rows.append(at[chosen.clamp_(max=at.shape[0] - 1)])
        weights.append((total - math.log(num_draws)).expand(num_draws))
    begun = torch.cat(rows) if rows else is_open.nonzero().squeeze(-1)
    drawn = go_on(
        target,
        traces.select(begun),
        torch.cat(weights) if weights else log_mass[begun],
        torch.arange(begun.shape[0]),
        stream,
        first=number,
        run=None if run is None else run.select(begun),
    )
    return whole, Remainder(drawn, num_draws, tuple(log_open), number)


def with_remainder(target: Target, whole: Traces, remainder: Remainder, group: int) -> Draws:
    """The executions found, with their own mass, and the draws for the rest, of one binding."""
    whole = whole.select((whole.group == group).nonzero().squeeze(-1))
    drawn = remainder.drawn
    here = (drawn.traces.group == group).nonzero().squeeze(-1)
    found, rest = whole.log_density(), drawn.log_weight[here]
    log_weight = torch.cat([found, rest])
    if log_weight.shape[0] == 0:
        raise InferenceError(
            [
                Diagnostic(
                    "LMP930",
                    "error",
                    f"stopped before an execution was whole, and none of {remainder.num_draws}"
                    " draws for the rest meets the requirements",
                    help="allow more time, or use smc",
                )
            ]
        )
    parts = [traces for traces in (whole, drawn.traces.select(here)) if traces.num_rows]
    value = float(torch.logsumexp(log_weight, 0))
    log_found = float(torch.logsumexp(found, 0)) if found.shape[0] else -math.inf
    share = math.exp(log_found - value)
    order = log_weight.argsort(descending=True, stable=True)
    return Draws(
        concatenate(parts).select(order),
        log_weight[order],
        _evidence(target, remainder, group, value, log_found, rest),
        diagnostics={
            "num_executions": whole.num_rows,
            "num_draws": remainder.num_draws,
            "share_enumerated": share,
        },
        warnings=[
            f"the enumeration did not come to its end: the {whole.num_rows:,} executions found hold"
            f" about {100.0 * share:.3g}% of the evidence, and {remainder.num_draws:,} independent"
            " draws stand for the rest, so the result is an estimate and not exact"
        ],
        complete=False,
    )


def _evidence(
    target: Target, remainder: Remainder, group: int, value: float, log_found: float, rest: Tensor
) -> Estimate:
    """log Ẑ with the error of the drawn part; what was found bounds it below, and what is open
    times the largest that the factors may be bounds it above."""
    size = remainder.num_draws
    shares = torch.zeros(size, dtype=torch.float64)
    shares[: rest.shape[0]] = (rest.cpu() - value).exp()
    variance = float(shares.var()) * size if remainder.log_open[group] > -math.inf else 0.0
    estimate = Estimate.from_relative_variance(value, variance, degrees=size - 1, num_units=size)
    highest = remainder.log_open[group]
    for potential in target.model.potentials:
        if potential.kind == "factor" and potential.stage >= remainder.stage:
            values = target.bindings[group]
            highest += expr_range(potential.expr, target.model, values).upper
    highest = max(highest, log_found) + math.log1p(math.exp(-abs(highest - log_found)))
    return estimate.clipped(log_found, highest)
