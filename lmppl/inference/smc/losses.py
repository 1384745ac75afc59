"""What resampling loses: first particles, and texts that nothing like them is left of."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from lmppl.inference.families import num_families
from lmppl.inference.smc.state import State


def counted(moved: State, before: State, here: Tensor) -> State:
    """The state after resampling some populations, with the first particles that this lost."""
    living = num_families(before.eve.view(here.shape[0], -1), before.log_weight)
    kept = moved.eve.view(here.shape[0], -1)
    lost = living - num_families(kept, torch.zeros_like(kept, dtype=torch.float64))
    return replace(moved, unlooked=moved.unlooked + torch.where(here, lost, 0))


def given_up(state: State, ancestors: Tensor, low: Tensor) -> State:
    """Counts what a resampling throws away that nothing like it is left of.

    Particles lighter than the lightest with offspring are represented by none. Where their
    weight was low only because of the lookahead's guess, the guess may have been wrong.
    """
    weight = state.compared
    offspring = torch.zeros_like(weight).scatter_add(1, ancestors, torch.ones_like(weight))
    lightest = weight.masked_fill(offspring == 0, math.inf).amin(-1, keepdim=True)
    lost = (weight < lightest) & low.unsqueeze(-1)
    scale = state.log_evidence - math.log(weight.shape[1])
    worth = weight.masked_fill(~lost, -math.inf)
    run = state.run
    now = state.log_weight
    unsteered = now if run is None else run.unsteered(now.view(-1)).view_as(now)
    prior = torch.where(lost, unsteered, -math.inf)
    return replace(
        state,
        given_up=torch.logaddexp(state.given_up, worth.logsumexp(-1) + scale),
        given_up_prior=torch.logaddexp(state.given_up_prior, prior.logsumexp(-1) + scale),
        resampled=(*state.resampled, weight),
    )
