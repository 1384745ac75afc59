"""Nondeterministic automata on characters with zero-width assertions, and their determinisation.

An assertion looks at the character before and the character after a position.  A deterministic
state is therefore a set of positions *before* the empty moves, together with what the assertions
need to know of the previous character; the empty moves are made when the next character is known
("delayed closure").  `$` may also hold before a final newline: a thread that passes it there is
marked, must read that newline next, and must then be at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from enum import Enum
from typing import TypeAlias

from lmppl.automata.alphabet import ALL, Charset, partition
from lmppl.automata.characters import category
from lmppl.automata.dfa import STATE_BUDGET, Dfa, TooManyStates, minimise
from lmppl.records import dataclass

NEWLINE: Charset = ((10, 10),)
MAX_NODES = 200_000
# Ten million threads and moves are a few seconds. A count and no clock: what is found out about a
# program must not hang on how busy a machine is.
MOST_WORK = 10_000_000


class Assertion(Enum):
    """A condition on the characters around a position."""

    TEXT_START = "start"
    LINE_START = "line start"
    TEXT_END = "end"
    LINE_END = "line end"
    FINAL_END = "end, or before a final newline"
    WORD_BOUNDARY = "word boundary"
    NO_WORD_BOUNDARY = "no word boundary"
    ASCII_WORD_BOUNDARY = "ASCII word boundary"
    NO_ASCII_WORD_BOUNDARY = "no ASCII word boundary"
    NO_WORD_BEFORE = "no word character before"
    NO_WORD_AFTER = "no word character after"


@dataclass(frozen=True, slots=True)
class Side:
    """What assertions see on one side of a position."""

    outside: bool = False  # there is no character: the text begins or ends here
    newline: bool = False
    word: bool = False
    ascii_word: bool = False


_OUTSIDE = Side(outside=True)

_BOUNDARIES = {
    Assertion.WORD_BOUNDARY,
    Assertion.NO_WORD_BOUNDARY,
    Assertion.ASCII_WORD_BOUNDARY,
    Assertion.NO_ASCII_WORD_BOUNDARY,
}

# What a thread still owes: nothing; a newline and then the end; the end now.
_FREE, _OWES_NEWLINE, _OWES_END = 0, 1, 2


@dataclass(slots=True)
class Nfa:
    """Nodes of three kinds: read a character of a set, branch, or check an assertion.

    The targets of a branch are in the order in which `re` tries them.  Node 0 accepts at the end of
    the text; node 1 accepts whatever follows.  Build from the end:
    every method returns the new node, which goes on to the node it was given.
    """

    sets: dict[Charset, int] = field(default_factory=dict)
    reads: list[int] = field(default_factory=lambda: [-1, -1])
    branches: list[tuple[int, ...]] = field(default_factory=lambda: [(), ()])
    assertions: list[Assertion | None] = field(default_factory=lambda: [None, None])
    used: set[Assertion] = field(default_factory=set)
    # For each node that repeats a body: where it is left, and the number of the repeat.
    loops: dict[int, tuple[int, int]] = field(default_factory=dict)
    # Only relevant with \B, which Python before 3.14 does not match in an empty text.
    boundary_in_empty_text: bool = True

    ACCEPT = 0
    ACCEPT_REST = 1

    def read(self, chars: Charset, then: int) -> int:
        """A node that reads one character of the set."""
        if not chars:
            return self.branch(())
        return self._add(self.sets.setdefault(chars, len(self.sets)), (then,), None)

    def branch(self, targets: tuple[int, ...]) -> int:
        """A node that goes on to any of the targets; a dead end without targets."""
        return self._add(-1, targets, None)

    def assertion(self, kind: Assertion, then: int) -> int:
        """A node that is passed only where the assertion holds."""
        self.used.add(kind)
        return self._add(-1, (then,), kind)

    def loop(self, body: Callable[[int], int], then: int, *, lazy: bool = False) -> int:
        """Any number of repetitions of the body, which is built to return to the loop."""
        node = self.branch((then,))
        inside = body(node)
        self.branches[node] = (then, inside) if lazy else (inside, then)
        self.loops[node] = (then, node)
        return node

    def anything(self, then: int) -> int:
        """Any characters at all."""
        return self.loop(lambda node: self.read(ALL, node), then)

    def _add(self, reads: int, targets: tuple[int, ...], assertion: Assertion | None) -> int:
        if len(self.reads) >= MAX_NODES:
            raise TooManyStates(MAX_NODES)
        self.reads.append(reads)
        self.branches.append(targets)
        self.assertions.append(assertion)
        return len(self.reads) - 1


def determinise(nfa: Nfa, start: int, budget: int = STATE_BUDGET) -> Dfa:
    """The minimal deterministic automaton for the texts accepted from `start`.

    Raises:
        TooManyStates: the subset construction needs more than `budget` states.
    """
    return minimise(Determiniser(nfa).run(start, budget))


# Threads before their empty moves, and what is before them where that matters.
State: TypeAlias = tuple[frozenset[int], Side | None]


class Determiniser:
    """The states of a deterministic automaton for the texts that a nondeterministic one accepts."""

    def __init__(self, nfa: Nfa) -> None:
        self.nfa = nfa
        used = nfa.used
        self.sees_newline = bool(
            used & {Assertion.LINE_START, Assertion.LINE_END, Assertion.FINAL_END}
        )
        self.sees_word = bool(
            used
            & {
                Assertion.WORD_BOUNDARY,
                Assertion.NO_WORD_BOUNDARY,
                Assertion.NO_WORD_BEFORE,
                Assertion.NO_WORD_AFTER,
            }
        )
        self.sees_ascii_word = bool(
            used & {Assertion.ASCII_WORD_BOUNDARY, Assertion.NO_ASCII_WORD_BOUNDARY}
        )
        sets = list(nfa.sets)
        extra = [
            NEWLINE if self.sees_newline else (),
            category(r"\w") if self.sees_word else (),
            category(r"\w", ascii_only=True) if self.sees_ascii_word else (),
        ]
        self.alphabet, members = partition([*sets, *extra])
        self.num_classes = self.alphabet.num_classes
        newline, word, ascii_word = (set(classes) for classes in members[len(sets) :])
        self.sides = [
            Side(False, cls in newline, cls in word, cls in ascii_word)
            for cls in range(self.num_classes)
        ]
        self.classes_by_side: dict[Side, list[int]] = {}
        for cls, side in enumerate(self.sides):
            self.classes_by_side.setdefault(side, []).append(cls)
        self.members = members[: len(sets)]
        self.last_closure: tuple[frozenset[int], set[int]] = (frozenset(), set())
        # Threads followed and moves made so far.
        self.work = 0

    def first(self, start: int) -> State:
        """The state before the first character."""
        # A thread is 3 * node + what it owes.
        return frozenset({3 * start + _FREE}), _OUTSIDE if self.nfa.used else None

    def after(self, state: State, cls: int) -> State:
        """The state after one more character, of a class."""
        side = self.sides[cls]
        everywhere, moves = self._moves(*state, side)
        return frozenset(moves.get(cls, set()) | everywhere), side if self.nfa.used else None

    def accepts(self, state: State) -> bool:
        """Whether a text that ends in this state is accepted."""
        return self._accepting(*state)

    def run(self, start: int, budget: int) -> Dfa:
        """The automaton of all states, not minimised.

        Raises:
            TooManyStates: more than `budget` of them, or more work than `MOST_WORK`.
        """
        first = self.first(start)
        numbers = {first: 0}
        order = [first]
        rows: list[tuple[int, ...]] = []
        outputs: list[int] = []
        for threads, before in order:
            row = [0] * self.num_classes
            for side, classes in self.classes_by_side.items():
                everywhere, moves = self._moves(threads, before, side)
                shared = frozenset(everywhere)
                for cls in classes:
                    extra = moves.get(cls)
                    targets = frozenset(extra | everywhere) if extra else shared
                    key = (targets, side if self.nfa.used else None)
                    if 3 * Nfa.ACCEPT_REST in targets:
                        key = (frozenset({3 * Nfa.ACCEPT_REST}), None)
                    elif not targets:
                        key = (targets, None)
                    number = numbers.get(key)
                    if number is None:
                        number = numbers[key] = len(order)
                        order.append(key)
                        if number >= budget:
                            raise TooManyStates(budget)
                    row[cls] = number
            rows.append(tuple(row))
            outputs.append(int(self._accepting(threads, before)))
            if self.work > MOST_WORK:
                raise TooManyStates(budget)
        return Dfa(self.alphabet, tuple(rows), tuple(outputs))

    def _moves(
        self, threads: frozenset[int], before: Side | None, after: Side
    ) -> tuple[set[int], dict[int, set[int]]]:
        """Where the threads go: on every class, and on particular classes of the side `after`."""
        nfa = self.nfa
        everywhere: set[int] = set()
        moves: dict[int, set[int]] = {}
        # There is a next character, so whoever owes the end is lost, or another than a newline.
        payable = (_FREE, _OWES_NEWLINE) if after.newline else (_FREE,)
        threads = frozenset(thread for thread in threads if thread % 3 in payable)
        closure = self._closure(threads, before, after)
        self.work += len(closure)
        for thread in closure:
            node, owes = divmod(thread, 3)
            if node == Nfa.ACCEPT_REST:
                everywhere.add(3 * node + (_OWES_END if owes else _FREE))
                continue
            if nfa.reads[node] < 0:
                continue
            target = 3 * nfa.branches[node][0] + (_OWES_END if owes else _FREE)
            classes = self.members[nfa.reads[node]]
            if len(classes) == self.num_classes:
                everywhere.add(target)
                continue
            self.work += len(classes)
            for cls in classes:
                if self.sides[cls] == after:
                    moves.setdefault(cls, set()).add(target)
        return everywhere, moves

    def _accepting(self, threads: frozenset[int], before: Side | None) -> bool:
        return any(
            thread // 3 in (Nfa.ACCEPT, Nfa.ACCEPT_REST) and thread % 3 != _OWES_NEWLINE
            for thread in self._closure(threads, before, _OUTSIDE)
        )

    def _closure(self, threads: frozenset[int], before: Side | None, after: Side) -> set[int]:
        nfa = self.nfa
        if not nfa.used and self.last_closure[0] == threads:
            # Without assertions the surroundings do not matter.
            return self.last_closure[1]
        seen = set(threads)
        stack = list(threads)
        while stack:
            thread = stack.pop()
            node, owes = divmod(thread, 3)
            if nfa.reads[node] >= 0:
                continue
            kind = nfa.assertions[node]
            if kind is not None:
                passes = self.passes(kind, before or Side(), after, owes)
                if passes is None:
                    continue
                owes = passes
            for target in nfa.branches[node]:
                reached = 3 * target + owes
                if reached not in seen:
                    seen.add(reached)
                    stack.append(reached)
        self.work += len(seen)
        self.last_closure = (threads, seen)
        return seen

    def passes(self, kind: Assertion, before: Side, after: Side, owes: int) -> int | None:
        """What is owed once the assertion is passed; None where it fails."""
        if kind is Assertion.FINAL_END:
            if after.outside:
                return owes
            return _OWES_NEWLINE if after.newline else None
        if kind in _BOUNDARIES:
            if before.outside and after.outside and not self.nfa.boundary_in_empty_text:
                return None
            if kind in (Assertion.WORD_BOUNDARY, Assertion.NO_WORD_BOUNDARY):
                differs = before.word != after.word
            else:
                differs = before.ascii_word != after.ascii_word
            wants = kind in (Assertion.WORD_BOUNDARY, Assertion.ASCII_WORD_BOUNDARY)
            return owes if differs == wants else None
        match kind:
            case Assertion.TEXT_START:
                passed = before.outside
            case Assertion.LINE_START:
                passed = before.outside or before.newline
            case Assertion.TEXT_END:
                passed = after.outside
            case Assertion.LINE_END:
                passed = after.outside or after.newline
            case Assertion.NO_WORD_BEFORE:
                passed = not before.word
            case _:
                passed = not after.word
        return owes if passed else None
