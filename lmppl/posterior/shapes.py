"""What the saved fields of a posterior must look like: kinds, dtypes and shapes.

Each check takes the name of a field, its value as read, and the number of draws, and raises a
ValueError that names what is not as it was saved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np

from lmppl.posterior.estimate import Kind
from lmppl.posterior.expectation import Statistic, Verdict

_NUMBERS = "biuf"


def _array(name: str, value: Any, dtype: Any, size: int | None, dimensions: int = 1) -> None:
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{name} is no array")
    if dtype is not None and value.dtype != dtype:
        raise ValueError(f"{name} is an array of {value.dtype}, not of {np.dtype(dtype)}")
    if value.ndim != dimensions or (size is not None and value.shape[0] != size):
        rows = "draws" if size is None else str(size)
        raise ValueError(f"{name} has shape {list(value.shape)} where it has {rows} rows")


def anything(name: str, value: Any, size: int) -> None:
    """Whatever was saved."""


def floats(name: str, value: Any, size: int | None = None) -> None:
    _array(name, value, np.float64, size)


def columns(name: str, value: Any, size: int) -> None:
    for each, column in _items(name, value):
        if isinstance(column, np.ndarray):
            _array(f"{name} {each}", column, None, size)
            if column.dtype.kind not in _NUMBERS:
                raise ValueError(f"{name} {each} holds no numbers")
        elif not isinstance(column, list) or len(column) != size:
            raise ValueError(f"{name} {each} has not a value for each of {size} draws")


def tokens(name: str, value: Any, size: int) -> None:
    for each, pair in _items(name, value):
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError(f"{name} {each} are not token ids and lengths")
        ids, lengths = pair
        _array(f"{name} {each}", ids, np.int64, size, 2)
        _array(f"the lengths of {each}", lengths, np.int64, size)
        if size and (lengths.min() < 0 or lengths.max() > ids.shape[1]):
            raise ValueError(f"the lengths of {each} do not fit its tokens")


def log_probs(name: str, value: Any, size: int) -> None:
    if value is not None:
        _array(name, value, np.float64, size)
        if np.isnan(value).any() or np.isposinf(value).any():
            raise ValueError(f"{name} holds NaN or +inf")


def log_probs_by_name(name: str, value: Any, size: int) -> None:
    for each, column in _items(name, value):
        log_probs(f"{name} {each}", column, size)
        if column is None:
            raise ValueError(f"{name} {each} is missing")


def prompts(name: str, value: Any, size: int) -> None:
    for each, found in _items(name, value):
        texts = [found] if isinstance(found, str) else found
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{name} of {each} are no texts")
        if texts is found and len(texts) != size:
            raise ValueError(f"{name} of {each} are not one for each of {size} draws")


def clusters(name: str, value: Any, size: int) -> None:
    if value is not None:
        _array(name, value, np.int64, size)


def checks(name: str, value: Any, size: int) -> None:
    for each, holds in _items(name, value):
        if not isinstance(holds, bool):
            raise ValueError(f"{name} {each} is neither true nor false")


def estimate(name: str, value: Any, size: int) -> None:
    if value is None:
        return
    for each, number in _items(name, value):
        if each == "kind":
            if number not in get_args(Kind):
                raise ValueError(f"{name} is of no kind: {number!r}")
        elif isinstance(number, bool) or not isinstance(number, (int, float)):
            raise ValueError(f"{each} of {name} is no number")


def unseen(name: str, value: Any, size: int) -> None:
    if value is None:
        return
    for each, found in _items(name, value):
        wanted = {"reason": str, "by_factors": bool}.get(each, float)
        if not isinstance(found, wanted) or found != found:
            raise ValueError(f"{each} of {name} is {found!r}")


def ranges(name: str, value: Any, size: int) -> None:
    for each, pair in _items(name, value):
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError(f"{name} {each} are not a least and a largest value")
        if not all(isinstance(end, float) for end in pair) or not pair[0] <= pair[1]:
            raise ValueError(f"{name} {each} are {pair}")


def expectations(name: str, value: Any, size: int) -> None:
    if not isinstance(value, list):
        raise ValueError(f"{name} is no list")
    for each in value:
        fields = dict(_items(name, each))
        estimate("the estimate of an expectation", fields["estimate"], size)
        if fields["verdict"] not in get_args(Verdict):
            raise ValueError(f"{fields['verdict']!r} is no verdict")
        if fields["statistic"] not in get_args(Statistic):
            raise ValueError(f"{fields['statistic']!r} is no statistic")


def sentences(name: str, value: Any, size: int) -> None:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{name} are no list of sentences")


def _items(name: str, value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no mapping")
    return value.items()


def of_type(kind: type, what: str) -> Callable[[str, Any, int], None]:
    """The check that a value is of a type; a truth value is no number."""

    def check(name: str, value: Any, size: int) -> None:
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise ValueError(f"{name} is {value!r}, which is no {what}")

    return check


def num_chains(name: str, value: Any, size: int) -> None:
    if value is not None:
        of_type(int, "number")(name, value, size)


def program(name: str, value: Any, size: int) -> None:
    if value is None:
        return
    fields = dict(_items(name, value))
    for each in ("source", "base_dir"):
        if not isinstance(fields[each], str):
            raise ValueError(f"the {each} of the {name} is no text")
    for site, columns in _items("the texts", fields["texts"]):
        _array(f"the ends of {site}", columns["finished"], np.bool_, size)
        _array(f"the lengths of {site}", columns["num_tokens"], np.int64, size)
