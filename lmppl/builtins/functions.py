"""What computes the functions of numbers, over whole batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class ArrayFunction:
    """A vectorised function of numbers; it agrees with the plain one in its descriptor.

    `domain` is true where it has a value; `remedy` is said where it has none. `may_be_zero_mass`
    allows a value of −∞.
    """

    compute: Callable[..., Any]
    domain: Callable[..., Any] | None = None
    remedy: str | None = None
    may_be_zero_mass: bool = False


def _sigmoid(x: Any) -> Any:
    # exp of a number that is not positive never overflows.
    small = np.exp(-np.abs(x))
    return np.where(np.asarray(x) >= 0, 1.0, small) / (1.0 + small)


FUNCTIONS: Mapping[str, ArrayFunction] = {
    "abs": ArrayFunction(np.abs),
    "exp": ArrayFunction(np.exp),
    "log": ArrayFunction(
        np.log, lambda x: x >= 0, "the logarithm needs a number from 0 up", may_be_zero_mass=True
    ),
    "sqrt": ArrayFunction(np.sqrt, lambda x: x >= 0, "the square root needs a number from 0 up"),
    "sigmoid": ArrayFunction(_sigmoid),
    "tanh": ArrayFunction(np.tanh),
    "min": ArrayFunction(lambda *values: reduce(np.minimum, values)),
    "max": ArrayFunction(lambda *values: reduce(np.maximum, values)),
    "clamp": ArrayFunction(lambda x, lower, upper: np.maximum(lower, np.minimum(upper, x))),
}
