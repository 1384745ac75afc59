"""Executions of the prior with every potential evaluated, whether it rules them out or not."""

from __future__ import annotations

import torch

from lmppl.density import Target, Traces
from lmppl.density.walk import from_prior, walk
from lmppl.rng import Stream


def prior_draws(target: Target, num_rows: int, stream: Stream, group: int = 0) -> Traces:
    """Unconstrained draws of the prior of a binding, potentials evaluated, none dropped."""
    counters = torch.arange(num_rows, device=target.device)
    start = target.start(torch.full((num_rows,), group, dtype=torch.long))
    return walk(target, start, from_prior(target, counters, stream))
