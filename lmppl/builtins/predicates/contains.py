"""`contains(text, words)`: at least one of the words occurs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lmppl.builtins.arguments import IGNORE_CASE, TEXT, WHOLE_WORDS, WORDS
from lmppl.builtins.kinds import Predicate

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from lmppl.automata.regular import Language

# So few words are looked for one by one.
_FEW_WORDS = 16


def holds(text: str, words: tuple[str, ...], ignore_case: bool, whole_words: bool) -> bool:
    """Whether at least one of the words occurs in the text. No words: false.

    Words are substrings. With `ignore_case` letters compare as `re.IGNORECASE` compares them
    (character by character, so "ß" is not "ss"). With `whole_words` an occurrence counts only when
    no `\\w` character stands directly before or after it.
    """
    if not (ignore_case or whole_words):
        return any(word in text for word in words)
    pattern = words_pattern(words, whole_words=whole_words)
    return re.search(pattern, text, re.IGNORECASE if ignore_case else 0) is not None


def automaton(words: tuple[str, ...], ignore_case: bool, whole_words: bool) -> Language:
    from lmppl.automata.regular import texts_with

    return texts_with(words, ignore_case=ignore_case, whole_words=whole_words)


def is_quick(words: tuple[str, ...], ignore_case: bool, whole_words: bool) -> bool:
    return len(words) <= _FEW_WORDS and not (ignore_case or whole_words)


def words_pattern(words: tuple[str, ...], *, whole_words: bool = False) -> str:
    """A regular expression that finds any of the words; one that finds nothing for no words."""
    if not words:
        return r"(?!)"
    alternatives = "|".join(re.escape(word) for word in words)
    return rf"(?<!\w)(?:{alternatives})(?!\w)" if whole_words else f"(?:{alternatives})"


def some_words(random: Random) -> tuple[str, ...]:
    """Up to three short words, which may be empty."""
    return tuple(
        "".join(random.choices("abA ", k=random.randrange(3))) for _ in range(random.randrange(4))
    )


def instances(random: Random, folder: Path) -> dict[str, object]:
    return {
        "words": some_words(random),
        "ignore_case": random.random() < 0.5,
        "whole_words": random.random() < 0.5,
    }


CONTAINS = Predicate(
    name="contains",
    arguments=(TEXT, WORDS, IGNORE_CASE, WHOLE_WORDS),
    doc="True when at least one of the words occurs in the text.",
    example='require contains(text, "dragon")',
    holds=holds,
    automaton=automaton,
    is_quick=is_quick,
    instances=instances,
)
