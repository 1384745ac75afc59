"""Conditional resampling: what resampling does, given that the first particle survives it.

Plain resampling gives particle i a share Wᵢ of all slots on average. Here slot 0 is known to
descend from one particle, and the ancestors of the others are drawn from what resampling, its
slots in random order, gives them then (Andrieu, Doucet and Holenstein 2010, "Particle Markov chain
Monte Carlo methods"; for the systematic scheme Chopin and Singh 2015, "On particle Gibbs sampling",
arXiv:1304.1887, algorithm 4).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmppl.sequences.weights import normalise

SCHEMES = ("systematic", "multinomial")


def conditional_resample(
    scheme: str, log_weights: Tensor, kept: Tensor, uniforms: Tensor
) -> Tensor:
    """Ancestor of every new particle, a LongTensor `[groups, particles]`; that of slot 0 is `kept`.

    `log_weights` is `[groups, particles]`, unnormalised, of at least two particles; `kept`
    `[groups]` are some of positive weight; `uniforms` `[groups, particles]` lie in [0, 1). A
    particle of weight zero has no offspring.
    """
    weights = normalise(log_weights).exp()
    resample = _systematic if scheme == "systematic" else _multinomial
    return resample(weights, kept, uniforms.double())


def _multinomial(weights: Tensor, kept: Tensor, uniforms: Tensor) -> Tensor:
    """Independent ancestors for all slots but the first."""
    ancestors = _at(weights.cumsum(-1), uniforms)
    ancestors[:, 0] = kept
    return ancestors


def _systematic(weights: Tensor, kept: Tensor, uniforms: Tensor) -> Tensor:
    """Equidistant points, moved by a number that is as likely as many offspring it leaves to the
    kept particle, of which a random one is brought to slot 0 by rotating all slots."""
    num_particles = weights.shape[-1]
    every = torch.arange(num_particles, device=weights.device)
    # The kept particle comes first: it has the points below its weight.
    order = (every + kept.unsqueeze(-1)) % num_particles
    cumulative = weights.gather(-1, order).cumsum(-1)
    expected = num_particles * cumulative[:, 0] / cumulative[:, -1]
    whole = expected.floor()
    part = expected - whole
    # The density of the shift is as the number of points below: whole + 1 left of `part`.
    area = (whole + 1.0) * part
    place = uniforms[:, 0] * expected
    left = place < area
    shift = torch.where(left, place / (whole + 1.0), part + (place - area) / whole.clamp(min=1.0))
    points = (every + shift.clamp(max=1.0 - 2.0**-53).unsqueeze(-1)) / num_particles
    chosen = _at(cumulative, points * cumulative[:, -1:], scaled=True)
    # Rounding may leave a point that is meant for the kept particle to the next one.
    chosen[:, 0] = 0
    num_own = (chosen == 0).sum(-1)
    first = torch.minimum((uniforms[:, 1] * num_own).long(), num_own - 1)
    rotated = chosen.gather(-1, (every + first.unsqueeze(-1)) % num_particles)
    return order.gather(-1, rotated)


def _at(cumulative: Tensor, points: Tensor, *, scaled: bool = False) -> Tensor:
    """The particles whose share of the total the points `[groups, points]` fall into."""
    total = cumulative[:, -1:]
    points = points if scaled else points * total
    points = torch.minimum(points, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, points.contiguous(), right=True)
