"""What a value and the weight of a draw can be together, in arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cells:
    """Every draw lies in one of some cells: its value in `[lower, upper]` `[cells]`, its weight at
    most `weight` `[cells]` times the largest that any draw can have."""

    lower: Floats
    upper: Floats
    weight: Floats

    def __repr__(self) -> str:
        return f"<{len(self.lower)} cells>"

    @classmethod
    def of(cls, rows: Sequence[tuple[float, float, float]]) -> Cells:
        """From lower ends, upper ends, and nats below the largest weight."""
        lower, upper, below = np.array(rows, dtype=np.float64).T
        return cls(lower, upper, np.exp(-below))

    def squares(self, centre: float) -> Cells:
        """Of the squared distance from a centre."""
        ends = (self.lower - centre) ** 2, (self.upper - centre) ** 2
        inside = (self.lower <= centre) & (centre <= self.upper)
        return Cells(np.where(inside, 0.0, np.minimum(*ends)), np.maximum(*ends), self.weight)

    def below(self, level: float) -> Cells:
        """Of whether the value is less than a level."""
        return self._indicator(self.upper < level, self.lower < level)

    def reached(self, level: float) -> Cells:
        """Of whether the value is at most a level."""
        return self._indicator(self.upper <= level, self.lower <= level)

    def _indicator(self, surely: NDArray[np.bool_], maybe: NDArray[np.bool_]) -> Cells:
        return Cells(surely.astype(np.float64), maybe.astype(np.float64), self.weight)
