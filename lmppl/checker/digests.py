"""The digest of a model: equal for programs that denote the same posterior over the same sites."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from lmppl.errors import Span
from lmppl.ir.expr import Binary, Expr, spine
from lmppl.ir.model import Model
from lmppl.records import names

# No part of what is denoted: where things were written, how to compute, and what is only checked.
_LEFT_OUT = frozenset({"span", "facts", "path", "base_dir", "allow", "digest"})
_PARTS = ("name", "parameters", "sites", "lets", "potentials", "outputs", "rewards", "externs")


def model_digest(model: Model, files: Mapping[str, str]) -> str:
    """SHA-256, in hexadecimal, of the model without its spans, its layout and its `infer` lines.

    `files` holds the digests of the files that the program read, by path.
    """
    sha = hashlib.sha256()
    for part in _PARTS:
        sha.update(f"{part}={_canonical(getattr(model, part))};".encode())
    sha.update(_canonical(files).encode())
    return sha.hexdigest()


def _canonical(value: object) -> str:
    if isinstance(value, Span):
        return ""
    if isinstance(value, Binary):
        # From left to right, and not by recursion: a sum may have thousands of terms.
        first, operators = spine(value)
        opened = (f"Binary(operator={_canonical(each.operator)},left=" for each in operators[::-1])
        closed = (f",right={_canonical(each.right)})" for each in operators)
        return "".join((*opened, _canonical(first), *closed))
    parts = names(value)
    if parts is not None:
        written = [
            f"{name}={_canonical(getattr(value, name))}"
            for name in parts
            if name not in _LEFT_OUT and not _is_derived(value, name)
        ]
        return f"{type(value).__name__}({','.join(written)})"
    if isinstance(value, Mapping):
        items = sorted((str(key), _canonical(item)) for key, item in value.items())
        return "{" + ",".join(f"{key}:{item}" for key, item in items) + "}"
    if isinstance(value, (tuple, list)):
        return "[" + ",".join(_canonical(item) for item in value) + "]"
    return repr(value)


def _is_derived(owner: object, field: str) -> bool:
    """Whether a field follows from the others: the type of an expression, or the user's words.

    Whether a distribution is one of texts follows from its name. A reward's `source` is no text but
    where it comes from.
    """
    if field == "is_text":
        return True
    if field == "type":
        return isinstance(owner, Expr)
    return field == "source" and isinstance(getattr(owner, field), str)
