"""Whether predicates hold of finished texts, many at a time, without backtracking.

`predicates.holds` is what is meant; this is how it is found out: plain string functions for a few
plain words, and otherwise one pass of an automaton, over all texts side by side. An automaton that
is too large to be built is made while it runs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lmppl.automata.dfa import Dfa, TooManyStates
from lmppl.automata.language import predicate_dfa
from lmppl.automata.nfa import Determiniser, Nfa, State
from lmppl.automata.predicates import (
    Contains,
    EndsWith,
    Matches,
    Never,
    Predicate,
    StartsWith,
)
from lmppl.automata.regex import regex_nfa, words_nfa

Recogniser: TypeAlias = Callable[[Sequence[str]], NDArray[np.bool_]]

# So few words are looked for one by one.
_FEW_WORDS = 16
# So few texts are read one by one.
_FEW_TEXTS = 4
_MOST_MOVES = 100_000


def recognise(predicate: Predicate, texts: Sequence[str]) -> NDArray[np.bool_]:
    """`[texts]`: of which texts the predicate holds, which must be about the text alone.

    Raises:
        NotRegular: a pattern that no finite automaton decides.
    """
    return _recogniser(predicate)(texts)


@lru_cache(maxsize=256)
def _recogniser(predicate: Predicate) -> Recogniser:
    plain = _plain(predicate)
    if plain is not None:
        return _one_by_one(plain)
    try:
        dfa = predicate_dfa(predicate)
    except TooManyStates:
        return _one_by_one(_Lazy(predicate).accepts)
    return _Table(dfa)


def _one_by_one(accepts: Callable[[str], bool]) -> Recogniser:
    return lambda texts: np.array([accepts(text) for text in texts], dtype=bool)


def _plain(predicate: Predicate) -> Callable[[str], bool] | None:
    """A function of strings where there is one that is as good."""
    match predicate:
        case Contains(words, False, False) if len(words) <= _FEW_WORDS:
            return lambda text: any(word in text for word in words)
        case Never(words, False, False) if len(words) <= _FEW_WORDS:
            return lambda text: not any(word in text for word in words)
        case StartsWith(words, False):
            return lambda text: text.startswith(words)
        case EndsWith(words, False):
            return lambda text: text.endswith(words)
    return None


class _Table:
    """A deterministic automaton that reads many texts side by side."""

    def __init__(self, dfa: Dfa) -> None:
        self._dfa = dfa
        self._starts = np.array(dfa.alphabet.starts, dtype=np.uint32)
        self._classes = np.array(dfa.alphabet.classes, dtype=np.int64)
        # One more class, for the room behind a text that is shorter than the longest.
        num_states = dfa.num_states
        self._step = np.empty((num_states, dfa.alphabet.num_classes + 1), dtype=np.int64)
        self._step[:, :-1] = dfa.rows
        self._step[:, -1] = np.arange(num_states)
        self._accepts = np.array(dfa.outputs) != 0

    def __call__(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        if len(texts) <= _FEW_TEXTS:
            return np.array([self._dfa.accepts(text) for text in texts], dtype=bool)
        lengths = np.array([len(text) for text in texts])
        joined = "".join(texts).encode("utf-32-le", "surrogatepass")
        codes = np.frombuffer(joined, dtype="<u4")
        classes = self._classes[np.searchsorted(self._starts, codes, side="right") - 1]
        grid = np.full((len(texts), int(lengths.max())), self._step.shape[1] - 1)
        grid[np.arange(grid.shape[1]) < lengths[:, None]] = classes
        states = np.zeros(len(texts), dtype=np.int64)
        for column in np.ascontiguousarray(grid.T):
            states = self._step[states, column]
        found: NDArray[np.bool_] = self._accepts[states]
        return found


class _Lazy:
    """An automaton whose states are made as texts reach them."""

    def __init__(self, predicate: Predicate) -> None:
        nfa, start, self._accepted = _nfa(predicate)
        self._machine = Determiniser(nfa)
        self._first = self._machine.first(start)
        self._moves: dict[tuple[State, int], State] = {}

    def accepts(self, text: str) -> bool:
        machine, state = self._machine, self._first
        alphabet = machine.alphabet
        for char in text:
            cls = alphabet.classes[bisect_right(alphabet.starts, ord(char)) - 1]
            following = self._moves.get((state, cls))
            if following is None:
                if len(self._moves) >= _MOST_MOVES:
                    self._moves.clear()
                following = self._moves[state, cls] = machine.after(state, cls)
            state = following
        return machine.accepts(state) == self._accepted


def _nfa(predicate: Predicate) -> tuple[Nfa, int, bool]:
    """The automaton of a predicate, where it starts, and whether what it accepts is what holds."""
    match predicate:
        case Matches(pattern, ignore_case):
            return *regex_nfa(pattern, ignore_case), True
        case Contains(words, ignore_case, whole_words):
            return *words_nfa(words, ignore_case=ignore_case, whole_words=whole_words), True
        case Never(words, ignore_case, whole_words):
            return *words_nfa(words, ignore_case=ignore_case, whole_words=whole_words), False
        case StartsWith(words, ignore_case):
            return *words_nfa(words, ignore_case=ignore_case, at_start=True), True
        case EndsWith(words, ignore_case):
            return *words_nfa(words, ignore_case=ignore_case, at_end=True), True
        case _:
            raise ValueError(f"{predicate} is no predicate of words or of a pattern")
