"""Whether predicates hold of finished texts, many at a time, without backtracking.

`predicates.holds` is what is meant; this is how it is found out: by that itself where it is quick,
and otherwise by one pass of an automaton, over all texts side by side. An automaton that is too
large to be built is made while it runs.
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
from lmppl.automata.nfa import Determiniser, State
from lmppl.automata.predicates import Leaf
from lmppl.automata.regular import Language

Recogniser: TypeAlias = Callable[[Sequence[str]], NDArray[np.bool_]]

# So few texts are read one by one.
_FEW_TEXTS = 4
_MOST_MOVES = 100_000


def recognise(predicate: Leaf, texts: Sequence[str]) -> NDArray[np.bool_]:
    """`[texts]`: of which texts the predicate holds, which must be about the text alone.

    Raises:
        NotRegular: a pattern that no finite automaton decides.
    """
    return _recogniser(predicate)(texts)


@lru_cache(maxsize=256)
def _recogniser(predicate: Leaf) -> Recogniser:
    language = None if predicate.is_quick else predicate.language()
    if language is None:
        return _one_by_one(predicate.definition())
    try:
        dfa = predicate_dfa(predicate)
    except TooManyStates:
        lazy = None if language.nfa is None else _Lazy(language)
        return _one_by_one(predicate.definition() if lazy is None else lazy.accepts)
    return _Table(dfa)


def _one_by_one(accepts: Callable[[str], bool]) -> Recogniser:
    return lambda texts: np.array([accepts(text) for text in texts], dtype=bool)


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

    def __init__(self, language: Language) -> None:
        assert language.nfa is not None
        nfa, start = language.nfa()
        self._accepted = language.nfa_accepts_inside
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
