"""Moves that leave the posterior invariant: what a Markov chain over executions is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmppl.density import SiteRows, Target, Traces, draw_choices
from lmppl.density.proposal import Proposal
from lmppl.density.stages.alternatives import Alternatives
from lmppl.density.stages.redrawing import Redraw
from lmppl.density.walk import Chosen, walk
from lmppl.inference.proposing import propose
from lmppl.rng import Stream


@dataclass(frozen=True, slots=True)
class Move:
    """The executions after a move, `[rows]`: which were accepted and which have changed.

    `is_proposal` says whether a part of a site was proposed, which may be refused: acceptance rates
    count those. `cut` is the relative position in [0, 1) where a text was cut, None for other
    moves. `from_start` says which kept no token and drew the whole text, or everything anew; None
    for moves that never do. `num_tokens` were drawn and `num_computed` read by language models.
    """

    traces: Traces
    accepted: Tensor
    moved: Tensor
    num_tokens: int
    num_computed: int = 0
    is_proposal: bool = False
    cut: Tensor | None = None
    from_start: Tensor | None = None


def chains_of(target: Target, traces: Traces) -> Tensor:
    """The number of every row's chain within its binding, which names its random numbers."""
    rows = torch.arange(traces.num_rows, device=traces.group.device)
    return rows % (traces.num_rows // target.num_groups)


def redraw_move(target: Target, traces: Traces, site: int, how: Redraw, memory: Any = None) -> Move:
    """Redraws a part of a site given the rest, and takes it by Metropolis and Hastings' rule.

    `memory` is what the site keeps between its moves.
    """
    stage, rows = target.stages[site], target.rows(site, traces)
    old = traces.values[stage.name]
    redrawn = stage.redraw(rows, target.steering(rows), old, how, memory)
    proposal = traces.with_value(stage.name, redrawn.value, redrawn.log_prior)
    proposal, log_rest = rescored_later(target, traces, proposal, site)
    log_ratio = redrawn.log_ratio + log_rest
    accepted = how.stream.child("accept").uniforms(how.chains).log() < log_ratio
    if redrawn.settle is not None:
        redrawn.settle(accepted)
    return Move(
        traces.merge(proposal, accepted),
        accepted,
        accepted & old.differs(redrawn.value),
        redrawn.num_tokens,
        redrawn.num_computed,
        is_proposal=True,
        cut=redrawn.cut,
        from_start=redrawn.from_start,
    )


def gibbs_move(
    target: Target, traces: Traces, site: int, every: Alternatives, stream: Stream
) -> Move:
    """Draws a site from its full conditional, all its values scored in one batch."""
    name, num_rows = target.stages[site].name, traces.num_rows
    rows = torch.arange(num_rows, device=traces.group.device)
    many = traces.select(rows.repeat_interleave(every.size))
    proposal = many.with_value(name, every.value, every.log_prob)
    proposal, log_rest = rescored_later(target, many, proposal, site)
    log_joint = (every.log_prob + log_rest).view(num_rows, every.size)
    uniforms = stream.child("gibbs").uniforms(chains_of(target, traces))
    drawn = draw_choices(log_joint.log_softmax(-1), uniforms)
    chosen = proposal.select(rows * every.size + drawn.clamp(max=every.size - 1))
    moved = chosen.values[name].differs(traces.values[name])
    return Move(chosen, torch.ones_like(moved), moved, 0)


def restart_move(
    target: Target, traces: Traces, stream: Stream, proposal: Proposal | None = None
) -> Move:
    """Draws everything anew from the (masked) prior, or from a `proposal`, and takes it by its
    importance weight.

    Moves of one site keep the others, and so never lead from one value of linked sites to another:
    a topic and a text that must be about it. This one does.
    """
    chains = chains_of(target, traces)
    drawn = propose(
        target, traces.group, chains, stream.child("restart"), record=True, proposal=proposal
    )
    accepted = torch.zeros_like(chains, dtype=torch.bool)
    # Draws of another proposal are no looks of the prior.
    everything = torch.ones_like(accepted) if proposal is None else None
    if drawn.rows.numel() == 0:
        return Move(
            traces,
            accepted,
            accepted,
            drawn.num_tokens,
            drawn.num_tokens,
            from_start=everything,
        )
    slot = torch.zeros_like(chains).index_copy(
        0, drawn.rows, torch.arange(drawn.rows.shape[0], device=chains.device)
    )
    new = drawn.traces.select(slot)
    log_weight = torch.full_like(traces.total_log_potential(), -math.inf)
    log_weight = log_weight.index_copy(0, drawn.rows, drawn.log_weight)
    own, num_computed = traces.total_log_potential(), drawn.num_tokens
    if proposal is None:
        for value in traces.values.values():
            own = own + value.log_mass()
    else:
        own = own + _log_ratio(target, traces, proposal)
        # Both language models have read the old texts.
        num_computed += 2 * traces.num_tokens()
    accepted = stream.child("accept").uniforms(chains).log() < log_weight - own
    changed = traces.differs(new)
    merged = traces.merge(new, accepted)
    return Move(
        merged,
        accepted,
        accepted & changed,
        drawn.num_tokens,
        num_computed,
        from_start=everything,
    )


def _log_ratio(target: Target, traces: Traces, proposal: Proposal) -> Tensor:
    """log prior − log proposal of all that executions have drawn, `[rows]`."""
    total = torch.zeros_like(traces.total_log_prior())
    before = Traces(group=traces.group)
    for number, stage in enumerate(target.stages):
        rows = target.rows(number, before)
        value = traces.values[stage.name]
        total = total + proposal.log_ratio(rows, target.steering(rows), value)
        before = before.with_value(stage.name, value)
    return total


def rescored_later(target: Target, old: Traces, new: Traces, site: int) -> tuple[Traces, Tensor]:
    """What a new value of `site` changes after it: log prior of later sites, and potentials.

    Returns the new executions with everything recomputed, and the log ratio new / old, `[rows]`.
    """
    log_ratio = torch.zeros(new.num_rows, dtype=torch.float64, device=new.group.device)

    def choose(rows: SiteRows) -> Chosen:
        nonlocal log_ratio
        stage = target.stages[rows.number]
        value = new.values[stage.name]
        if not target.depends_on(rows.number, site):
            return Chosen(value)
        value, log_prior = stage.retraced(rows, target.steering(rows), value)
        log_ratio = log_ratio + log_prior - old.log_prior[stage.name]
        return Chosen(value, log_prior)

    new = walk(target, target.apply_potentials(new, site), choose, first=site + 1)
    return new, log_ratio + (new.total_log_potential() - old.total_log_potential())
