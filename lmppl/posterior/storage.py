"""A posterior as a directory: `posterior.json` for words, safetensors for numbers, with digests.

`directory` makes sure that the directory holds an old result or a new one, and nothing between.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmppl.errors import Diagnostic, StorageError
from lmppl.files import NotPlain, read_plain
from lmppl.posterior.directory import rewrite
from lmppl.posterior.draws import KINDS, WeightedDraws, fields_read
from lmppl.posterior.estimate import Estimate
from lmppl.posterior.expectation import ExpectationResult
from lmppl.posterior.index import (
    FIRST_FORMAT,
    FORMAT,
    JSON,
    MOST_INDEX,
    digest_of_file,
    is_sealed,
    read_own,
)
from lmppl.posterior.unseen import Unseen

_ARRAYS = "draws.safetensors"
_GUIDE = "guide"
_ATTEMPTS = 5
_WITHOUT_DIGESTS = (
    "this result was saved by an older version, which kept no digests: that its numbers belong"
    " together could not be checked"
)


def save_draws(draws: WeightedDraws, directory: str | os.PathLike[str]) -> None:
    """Writes draws to a directory, in place of the posterior that it may hold.

    At every moment the directory holds the old result or the new one, whole.

    Raises: FileExistsError where the path is a file, or a directory with something else in it.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    arrays: dict[str, NDArray[Any]] = {}
    fields = {
        name: _encode(getattr(draws, name), name, arrays)
        for name, kind in KINDS.items()
        if kind.is_saved
    }

    def write(place: Path) -> Mapping[str, Any]:
        whole = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
        try:
            save_file(whole, place / _ARRAYS)
        except SafetensorError as error:
            # So it calls a full disk, too.
            raise OSError(errno.EIO, str(error), str(place / _ARRAYS)) from error
        # Of a guide that was not loaded yet this copies the files.
        if hasattr(draws.guide, "save_pretrained"):
            draws.guide.save_pretrained(place / _GUIDE)
        return {"fields": fields}

    rewrite(directory, write)


def load_draws(directory: str | os.PathLike[str]) -> WeightedDraws:
    """The draws that `Posterior.save` wrote: equal to the bit, without its functions.

    Raises:
        FileNotFoundError: the directory holds no posterior, or not all of it.
        StorageError: what it holds is damaged or does not belong together (LMP960), or is in a
            format that this version does not know (LMP961). It is a ValueError, too.
    """

    document, arrays = _read(Path(directory))
    source = Path(directory) / JSON
    try:
        fields = fields_read(_decode(document["fields"], arrays))
        if document["format"] == FIRST_FORMAT:
            fields["warnings"] = [*fields["warnings"], _WITHOUT_DIGESTS]
        return WeightedDraws(**fields)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        words = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise _damaged(source, words) from error


def guide_directory(directory: str | os.PathLike[str]) -> Path | None:
    """Where the guide of a saved posterior lies; None where it has none."""
    document = read_own(_index(Path(directory) / JSON))
    name = document["names"].get(_GUIDE) if document["format"] == FORMAT else _GUIDE
    found = None if name is None else Path(directory) / name
    return found if found is not None and found.is_dir() else None


