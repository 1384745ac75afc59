"""Deterministic automata on characters: complete, over a partition of Unicode into classes.

State 0 is the initial state.  Every state has an output; in an acceptor the output is 0 or 1 and
a text is accepted when the state after its last character has output 1.  Outputs above 1 carry
the truth of several constraints at once.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence

from lmppl.automata.alphabet import Partition, common_refinement
from lmppl.records import dataclass

STATE_BUDGET = 10_000
# What a product costs besides its states and classes.
_OVERHEAD = 200


class TooManyStates(ValueError):
    """An automaton would need more states than the budget allows."""

    def __init__(self, budget: int) -> None:
        super().__init__(f"the automaton needs more than {budget:,} states")
        self.budget = budget


class Work:
    """How much may still be done on automata for one question.

    A count and no clock, so that what is found out does not hang on how busy a machine is.
    """

    def __init__(self, most: int) -> None:
        self.left = most

    def spend(self, amount: int) -> None:
        """Raises: TooManyStates once more was spent than there was."""
        self.left -= amount
        if self.left < 0:
            raise TooManyStates(STATE_BUDGET)


@dataclass(frozen=True, slots=True)
class Dfa:
    """A complete deterministic automaton.

    `rows[state][class]` is the next state; `outputs[state]` is what the automaton says of a text
    that ends in that state.
    """

    alphabet: Partition
    rows: tuple[tuple[int, ...], ...]
    outputs: tuple[int, ...]

    def __repr__(self) -> str:
        classes = self.alphabet.num_classes
        return f"<Dfa of {self.num_states} states over {classes} classes of characters>"

    @property
    def num_states(self) -> int:
        return len(self.rows)

    def step(self, state: int, char: str) -> int:
        """The state after one more character."""
        alphabet = self.alphabet
        return self.rows[state][alphabet.classes[bisect_right(alphabet.starts, ord(char)) - 1]]

    def run(self, text: str, state: int = 0) -> int:
        """The state after the text."""
        for char in text:
            state = self.step(state, char)
        return state

    def accepts(self, text: str) -> bool:
        """Whether the output of the text is not 0."""
        return self.outputs[self.run(text)] != 0

    def digest(self) -> str:
        """A name of the automaton's content, equal for equal automata."""
        content = repr((self.alphabet.starts, self.alphabet.classes, self.rows, self.outputs))
        return hashlib.sha256(content.encode()).hexdigest()[:32]


EVERYTHING = Dfa(Partition((0,), (0,)), ((0,),), (1,))
NOTHING = Dfa(Partition((0,), (0,)), ((0,),), (0,))


def complement(dfa: Dfa) -> Dfa:
    """Accepts exactly the texts that the acceptor does not accept."""
    return Dfa(dfa.alphabet, dfa.rows, tuple(1 - output for output in dfa.outputs))


def product(
    dfas: Sequence[Dfa],
    combine: Callable[[tuple[int, ...]], int],
    budget: int = STATE_BUDGET,
    work: Work | None = None,
) -> Dfa:
    """Runs all automata side by side; the output of a text is `combine` of their outputs.

    Only reachable states are built; the result is not minimised.

    Raises:
        TooManyStates: more than `budget` states are reachable, or `work` is spent.
    """
    if work is not None:
        work.spend(_OVERHEAD + len(dfas) * sum(len(dfa.alphabet.starts) for dfa in dfas))
    alphabet, columns = common_refinement([dfa.alphabet for dfa in dfas])
    starts = (0,) * len(dfas)
    numbers: dict[tuple[int, ...], int] = {starts: 0}
    order = [starts]
    rows: list[tuple[int, ...]] = []
    per_part = [tuple(column[i] for column in columns) for i in range(len(dfas))]
    for states in order:
        if work is not None:
            work.spend(len(columns) * len(dfas))
        current = [dfa.rows[state] for dfa, state in zip(dfas, states, strict=True)]
        moved = [
            [row[cls] for cls in classes] for row, classes in zip(current, per_part, strict=True)
        ]
        row = []
        for key in zip(*moved, strict=True):
            number = numbers.get(key)
            if number is None:
                number = numbers[key] = len(order)
                order.append(key)
                if number >= budget:
                    raise TooManyStates(budget)
            row.append(number)
        rows.append(tuple(row))
    outputs = tuple(
        combine(tuple(dfa.outputs[state] for dfa, state in zip(dfas, states, strict=True)))
        for states in order
    )
    return Dfa(alphabet, tuple(rows), outputs)


def intersection(dfas: Sequence[Dfa], budget: int = STATE_BUDGET, work: Work | None = None) -> Dfa:
    """Accepts what all accept; minimal.  Everything, where there are none."""
    return _fold(dfas, EVERYTHING, lambda outputs: int(all(outputs)), budget, work)


def union(dfas: Sequence[Dfa], budget: int = STATE_BUDGET) -> Dfa:
    """Accepts what some automaton accepts; minimal.  Nothing, where there are none."""
    return _fold(dfas, NOTHING, lambda outputs: int(any(outputs)), budget)


def _fold(
    dfas: Sequence[Dfa],
    unit: Dfa,
    combine: Callable[[tuple[int, ...]], int],
    budget: int,
    work: Work | None = None,
) -> Dfa:
    # Smallest first and minimised after each step, so that what is built stays small.
    pending = sorted(dfas, key=lambda dfa: dfa.num_states)
    if not pending:
        return unit
    result = pending[0]
    for dfa in pending[1:]:
        both = product((result, dfa), combine, budget, work)
        if work is not None:
            work.spend(4 * both.num_states * both.alphabet.num_classes)
        result = minimise(both)
    return result


