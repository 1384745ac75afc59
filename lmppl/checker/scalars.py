"""Numbers of NumPy and torch that the host gives, as the Python values that they are."""

from __future__ import annotations

import sys
from typing import Any


def without_scalars(value: Any) -> Any:
    """The value with NumPy scalars and torch tensors of no dimension as Python's own values.

    Lists and tuples are looked through and copied. Everything else, arrays among it, is returned
    as it is: whether the language has a type for it is for the checker to say.
    """
    if isinstance(value, (list, tuple)):
        return [without_scalars(each) for each in value]
    # Neither library is imported here: a value of theirs exists only where the host has done it.
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None and isinstance(value, numpy.generic):
        return value.item()
    if torch is not None and isinstance(value, torch.Tensor) and value.ndim == 0:
        return value.item()
    return value
