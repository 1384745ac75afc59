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


def given_up(state: State, ancestors: Tensor, low: Tensor, to_come: Tensor) -> State:
    """Counts what a resampling throws away that nothing like it is left of.

    Particles lighter than the lightest with offspring are represented by none. Where their
    weight was low only because of the lookahead's guess, the guess may have been wrong: `to_come`
    `[populations]` is the most that the factors can still add, in nats. What is known of what is to
    come is no guess.
    """
    weight = state.compared
    offspring = torch.zeros_like(weight).scatter_add(1, ancestors, torch.ones_like(weight))
    lightest = weight.masked_fill(offspring == 0, math.inf).amin(-1, keepdim=True)
    lost = (weight < lightest) & low.unsqueeze(-1)
    scale = state.log_evidence - math.log(weight.shape[1])
    worth = weight.masked_fill(~lost, -math.inf)
    run = state.run
    now = state.log_weight
    guessed = None
    if run is not None:
        guessed = run.steered.log_scores if state.is_known else run.steered.log_psi
    unguessed = now if guessed is None else now - guessed.view_as(now)
    prior = torch.where(lost, unguessed + to_come.unsqueeze(-1), -math.inf)
    return replace(
        state,
        given_up=torch.logaddexp(state.given_up, worth.logsumexp(-1) + scale),
        given_up_prior=torch.logaddexp(state.given_up_prior, prior.logsumexp(-1) + scale),
        resampled=(*state.resampled, weight),
    )
