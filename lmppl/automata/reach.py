"""How far numbers on a text can reach that is made of so many tokens of a known vocabulary."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmppl.automata.alphabet import EMPTY, Charset, difference, union
from lmppl.automata.nfa import Assertion, Nfa
from lmppl.automata.regex import regex_nfa
from lmppl.ir.types import Interval
from lmppl.lm.sizes import TokenSizes

# Kinds of characters that are looked at; any one of them gives a bound.
_MOST_KINDS = 16
# Nodes of a pattern times kinds of characters: far below a second.
_MOST_WORK = 500_000


@dataclass(frozen=True, slots=True)
class Reach:
    """Texts of at most `num_tokens` tokens of a vocabulary, whatever their probability."""

    sizes: TokenSizes
    num_tokens: int

    def length(self, unit: str) -> Interval:
        """The range of `length(text, unit)`."""
        match unit:
            case "tokens":
                return Interval(0.0, self.num_tokens)
            case "characters":
                return Interval(0.0, self.num_tokens * self.sizes.most_characters)
            case "words":
                most = self.sizes.most_pieces(lambda token: len(token.split()))
                return Interval(0.0, self.num_tokens * most)
        return Interval(0.0, math.inf)

    def count(self, pattern: str, ignore_case: bool) -> Interval:
        """The range of the number of matches of a pattern that do not overlap.

        Wherever every match takes at least k characters of a kind, there are no more matches than
        such characters, divided by k. The kinds that are tried are those that the pattern has at
        one place each, and all of them together.
        """
        nfa, start = regex_nfa(pattern, ignore_case)
        reached = _reached(nfa, start)
        if Nfa.ACCEPT not in reached:
            return Interval(0.0, 0.0)
        charsets = list(nfa.sets)
        kinds = sorted({nfa.reads[node] for node in reached if nfa.reads[node] >= 0})
        every = union(*(charsets[kind] for kind in kinds))
        shortest = _fewest(nfa, start, set(kinds))
        most = math.inf
        if shortest == 0:
            # `re` finds an empty match at every place, and one that is not empty behind it.
            most = 2.0 * self.num_tokens * self.sizes.most_characters + 1.0
        else:
            most = self._most(every, shortest)
            tried = kinds[: min(_MOST_KINDS, _MOST_WORK // len(reached))]
            for meant in tried:
                inside = {k for k in tried if difference(charsets[k], charsets[meant]) == EMPTY}
                fewest = _fewest(nfa, start, inside)
                if fewest:
                    most = min(most, self._most(charsets[meant], fewest))
            for end, times in _ENDS.items():
                if end in nfa.used and Nfa.ACCEPT not in _reached(nfa, start, without=end):
                    most = min(most, times)
        return Interval(0.0, most)

    def _most(self, chars: Charset, each: int) -> float:
        """How often a text can have `each` characters of a set."""
        bounds = np.array(chars, dtype=np.int64).reshape(-1, 2)

        def is_meant(points: NDArray[np.int64]) -> NDArray[np.bool_]:
            at = np.searchsorted(bounds[:, 0], points, side="right") - 1
            return np.asarray((at >= 0) & (points <= bounds[at, 1]))

        return float(self.num_tokens * self.sizes.most(is_meant) // each) if chars else 0.0


# How many matches that are not empty can touch an end of the text: before a final newline and
# behind it are both an end to `$`.
_ENDS = {Assertion.TEXT_START: 1.0, Assertion.TEXT_END: 1.0, Assertion.FINAL_END: 2.0}


def _reached(nfa: Nfa, start: int, without: Assertion | None = None) -> set[int]:
    """The nodes that are reached from the start, not by way of an assertion."""
    found, waiting = {start}, [start]
    while waiting:
        for target in nfa.branches[waiting.pop()]:
            if target not in found and (without is None or nfa.assertions[target] is not without):
                found.add(target)
                waiting.append(target)
    if without is not None and nfa.assertions[start] is without:
        return set()
    return found


def _fewest(nfa: Nfa, start: int, meant: set[int]) -> int:
    """The fewest characters of the sets `meant` that a match reads, by number."""
    best = {start: 0}
    waiting = deque([start])
    while waiting:
        node = waiting.popleft()
        if node == Nfa.ACCEPT:
            return best[node]
        costs = nfa.reads[node] >= 0 and nfa.reads[node] in meant
        for target in nfa.branches[node]:
            cost = best[node] + costs
            if cost < best.get(target, math.inf):
                best[target] = cost
                (waiting.append if costs else waiting.appendleft)(target)
    return 0
