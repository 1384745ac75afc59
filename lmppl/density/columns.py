"""Plain values as the evaluator wants them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmppl.evaluation.columns import Column


def column_of(values: Sequence[Any]) -> Column:
    """A column of one value per row: numbers and booleans in an array, else a list."""
    if all(isinstance(v, bool) for v in values):
        return np.array(values, dtype=bool)
    if all(isinstance(v, int) for v in values):
        return np.array(values, dtype=np.int64)
    if all(isinstance(v, (int, float)) for v in values):
        return np.array(values, dtype=np.float64)
    return list(values)
