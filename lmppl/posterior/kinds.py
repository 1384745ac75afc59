"""The kinds of fields that weighted draws have: how each is kept, cut and read back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lmppl.posterior import shapes
from lmppl.posterior.estimate import Estimate, log_mean_exp
from lmppl.posterior.expectation import ExpectationResult
from lmppl.posterior.plain import frozen_array, plain, readonly
from lmppl.posterior.unseen import Unseen

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]


def _same(value: Any, rows: Integers) -> Any:
    return value


def _itself(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class FieldKind:
    """One kind of field: what becomes of a value that is handed over, of a cut, and of a file.

    `keep(name, value, size)` is its plain, unchangeable copy beside `size` draws, and raises
    ValueError where the two do not fit. `select(value, rows)` is what belongs to the draws `rows`
    `[new draws]`. `check(name, value, size)` raises ValueError where what was read from a file is
    not what `keep` gave, and `read(value)` is what it stood for. What is not `is_saved` holds on to
    a model: it is neither saved nor pickled.
    """

    keep: Callable[[str, Any, int], Any]
    check: Callable[[str, Any, int], None] = shapes.anything
    select: Callable[[Any, Integers], Any] = _same
    read: Callable[[Any], Any] = _itself
    is_saved: bool = True


def _sized(name: str, column: Any, size: int) -> Any:
    if len(column) != size:
        raise ValueError(f"{name} has {len(column)} rows and the posterior {size} draws")
    return column


def _column(name: str, values: Any, size: int) -> Any:
    """Numbers as a read-only array `[draws]`, everything else as a tuple of plain values."""
    if not isinstance(values, (list, tuple)):
        values = frozen_array(values)
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        return _sized(name, values, size)
    column = [plain(value) for value in values]
    if column and all(isinstance(value, (bool, int, float)) for value in column):
        return _sized(name, frozen_array(column), size)
    return _sized(name, tuple(column), size)


def _floats(name: str, values: Any, size: int) -> Any:
    return None if values is None else _sized(name, frozen_array(values, np.float64), size)


def _log_weights(name: str, values: Any, size: int) -> Any:
    """Normalised, in nats."""
    log_w = frozen_array(values, np.float64)
    if log_w.ndim != 1 or log_w.size == 0:
        raise ValueError("a posterior needs at least one draw, and log weights of shape [draws]")
    if np.isnan(log_w).any() or np.isposinf(log_w).any():
        raise ValueError("NaN or +inf among the log weights")
    if log_w.max() == -math.inf:
        raise ValueError("every draw has weight zero")
    log_total = log_mean_exp(log_w) + math.log(log_w.size)
    # Weights that are normalised to rounding stay to the bit, so that a copy is equal.
    return log_w if abs(log_total) < 1e-12 else readonly(log_w - log_total)


def _integers(name: str, values: Any, size: int) -> Any:
    return None if values is None else _sized(name, frozen_array(values, np.int64), size)


def _pair(name: str, pair: Any, size: int) -> Any:
    ids, lengths = pair
    return _integers(name, ids, size), _integers(name, lengths, size)


def _texts(name: str, value: Any, size: int) -> Any:
    return value if isinstance(value, str) else _sized(name, tuple(value), size)


def _num_chains(name: str, value: Any, size: int) -> int | None:
    if value is not None and (value < 1 or size % value):
        raise ValueError(f"{size} draws cannot be {value} chains of equal length")
    return None if value is None else int(value)


def _interval(name: str, value: Any, size: int) -> tuple[float, float]:
    lower, upper = value
    return float(lower), float(upper)


def _tuple(name: str, value: Any, size: int) -> tuple[Any, ...]:
    return tuple(value)


def _as_is(name: str, value: Any, size: int) -> Any:
    return value


def _by_name(keep: Callable[[str, Any, int], Any]) -> Callable[[str, Any, int], Any]:
    """The same for every value of a mapping; None is an empty one."""

    def keep_each(name: str, values: Any, size: int) -> Any:
        return {each: keep(each, value, size) for each, value in (values or {}).items()}

    return keep_each


def rows_of(column: Any, rows: Integers) -> Any:
    """The values of a column at some rows: of an array, a tuple, or one value that all share."""
    if column is None or isinstance(column, str):
        return column
    return tuple(column[row] for row in rows) if isinstance(column, tuple) else column[rows]


def _rows_by_name(columns: Any, rows: Integers) -> Any:
    return {name: rows_of(column, rows) for name, column in columns.items()}


def _rows_of_pairs(pairs: Any, rows: Integers) -> Any:
    return {name: (ids[rows], lengths[rows]) for name, (ids, lengths) in pairs.items()}


def _rows_of_program(program: Any, rows: Integers) -> Any:
    if program is None:
        return None
    texts = {name: _rows_by_name(columns, rows) for name, columns in program["texts"].items()}
    return {**program, "texts": texts}


def _read_by(made: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else made(value)


# The types of fields, each with its kind.
Columns: TypeAlias = Annotated[  # arrays of numbers, else tuples of plain values, `[draws]`
    Mapping[str, Any], FieldKind(_by_name(_column), shapes.columns, _rows_by_name)
]
Tokens: TypeAlias = Annotated[
    Mapping[str, tuple[Integers, Integers]],
    FieldKind(_by_name(_pair), shapes.tokens, _rows_of_pairs),
]
LogWeights: TypeAlias = Annotated[Floats, FieldKind(_log_weights, shapes.floats, rows_of)]
OptionalFloats: TypeAlias = Annotated[Floats | None, FieldKind(_floats, shapes.log_probs, rows_of)]
FloatsByName: TypeAlias = Annotated[
    Mapping[str, Floats], FieldKind(_by_name(_floats), shapes.log_probs_by_name, _rows_by_name)
]
Prompts: TypeAlias = Annotated[
    Mapping[str, str | tuple[str, ...]],
    FieldKind(_by_name(_texts), shapes.prompts, _rows_by_name),
]
Clusters: TypeAlias = Annotated[Integers | None, FieldKind(_integers, shapes.clusters, rows_of)]
NumChains: TypeAlias = Annotated[int | None, FieldKind(_num_chains, shapes.num_chains)]
OptionalEstimate: TypeAlias = Annotated[
    Estimate | None, FieldKind(_as_is, shapes.estimate, read=_read_by(Estimate.from_dict))
]
OptionalUnseen: TypeAlias = Annotated[
    Unseen | None, FieldKind(_as_is, shapes.unseen, read=_read_by(Unseen.from_dict))
]
Ranges: TypeAlias = Annotated[
    Mapping[str, tuple[float, float]], FieldKind(_by_name(_interval), shapes.ranges)
]
Text: TypeAlias = Annotated[
    str, FieldKind(lambda name, value, size: str(value), shapes.of_type(str, "text"))
]
Flag: TypeAlias = Annotated[
    bool, FieldKind(lambda name, value, size: bool(value), shapes.of_type(bool, "truth value"))
]
Sentences: TypeAlias = Annotated[tuple[str, ...], FieldKind(_tuple, shapes.sentences)]
Checks: TypeAlias = Annotated[
    Mapping[str, bool], FieldKind(_by_name(lambda name, holds, size: bool(holds)), shapes.checks)
]
Expectations: TypeAlias = Annotated[
    tuple[ExpectationResult, ...],
    FieldKind(
        _tuple,
        shapes.expectations,
        read=lambda value: [ExpectationResult.from_dict(each) for each in value],
    ),
]
Plain: TypeAlias = Annotated[
    Mapping[str, Any],
    FieldKind(lambda name, value, size: plain(value or {}), shapes.of_type(dict, "mapping")),
]
Program: TypeAlias = Annotated[
    Mapping[str, Any] | None,
    FieldKind(lambda name, value, size: plain(value), shapes.program, _rows_of_program),
]
Evaluator: TypeAlias = Annotated[Callable[[str], Any] | None, FieldKind(_as_is, is_saved=False)]
Sampler: TypeAlias = Annotated[Callable[[int, int], Any] | None, FieldKind(_as_is, is_saved=False)]
Guide: TypeAlias = Annotated[Any, FieldKind(_as_is, is_saved=False)]
