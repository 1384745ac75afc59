"""Which of the first particles of a population are still there."""

from __future__ import annotations

import math

from torch import Tensor


def num_families(eve: Tensor, log_weight: Tensor) -> Tensor:
    """How many first particles the living ones descend from, `[populations]`.

    `eve` `[populations, particles]` numbers each particle's ancestor; −inf in `log_weight` is dead.
    """
    ordered = eve.masked_fill(log_weight == -math.inf, -1).sort(-1).values
    new = (ordered[:, 1:] != ordered[:, :-1]).sum(-1) + 1
    return new - (ordered[:, 0] == -1).long()
