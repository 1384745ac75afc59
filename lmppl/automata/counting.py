"""Counting the matches of a pattern with a deterministic automaton.

`re.findall` looks for the first match from the left, and among those that begin there takes the
one that backtracking finds first; then it goes on behind it. That is the path of highest priority
of one regular expression over the whole text, "either the pattern and then the rest, or one
character and then the rest", in which the rest always succeeds. So a list of threads in order of
priority decides it (Cox 2010, "Regular expression matching in the wild", leftmost-first): of two
threads at one node the first wins whatever follows, and nothing below a thread that searches can
win.
"""

from __future__ import annotations

import math
import re._constants as sre
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from lmppl.automata.dfa import STATE_BUDGET, Dfa, TooManyStates, minimise
from lmppl.automata.nfa import Assertion, Determiniser, Nfa, Side
from lmppl.automata.regex import NotRegular, Translation, parsed
from lmppl.automata.running import Running

# A thread: the node of the pattern it is at, and how many matches it has behind it.
_Thread = tuple[int, int]
# The thread that looks for the next match; before and after it has tried the pattern here.
_SEARCH, _SKIP = -1, -2


@lru_cache(maxsize=128)
def count_dfa(
    pattern: str,
    ignore_case: bool,
    admits: tuple[int, ...],
    budget: int = STATE_BUDGET,
) -> Dfa:
    """The automaton whose output on a text t is `admits[len(re.findall(pattern, t))]`.

    With booleans it accepts the texts of which that is true; with numbers it tells them apart.
    Counts beyond the last entry are as the last.

    Raises:
        NotRegular: what `matches` refuses, a pattern that can match the empty text, repeats of
            what can be empty, and `$` where it may stand before a newline.
        TooManyStates: more than `budget` states before minimisation.
    """
    nfa, start = _translated(pattern, ignore_case)
    return minimise(_Counter(nfa, start, admits).build(budget))


def require_countable(pattern: str, ignore_case: bool) -> None:
    """Raises: NotRegular, TooManyStates where no automaton counts the matches of the pattern."""
    _translated(pattern, ignore_case)


@lru_cache(maxsize=128)
def _translated(pattern: str, ignore_case: bool) -> tuple[Nfa, int]:
    tree = parsed(pattern, ignore_case)
    try:
        if tree.getwidth()[0] == 0:
            raise NotRegular(pattern, "can match the empty text, which is counted in its own way")
        translation = _Countable(pattern)
        return translation.nfa, translation.sequence(tree, tree.state.flags, Nfa.ACCEPT)
    except RecursionError as error:
        raise NotRegular(pattern, "is nested too deeply") from error


def admitted(admits: Callable[[int], bool], bound: float, budget: int) -> tuple[bool, ...]:
    """What a comparison with `bound` admits, up to the first count after which nothing changes.

    Raises:
        TooManyStates: that count is not below `budget`.
    """
    last = max(0, math.floor(bound) + 1) if math.isfinite(bound) else 0
    if last + 2 > budget:
        raise TooManyStates(budget)
    return tuple(admits(count) for count in range(last + 1))


class _Countable(Translation):
    """The translation of a pattern whose matches can be counted."""

    def item(self, op: Any, argument: Any, flags: int, then: int) -> int:
        if op in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            _, high, body = argument
            if high != 1 and body.getwidth()[0] == 0:
                raise NotRegular(self.pattern, "repeats what can be empty")
        node = super().item(op, argument, flags, then)
        if self.nfa.assertions[node] is Assertion.FINAL_END:
            raise NotRegular(self.pattern, r"uses `$`, for which `\Z` is meant mostly")
        return node


