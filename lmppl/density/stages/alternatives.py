"""All values of a site, listed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Alternatives:
    """All values that a site can have, row by row: `size` of them for each.

    `value` has `rows * size` rows; `log_prob` `[rows * size]` float64 is the prior of each, −inf
    for one that its row cannot have.
    """

    size: int
    value: Any  # SiteValue
    log_prob: Tensor


@dataclass(frozen=True, slots=True)
class Children:
    """All that one step more can make of the rows of a run.

    `rows` `[new rows]` says which row each comes from: first the closed ones, which stay as they
    are, then a row for each of the `drawn` `[children]`, whose log priors are `log_prob`.
    """

    rows: Tensor
    drawn: Tensor
    log_prob: Tensor

    @property
    def num_children(self) -> int:
        return self.drawn.shape[0]
