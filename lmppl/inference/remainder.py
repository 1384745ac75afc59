"""Draws for what an enumeration has not reached."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmppl.density import Run, Target, Traces, concatenate
from lmppl.errors import Diagnostic, InferenceError
from lmppl.inference.bounds import weight_bound
from lmppl.inference.loop import Draws
from lmppl.inference.proposing import Proposals, go_on
from lmppl.posterior import Estimate, Unseen
from lmppl.posterior.estimate import honest_error
from lmppl.rng import Stream
from lmppl.sequences.weights import normalise


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
    run: Run | None,
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
            is_open = torch.zeros_like(is_open)
            is_open[run.open] = True
            closed = (~is_open).nonzero().squeeze(-1)
            ended = run.select(closed)
            whole = traces.select(closed)
            whole = whole.with_value(stage.name, stage.finish(ended), ended.log_prior)
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
    largest = _log_largest(target, remainder, group)
    order = log_weight.argsort(descending=True, stable=True)
    return Draws(
        concatenate(parts).select(order),
        log_weight[order],
        _evidence(remainder, largest, log_found, rest),
        unseen=Unseen(
            log_further=largest - math.log(remainder.num_draws) - value,
            reason=weight_bound(target, group).reason,
        ),
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


def _evidence(remainder: Remainder, bound: float, log_found: float, rest: Tensor) -> Estimate:
    """The log evidence: what was found is known, and what was drawn for the rest has an error.

    `bound` is the log of the largest mass that the rest can have, `rest` `[alive]` the log weights
    of the draws for it, which add up to an unbiased estimate of that mass.
    """
    if bound == -math.inf:
        return Estimate.exact(log_found)
    size = remainder.num_draws
    totals = torch.full((size,), -math.inf, dtype=torch.float64)
    totals[: rest.shape[0]] = rest.cpu() + math.log(size)
    drawn = Estimate.from_units(totals.numpy(), log_bound=bound)

    def with_found(log_rest: float) -> float:
        return float(np.logaddexp(log_found, log_rest))

    value = with_found(drawn.value)
    share = math.exp(drawn.value - value) if drawn.value > -math.inf else 0.0
    lower, upper = with_found(drawn.lower), with_found(drawn.upper)
    error = honest_error(share * drawn.standard_error if share else 0.0, lower, upper, 0.95)
    return Estimate(value, error, lower, upper, "unbiased", 0.95)


def _log_largest(target: Target, remainder: Remainder, group: int) -> float:
    """The log of the largest mass that what was not enumerated can have, given the factors' ranges;
    −inf where nothing is left."""
    largest = remainder.log_open[group]
    for potential in target.model.potentials:
        if largest > -math.inf and potential.kind == "factor":
            if potential.stage >= remainder.stage:
                largest += target.number_range(potential.expr, group).upper
    return largest
