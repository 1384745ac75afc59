"""`never(text, words)`: none of the words occurs, the negation of `contains`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmppl.builtins.arguments import IGNORE_CASE, TEXT, WHOLE_WORDS, WORDS
from lmppl.builtins.kinds import Predicate
from lmppl.builtins.predicates import contains

if TYPE_CHECKING:
    from lmppl.automata.regular import Language


def holds(text: str, words: tuple[str, ...], ignore_case: bool, whole_words: bool) -> bool:
    """Whether none of the words occurs in the text. No words: true."""
    return not contains.holds(text, words, ignore_case, whole_words)


def automaton(words: tuple[str, ...], ignore_case: bool, whole_words: bool) -> Language:
    return contains.automaton(words, ignore_case, whole_words).complement()


NEVER = Predicate(
    name="never",
    arguments=(TEXT, WORDS, IGNORE_CASE, WHOLE_WORDS),
    doc="True when none of the words occurs in the text.",
    example='require clean: never(text, ["damn", "hell"], ignore_case=true)',
    holds=holds,
    automaton=automaton,
    is_quick=contains.is_quick,
    instances=contains.instances,
)
