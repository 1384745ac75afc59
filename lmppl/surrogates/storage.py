"""Surrogates as files: whole numbers in safetensors, and nothing that is not checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from lmppl.jsons import NotJson, read_json
from lmppl.surrogates.counts import ContextCounts
from lmppl.surrogates.fitting import Fitted
from lmppl.surrogates.surrogate import Origin, Report, Surrogate
from lmppl.writing import write_whole

FORMAT = 1
_NAMES = ("counts", "excess", "excess_at", "oldest", "parent", "size", "token")
_KINDS = (np.uint8, np.uint16, np.uint32, np.uint64)
_BYTE = 255
# Files larger than this are not read: no surrogate that was made here is.
_MOST_BYTES = 1 << 28


class NotASurrogate(ValueError):
    """A file that is no surrogate of this language model, or not all of one."""


def write_surrogate(path: Path, surrogate: Surrogate, key: str) -> None:
    """Writes a file whole or not at all; `key` says what it is of beside its language model.

    Raises:
        OSError: it cannot be written.
    """
    counts = surrogate.fitted.counts
    # Most counts are small: what the few have above a byte is apart.
    large = (counts.count > _BYTE).nonzero()[0]
    arrays = {
        "counts": np.minimum(counts.count, _BYTE),
        "excess": counts.count[large] - _BYTE,
        "excess_at": large,
        "oldest": counts.oldest,
        "parent": counts.parent,
        "size": np.diff(counts.first),
        "token": counts.token,
    }
    tensors = {name: _narrow(each) for name, each in arrays.items()}
    described = {
        "format": FORMAT,
        "language_model": surrogate.language_model,
        "key": key,
        "vocab_size": counts.vocab_size,
        "discounts": list(surrogate.fitted.discounts),
        "held_out": surrogate.fitted.held_out,
        "report": asdict(surrogate.report),
    }
    text = json.dumps(described)
    metadata = {"lmppl": text, "sha256": _digest(tensors, text)}
    write_whole(path, save(tensors, metadata=metadata))


def read_surrogate(
    path: Path, language_model: str, vocab_size: int, key: str | None, origin: Origin
) -> Surrogate:
    """The surrogate in a file, which must be that of a language model by its digest.

    Every number is what was written, and together they are counts that can be smoothed: nothing
    that a file holds makes what is computed with it go astray. `key` None: whatever it was made
    for beside its language model.

    Raises:
        NotASurrogate: it is not, or it is damaged; the message says in which way.
        OSError: it cannot be read.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise NotASurrogate(f"it is larger than {_MOST_BYTES:,} bytes")
    data = path.read_bytes()
    try:
        text, digest = _metadata(data)
        described = read_json(text)
        tensors = load(data)
    except (SafetensorError, NotJson, KeyError, TypeError, ValueError, OverflowError) as error:
        raise NotASurrogate(f"it is no file of a surrogate: {error}") from error
    if digest != _digest(tensors, text):
        raise NotASurrogate("its numbers are not those that were written")
    try:
        if described["format"] != FORMAT:
            raise NotASurrogate(f"its format is {described['format']!r}, not {FORMAT}")
        if described["language_model"] != language_model:
            raise NotASurrogate("it was made of another language model")
        if key is not None and described["key"] != key:
            raise NotASurrogate("it was made for something else")
        if described["vocab_size"] != vocab_size:
            raise NotASurrogate("it has another vocabulary")
        counts = _counts(vocab_size, tensors)
        discounts = tuple(float(each) for each in described["discounts"])
        if len(discounts) < counts.levels().max() or not all(0 < d < 1 for d in discounts):
            raise NotASurrogate("its discounts do not fit its contexts")
        fitted = Fitted.of(counts, discounts, float(described["held_out"]))
        report = Report(**described["report"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, NotASurrogate):
            raise
        raise NotASurrogate(f"it is not whole: {error!r}") from error
    return Surrogate(language_model, fitted, report, origin)


def language_model_of(path: Path) -> str | None:
    """The digest of the language model that a file says it is of; None where it says nothing."""
    try:
        text, _ = _metadata(path.read_bytes())
        found = read_json(text)["language_model"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _counts(vocab_size: int, tensors: Mapping[str, NDArray[Any]]) -> ContextCounts:
    if tuple(sorted(tensors)) != _NAMES:
        raise NotASurrogate(f"it has the tables {', '.join(sorted(tensors))}")
    if any(each.ndim != 1 or each.dtype.kind != "u" for each in tensors.values()):
        raise NotASurrogate("its tables are not rows of whole numbers")
    if any(each.dtype == np.uint64 for each in tensors.values()):
        raise NotASurrogate("its numbers are too large")
    wide = {name: each.astype(np.int64) for name, each in tensors.items()}
    parent, oldest, size = wide["parent"], wide["oldest"], wide["size"]
    token, count = wide["token"], wide["counts"]
    excess, excess_at = wide["excess"], wide["excess_at"]
    if len(excess) != len(excess_at) or (excess_at >= len(count)).any():
        raise NotASurrogate("its counts do not fit each other")
    np.add.at(count, excess_at, excess)
    number = np.arange(len(parent))
    first = np.concatenate([[0], np.cumsum(size)])
    source = np.repeat(number[: len(size)], size)
    sound = (
        len(parent) == len(oldest) == len(size) >= 1
        and len(token) == len(count) == first[-1]
        and parent[0] == oldest[0] == 0
        and bool((parent[1:] < number[1:]).all())
        and bool((oldest <= vocab_size).all())
        and bool((size > 0).all())
        and bool((token < vocab_size).all())
        and bool((count > 0).all())
        and bool((np.diff(source * vocab_size + token) > 0).all())
        and len(np.unique(parent[1:] * (vocab_size + 1) + oldest[1:])) == len(parent) - 1
    )
    if not sound:
        raise NotASurrogate("its tables do not fit each other")
    counts = ContextCounts(vocab_size, parent, oldest, first, token, count)
    if not counts.is_closed:
        raise NotASurrogate("a context was followed by what did not follow the shorter one")
    return counts


def _narrow(numbers: NDArray[np.int64]) -> NDArray[Any]:
    """The same numbers in the smallest unsigned type that holds them."""
    largest = int(numbers.max(initial=0))
    kind = next(each for each in _KINDS if largest <= np.iinfo(each).max)
    return numbers.astype(kind)


def _digest(tensors: Mapping[str, NDArray[Any]], text: str) -> str:
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        each = np.ascontiguousarray(tensors[name])
        sha.update(f"{name} {each.dtype} {each.shape}".encode())
        sha.update(each.tobytes())
    return sha.hexdigest()


def _metadata(data: bytes) -> tuple[str, str]:
    """What we wrote beside the tables, and their digest."""
    length = int.from_bytes(data[:8], "little")
    if length > len(data):
        raise ValueError("it is cut off")
    entries = json.loads(data[8 : 8 + length])["__metadata__"]
    return str(entries["lmppl"]), str(entries["sha256"])
