"""What a built-in accepts and gives: the static half of every factor, free of tensors.

The checker binds arguments with these, `lmppl info` and the docs print them, and the target asks
them for defaults.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from lmppl.ir.types import Interval, Type

BuiltinKind = Literal[
    "predicate", "risk", "function", "statistic", "source", "distribution", "constant"
]

# What an argument may be. `text` is any string, `generated` must be the text of a site itself,
# `words` is a string or an array of them, `regex` a string known before anything is drawn.
Accepts = Literal[
    "text",
    "generated",
    "string",
    "words",
    "regex",
    "number",
    "int",
    "bool",
    "uncertain",
    "values",
    "numbers",
    "prompt",
    "sources",
    "label",
]

ACCEPTED_IN_WORDS: Mapping[Accepts, str] = {
    "text": "a string",
    "generated": "the text of a site",
    "string": "a string",
    "words": "a string or an array of strings",
    "regex": "a string with a regular expression",
    "number": "a number",
    "int": "an int",
    "bool": "a condition",
    "uncertain": "an uncertain reward",
    "values": "an array of strings or numbers",
    "numbers": "an array of numbers",
    "prompt": "a string or chat(...)",
    "sources": "an array of reward sources",
    "label": "a string or an int",
}

# When the value of an argument must be known: in the file, once parameters are bound, or only
# once the sites before have been drawn.
Known = Literal["file", "bind", "draw"]

Ranges: TypeAlias = Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a built-in.

    `default` is what an argument that is not written stands for, where `required` is false.
    Numbers lie in `range`, without an end that is open. `choices` lists the strings allowed.
    """

    name: str
    accepts: Accepts
    doc: str
    required: bool = True
    default: object = None
    known: Known = "draw"
    range: Interval = field(default_factory=Interval)
    lower_is_open: bool = False
    upper_is_open: bool = False
    choices: tuple[str, ...] = ()
    named_only: bool = False

    def allows(self, value: float) -> bool:
        """Whether a number is in the range."""
        above = value > self.range.lower or (value == self.range.lower and not self.lower_is_open)
        below = value < self.range.upper or (value == self.range.upper and not self.upper_is_open)
        return above and below and math.isfinite(value)

    @property
    def domain(self) -> str:
        """The numbers allowed, in words: `above 0 and at most 1`."""
        parts = []
        if self.range.lower > -math.inf:
            parts.append(f"{'above' if self.lower_is_open else 'at least'} {self.range.lower:g}")
        if self.range.upper < math.inf:
            parts.append(f"{'below' if self.upper_is_open else 'at most'} {self.range.upper:g}")
        return " and ".join(parts) or "finite"

    @property
    def rendered(self) -> str:
        """The argument as documentation shows it."""
        if self.required:
            return self.name
        return f"{self.name}={_literal(self.default)}"


def unbounded(ranges: Ranges) -> Interval:
    """The range of a function that nothing is known of."""
    return Interval()


@dataclass(frozen=True, slots=True)
class Builtin:
    """One built-in name of the language.

    `result` is the type of its value without the range; `result_range` gives the range from the
    ranges of the arguments (those that are numbers or uncertain). `executor` names what computes
    it, as `module:attribute`, where that is a plain function of the argument values; it is loaded
    only when something is run.
    """

    name: str
    kind: BuiltinKind
    arguments: tuple[Argument, ...]
    result: Type
    doc: str
    example: str
    result_range: Callable[[Ranges], Interval] = unbounded
    executor: str | None = None

    def argument(self, name: str) -> Argument | None:
        """The argument of that name, or None."""
        return next((each for each in self.arguments if each.name == name), None)

    def default(self, name: str) -> object:
        """What an optional argument stands for when it is not written."""
        return next(each.default for each in self.arguments if each.name == name)

    @property
    def signature(self) -> str:
        """The call as documentation shows it: `length(text, unit="tokens")`."""
        return f"{self.name}({', '.join(each.rendered for each in self.arguments)})"


def _literal(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{value}"'
        case None:
            return "…"
        case _:
            return str(value)