def _read(directory: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The document and the arrays of a saved posterior, which belong together."""
    for attempt in range(_ATTEMPTS):
        if not (directory / JSON).exists():
            raise FileNotFoundError(f"{directory} holds no saved posterior ({JSON} is missing)")
        data = _index(directory / JSON)
        document = _document(directory / JSON, data)
        try:
            return document, _arrays(directory, document)
        except (OSError, StorageError):
            # Another process may have saved a new result between the two files.
            if attempt == _ATTEMPTS - 1 or data == _index(directory / JSON):
                raise
    raise AssertionError


def _index(path: Path) -> bytes:
    """What `posterior.json` holds."""
    try:
        return read_plain(path, MOST_INDEX)
    except NotPlain as error:
        raise _damaged(path, f"it {error.reason}") from error


def _document(source: Path, data: bytes) -> dict[str, Any]:
    try:
        document = read_own(data)
    except ValueError as error:
        raise _damaged(source, str(error)) from error
    if not isinstance(document, dict) or document.get("format") not in (FORMAT, FIRST_FORMAT):
        raise StorageError(
            [
                Diagnostic(
                    "LMP961",
                    "error",
                    f"{source} is not in the format {FORMAT}",
                    help="it was written by another version of lmppl, or by something else",
                )
            ]
        )
    if document["format"] == FIRST_FORMAT:
        if document.keys() != {"format", "fields"}:
            raise _damaged(source, "it is in the first format, with more in it")
    elif not is_sealed(data, document):
        raise _damaged(source, "its digest is another")
    return document


def _arrays(directory: Path, document: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The arrays; every other file that the document names is looked at, too."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    name, data = _ARRAYS, b""
    try:
        if document["format"] == FORMAT:
            name = document["names"][_ARRAYS]
            for path in (*document["names"].values(), *document["files"]):
                if not _is_beneath(path):
                    raise _damaged(directory / JSON, f"it names {path!r}, outside the directory")
            for path, expected in document["files"].items():
                if not (directory / path).is_file():
                    raise FileNotFoundError(f"{directory} is not whole ({path} is missing)")
                if (directory / path).stat().st_size != expected["bytes"]:
                    raise _damaged(directory / path, f"its size is another than in {JSON}")
                if digest_of_file(directory / path) != expected:
                    raise _damaged(directory / path, f"its digest is another than in {JSON}")
            if name not in document["files"]:
                raise _damaged(directory / JSON, f"it does not list {name}")
        if not (directory / name).is_file():
            raise FileNotFoundError(f"{directory} is not whole ({name} is missing)")
        data = (directory / name).read_bytes()
        return dict(load(data))
    except (SafetensorError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(directory / name, str(error)) from error


def _is_beneath(path: str) -> bool:
    """Whether a path of a list, parts joined by "/", leads nowhere but further down."""
    return not any(
        part in ("", ".", "..") or "\\" in part or ":" in part for part in path.split("/")
    )


def _damaged(path: Path, why: str) -> StorageError:
    return StorageError(
        [
            Diagnostic(
                "LMP960",
                "error",
                f"{path} is damaged: {why}",
                help="copy the whole directory again from where it was saved, or run again",
            )
        ]
    )


def _encode(value: Any, path: str, arrays: dict[str, NDArray[Any]]) -> Any:
    """The value as JSON; arrays are put aside under their path, non-finite numbers named."""
    if isinstance(value, np.ndarray):
        name = path
        while name in arrays:
            name += "'"
        arrays[name] = value
        return {"__array__": name}
    if isinstance(value, (Estimate, ExpectationResult, Unseen)):
        return _encode(value.to_dict(), path, arrays)
    if isinstance(value, dict):
        coded = {key: _encode(item, f"{path}/{key}", arrays) for key, item in value.items()}
        # A name of the program may be one of the words that stand for something here.
        return {"__dict__": coded} if len(coded) == 1 and coded.keys() & _DECODERS.keys() else coded
    if isinstance(value, (list, tuple)):
        return [_encode(item, f"{path}/{index}", arrays) for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return {"__float__": repr(value)}
    return value


def _decode(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    if isinstance(value, dict):
        word = next(iter(value)) if len(value) == 1 else None
        if word in _DECODERS:
            return _DECODERS[word](value[word], arrays)
        return _decode_dict(value, arrays)
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    return value


def _decode_dict(value: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    return {key: _decode(item, arrays) for key, item in value.items()}


_DECODERS: dict[str, Callable[[Any, dict[str, NDArray[Any]]], Any]] = {
    "__array__": lambda name, arrays: arrays[name],
    "__float__": lambda text, arrays: float(text),
    "__dict__": _decode_dict,
}
