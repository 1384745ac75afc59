"""JSON that says one thing: no key twice, no half characters, nothing that only Python reads."""

from __future__ import annotations

import json
import re
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")


class NotJson(ValueError):
    """A text that is not JSON, or not only one thing; the message ends "it is not JSON: …"."""


def read_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        NotJson: it is none, an object has a key twice, or a string has half a character.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise NotJson(f"{error.msg} at line {error.lineno}, column {error.colno}") from error
    except RecursionError:
        raise NotJson("it is nested too deeply") from None
    except NotJson:
        raise
    except ValueError as error:
        # Python refuses numbers of thousands of digits.
        raise NotJson(str(error)) from error


def half_character(text: str) -> str | None:
    """The first lone surrogate of a text, as U+D800; None where it has none."""
    found = _SURROGATE.search(text)
    return None if found is None else f"U+{ord(found[0]):04X}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise NotJson(f"an object has the key {key!r} twice")
        found[key] = value
    return found
