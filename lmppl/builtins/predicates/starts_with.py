"""`starts_with(text, words)`: the text begins with at least one of the words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lmppl.builtins.arguments import IGNORE_CASE, TEXT, WORDS
from lmppl.builtins.kinds import Predicate
from lmppl.builtins.predicates.contains import some_words, words_pattern

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from lmppl.automata.regular import Language


def holds(text: str, words: tuple[str, ...], ignore_case: bool) -> bool:
    """Whether the text begins with at least one of the words. No words: false."""
    if not ignore_case:
        return text.startswith(words)
    return re.match(words_pattern(words), text, re.IGNORECASE) is not None


def automaton(words: tuple[str, ...], ignore_case: bool) -> Language:
    from lmppl.automata.regular import texts_with

    return texts_with(words, ignore_case=ignore_case, at_start=True)


def is_quick(words: tuple[str, ...], ignore_case: bool) -> bool:
    return not ignore_case


def instances(random: Random, folder: Path) -> dict[str, object]:
    return {"words": some_words(random), "ignore_case": random.random() < 0.5}


STARTS_WITH = Predicate(
    name="starts_with",
    arguments=(TEXT, WORDS, IGNORE_CASE),
    doc="True when the text begins with at least one of the words.",
    example='require starts_with(text, " The")',
    holds=holds,
    automaton=automaton,
    is_quick=is_quick,
    instances=instances,
)
