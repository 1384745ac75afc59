"""Values of expressions for a batch: by row, or one that all rows share.

A value that is the same for all rows stays a plain Python object until somebody needs it by row,
so that a list of ten thousand words is not copied for every particle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lmppl.errors import InternalError
from lmppl.ir.types import Type
from lmppl.rewards.uncertain import UncertainScores

Rows: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class TextColumn:
    """The texts of one site, with what only their tokens know.

    `num_tokens` is int64 `[rows]`, without the end token; `finished` is bool `[rows]`: ended by
    an end token or a stop string. `token_ids` is `[rows, length]`, padded after `num_tokens`, as an
    array or a tensor; None where no reward reads tokens.
    """

    strings: Sequence[str]
    num_tokens: NDArray[np.int64]
    finished: NDArray[np.bool_]
    token_ids: object | None = None

    def __len__(self) -> int:
        return len(self.strings)

    def take(self, rows: Rows) -> TextColumn:
        """The texts of the given rows, in that order."""
        ids = None if self.token_ids is None else as_array(self.token_ids)[rows]
        strings = self.strings
        return TextColumn(
            [strings[row] for row in rows.tolist()],
            np.asarray(self.num_tokens)[rows],
            np.asarray(self.finished)[rows],
            ids,
        )


# The values of one name: a number or a condition per row in an array, strings, or texts.
Column: TypeAlias = "NDArray[Any] | Sequence[str] | TextColumn"
# A value by row, or one Python value (str, int, float, bool, tuple) that all rows share.
ByRow: TypeAlias = "NDArray[Any] | list[Any] | TextColumn | UncertainScores"
Value: TypeAlias = "ByRow | str | int | float | bool | tuple[Any, ...]"


def is_by_row(value: object) -> bool:
    """Whether a value has an entry for each row."""
    return isinstance(value, np.ndarray | list | TextColumn | UncertainScores)


def is_numeric(value: object) -> bool:
    """Whether a value is a number or a condition, or a column of them."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "bif"
    return isinstance(value, int | float)


def numbers(value: object) -> NDArray[Any]:
    """A number or column of numbers as an array, of shape `[]` or `[rows]`."""
    return np.asarray(value)


def tidy(array: Any) -> Value:
    """An array `[rows]` as it is; an array `[]` as a Python number."""
    if isinstance(array, np.ndarray) and array.ndim:
        return array
    scalar: bool | int | float = np.asarray(array).item()
    return scalar


def plain(value: object) -> Value:
    """A value given from outside as str, int, float, bool or tuples of them."""
    if isinstance(value, np.generic):
        scalar: Value = value.item()
        return scalar
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return tuple(plain(each) for each in value)
    return value  # type: ignore[return-value]


def items(value: Value, num_rows: int) -> list[Any]:
    """A value as one Python object per row."""
    if isinstance(value, np.ndarray):
        plain_items: list[Any] = value.tolist()
        return plain_items
    if isinstance(value, TextColumn):
        return list(value.strings)
    if isinstance(value, list):
        return value
    if isinstance(value, UncertainScores):
        raise InternalError("an uncertain reward was used as a plain value")
    return [value] * num_rows


def by_items(
    function: Callable[..., Any],
    values: Sequence[Value],
    num_rows: int,
    column: Callable[[list[Any]], ByRow],
) -> Value:
    """A function of Python values, row by row; once where all rows share the arguments."""
    if not any(is_by_row(value) for value in values):
        shared: Value = function(*values)
        return shared
    columns = [items(value, num_rows) for value in values]
    return column([function(*each) for each in zip(*columns, strict=True)])


def bools(values: list[Any]) -> NDArray[np.bool_]:
    """Conditions as a column."""
    return np.array(values, dtype=bool)


def ints(values: list[Any]) -> NDArray[np.int64]:
    """Counts as a column."""
    return np.array(values, dtype=np.int64)


def column(values: list[Any], type: Type) -> ByRow:
    """Python values of a type as a column."""
    if type.is_array or type.kind == "string":
        return values
    return np.array(values, dtype={"int": np.int64, "bool": bool}.get(type.kind, np.float64))


def by_row(value: Value, num_rows: int) -> Any:
    """A value with one entry per row."""
    if is_by_row(value):
        return value
    if isinstance(value, str | tuple):
        return [value] * num_rows
    kind = bool if isinstance(value, bool) else np.int64 if isinstance(value, int) else np.float64
    return np.full(num_rows, value, dtype=kind)


def take(value: Any, rows: Rows) -> Any:
    """The entries of the given rows; what all rows share stays as it is."""
    if isinstance(value, np.ndarray):
        return value[rows]
    if isinstance(value, TextColumn | UncertainScores):
        return value.take(rows)
    if isinstance(value, str | tuple) or not isinstance(value, Sequence):
        return value
    return [value[row] for row in rows.tolist()]


def as_array(token_ids: object) -> NDArray[np.int64]:
    """Token ids as a NumPy array, wherever they live."""
    tensor: Any = token_ids
    return np.asarray(tensor.cpu() if hasattr(tensor, "cpu") else tensor, dtype=np.int64)
