"""Reading bytes as characters, as `bytes.decode("utf-8", errors="replace")` does.

A decoder over a partition of characters: what matters of a character is its class, so states that
lead to the same classes are one state.  A byte completes no character, one, or two (U+FFFD for an
interrupted sequence, then what the byte itself means).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmppl.automata.alphabet import Partition

IntArray = NDArray[np.int32]

_REPLACEMENT = 0xFFFD
_INVALID = -1


@dataclass(frozen=True, slots=True)
class Decoder:
    """Tables of a decoder; state 0 is "between characters".

    `first` and `second` `[states, byte classes]` are the classes of the characters completed by a
    byte, `num_classes` standing for none; `following` `[states, byte classes]` is the next state.
    `byte_class` `[256]` groups bytes that act alike.  A text that ends in a state other than 0
    ends with U+FFFD, which is of class `replacement`.
    """

    first: IntArray
    second: IntArray
    following: IntArray
    byte_class: IntArray
    replacement: int

    @property
    def num_states(self) -> int:
        return len(self.first)


def decoder(alphabet: Partition) -> Decoder:
    """The decoder for the classes of a partition."""
    builder = _Builder(alphabet)
    leads = _leads(builder)
    none = alphabet.num_classes
    replacement = builder.class_of(_REPLACEMENT)
    num_states = len(builder.nodes) + 1
    first = np.full((num_states, 256), none, dtype=np.int32)
    second = np.full((num_states, 256), none, dtype=np.int32)
    following = np.zeros((num_states, 256), dtype=np.int32)
    first[0, :] = replacement
    for byte in range(0x80):
        first[0, byte] = builder.class_of(byte)
    for byte, node in leads.items():
        first[0, byte] = none
        following[0, byte] = node
    for node, (remaining, children) in enumerate(builder.nodes, start=1):
        # By default the byte interrupts the sequence and then counts for itself.
        first[node, :] = replacement
        second[node, :] = first[0, :]
        following[node, :] = following[0, :]
        for offset, child in enumerate(children):
            if child == _INVALID:
                continue
            byte = 0x80 + offset
            second[node, byte] = none
            first[node, byte] = child if remaining == 1 else none
            following[node, byte] = 0 if remaining == 1 else child
    stacked = np.concatenate([first, second, following])
    _, representatives, byte_class = np.unique(
        stacked, axis=1, return_index=True, return_inverse=True
    )
    return Decoder(
        np.ascontiguousarray(first[:, representatives]),
        np.ascontiguousarray(second[:, representatives]),
        np.ascontiguousarray(following[:, representatives]),
        byte_class.reshape(-1).astype(np.int32),
        replacement,
    )


class _Builder:
    """Shares equal subtrees: a node is (bytes still to come, its 64 children)."""

    def __init__(self, alphabet: Partition) -> None:
        self.alphabet = alphabet
        self.nodes: list[tuple[int, tuple[int, ...]]] = []
        self.numbers: dict[tuple[int, tuple[int, ...]], int] = {}
        self.uniform: dict[tuple[int, int], int] = {}

    def class_of(self, code: int) -> int:
        return self.alphabet.classes[bisect_right(self.alphabet.starts, code) - 1]

    def node(self, low: int, remaining: int, valid: range = range(64)) -> int:
        """The number of the state that awaits the last `remaining` bytes of a code point.

        The code points are those from `low` on; a next byte outside `valid` (as an offset from
        0x80) interrupts the sequence.
        """
        span = 64 ** (remaining - 1)
        starts = self.alphabet.starts
        one_class = bisect_right(starts, low) == bisect_right(starts, low + 64 * span - 1)
        if one_class:
            whole = (remaining, self.class_of(low))
            if len(valid) == 64 and whole in self.uniform:
                return self.uniform[whole]
            child = whole[1] if remaining == 1 else self.node(low, remaining - 1)
            children = [child] * 64
        elif remaining == 1:
            children = [self.class_of(low + offset) for offset in range(64)]
        else:
            children = [self.node(low + offset * span, remaining - 1) for offset in range(64)]
        if len(valid) < 64:
            children = [child if i in valid else _INVALID for i, child in enumerate(children)]
        number = self.number((remaining, tuple(children)))
        if one_class and len(valid) == 64:
            self.uniform[whole] = number
        return number

    def number(self, key: tuple[int, tuple[int, ...]]) -> int:
        number = self.numbers.get(key)
        if number is None:
            self.nodes.append(key)
            number = self.numbers[key] = len(self.nodes)
        return number


def _leads(builder: _Builder) -> dict[int, int]:
    """The state after each byte that begins a sequence of several (Unicode, table 3-7)."""
    leads = {byte: builder.node((byte & 0x1F) << 6, 1) for byte in range(0xC2, 0xE0)}
    for byte in range(0xE0, 0xF0):
        valid = {0xE0: range(0x20, 64), 0xED: range(0x20)}.get(byte, range(64))
        leads[byte] = builder.node((byte & 0x0F) << 12, 2, valid)
    for byte in range(0xF0, 0xF5):
        valid = {0xF0: range(0x10, 64), 0xF4: range(0x10)}.get(byte, range(64))
        leads[byte] = builder.node((byte & 0x07) << 18, 3, valid)
    return leads
