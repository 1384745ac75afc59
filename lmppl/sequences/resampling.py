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
    return _at_points(log_weights, uniforms.double().unsqueeze(-1), size)


def stratified_resample(log_weights: Tensor, uniforms: Tensor, size: int | None = None) -> Tensor:
    """Ancestor of every new particle, a LongTensor `[groups, size]` in ascending order.

    Each comes from a stratum of its own, of 1/N of the weight: particle i has N·Wᵢ offspring on
    average, and fewer or more by less than two (Kitagawa 1996). `uniforms` `[groups, size]` lies in
    [0, 1); the rest is as in `systematic_resample`.
    """
    num_particles = log_weights.shape[-1] if size is None else size
    return _at_points(log_weights, uniforms.double()[:, :num_particles], num_particles)


def ssp_resample(log_weights: Tensor, uniforms: Tensor, size: int | None = None) -> Tensor:
    """Ancestor of every new particle, a LongTensor `[groups, size]` in ascending order.

    Particle i has ⌊N·Wᵢ⌋ or ⌈N·Wᵢ⌉ offspring, N·Wᵢ on average, as under systematic resampling, and
    the numbers of any of them are negatively associated, so that the order of particles does not
    matter and estimates are consistent for any order (Srinivasan's sampling process; Gerber, Chopin
    and Whiteley 2019, "Negative association, ordering and convergence of resampling methods",
    section 5). `uniforms` `[groups, particles]` lies in [0, 1). Works on the host, particle by
    particle; the rest is as in `systematic_resample`.
    """
    num_particles = log_weights.shape[-1] if size is None else size
    weights = normalise(log_weights).exp()
    expected = num_particles * weights / weights.sum(-1, keepdim=True)
    whole = expected.floor()
    rows = [
        _rounded(counts, fractions, points, num_particles)
        for counts, fractions, points in zip(
            whole.long().tolist(), (expected - whole).tolist(), uniforms.tolist(), strict=True
        )
    ]
    return torch.tensor(rows, dtype=torch.long, device=log_weights.device)


def _rounded(
    counts: list[int], fractions: list[float], uniforms: list[float], size: int
) -> list[int]:
    """Ancestors `[size]` of particles with so many offspring and fractions of one more, rounded.

    One particle is open at a time. With the next one it shares out the sum of both fractions: one
    of the two is settled at 0 or 1, and the other goes on, each with its fraction on average.
    """
    is_open, left = 0, fractions[0]
    for number in range(1, len(counts)):
        other, total = fractions[number], left + fractions[number]
        if total < 1.0:
            # One of them goes on with all of it, the other has nothing.
            stays = uniforms[number] * total < left
            left = total
        else:
            # One of them has one more, the other goes on with the rest.
            left_rises = uniforms[number] * (2.0 - total) < 1.0 - other
            counts[is_open if left_rises else number] += 1
            stays, left = not left_rises, total - 1.0
        is_open = is_open if stays else number
    # What is left of the last is 0 or 1, up to rounding.
    counts[is_open] += size - sum(counts)
    return [number for number, count in enumerate(counts) for _ in range(count)]


def _at_points(log_weights: Tensor, within: Tensor, size: int | None) -> Tensor:
    """Where the points (i + `within`) / N, `[groups, size]`, fall among the cumulated weights."""
    weights = normalise(log_weights).exp()
    num_particles = weights.shape[-1] if size is None else size
    cumulative = weights.cumsum(-1)
    total = cumulative[..., -1:]
    grid = torch.arange(num_particles, dtype=torch.float64, device=weights.device)
    points = (grid + within) / num_particles * total
    # right=True never lands on a particle of weight zero; below the total so that none lands past
    # the last living one.
    points = torch.minimum(points, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, points, right=True)