class _Counter(Determiniser):
    """States are lists of threads, first the one that wins if it gets through."""

    def __init__(self, nfa: Nfa, start: int, admits: tuple[int, ...]) -> None:
        super().__init__(nfa)
        self.start = start
        self.admits = admits
        # Counts beyond this are not told apart.
        self.most: float = len(admits) - 1
        self.classes_of = [frozenset(classes) for classes in self.members]

    def build(self, budget: int) -> Dfa:
        outside = Side(outside=True)
        first: tuple[tuple[_Thread, ...], Side | None] = (((_SEARCH, 0),), outside)
        numbers = {first: 0}
        order = [first]
        rows: list[tuple[int, ...]] = []
        outputs: list[int] = []
        for threads, before in order:
            row = [0] * self.num_classes
            for side, classes in self.classes_by_side.items():
                waiting = self._waiting(threads, before or Side(), side)
                for cls in classes:
                    key = (self._moved(waiting, cls), side if self.nfa.used else None)
                    number = numbers.get(key)
                    if number is None:
                        number = numbers[key] = len(order)
                        order.append(key)
                        if number >= budget:
                            raise TooManyStates(budget)
                    row[cls] = number
            rows.append(tuple(row))
            final = self._waiting(threads, before or Side(), outside)
            outputs.append(int(self.admits[next(n for node, n in final if node == _SEARCH)]))
        return Dfa(self.alphabet, tuple(rows), tuple(outputs))

    def _waiting(self, threads: tuple[_Thread, ...], before: Side, after: Side) -> list[_Thread]:
        """Threads that wait for the next character, in order; the last is the one that searches."""
        nfa, last = self.nfa, self.most
        found: list[_Thread] = []
        seen: set[int] = set()
        stack = list(reversed(threads))
        while stack:
            node, count = stack.pop()
            if node == _SKIP:
                found.append((_SEARCH, count))
                break
            if node in (_SEARCH, Nfa.ACCEPT):
                count += node == Nfa.ACCEPT and count < last
                stack += ((_SKIP, count), (self.start, count))
                continue
            if node in seen:
                continue
            seen.add(node)
            if nfa.reads[node] >= 0:
                found.append((node, count))
                continue
            kind = nfa.assertions[node]
            if kind is None or self.passes(kind, before, after, 0) is not None:
                stack += ((target, count) for target in reversed(nfa.branches[node]))
        return found

    def _moved(self, waiting: list[_Thread], cls: int) -> tuple[_Thread, ...]:
        """The threads after a character of a class; of several at one node the first."""
        nfa = self.nfa
        moved: dict[int, int] = {}
        for node, count in waiting:
            if node == _SEARCH:
                moved.setdefault(node, count)
            elif cls in self.classes_of[nfa.reads[node]]:
                moved.setdefault(nfa.branches[node][0], count)
        if all(count == self.most for count in moved.values()):
            # Every further match is one of those that are not told apart.
            return ((_SEARCH, moved[_SEARCH]),)
        return tuple(moved.items())


def running_count(pattern: str, ignore_case: bool, budget: int = STATE_BUDGET) -> Running:
    """The automaton that counts the matches of a pattern without an end, as they come.

    Raises:
        NotRegular: as `count_dfa`.
        TooManyStates: more than `budget` states; so too where what follows can take back any number
            of matches, as in `a.*z|a`.
    """
    return _RunningCounter(*_translated(pattern, ignore_case), (False,)).runs(budget)


class _RunningCounter(_Counter):
    """Counts are told from that of the thread that searches, and passed on where they are common.

    So a state is a list of threads with the matches that each has more, or fewer.
    """

    def runs(self, budget: int) -> Running:
        self.most = math.inf
        outside = Side(outside=True)
        first: tuple[tuple[_Thread, ...], Side | None] = (((_SEARCH, 0),), outside)
        numbers = {first: 0}
        order = [first]
        rows: list[tuple[int, ...]] = []
        gains: list[tuple[int, ...]] = []
        outputs: list[int] = []
        for threads, before in order:
            row, gain = [0] * self.num_classes, [0] * self.num_classes
            for side, classes in self.classes_by_side.items():
                waiting = self._waiting(threads, before or Side(), side)
                for cls in classes:
                    moved = self._moved(waiting, cls)
                    gain[cls] = next(n for node, n in moved if node == _SEARCH)
                    relative = tuple((node, n - gain[cls]) for node, n in moved)
                    key = (relative, side if self.nfa.used else None)
                    number = numbers.get(key)
                    if number is None:
                        number = numbers[key] = len(order)
                        order.append(key)
                        if number >= budget:
                            raise TooManyStates(budget)
                    row[cls] = number
            rows.append(tuple(row))
            gains.append(tuple(gain))
            final = self._waiting(threads, before or Side(), outside)
            outputs.append(next(n for node, n in final if node == _SEARCH))
        return Running(self.alphabet, tuple(rows), tuple(gains), tuple(outputs))
