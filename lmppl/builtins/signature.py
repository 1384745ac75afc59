"""What a built-in accepts and gives, free of tensors: the part that all kinds have in common.

The checker binds arguments with these, `lmppl info` and the docs print them, and whoever runs a
built-in asks them for defaults.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import ClassVar, Literal, TypeAlias

from lmppl.ir.types import UNBOUNDED, Interval, Type
from lmppl.records import brief, dataclass

BuiltinKind = Literal[
    "predicate", "risk", "function", "statistic", "source", "distribution", "constant"
]

# What an argument may be. `text` is any string, `generated` must be the text of a site itself,
# `site` the value of any site itself,
# `words` is a string or an array of them, `regex` a string known before anything is drawn, `path`
# one that names a file beside the program, `model` one that names a language model or classifier.
Accepts = Literal[
    "text",
    "generated",
    "site",
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
    "path",
    "model",
]

ACCEPTED_IN_WORDS: Mapping[Accepts, str] = {
    "text": "a string",
    "generated": "the text of a site",
    "site": "a choice",
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
    "path": "a string",
    "model": "a string",
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

    __repr__ = brief

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


@dataclass(frozen=True, slots=True, eq=False, repr=False, kw_only=True)
class Builtin:
    """One built-in name of the language; `kinds` has what each kind of them is made of besides.

    `result` is the type of its value without the range. There is one object for each
    built-in, and nothing else says what it means: whoever wants to know asks for a trait.
    """

    kind: ClassVar[BuiltinKind]

    name: str
    arguments: tuple[Argument, ...]
    result: Type
    doc: str
    example: str

    def range(self, ranges: Ranges) -> Interval:
        """Where a number that it gives lies, from the ranges of the arguments.

        Those are there that are numbers or uncertain.
        """
        return UNBOUNDED

    def argument(self, name: str) -> Argument | None:
        """The argument of that name, or None."""
        return next((each for each in self.arguments if each.name == name), None)

    def accepting(self, *accepts: Accepts) -> Iterator[Argument]:
        """The arguments that take one of these."""
        return (each for each in self.arguments if each.accepts in accepts)

    def default(self, name: str) -> object:
        """What an optional argument stands for when it is not written."""
        return next(each.default for each in self.arguments if each.name == name)

    def complete(self, given: Mapping[str, object]) -> dict[str, object]:
        """The values of all arguments that are no text, defaults for those not given.

        Strings that are looked for are a tuple, also where there is one.
        """
        values: dict[str, object] = {}
        for argument in self.arguments:
            if argument.accepts in ("text", "generated"):
                continue
            value = given.get(argument.name)
            value = argument.default if value is None else value
            if argument.accepts == "words":
                value = as_words(value)
            values[argument.name] = value
        return values

    @property
    def signature(self) -> str:
        """The call as documentation shows it: `length(text, unit="tokens")`."""
        return f"{self.name}({', '.join(each.rendered for each in self.arguments)})"

    def __repr__(self) -> str:
        return f"<{self.kind} {self.signature}>"


def as_words(value: object) -> tuple[str, ...]:
    """One string, or several, as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value)  # type: ignore[arg-type]


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
