"""How much of a posterior may have been missed by all the draws that there are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Unseen:
    """What draws cannot show, relative to what they weigh together (which counts as 1).

    `log_further` is the log weight of one more independent draw of the heaviest kind. Prior mass of
    up to 1 − δ^(1/n) goes unseen by n independent draws with probability δ; were it all of that
    weight, it would add a share of about ln(1/δ) · `further`. Infinite where no upper bound of the
    weights is known, −inf where a further draw is like those that were made.

    `log_missing` is the log of what is known to have been lost on the way, at its highest
    possible weight; −inf for nothing.

    `reason` says in words why the draws alone cannot settle a claim, where they cannot.

    `by_factors`: how far a draw weighs less than the heaviest is what its factors say. Texts that
    were drawn as the posterior has them weigh all the same, whatever their factors.
    """

    log_further: float = -math.inf
    log_missing: float = -math.inf
    reason: str = ""
    by_factors: bool = True

    def share(self, confidence: float = 0.95) -> float:
        """The largest share of the posterior that may be unseen, between 0 and 1."""
        tail = 0.5 * (1.0 - confidence)
        log_odds = max(self.log_further + math.log(-math.log(tail)), self.log_missing)
        return 1.0 / (1.0 + math.exp(-min(max(log_odds, -700.0), 700.0)))

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Unseen:
        """The inverse of `to_dict`."""
        return cls(**fields)
