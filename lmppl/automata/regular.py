"""Regular sets of texts, each with the ways in which its automata are made when they are needed.

What a built-in predicate means to automata is put together from these: `texts_with(words)`,
`texts_like(pattern)`, the complement of one, or a `Language` of a `Dfa` made by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmppl.automata.dfa import Dfa, complement
from lmppl.automata.nfa import Nfa
from lmppl.automata.regex import regex_dfa, regex_nfa, words_dfa, words_nfa
from lmppl.records import dataclass, replace


@dataclass(frozen=True, slots=True)
class Language:
    """A regular set of texts.

    `dfa(budget)` makes its automaton, and raises `TooManyStates` where that needs more states. With
    `nfa`, which has no such limit, finished texts are read all the same; it accepts the texts that
    are inside, or those that are not.
    """

    dfa: Callable[[int], Dfa]
    nfa: Callable[[], tuple[Nfa, int]] | None = None
    nfa_accepts_inside: bool = True

    def complement(self) -> Language:
        """All other texts."""
        return replace(
            self,
            dfa=lambda budget: complement(self.dfa(budget)),
            nfa_accepts_inside=not self.nfa_accepts_inside,
        )


def texts_with(
    words: Sequence[str],
    *,
    ignore_case: bool = False,
    whole_words: bool = False,
    at_start: bool = False,
    at_end: bool = False,
) -> Language:
    """The texts in which one of the words occurs: anywhere, or only at the start or the end.

    With both ends, the texts that are one of the words.
    """
    searched = tuple(words)
    return Language(
        lambda budget: words_dfa(
            searched,
            ignore_case=ignore_case,
            whole_words=whole_words,
            at_start=at_start,
            at_end=at_end,
            budget=budget,
        ),
        lambda: words_nfa(
            searched,
            ignore_case=ignore_case,
            whole_words=whole_words,
            at_start=at_start,
            at_end=at_end,
        ),
    )


def texts_like(pattern: str, *, ignore_case: bool = False) -> Language:
    """The texts that match a regular expression as a whole."""
    return Language(
        lambda budget: regex_dfa(pattern, ignore_case, budget),
        lambda: regex_nfa(pattern, ignore_case),
    )
