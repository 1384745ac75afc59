"""Populations of another size: larger where weights come apart, smaller where time runs out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from lmppl.inference.smc.losses import counted
from lmppl.inference.smc.state import State
from lmppl.rng import Stream
from lmppl.sequences.resampling import systematic_resample
from lmppl.sequences.weights import log_mean_exp


def resized(
    state: State, size: int, stream: Stream, select: Callable[[State, Tensor], State], runs: Tensor
) -> State:
    """Every population with `size` particles, resampled: what that is is decided before weights are
    seen, or by anything seen until then, so Ẑ stays unbiased.

    `select` copies rows; `runs` `[populations]` name their random numbers.
    """
    device = state.log_weight.device
    num_populations, before = state.log_weight.shape
    numbers = torch.arange(num_populations, device=device)
    points = stream.uniforms(runs, state.num_steps)
    alive = (state.log_weight > -math.inf).any(-1)
    ancestors = torch.arange(size, device=device).remainder(before).repeat(num_populations, 1)
    here = alive.nonzero().squeeze(-1)
    ancestors[here] = systematic_resample(state.log_weight[here], points[here], size)
    flat = (ancestors + numbers.unsqueeze(-1) * before).view(-1)
    new = counted(select(state, flat), state, alive)
    alike = torch.where(alive, 0.0, -math.inf).double().unsqueeze(-1).repeat(1, size)
    return replace(
        new,
        log_weight=alike,
        compared=alike,
        log_evidence=state.log_evidence + torch.where(alive, log_mean_exp(state.log_weight), 0.0),
        num_resamplings=state.num_resamplings + alive,
        resampled=(*state.resampled, state.log_weight),
    )


def grown(state: State, usual: int, resize: Callable[[State, int, str], State]) -> State:
    """More particles, where that was to be after so many tokens; as `usual` once texts are whole.

    `resize` gives every population so many, by random numbers of that name.
    """
    growth, run, size = state.growth, state.run, state.log_weight.shape[1]
    if growth is None:
        return state
    # A population has random numbers of consecutive counters, which no two share.
    first = state.counters.view(-1, size)[:, :1]
    if run is None:
        state = replace(state, growth=None)
        if size <= usual:
            return state
        counters = first // growth.factor + torch.arange(usual, device=first.device)
        return replace(resize(state, usual, "whole"), counters=counters.view(-1))
    if run.position != growth.step or size != usual:
        return state
    counters = first * growth.factor + torch.arange(growth.factor * size, device=first.device)
    return replace(resize(state, growth.factor * size, "grow"), counters=counters.view(-1))
