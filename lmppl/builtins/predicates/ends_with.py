"""`ends_with(text, words)`: the text ends with at least one of the words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lmppl.builtins.arguments import IGNORE_CASE, TEXT, WORDS
from lmppl.builtins.kinds import Predicate
from lmppl.builtins.predicates import starts_with
from lmppl.builtins.predicates.contains import words_pattern

if TYPE_CHECKING:
    from lmppl.automata.regular import Language


def holds(text: str, words: tuple[str, ...], ignore_case: bool) -> bool:
    """Whether the text ends with at least one of the words. No words: false."""
    if not ignore_case:
        return text.endswith(words)
    return re.search(words_pattern(words) + r"\Z", text, re.IGNORECASE) is not None


def automaton(words: tuple[str, ...], ignore_case: bool) -> Language:
    from lmppl.automata.regular import texts_with

    return texts_with(words, ignore_case=ignore_case, at_end=True)


ENDS_WITH = Predicate(
    name="ends_with",
    arguments=(TEXT, WORDS, IGNORE_CASE),
    doc="True when the text ends with at least one of the words.",
    example='require ends_with(text, [".", "!", "?"])',
    holds=holds,
    automaton=automaton,
    is_quick=starts_with.is_quick,
    instances=starts_with.instances,
)
