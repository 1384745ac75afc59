"""Which particles those of resampled populations go on from."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from lmppl.inference.smc import SMC
from lmppl.inference.smc.schemes import SCHEMES
from lmppl.inference.smc.state import State
from lmppl.rng import Stream


def ancestors_of(state: State, here: Tensor, settings: SMC, stream: Stream) -> Tensor:
    """Of the new particles of the populations `here`, by the scheme of the settings."""
    place, for_each = SCHEMES[settings.resampling]
    module, _, name = place.partition(":")
    resample = getattr(importlib.import_module(module), name)
    runs = state.first_run + here % settings.num_runs
    stream, size = stream.child("resample"), state.log_weight.shape[1]
    if for_each:
        every = torch.arange(size, device=here.device)
        most = max(settings.num_particles, size)
        runs, stream = runs.unsqueeze(-1) * most + every, stream.child("each")
    steps = state.own_steps[here]
    points = torch.zeros(runs.shape, dtype=torch.float64, device=here.device)
    for step in sorted(set(steps.tolist())):
        at = (steps == step).nonzero().squeeze(-1)
        points[at] = stream.uniforms(runs[at], step)
    ancestors: Tensor = resample(state.compared[here], points)
    return ancestors
