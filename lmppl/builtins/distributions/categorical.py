"""`categorical(values, probs)`: one of several values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lmppl.builtins.kinds import ChoiceDistribution
from lmppl.builtins.signature import Argument
from lmppl.ir.types import STRING, UNKNOWN, Type

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    import numpy as np
    from numpy.typing import NDArray


def support(values: tuple[object, ...]) -> tuple[object, ...]:
    return tuple(values)


def weights(num_rows: int, size: int, probs: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """The probabilities, all alike where they are not written."""
    import numpy as np

    return np.full((num_rows, size), 1.0 / size) if probs is None else probs


def masses(values: Sequence[object], probs: Sequence[float] | None) -> Sequence[float]:
    return [1.0] * len(values) if probs is None else probs


def value_type(types: Mapping[str, Type]) -> Type:
    return types["values"].element() if "values" in types else UNKNOWN


def instances(random: Random, folder: Path) -> dict[str, object]:
    values = ("a", "b", "c")[: random.randint(1, 3)]
    shares = [random.random() + 0.1 for _ in values]
    return {"values": values, "probs": tuple(share / sum(shares) for share in shares)}


CATEGORICAL = ChoiceDistribution(
    name="categorical",
    arguments=(
        Argument("values", "values", "the values that can be drawn", known="bind"),
        Argument(
            "probs",
            "numbers",
            "their probabilities; all alike when not written",
            required=False,
            named_only=False,
        ),
    ),
    result=STRING,
    doc="One of several values.",
    example='topic ~ categorical(["sports", "food"], probs=[0.3, 0.7])',
    support=support,
    weights=weights,
    value_type=value_type,
    masses=masses,
    instances=instances,
)
