"""Numbers about texts and categories by which draws can be told apart."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from lmppl.posterior.draws import WeightedDraws

Floats = NDArray[np.float64]

NUM_HASHED = 4


def text_features(draws: WeightedDraws) -> dict[str, Floats]:
    """Numbers `[draws]` by name for every site that holds texts or categories.

    Of a text: its length, a hash of its first token, and random projections of the counts of its
    tokens; of a category, whether it is the most frequent one. They are not meant to mean anything:
    chains, or two samples, that differ in one of them differ.
    """
    found: dict[str, Floats] = {}
    for name, column in draws.sites.items():
        if name in draws.tokens:
            ids, lengths = draws.tokens[name]
            found |= _of_tokens(name, ids, lengths)
        elif isinstance(column, tuple):
            codes = np.array([_hash(str(value)) for value in column])
            values, counts = np.unique(codes, return_counts=True)
            found[f"most frequent {name}"] = (codes == values[counts.argmax()]).astype(np.float64)
    return found


def _of_tokens(name: str, ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> dict[str, Floats]:
    here = np.arange(ids.shape[1])[None, :] < lengths[:, None]
    found = {f"length of {name}": lengths.astype(np.float64)}
    if ids.shape[1] == 0:
        return found
    tokens, index = np.unique(ids, return_inverse=True)
    index = index.reshape(ids.shape)
    codes = np.array([_hash(str(int(token))) for token in tokens])
    found[f"first token of {name}"] = np.where(lengths > 0, codes[index[:, 0]], 0.0)
    for number in range(NUM_HASHED):
        signs = np.array([1.0 if _hash(f"{number} {token}") < 0.5 else -1.0 for token in tokens])
        found[f"tokens of {name}, hashed {number + 1}"] = (signs[index] * here).sum(axis=1)
    return found


def _hash(text: str) -> float:
    """A number in [0, 1) that is the same for the same text, in every process."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) / 2.0**32
