"""Types as they are written, types of values, and which type may stand where."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lmppl.ir.types import BOOL, CHAT, STRING, UNKNOWN, Interval, Kind, Type

KINDS: tuple[Kind, ...] = ("string", "int", "real", "bool", "uncertain")
# What people write who come from another language.
FOREIGN_NAMES: Mapping[str, Kind] = {
    "str": "string",
    "text": "string",
    "float": "real",
    "double": "real",
    "number": "real",
    "integer": "int",
    "boolean": "bool",
}
BOUNDS_OF: Mapping[Kind, tuple[str, ...]] = {
    "int": ("lower", "upper"),
    "real": ("lower", "upper"),
    "uncertain": ("lower", "upper"),
    "string": ("min_length", "max_length"),
    "bool": (),
}

_IN_WORDS: Mapping[Kind, tuple[str, str]] = {
    "string": ("a string", "strings"),
    "int": ("an int", "ints"),
    "real": ("a real number", "real numbers"),
    "bool": ("a condition", "conditions"),
    "uncertain": ("an uncertain reward", "uncertain rewards"),
    "distribution": ("a distribution", "distributions"),
    CHAT.kind: ("a chat prompt", "chat prompts"),
    "unknown": ("a value", "values"),
}


def in_words(type: Type) -> str:
    """The type as prose: `a string`, `an array of ints`."""
    one, many = _IN_WORDS[type.kind]
    match type.dimensions:
        case 0:
            return one
        case 1:
            return f"an array of {many}"
        case _:
            return f"an array of arrays of {many}"


def type_of_value(value: object) -> Type | None:
    """The narrowest type of a Python value; None where the language has none for it."""
    match value:
        case bool():
            return BOOL
        case int():
            return Type("int", range=Interval(float(value), float(value)))
        case float() if not math.isnan(value):
            return Type("real", range=Interval(value, value))
        case str():
            return STRING
        case list() | tuple():
            element = UNKNOWN
            for each in value:
                found = type_of_value(each)
                joined = None if found is None else join(element, found)
                if joined is None:
                    return None
                element = joined
            return element.array()
        case _:
            return None


def join(a: Type, b: Type) -> Type | None:
    """The narrowest type that holds the values of both, or None."""
    if a.kind == "unknown" and a.dimensions <= b.dimensions:
        return b
    if b.kind == "unknown" and b.dimensions <= a.dimensions:
        return a
    if a.dimensions != b.dimensions:
        return None
    range = a.range.union(b.range)
    if a.kind == b.kind:
        return Type(a.kind, a.dimensions, range)
    if {a.kind, b.kind} == {"int", "real"}:
        return Type("real", a.dimensions, range)
    return None


def fits(found: Type, wanted: Type) -> bool:
    """Whether a value of the one type may stand for the other, ranges aside; int fits real."""
    if found.kind == "unknown" and found.dimensions <= wanted.dimensions:
        return True
    if wanted.kind == "unknown" or found.dimensions != wanted.dimensions:
        return wanted.kind == "unknown"
    return found.kind == wanted.kind or (found.kind == "int" and wanted.kind == "real")


def is_inside(found: Interval, wanted: Interval) -> bool:
    """Whether every value of the one range lies in the other."""
    return wanted.lower <= found.lower and found.upper <= wanted.upper


def literal(value: object) -> str:
    """A value as the language writes it."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            return f'"{escaped}"'
        case list() | tuple():
            return f"[{', '.join(literal(each) for each in value)}]"
        case float():
            return f"{value:g}"
        case _:
            return str(value)
