"""Steering that lets no text end by an end token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmppl.density.steering.protocol import Steering

if TYPE_CHECKING:
    from lmppl.density.stages.run import TextRun


@dataclass(frozen=True, slots=True)
class WithoutEnds(Steering):
    """Excludes end tokens, for texts whose ends are known and are not to be drawn."""

    is_eos: Tensor  # bool [vocab]

    @property
    def is_trivial(self) -> bool:
        return not bool(self.is_eos.any())

    def begin(self, rows: Tensor) -> Tensor:
        return torch.zeros_like(rows)

    def log_next(self, run: TextRun, states: Tensor) -> Tensor:
        return ~self.is_eos.expand(states.shape[0], -1)
