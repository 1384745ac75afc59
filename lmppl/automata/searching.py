"""Matches as `re` finds them, counted in time proportional to the text.

`re` tries the ways in which a pattern can match one after the other and takes the first that works,
which may take time exponential in the text. Here all ways are followed at once, in the order in
which `re` would try them (see `counting`, of which this is the form without a bound on the counts,
made while it runs): a list of threads in order of priority, each with the matches behind it. Which
threads follow which is remembered, so that a step is mostly a look-up.
"""

from __future__ import annotations

import re
import re._constants as sre
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from lmppl.automata.nfa import Assertion, Determiniser, Nfa, Side
from lmppl.automata.regex import parsed, regex_nfa

# Moves that are remembered; beyond, all are forgotten, and memory stays bounded.
_MOST_MOVES = 100_000
# `re` itself is used where no start of a match has more ways than this to go wrong.
_MOST_WAYS = 32

_OUTSIDE = Side(outside=True)
# The thread that looks for the next match; after it has tried the pattern where it is.
_SEARCH, _SKIP = -1, -2
# A match that began before this position; here; here, right after an empty one, so that it must not
# be empty itself.
_OLD, _NEW, _MUST_ADVANCE = 0, 1, 2

# A node, from which of the threads it comes, and how many matches ended on the way.
_Step = tuple[int, int, int]


class Counter:
    """Counts the matches that `re.findall` finds: from left to right, without overlap."""

    def __init__(self, pattern: str, ignore_case: bool = False) -> None:
        """Raises: NotRegular where no finite automaton follows the pattern; TooManyStates."""
        self._nfa, self._start = regex_nfa(pattern, ignore_case)
        self._quick: re.Pattern[str] | None = None
        if _is_quick(parsed(pattern, ignore_case)):
            self._quick = re.compile(pattern, re.IGNORECASE if ignore_case else 0)
            return
        self._machine = Determiniser(self._nfa)
        self._reads = [frozenset(classes) for classes in self._machine.members]
        self._classes: dict[str, int] = {}
        self._moves: dict[tuple[Any, ...], tuple[_Step, ...]] = {}

    def count(self, text: str) -> int:
        """How many matches there are in the text."""
        if self._quick is not None:
            return len(self._quick.findall(text))
        classes = [self._class_of(char) for char in text]
        threads: tuple[int, ...] = (_SEARCH,)
        counts = [0]
        before, last = -1, len(classes) - 1
        for position, cls in enumerate(classes):
            moves = self._moved((threads, before, cls, position == last))
            threads = tuple(node for node, _, _ in moves)
            counts = [counts[source] + ended for _, source, ended in moves]
            before = cls
        ((_, source, ended),) = self._moved((threads, before, -1, False))
        return counts[source] + ended

    def _class_of(self, char: str) -> int:
        cls = self._classes.get(char)
        if cls is None:
            alphabet = self._machine.alphabet
            cls = alphabet.classes[bisect_right(alphabet.starts, ord(char)) - 1]
            self._classes[char] = cls
        return cls

    def _moved(self, key: tuple[tuple[int, ...], int, int, bool]) -> tuple[_Step, ...]:
        found = self._moves.get(key)
        if found is None:
            if len(self._moves) >= _MOST_MOVES:
                self._moves.clear()
            found = self._moves[key] = self._move(*key)
        return found

    def _move(
        self, threads: tuple[int, ...], before: int, after: int, is_last: bool
    ) -> tuple[_Step, ...]:
        """The threads after one more character, in order; at the end of the text, the one that won.

        `before` and `after` are classes of characters, −1 outside the text; `is_last` says whether
        `after` is the last character.
        """
        nfa = self._nfa
        sides = (
            _OUTSIDE if before < 0 else self._machine.sides[before],
            _OUTSIDE if after < 0 else self._machine.sides[after],
        )
        moved: dict[int, tuple[int, int]] = {}
        seen: set[tuple[int, int, frozenset[int]]] = set()
        nothing = frozenset[int]()
        # What is tried next is last. Node, kind of match, loops whose body was begun right here.
        stack = [
            (node, _OLD, nothing, source, 0) for source, node in reversed(list(enumerate(threads)))
        ]
        while stack:
            node, kind, begun, source, ended = stack.pop()
            if node == _SKIP:
                # Searching never fails, so that whatever comes behind it is not needed.
                if after < 0:
                    return ((_SEARCH, source, ended),)
                moved.setdefault(_SEARCH, (source, ended))
                break
            if node in (_SEARCH, Nfa.ACCEPT):
                if node == Nfa.ACCEPT and kind == _MUST_ADVANCE:
                    continue
                ended += node == Nfa.ACCEPT
                again = _MUST_ADVANCE if node == Nfa.ACCEPT and kind == _NEW else _NEW
                stack += (
                    (_SKIP, again, nothing, source, ended),
                    (self._start, again, nothing, source, ended),
                )
                continue
            if (node, kind, begun) in seen:
                continue
            seen.add((node, kind, begun))
            targets = nfa.branches[node]
            if nfa.reads[node] >= 0:
                if after in self._reads[nfa.reads[node]]:
                    moved.setdefault(targets[0], (source, ended))
                continue
            if not self._passes(nfa.assertions[node], *sides, is_last):
                continue
            leaves, number = nfa.loops.get(node, (-1, -1))
            for target in reversed(targets):
                if number < 0:
                    inside = begun
                elif target == leaves:
                    inside = begun - {number}
                elif number in begun:
                    # A body that has read nothing is not repeated.
                    continue
                else:
                    inside = begun | {number}
                stack.append((target, kind, inside, source, ended))
        return tuple((node, source, ended) for node, (source, ended) in moved.items())

    def _passes(self, kind: Assertion | None, before: Side, after: Side, is_last: bool) -> bool:
        if kind is None:
            return True
        if kind is Assertion.FINAL_END:
            return after.outside or (after.newline and is_last)
        return self._machine.passes(kind, before, after, 0) is not None


@lru_cache(maxsize=256)
def counter(pattern: str, ignore_case: bool = False) -> Counter:
    """The counter of a pattern, made once."""
    return Counter(pattern, ignore_case)


_ONE_CHARACTER = {sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN}


def _is_quick(tree: Iterable[tuple[Any, Any]]) -> bool:
    """Whether `re` needs time in proportion to the text, because it has hardly anything to try.

    A repeat without bound of one character counts as nothing to try where it ends the pattern.
    """
    items = list(tree)
    if items and items[-1][0] is sre.MAX_REPEAT:
        _, _, body = items[-1][1]
        if len(body) == 1 and body[0][0] in _ONE_CHARACTER:
            items = items[:-1]
    return _ways(items) <= _MOST_WAYS


def _ways(items: Iterable[tuple[Any, Any]]) -> float:
    """An upper bound on the ways in which a part of a pattern can match at one place."""
    ways = 1.0
    for op, argument in items:
        if op is sre.BRANCH:
            ways *= sum(_ways(branch) for branch in argument[1])
        elif op is sre.SUBPATTERN:
            ways *= _ways(argument[3])
        elif op in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            low, high, body = argument
            if high is sre.MAXREPEAT or high > _MOST_WAYS:
                return float("inf")
            inside = _ways(body)
            ways *= sum(inside**times for times in range(low, high + 1))
        if ways > _MOST_WAYS:
            return float("inf")
    return ways