def minimise(dfa: Dfa) -> Dfa:
    """The smallest automaton with the same outputs, in a canonical numbering.

    Hopcroft's algorithm after merging classes that act alike; states are numbered in breadth-first
    order, so equal languages over one partition give equal automata.
    """
    merged = _merge_states(_merge_classes(_trim(dfa)))
    return _numbered(merged, _reached(merged))


def _reached(dfa: Dfa) -> list[int]:
    """The states that some text reaches, in breadth-first order."""
    order = [0]
    known = {0}
    for state in order:
        for target in dfa.rows[state]:
            if target not in known:
                known.add(target)
                order.append(target)
    return order


def _numbered(dfa: Dfa, order: Sequence[int]) -> Dfa:
    """Only the states in `order`, which lead to no other, numbered as they stand there."""
    numbers = {state: number for number, state in enumerate(order)}
    rows = tuple(tuple(numbers[target] for target in dfa.rows[state]) for state in order)
    return Dfa(dfa.alphabet, rows, tuple(dfa.outputs[state] for state in order))


def _trim(dfa: Dfa) -> Dfa:
    """Only states that some text reaches."""
    order = _reached(dfa)
    return dfa if len(order) == dfa.num_states else _numbered(dfa, order)


def _merge_classes(dfa: Dfa) -> Dfa:
    columns = list(zip(*dfa.rows, strict=True))
    numbers: dict[tuple[int, ...], int] = {}
    merged = [numbers.setdefault(column, len(numbers)) for column in columns]
    if len(numbers) == len(columns):
        return dfa
    starts: list[int] = []
    classes: list[int] = []
    for start, cls in zip(dfa.alphabet.starts, dfa.alphabet.classes, strict=True):
        if not classes or classes[-1] != merged[cls]:
            starts.append(start)
            classes.append(merged[cls])
    # Class numbers follow first code points, as a partition promises.
    renumbered: dict[int, int] = {}
    for cls in classes:
        renumbered.setdefault(cls, len(renumbered))
    kept = list(numbers)
    rows = tuple(zip(*(kept[cls] for cls in renumbered), strict=True))
    alphabet = Partition(tuple(starts), tuple(renumbered[cls] for cls in classes))
    return Dfa(alphabet, rows, dfa.outputs)


def _merge_states(dfa: Dfa) -> Dfa:
    num_states, num_classes = dfa.num_states, dfa.alphabet.num_classes
    sources: list[list[list[int]]] = [[[] for _ in range(num_states)] for _ in range(num_classes)]
    for state, row in enumerate(dfa.rows):
        for cls, target in enumerate(row):
            sources[cls][target].append(state)
    by_output: dict[int, set[int]] = {}
    for state, output in enumerate(dfa.outputs):
        by_output.setdefault(output, set()).add(state)
    blocks = list(by_output.values())
    block_of = [0] * num_states
    for number, block in enumerate(blocks):
        for state in block:
            block_of[state] = number
    waiting = set(range(len(blocks)))
    while waiting:
        splitter = list(blocks[waiting.pop()])
        for into in sources:
            touched: dict[int, list[int]] = {}
            for target in splitter:
                for state in into[target]:
                    touched.setdefault(block_of[state], []).append(state)
            for number, states in touched.items():
                block = blocks[number]
                if len(states) == len(block):
                    continue
                # The larger half keeps its number: only the smaller is looked at again.
                inside = set(states)
                smaller = inside if 2 * len(inside) <= len(block) else block - inside
                block -= smaller
                fresh = len(blocks)
                blocks.append(smaller)
                for state in smaller:
                    block_of[state] = fresh
                waiting.add(fresh)
    if len(blocks) == num_states:
        return dfa
    number_of_initial = block_of[0]
    rename = {number_of_initial: 0}
    for number in range(len(blocks)):
        rename.setdefault(number, len(rename))
    rows: list[tuple[int, ...]] = [()] * len(blocks)
    outputs = [0] * len(blocks)
    for number, block in enumerate(blocks):
        member = next(iter(block))
        rows[rename[number]] = tuple(rename[block_of[target]] for target in dfa.rows[member])
        outputs[rename[number]] = dfa.outputs[member]
    return _merge_classes(Dfa(dfa.alphabet, tuple(rows), tuple(outputs)))


def shortest_accepted(dfa: Dfa) -> str | None:
    """A shortest text that is accepted, readable where possible; None for the empty language."""
    if dfa.outputs[0]:
        return ""
    characters = dfa.alphabet.representatives()
    preferred = sorted(range(len(characters)), key=lambda cls: _readability(characters[cls]))
    came_from: dict[int, tuple[int, str]] = {0: (0, "")}
    queue = deque([0])
    while queue:
        state = queue.popleft()
        row = dfa.rows[state]
        for cls in preferred:
            target = row[cls]
            if target in came_from:
                continue
            came_from[target] = (state, characters[cls])
            if dfa.outputs[target]:
                letters = []
                while target:
                    target, letter = came_from[target]
                    letters.append(letter)
                return "".join(reversed(letters))
            queue.append(target)
    return None


def _readability(char: str) -> tuple[bool, bool, str]:
    return (not char.isalnum(), not char.isprintable(), char)


def live_states(dfa: Dfa) -> list[bool]:
    """For each state, whether some continuation of a text that is there is accepted."""
    sources: list[list[int]] = [[] for _ in dfa.rows]
    for state, row in enumerate(dfa.rows):
        for target in set(row):
            sources[target].append(state)
    live = [output != 0 for output in dfa.outputs]
    queue = [state for state, alive in enumerate(live) if alive]
    for state in queue:
        for source in sources[state]:
            if not live[source]:
                live[source] = True
                queue.append(source)
    return live
