"""`bernoulli(p)`: true or false."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lmppl.builtins.kinds import ChoiceDistribution
from lmppl.builtins.signature import Argument
from lmppl.ir.types import BOOL, Interval, Type

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    import numpy as np
    from numpy.typing import NDArray


def support() -> tuple[object, ...]:
    return (False, True)


def weights(num_rows: int, size: int, p: NDArray[np.float64]) -> NDArray[np.float64]:
    """The probabilities of false and true."""
    import numpy as np

    return np.stack([1.0 - p, p], -1)


def masses(p: float) -> tuple[float, float]:
    return 1.0 - p, p


def value_type(types: Mapping[str, Type]) -> Type:
    return BOOL


def instances(random: Random, folder: Path) -> dict[str, object]:
    return {"p": random.random()}


BERNOULLI = ChoiceDistribution(
    name="bernoulli",
    arguments=(Argument("p", "number", "the probability of true", range=Interval(0.0, 1.0)),),
    result=BOOL,
    doc="True or false.",
    example="mood ~ bernoulli(0.7)",
    support=support,
    weights=weights,
    value_type=value_type,
    masses=masses,
    instances=instances,
)
