"""When particles are moved, and what that does to the state of a run."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from lmppl.density import Stage, Target
from lmppl.density.stages.run import Step, TextRun
from lmppl.inference.loop import Info
from lmppl.inference.smc import SMC
from lmppl.inference.smc.rejuvenating import Rejuvenation, Span, Trail
from lmppl.inference.smc.state import State
from lmppl.rng import Stream


def with_trail(state: State, stage: Stage, settings: SMC) -> State:
    """At the start of a site, with what its texts need to be moved later, where they may be."""
    if not settings.num_moves or stage.text is None or not isinstance(state.run, TextRun):
        return state
    return replace(state, trail=Trail.of(state.run))


def traced(state: State, step: Step | None) -> State:
    """With what was said of the texts so far, and how the tokens of a step were drawn."""
    run = state.run
    if state.trail is None or not isinstance(run, TextRun) or not run.position:
        return state
    return replace(state, trail=state.trail.after(run, step))


def due(state: State, settings: SMC) -> State:
    """After a step: whether it is time to move the open texts.

    That must not hang on what particles there are, as it would if texts were moved where they were
    just resampled: a move keeps the distribution that weighted particles stand for as a whole, and
    not that of those which happen to come into such a place.
    """
    run = state.run
    if state.trail is None or not isinstance(run, TextRun) or not run.position:
        return state
    now = run.num_open > 0 and run.position % settings.move_every == 0
    return replace(state, moves_left=settings.num_moves if now else 0)


def cost_of_moves(settings: SMC) -> float:
    """The tokens that moves read for a token that is drawn, at most."""
    sizes = [settings.block_size, 2 * settings.block_size]
    return sum(sizes[n % 2] for n in range(settings.num_moves)) / settings.move_every


def moved(state: State, target: Target, settings: SMC, stream: Stream) -> tuple[State, Info]:
    """After one move of all open texts."""
    run, trail, stage = state.run, state.trail, target.stages[state.stage]
    assert isinstance(run, TextRun) and trail is not None and stage.text is not None
    assert run.position is not None
    number = settings.num_moves - state.moves_left
    size = state.log_weight.shape[1]
    named = stream.child("move", state.stage, run.position, number)
    alive = (state.log_weight.view(-1) > -math.inf)[run.open]
    which = run.open[alive]
    state = replace(state, moves_left=state.moves_left - 1)
    info = Info(f"moves of {stage.name}", run.position, stage.num_steps)
    if not which.numel():
        return state, info
    rows = target.rows(state.stage, state.traces)
    moves = Rejuvenation(stage.text, rows, settings.lookahead_every)
    # Every other move keeps what follows the tokens that it draws.
    span = Span.drawn(named, run.position, settings.block_size, in_block=bool(number % 2))
    found = moves.moved(run, trail, which, span, state.counters[which], named)
    populations = torch.div(which, size, rounding_mode="floor")
    ones = torch.ones_like(populations)
    state = replace(
        state,
        run=found.run,
        trail=found.trail,
        proposed=state.proposed.index_add(0, populations, ones),
        accepted=state.accepted.index_add(0, populations, found.accepted.long()),
    )
    return state, replace(info, num_tokens=found.num_tokens)
