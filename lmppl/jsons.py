"""JSON that says one thing: no key twice, no half characters."""

from __future__ import annotations

import json
import math
import re
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")
# Whoever goes through a value does so by recursion.
_DEEPEST = 100
_ESCAPED = re.compile(r"[\ud800-\udfff]|\\u[dD][89a-fA-F]")


class NotJson(ValueError):
    """A text that is not JSON, or not only one thing; the message ends "it is not JSON: …"."""


def read_json(text: str, *, finite: bool = False, half_characters: bool = False) -> Any:
    """The value of a JSON text. Numbers may be infinite or NaN where the reader knows their place.

    Raises:
        NotJson: it is none, is nested too deeply, an object has a key twice, a string has half a
            character where `half_characters` are not allowed, or a number is not `finite` where it
            has to be.
    """
    try:
        if finite:
            value = json.loads(
                text, object_pairs_hook=_object, parse_float=_real, parse_constant=_no_number
            )
        else:
            value = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise NotJson(f"{error.msg} at line {error.lineno}, column {error.colno}") from error
    except RecursionError:
        raise NotJson("it is nested too deeply") from None
    except NotJson:
        raise
    except ValueError as error:
        # Python refuses numbers of thousands of digits.
        raise NotJson(str(error)) from error
    if _is_deep(value):
        raise NotJson(f"it is nested too deeply: {_DEEPEST} levels are the most")
    # Only an escape can make half a character of a text that has none.
    if not half_characters and _ESCAPED.search(text) and (half := _half_within(value)):
        raise NotJson(f"a string has half a character, the lone surrogate {half}")
    return value


def half_character(text: str) -> str | None:
    """The first lone surrogate of a text, as U+D800; None where it has none."""
    found = _SURROGATE.search(text)
    return None if found is None else f"U+{ord(found[0]):04X}"


def _real(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise NotJson(f"{digits} is larger than a number can be")
    return value


def _no_number(name: str) -> None:
    raise NotJson(f"{name} is no number of JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise NotJson(f"an object has the key {key!r} twice")
        found[key] = value
    return found


def _is_deep(value: Any) -> bool:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(_DEEPEST):
        if not level:
            return False
        level = [
            each
            for outer in level
            for each in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(each, (dict, list))
        ]
    return bool(level)


def _half_within(value: Any) -> str | None:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str) and (half := half_character(each)):
            return half
        if isinstance(each, dict):
            waiting += (*each, *each.values())
        elif isinstance(each, list):
            waiting += each
    return None
