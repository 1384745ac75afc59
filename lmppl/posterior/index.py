"""`posterior.json`: the file that names the others of a saved posterior, and vouches for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmppl.files import Unreadable, read_plain
from lmppl.jsons import read_json

JSON = "posterior.json"
FORMAT = "lmppl-posterior/2"
FIRST_FORMAT = "lmppl-posterior/1"
# Bytes of a `posterior.json`, which holds the words of all draws.
MOST_INDEX = 1 << 31
_NO_DIGEST = "0" * 64

# The size and the SHA-256 of a file, by its path in the directory, parts joined by "/".
Listed = dict[str, dict[str, Any]]


def sealed(document: Mapping[str, Any]) -> bytes:
    """`posterior.json` of a document: it holds the digest of all its own bytes."""
    text = json.dumps(
        {"format": FORMAT, "digest": _NO_DIGEST, **document}, allow_nan=False, indent=1
    )
    data = (text + "\n").encode("ascii")
    # The first 64 zeros are those of the digest: nothing of the document comes before it.
    return data.replace(_NO_DIGEST.encode(), _seal(data).encode(), 1)


def read_own(data: bytes) -> Any:
    """The value of a `posterior.json`. A draw may have half a character in it, from a parameter.

    Raises:
        ValueError: it is none that was written here.
    """
    return read_json(data.decode("ascii"), finite=True, half_characters=True)


def is_sealed(data: bytes, document: Mapping[str, Any]) -> bool:
    """Whether the digest in a `posterior.json` is that of its bytes."""
    digest = document.get("digest")
    if not isinstance(digest, str) or len(digest) != 64 or not digest.isascii():
        return False
    return _seal(data.replace(digest.encode(), _NO_DIGEST.encode(), 1)) == digest


def _seal(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest_of_file(path: Path) -> dict[str, Any]:
    """The size of a file and its SHA-256."""
    sha, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
            size += len(block)
    return {"bytes": size, "sha256": sha.hexdigest()}


def read_list(path: Path) -> tuple[str, Listed] | None:
    """The format of a `posterior.json` of ours and the files it accounts for; None: not ours."""
    try:
        data = read_plain(path, MOST_INDEX)
        document = read_own(data)
        if document["format"] == FIRST_FORMAT and isinstance(document["fields"], dict):
            return FIRST_FORMAT, {}
        if document["format"] != FORMAT or not is_sealed(data, document):
            return None
        files, replaced = document["files"], document["replaces"]
        return FORMAT, {**replaced, **files}
    except (OSError, ValueError, KeyError, TypeError, Unreadable):
        return None
