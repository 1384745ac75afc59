"""Reading the JSON files of language models that are tables; every mistake at its place."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmppl.jsons import NotJson, read_json
from lmppl.lm.histories import bad_table


def read_object(path: Path, content: bytes, entries: Collection[str]) -> dict[str, Any]:
    """The object of a file, which has no other entries than these."""
    try:
        spec = read_json(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise bad_table(path, f"it is not UTF-8: {error.reason} at byte {error.start}") from error
    except NotJson as error:
        raise bad_table(path, f"it is not JSON: {error}") from error
    if not isinstance(spec, dict):
        *others, last = entries
        raise bad_table(path, f"expected an object with {', '.join(others)} and {last}")
    return spec


def refuse_others(path: Path, spec: dict[str, Any], entries: Collection[str]) -> None:
    """Raises: InferenceError, LMP916, the file has an entry that is none of these."""
    unknown = sorted(set(spec) - set(entries))
    if unknown:
        raise bad_table(path, f"at {unknown[0]!r}: there is no such entry")


def tokens_and_end(path: Path, spec: dict[str, Any]) -> tuple[list[str], int | None]:
    """The tokens of a table, and which of them ends a text."""
    tokens = spec.get("tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(t, str) for t in tokens):
        raise bad_table(path, 'at "tokens": expected a list of at least one string')
    if len(set(tokens)) != len(tokens):
        twice = next(token for token in tokens if tokens.count(token) > 1)
        raise bad_table(path, f'at "tokens": {twice!r} is listed twice')
    eos = spec.get("eos")
    if eos is not None and eos not in tokens:
        raise bad_table(path, f'at "eos": {eos!r} is not one of the tokens')
    return tokens, None if eos is None else tokens.index(eos)


def log_row(path: Path, place: str, weights: object, size: int) -> Tensor:
    """float64 `[size]`: log of the weights, normalised."""
    if not isinstance(weights, list) or len(weights) != size:
        raise bad_table(path, f"at {place}: expected a list of {size} weights")
    for number, weight in enumerate(weights):
        if not _is_weight(weight):
            shown = repr(weight) if len(repr(weight)) <= 40 else repr(weight)[:37] + "..."
            raise bad_table(
                path, f"at {place}, weight {number}: {shown} is not a finite number >= 0"
            )
    if not any(weights):
        raise bad_table(path, f"at {place}: all weights are zero, so nothing can follow")
    row = torch.tensor([float(weight) for weight in weights], dtype=torch.float64)
    total = row.sum()
    if not bool(torch.isfinite(total)):
        raise bad_table(path, f"at {place}: the weights are too large, their sum is infinite")
    return (row / total).log()


def _is_weight(weight: object) -> bool:
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        return False
    try:
        return math.isfinite(weight) and weight >= 0
    except OverflowError:
        # An integer beyond the largest float.
        return False
