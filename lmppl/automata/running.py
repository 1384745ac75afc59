"""Numbers that a text adds to as it goes on, followed by automata: counts without an end."""

from __future__ import annotations

from lmppl.automata.alphabet import Partition
from lmppl.automata.dfa import Dfa
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

    @property
    def most_change(self) -> int:
        """By how much one character more can change the count, at most, up or down."""
        return max(
            abs(gain + self.outputs[target] - self.outputs[state])
            for state, (row, gains) in enumerate(zip(self.rows, self.gains, strict=True))
            for target, gain in zip(row, gains, strict=True)
        )

    def count(self, text: str) -> int:
        """The count of a text."""
        moves = Dfa(self.alphabet, self.rows, self.outputs)
        gains = Dfa(self.alphabet, self.gains, self.outputs)
        state = total = 0
        for char in text:
            total += gains.step(state, char)
            state = moves.step(state, char)
        return total + self.outputs[state]

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
