"""Resampling: unbiased maps from weighted to equally weighted particles."""

from __future__ import annotations

import torch
from torch import Tensor

from lmppl.sequences.weights import normalise


def systematic_resample(log_weights: Tensor, uniforms: Tensor, size: int | None = None) -> Tensor:
    """Ancestor of every new particle, a LongTensor `[groups, size]` in ascending order.

    Particle i has ⌊N·Wᵢ⌋ or ⌈N·Wᵢ⌉ offspring, N·Wᵢ on average; one of weight zero has none
    (Carpenter, Clifford and Fearnhead 1999). `log_weights` is `[groups, particles]`, unnormalised;
    `uniforms` `[groups]` lies in [0, 1). Every group needs a particle of positive weight. N is the
    `size`, by default the number of particles.
    """
    weights = normalise(log_weights).exp()
    num_particles = weights.shape[-1] if size is None else size
    cumulative = weights.cumsum(-1)
    total = cumulative[..., -1:]
    grid = torch.arange(num_particles, dtype=torch.float64, device=weights.device)
    points = (grid + uniforms.double().unsqueeze(-1)) / num_particles * total
    # right=True never lands on a particle of weight zero; below the total so that none lands past
    # the last living one.
    points = torch.minimum(points, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, points, right=True)
