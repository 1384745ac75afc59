"""Moves of whole executions that keep the target at their powers, with what they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lmppl.density import Target, Traces
from lmppl.density.stages.redrawing import Redraw
from lmppl.density.tempered import Tempered
from lmppl.inference.annealing.state import Afoot, State
from lmppl.inference.moves import Move, chains_of, gibbs_move, redraw_move, restart_move
from lmppl.rng import Stream

# Of the moves of a text, the share that draws a block in its middle again, half of these with
# another number of tokens; and its tokens, at most.
_BLOCKS, _BLOCK_SIZE = 0.2, 4
# Where there are several sites, the share of moves that draw all of them anew.
_RESTARTS = 0.1


def set_off(target: Target, state: State, groups: Sequence[int]) -> State:
    """The state with these bindings alone on the way; they keep what they need if they were so."""
    afoot = state.afoot
    if afoot is not None and afoot.groups == tuple(groups):
        return state
    device = state.log_weight.device
    per_binding = state.log_weight.numel() // target.num_groups
    first = torch.tensor(list(groups), dtype=torch.long, device=device) * per_binding
    rows = (first.unsqueeze(-1) + torch.arange(per_binding, device=device)).view(-1)
    own = target if len(groups) == target.num_groups else target.of_groups(groups)
    return replace(state, afoot=Afoot(tuple(groups), own, rows, memories_of(own, rows)))


def selected(state: State, rows: Tensor) -> State:
    """The executions `rows`, as many as there are, each of the binding whose row it becomes."""
    traces, afoot = state.traces, state.afoot
    assert traces is not None and afoot is not None
    place = torch.zeros_like(rows)
    place[afoot.rows] = torch.arange(afoot.rows.shape[0], device=rows.device)
    for memory in afoot.memories:
        if memory is not None:
            memory.select(place[rows[afoot.rows]])
    return replace(state, traces=traces.select(rows), eve=state.eve[rows])


def memories_of(target: Target, rows: Tensor) -> tuple[Any, ...]:
    """What the sites of a program keep between moves of so many executions: nothing as yet."""
    return tuple(stage.memory(rows.shape[0]) for stage in target.stages)


def moved(state: State, stream: Stream) -> State:
    """Every execution that is on the way, moved once."""
    traces, afoot = state.traces, state.afoot
    assert traces is not None and afoot is not None
    powers = state.powers(state.num_stages)[list(afoot.groups)]
    target = Tempered.of(afoot.target, powers)
    per_binding = afoot.rows.shape[0] // len(afoot.groups)
    numbers = torch.arange(len(afoot.groups), device=afoot.rows.device)
    own = replace(traces.select(afoot.rows), group=numbers.repeat_interleave(per_binding))
    move = _move(target, own, afoot.memories, stream)
    place = torch.zeros(traces.num_rows, dtype=torch.long, device=afoot.rows.device)
    place[afoot.rows] = torch.arange(afoot.rows.shape[0], device=place.device)
    on_the_way = torch.zeros(traces.num_rows, dtype=torch.bool, device=place.device)
    on_the_way[afoot.rows] = True
    new = replace(
        state,
        traces=traces.merge(move.traces.select(place), on_the_way),
        num_moves=state.num_moves + 1,
        num_tokens=state.num_tokens + move.num_tokens,
        moved_tokens=state.moved_tokens + move.num_tokens,
        moved_rows=state.moved_rows + afoot.rows.shape[0],
    )
    if not move.is_proposal:
        return new
    groups = list(afoot.groups)
    accepted, proposed = state.accepted.clone(), state.proposed.clone()
    accepted[groups] += move.accepted.view(len(groups), -1).sum(-1)
    proposed[groups] += per_binding
    return replace(new, accepted=accepted, proposed=proposed)


def _move(target: Tempered, traces: Traces, memories: tuple[Any, ...], stream: Stream) -> Move:
    """A move of one site, or of all, which is the same for all executions."""
    stages = target.stages
    pick = stream.child("kind").uniforms(torch.arange(3)).tolist()
    site = min(int(pick[0] * len(stages)), len(stages) - 1)
    if len(stages) > 1 and pick[2] < _RESTARTS:
        return restart_move(target, traces, stream)
    every = stages[site].alternatives(target.rows(site, traces))
    if every is not None:
        return gibbs_move(target, traces, site, every, stream)
    how = Redraw(
        stream,
        chains_of(target, traces),
        in_block=pick[1] < _BLOCKS,
        block_size=_BLOCK_SIZE,
        resized=pick[1] < 0.5 * _BLOCKS,
    )
    return redraw_move(target, traces, site, how, memories[site])
