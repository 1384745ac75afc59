"""Numbers that a text adds to as it goes on, followed by automata: counts without an end."""

from __future__ import annotations

from lmppl.automata.alphabet import Partition
from lmppl.automata.dfa import Dfa, TooManyStates, minimise
from lmppl.records import dataclass


@dataclass(frozen=True, slots=True)
class Running:
    """A complete deterministic automaton on characters whose moves count.

    The count of a text is the sum of `gains[state][class]` over its characters, and
    `outputs[state]` of the state in which it ends: what is counted there and may yet be taken back.
    `rows` are as in a `Dfa`.
    """

    alphabet: Partition
    rows: tuple[tuple[int, ...], ...]
    gains: tuple[tuple[int, ...], ...]
    outputs: tuple[int, ...]

    def __repr__(self) -> str:
        classes = self.alphabet.num_classes
        return f"<Running of {len(self.rows)} states over {classes} classes of characters>"

    def most_change(self, num_chars: int) -> int:
        """By how much so many characters, or fewer, can change the count, at most, up or down."""
        moves = [
            sorted(set(zip(row, gains, strict=True)))
            for row, gains in zip(self.rows, self.gains, strict=True)
        ]
        highest, lowest = list(self.outputs), list(self.outputs)
        for _ in range(num_chars):
            most = [max(gain + highest[to] for to, gain in each) for each in moves]
            least = [min(gain + lowest[to] for to, gain in each) for each in moves]
            highest = list(map(max, highest, most))
            lowest = list(map(min, lowest, least))
        up = max(high - now for high, now in zip(highest, self.outputs, strict=True))
        down = max(now - low for low, now in zip(lowest, self.outputs, strict=True))
        return max(up, down)

    def count(self, text: str) -> int:
        """The count of a text."""
        moves = Dfa(self.alphabet, self.rows, self.outputs)
        gains = Dfa(self.alphabet, self.gains, self.outputs)
        state = total = 0
        for char in text:
            total += gains.step(state, char)
            state = moves.step(state, char)
        return total + self.outputs[state]

    def capped(self, admits: tuple[int, ...], budget: int) -> Dfa:
        """The automaton whose output on a text is `admits[count]`, counts beyond the last entry as
        the last; nothing is ever taken back for good (`gains` are none of them negative).

        Raises:
            TooManyStates: more than `budget` states before minimisation.
        """
        size, last = len(self.rows), len(admits) - 1
        if size * len(admits) > budget:
            raise TooManyStates(budget)
        rows = tuple(
            tuple(
                target + size * min(base + gain, last)
                for target, gain in zip(row, gains, strict=True)
            )
            for base in range(last + 1)
            for row, gains in zip(self.rows, self.gains, strict=True)
        )
        outputs = tuple(
            int(admits[min(base + output, last)])
            for base in range(last + 1)
            for output in self.outputs
        )
        return minimise(Dfa(self.alphabet, rows, outputs))

    def cyclic(self, modulus: int) -> Dfa:
        """The automaton whose output on a text is its count modulo `modulus`, and 1 more.

        Counts of two texts are told apart by it where they differ by less than half of that.
        """
        size = len(self.rows)
        rows = tuple(
            tuple(
                target + size * ((base + gain) % modulus)
                for target, gain in zip(row, gains, strict=True)
            )
            for base in range(modulus)
            for row, gains in zip(self.rows, self.gains, strict=True)
        )
        outputs = tuple(
            (base + output) % modulus + 1 for base in range(modulus) for output in self.outputs
        )
        return Dfa(self.alphabet, rows, outputs)
