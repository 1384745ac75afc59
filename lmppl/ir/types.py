"""Types of the language and the intervals that ranges carry through arithmetic."""

from __future__ import annotations

import math
from typing import Literal

from lmppl.records import dataclass

# `chat` is the prompt that chat(...) makes; `unknown` is what the checker gives to an expression
# that it has already reported, so that one mistake is reported once.
Kind = Literal["string", "int", "real", "bool", "uncertain", "distribution", "chat", "unknown"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A closed interval `[lower, upper]` of the extended reals that a value is known to lie in.

    The arithmetic is outward safe: the result contains every value that the operation can take
    (0 · ∞ counts as 0, because a bound of ∞ stands for "no bound", not for an attained value).
    """

    lower: float = -math.inf
    upper: float = math.inf

    def __add__(self, other: Interval) -> Interval:
        return Interval(self.lower + other.lower, self.upper + other.upper)

    def __neg__(self) -> Interval:
        return Interval(-self.upper, -self.lower)

    def __sub__(self, other: Interval) -> Interval:
        return self + (-other)

    def __mul__(self, other: Interval) -> Interval:
        corners = [
            0.0 if a == 0.0 or b == 0.0 else a * b
            for a in (self.lower, self.upper)
            for b in (other.lower, other.upper)
        ]
        return Interval(min(corners), max(corners))

    def reciprocal(self) -> Interval:
        """The range of 1/x; unbounded on a side where x may come near 0."""
        if self.lower < 0.0 < self.upper or self.lower == self.upper == 0.0:
            return Interval()
        low = -math.inf if self.upper == 0.0 else 1.0 / self.upper
        high = math.inf if self.lower == 0.0 else 1.0 / self.lower
        return Interval(low, high)

    def __truediv__(self, other: Interval) -> Interval:
        return self * other.reciprocal()

    def union(self, other: Interval) -> Interval:
        return Interval(min(self.lower, other.lower), max(self.upper, other.upper))

    def map(self, increasing: object) -> Interval:
        """The range of a non-decreasing function of the value."""
        assert callable(increasing)
        return Interval(increasing(self.lower), increasing(self.upper))

    @property
    def is_bounded_above(self) -> bool:
        return self.upper < math.inf

    def __contains__(self, value: float) -> bool:
        return self.lower <= value <= self.upper

    def __str__(self) -> str:
        """As mathematics writes it; an end that is not there is open: `[2, ∞)`."""
        low = "(−∞" if self.lower == -math.inf else f"[{self.lower:g}"
        high = "∞)" if self.upper == math.inf else f"{self.upper:g}]"
        return f"{low}, {high}"

    def in_words(self) -> str:
        """The range as prose: `at least 0`, `between 0 and 1`."""
        if self.lower > -math.inf and self.upper < math.inf:
            return f"between {self.lower:g} and {self.upper:g}"
        if self.lower > -math.inf:
            return f"at least {self.lower:g}"
        if self.upper < math.inf:
            return f"at most {self.upper:g}"
        return "any number"


UNBOUNDED = Interval()


@dataclass(frozen=True, slots=True)
class Type:
    """A type: a kind, how many array brackets follow it, and the range of its numbers.

    `range` bounds a real, an int, or each value an uncertain reward can take.
    """

    kind: Kind
    dimensions: int = 0
    range: Interval = UNBOUNDED
    min_length: int = 0
    max_length: int | None = None

    @property
    def is_number(self) -> bool:
        return self.kind in ("int", "real") and self.dimensions == 0

    @property
    def is_array(self) -> bool:
        return self.dimensions > 0

    def element(self) -> Type:
        """The type of one element of an array."""
        return Type(self.kind, self.dimensions - 1, self.range, self.min_length, self.max_length)

    def array(self) -> Type:
        """The type of an array of this type."""
        return Type(self.kind, self.dimensions + 1, self.range, self.min_length, self.max_length)

    def __str__(self) -> str:
        bounds = []
        if self.range.lower > -math.inf:
            bounds.append(f"lower={self.range.lower:g}")
        if self.range.upper < math.inf:
            bounds.append(f"upper={self.range.upper:g}")
        if self.min_length:
            bounds.append(f"min_length={self.min_length}")
        inside = f"<{', '.join(bounds)}>" if bounds else ""
        return f"{self.kind}{inside}{'[]' * self.dimensions}"


STRING = Type("string")
INT = Type("int")
REAL = Type("real")
BOOL = Type("bool")
UNCERTAIN = Type("uncertain")
CHAT = Type("chat")
UNKNOWN = Type("unknown")
