"""Where chains start: at weighted draws, one for each."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lmppl.density import Target, Traces
from lmppl.inference.proposing import propose
from lmppl.inference.starting import population
from lmppl.inference.zero_mass import zero_mass
from lmppl.rng import Stream
from lmppl.sequences.weights import log_mean_exp, normalise

_START_PARTICLES = 16


def start(
    method: str, target: Target, stream: Stream, num_chains: int
) -> tuple[Traces, Tensor, Tensor]:
    """An execution for every chain of every binding, `[bindings, chains]` flat; and by binding what
    the draws that they were picked from say of the log evidence, and how many they were."""
    if method == "prior":
        return from_prior(target, stream, num_chains)
    return _from_particles(method, target, stream, num_chains)


def _from_particles(
    method: str, target: Target, stream: Stream, num_chains: int
) -> tuple[Traces, Tensor, Tensor]:
    """One particle of an independent small run for every chain, the log evidence, and how many
    first particles were not lost by resampling."""
    found = population(
        method,
        target,
        stream.child("start"),
        num_runs=num_chains,
        size=_START_PARTICLES,
    )
    return (
        _pick(target, found.traces, found.log_weight, stream),
        log_mean_exp(found.log_evidence.view(target.num_groups, -1)),
        found.num_looks.view(target.num_groups, -1).sum(-1),
    )


def from_prior(target: Target, stream: Stream, num_chains: int) -> tuple[Traces, Tensor, Tensor]:
    """One of so many draws of the masked prior for every chain, by whether it has weight."""
    num_rows = target.num_groups * num_chains
    size = num_rows * _START_PARTICLES
    groups = torch.arange(target.num_groups).repeat_interleave(num_chains * _START_PARTICLES)
    found = propose(
        target,
        groups,
        torch.arange(size // target.num_groups).repeat(target.num_groups),
        stream.child("start"),
        record=True,
    )
    if found.rows.numel() == 0:
        raise zero_mass(target, f"none of {size} draws of the prior has positive weight")
    weight = torch.full((size,), -math.inf, dtype=torch.float64, device=target.device)
    weight[found.rows] = found.log_weight
    log_evidence = log_mean_exp(weight.view(target.num_groups, -1))
    weight[found.rows] = 0.0
    slot = torch.zeros(size, dtype=torch.long, device=target.device)
    slot[found.rows] = torch.arange(found.rows.shape[0], device=target.device)
    picked = _pick(target, found.traces.select(slot), weight.view(num_rows, -1), stream)
    num_looks = torch.full_like(log_evidence, size // target.num_groups, dtype=torch.long)
    return picked, log_evidence, num_looks


def _pick(target: Target, traces: Traces, log_weight: Tensor, stream: Stream) -> Traces:
    """One row for every chain by weight; a chain without a living one takes another chain's.

    Where a binding has no living one, its chains take those of other bindings: they are run
    beside them, and dropped in the end.
    """
    num_rows = log_weight.shape[0]
    num_chains = num_rows // target.num_groups
    alive = (log_weight > -math.inf).any(-1)
    if not bool(alive.any()):
        raise zero_mass(target, "no chain found a start of positive weight")
    groups = torch.arange(num_rows, device=alive.device) // num_chains
    donor = torch.arange(num_rows, device=alive.device)
    for group in range(target.num_groups):
        mine = (groups == group) & alive
        mine = mine if bool(mine.any()) else alive
        living = mine.nonzero().squeeze(-1)
        lost = ((groups == group) & ~alive).nonzero().squeeze(-1)
        donor[lost] = living[torch.arange(lost.shape[0], device=lost.device) % living.shape[0]]
    weights = normalise(log_weight[donor]).exp().cumsum(-1)
    numbers = torch.arange(num_rows, device=weights.device) % num_chains
    points = stream.child("pick").uniforms(numbers) * weights[:, -1]
    chosen = torch.searchsorted(weights, points.unsqueeze(-1), right=True).squeeze(-1)
    size = log_weight.shape[1]
    return traces.select(donor * size + chosen.clamp(max=size - 1))
