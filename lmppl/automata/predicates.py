"""What can be required of the text of one LM site, and what it means.

A predicate is a small immutable tree.  `holds` is its definition: plain Python on the finished
text.  The automata built from predicates are accelerators and must agree with `holds` exactly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Literal

from lmppl.records import dataclass

Unit = Literal["characters", "words", "tokens"]
Comparison = Literal["<=", "<", ">=", ">", "==", "!="]

UNITS: tuple[Unit, ...] = ("characters", "words", "tokens")
COMPARISONS: dict[Comparison, Callable[[float, float], bool]] = {
    "<=": lambda a, b: a <= b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
    ">": lambda a, b: a > b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


@dataclass(frozen=True, slots=True)
class Matches:
    """The whole text matches the regular expression, as by `re.fullmatch`."""

    pattern: str
    ignore_case: bool = False


@dataclass(frozen=True, slots=True)
class Contains:
    """At least one of the words occurs in the text.

    Words are substrings.  With `ignore_case` letters compare as `re.IGNORECASE` compares them
    (character by character, so "ß" is not "ss").  With `whole_words` an occurrence counts only
    when no `\\w` character stands directly before or after it.  No words: false.
    """

    words: tuple[str, ...]
    ignore_case: bool = False
    whole_words: bool = False

    def __post_init__(self) -> None:
        _require_words(self.words)


@dataclass(frozen=True, slots=True)
class Never:
    """None of the words occurs in the text: the negation of `Contains`."""

    words: tuple[str, ...]
    ignore_case: bool = False
    whole_words: bool = False

    def __post_init__(self) -> None:
        _require_words(self.words)


@dataclass(frozen=True, slots=True)
class StartsWith:
    """The text begins with at least one of the words."""

    words: tuple[str, ...]
    ignore_case: bool = False

    def __post_init__(self) -> None:
        _require_words(self.words)


@dataclass(frozen=True, slots=True)
class EndsWith:
    """The text ends with at least one of the words."""

    words: tuple[str, ...]
    ignore_case: bool = False

    def __post_init__(self) -> None:
        _require_words(self.words)


@dataclass(frozen=True, slots=True)
class OneOf:
    """The whole text is one of the words, letter by letter.  No words: false."""

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        _require_words(self.words)


@dataclass(frozen=True, slots=True)
class Count:
    """The number of matches of a pattern, `len(re.findall(pattern, text))`, compares to `bound`."""

    pattern: str
    op: Comparison
    bound: float
    ignore_case: bool = False

    def admits(self, count: int) -> bool:
        """Whether a text with `count` matches passes."""
        return COMPARISONS[self.op](count, self.bound)


@dataclass(frozen=True, slots=True)
class Length:
    """The text's length in `unit` compares to `bound`.

    Words are `text.split()`: maximal runs of characters that are not white space.  Tokens are the
    tokens generated, without end-of-text tokens; those that complete a stop string count.
    """

    unit: Unit
    op: Comparison
    bound: float

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"unit must be one of {', '.join(UNITS)}, not {self.unit!r}")
        if self.op not in COMPARISONS:
            raise ValueError(f"op must be one of {', '.join(COMPARISONS)}, not {self.op!r}")

    def admits(self, count: int) -> bool:
        """Whether a text of `count` units passes."""
        return COMPARISONS[self.op](count, self.bound)


@dataclass(frozen=True, slots=True)
class Finished:
    """The text ended by an end-of-text token or a stop string, not by reaching `max_tokens`."""


@dataclass(frozen=True, slots=True)
class And:
    """All parts hold; true without parts."""

    parts: tuple[Predicate, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Some part holds; false without parts."""

    parts: tuple[Predicate, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: Predicate


@dataclass(frozen=True, slots=True)
class True_:
    """Holds of every text."""


@dataclass(frozen=True, slots=True)
class False_:
    """Holds of no text."""


Predicate = (
    Matches
    | Contains
    | Never
    | StartsWith
    | EndsWith
    | OneOf
    | Count
    | Length
    | Finished
    | And
    | Or
    | Not
    | True_
    | False_
)


def holds(
    predicate: Predicate,
    text: str,
    *,
    num_tokens: int | None = None,
    finished: bool | None = None,
) -> bool:
    """Whether the predicate holds of a finished text: the definition of every predicate.

    `num_tokens` is the number of generated tokens without end-of-text tokens and is needed by
    `Length(unit="tokens")`; `finished` is needed by `Finished`.

    Raises:
        ValueError: the predicate asks for `num_tokens` or `finished` and it was not given.
        re.error: a pattern is not a regular expression.

    >>> holds(Never(("damn",), ignore_case=True), "Damn it")
    False
    >>> holds(Length("words", "<=", 3), "one two  three")
    True
    """
    match predicate:
        case Matches(pattern, ignore_case):
            return _compiled(pattern, ignore_case).fullmatch(text) is not None
        case Contains(words, ignore_case, whole_words):
            pattern = words_pattern(words, whole_words=whole_words)
            return _compiled(pattern, ignore_case).search(text) is not None
        case Never(words, ignore_case, whole_words):
            pattern = words_pattern(words, whole_words=whole_words)
            return _compiled(pattern, ignore_case).search(text) is None
        case StartsWith(words, ignore_case):
            return _compiled(words_pattern(words), ignore_case).match(text) is not None
        case EndsWith(words, ignore_case):
            pattern = words_pattern(words) + r"\Z"
            return _compiled(pattern, ignore_case).search(text) is not None
        case OneOf(words):
            return text in words
        case Count(pattern, _, _, ignore_case):
            return predicate.admits(len(_compiled(pattern, ignore_case).findall(text)))
        case Length(unit):
            if unit == "characters":
                return predicate.admits(len(text))
            if unit == "words":
                return predicate.admits(len(text.split()))
            if num_tokens is None:
                raise ValueError("length in tokens needs the number of tokens")
            return predicate.admits(num_tokens)
        case Finished():
            if finished is None:
                raise ValueError("finished() needs to know how the text ended")
            return finished
        case And(parts):
            return all(holds(p, text, num_tokens=num_tokens, finished=finished) for p in parts)
        case Or(parts):
            return any(holds(p, text, num_tokens=num_tokens, finished=finished) for p in parts)
        case Not(part):
            return not holds(part, text, num_tokens=num_tokens, finished=finished)
        case True_():
            return True
        case False_():
            return False


def words_pattern(words: tuple[str, ...], *, whole_words: bool = False) -> str:
    """A regular expression that finds any of the words; one that finds nothing for no words."""
    if not words:
        return r"(?!)"
    alternatives = "|".join(re.escape(word) for word in words)
    return rf"(?<!\w)(?:{alternatives})(?!\w)" if whole_words else f"(?:{alternatives})"


def cut_at_stop(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """The text before the first stop string to be completed, and whether there was one.

    Reading from the left, the text ends at the first character that completes a stop string;
    where several are completed by the same character the longest is cut off.

    >>> cut_at_stop("one. two. three", (". ",))
    ('one', True)
    """
    ends = [(start + len(stop), start) for stop in stops if (start := text.find(stop)) >= 0]
    if not ends:
        return text, False
    return text[: min(ends)[1]], True


def leaves(predicate: Predicate) -> Iterator[Predicate]:
    """The predicates of the tree that are not `And`, `Or` or `Not`, from left to right."""
    match predicate:
        case And(parts) | Or(parts):
            for part in parts:
                yield from leaves(part)
        case Not(part):
            yield from leaves(part)
        case _:
            yield predicate


def reads_only_text(predicate: Predicate) -> bool:
    """Whether the text alone decides the predicate: no `finished`, no length in tokens."""
    return not any(
        isinstance(leaf, Finished) or (isinstance(leaf, Length) and leaf.unit == "tokens")
        for leaf in leaves(predicate)
    )


@lru_cache(maxsize=512)
def _compiled(pattern: str, ignore_case: bool) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE if ignore_case else 0)


def _require_words(words: tuple[str, ...]) -> None:
    if isinstance(words, str) or not all(isinstance(word, str) for word in words):
        raise TypeError(f"words must be a tuple of strings, not {words!r}")
