"""Importance sampling."""

from __future__ import annotations

from typing import ClassVar

from lmppl.inference.proposed import floor_option, proposal_option
from lmppl.inference.settings import Referee, Settings, option
from lmppl.records import dataclass

PRIOR = "prior"


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance(Settings):
    """Weighted draws from the prior, masked by the constraints or not, or from a fitted guide."""

    name: ClassVar[str] = "importance"
    summary: ClassVar[str] = "weighted draws from the (masked) prior; unbiased evidence"
    engine: ClassVar[str] = "lmppl.inference.importance.engine:ImportanceEngine"
    referee: ClassVar[Referee] = "weighted"
    more_draws: ClassVar[str] = "draw more (num_samples)"

    num_samples: int = option(1000, "number of weighted draws", lower=1)
    proposal: str = proposal_option(
        "'masked' keeps to what the constraints allow and weights the difference; 'prior' does not",
        PRIOR,
    )
    floor: float = floor_option()
    batch_size: int = option(1024, "draws run together; they do not depend on it", lower=1)
