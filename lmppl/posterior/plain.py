"""Plain, unchangeable copies of what engines hand over: numpy arrays and Python values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def frozen_array(values: Any, dtype: DTypeLike | None = None) -> NDArray[Any]:
    """A read-only numpy copy of an array, a sequence or a torch tensor on any device."""
    detach = getattr(values, "detach", None)
    if detach is not None:
        # Torch is not imported here: a tensor is told by its methods. numpy has no bfloat16.
        tensor = detach().cpu()
        values = tensor.float().numpy() if str(tensor.dtype) == "torch.bfloat16" else tensor.numpy()
    return readonly(np.array(values, dtype=dtype))


def readonly(array: NDArray[Any]) -> NDArray[Any]:
    """The array, made unwritable."""
    array.setflags(write=False)
    return array


def plain(value: Any) -> Any:
    """A copy made of dicts, lists, strings, numbers, None and read-only numpy arrays.

    Tuples and sets become lists and dataclasses mappings, so that what is saved and loaded again
    is equal to what was there.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, (bool, int, float, str)):
        # Subclasses (enumerations, strings with methods) become the plain value.
        return _base(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (dict, Mapping)):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, np.ndarray) or hasattr(value, "detach"):
        array = frozen_array(value)
        if array.dtype.kind not in "biuf":
            return plain(array.tolist())
        return array.item() if array.ndim == 0 else array
    return str(value)


class ReadOnly(dict[str, Any]):
    """A mapping that nobody changes, and that is a dict to `json.dumps` and to `copy`."""

    def _refuse(self, *arguments: Any, **values: Any) -> Any:
        raise TypeError("what is known of a posterior cannot be changed; dict(…) makes a copy")

    __setitem__ = __delitem__ = update = pop = popitem = clear = setdefault = _refuse
    __ior__ = _refuse

    def __reduce__(self) -> Any:
        # A copy is the owner's own.
        return dict, (dict(self),)


def readable(value: Any) -> Any:
    """A read-only copy of plain values of which `json.dumps` can make text: arrays are lists."""
    if isinstance(value, dict):
        return ReadOnly((key, readable(item)) for key, item in value.items())
    if isinstance(value, list):
        return [readable(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


_PLAIN = frozenset({type(None), bool, int, float, str})


def _base(value: Any) -> Any:
    return next(kind(value) for kind in (bool, int, float, str) if isinstance(value, kind))
