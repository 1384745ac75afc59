"""Token-level tables of a byte machine over a vocabulary (numpy; no torch here).

Tokens that act alike in every state share a column, so a table is `[states, token classes]`, far
smaller than `[states, vocabulary]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmppl.factors.automata.machine import ByteMachine
from lmppl.factors.automata.utf8 import IntArray

# Entries of the largest intermediate array: small enough to stay near the cache.
_CHUNK = 1 << 21


class TableTooLarge(ValueError):
    """The token table would not fit its budget."""

    def __init__(self, budget: int) -> None:
        super().__init__(f"the token table needs more than {budget / 2**20:,.0f} MiB")


@dataclass(frozen=True, slots=True)
class TokenTree:
    """The tokens of a vocabulary as a tree of byte classes, level by level.

    Node j of level i continues node `parents[i][j]` of the level above (level -1 is the root) with
    byte class `classes[i][j]`.  `leaf` `[vocab]` is the column of a token in `walk`; tokens with
    the same byte classes have the same column.  `ends[i]` are the nodes of level i at which some
    token ends, with columns from `offsets[i]` on; column 0 is for tokens that have no bytes.
    """

    parents: tuple[IntArray, ...]
    classes: tuple[IntArray, ...]
    ends: tuple[IntArray, ...]
    offsets: tuple[int, ...]
    num_columns: int
    leaf: IntArray

    def walk(self, step: IntArray, states: IntArray) -> IntArray:
        """`[states, columns]`: where each state goes on the tokens of each column."""
        result = np.empty((len(states), self.num_columns), dtype=np.int32)
        result[:, 0] = states
        current = states[:, None]
        for parents, classes, ends, offset in zip(
            self.parents, self.classes, self.ends, self.offsets, strict=True
        ):
            current = step[current[:, parents], classes]
            result[:, offset : offset + len(ends)] = current[:, ends]
        return result

    def size(self) -> int:
        """The number of nodes."""
        return sum(map(len, self.parents)) + 1


def token_tree(token_bytes: list[bytes], byte_class: IntArray) -> TokenTree:
    """The tree of the tokens' byte classes."""
    lengths = np.array([len(token) for token in token_bytes], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    stream = byte_class[np.frombuffer(b"".join(token_bytes), dtype=np.uint8)]
    num_classes = int(byte_class.max()) + 1
    parents, classes, ends, offsets = [], [], [], []
    leaf = np.zeros(len(token_bytes), dtype=np.int32)
    node = np.zeros(len(token_bytes), dtype=np.int64)
    columns = 1
    for level in range(int(lengths.max(initial=0))):
        present = np.flatnonzero(lengths > level)
        key = node[present] * num_classes + stream[starts[present] + level]
        found, inverse = np.unique(key, return_inverse=True)
        inverse = inverse.reshape(-1)
        node[present] = inverse
        parents.append((found // num_classes).astype(np.int32))
        classes.append((found % num_classes).astype(np.int32))
        last = lengths[present] == level + 1
        ending, column = np.unique(inverse[last], return_inverse=True)
        leaf[present[last]] = columns + column.reshape(-1)
        ends.append(ending.astype(np.int32))
        offsets.append(columns)
        columns += len(ending)
    return TokenTree(tuple(parents), tuple(classes), tuple(ends), tuple(offsets), columns, leaf)


@dataclass(frozen=True, slots=True)
class TokenTable:
    """A token-level automaton in a table.

    `step` `[states + 1, token classes]` has -1 where the text is dead; its last row is that of the
    dead state, so that the index -1 finds it.  `token_class` is `[vocab]`.  `outputs` and
    `stopped` `[states + 1]` are those of the byte machine; state 0 is the initial state.
    """

    step: NDArray[np.integer]
    token_class: IntArray
    outputs: IntArray
    stopped: NDArray[np.bool_]


def token_table(machine: ByteMachine, token_bytes: list[bytes], budget: int) -> TokenTable:
    """The table over all states that tokens reach.

    Raises:
        TableTooLarge: the table would take more than `budget` bytes.
    """
    tree = token_tree(token_bytes, machine.byte_class)
    order, fingerprint = _explore(machine, tree, budget)
    # Columns are compared by a 64-bit fingerprint of where they lead from every state.
    _, representatives, token_class = np.unique(
        fingerprint[tree.leaf], return_index=True, return_inverse=True
    )
    dtype = np.int16 if len(order) < 2**15 else np.int32
    if (len(order) + 1) * len(representatives) * np.dtype(dtype).itemsize > budget:
        raise TableTooLarge(budget)
    numbers = np.full(machine.num_states, -1, dtype=dtype)
    numbers[order] = np.arange(len(order))
    if machine.dead >= 0:
        numbers[machine.dead] = -1
    few = token_tree([token_bytes[token] for token in representatives], machine.byte_class)
    step = np.full((len(order) + 1, len(representatives)), -1, dtype=dtype)
    for rows, states in _chunks(order, few.size()):
        step[rows] = numbers[few.walk(machine.step, states)][:, few.leaf]
    return TokenTable(
        step,
        token_class.reshape(-1).astype(np.int32),
        np.append(machine.outputs[order], 0).astype(np.int32),
        np.append(machine.stopped[order], False),
    )


def _explore(
    machine: ByteMachine, tree: TokenTree, budget: int
) -> tuple[IntArray, NDArray[np.uint64]]:
    """The states that tokens reach, and a fingerprint `[columns]` of each column's moves."""
    # The smallest table has one column of two bytes per state.
    most = min(machine.num_states, budget // 2)
    rng = np.random.Generator(np.random.PCG64(0xC01DBEEF))
    weights = rng.integers(1, 2**63, size=machine.num_states, dtype=np.uint64)
    reached = np.zeros(machine.num_states, dtype=bool)
    reached[0] = True
    if machine.dead >= 0:
        reached[machine.dead] = True
    fingerprint = np.zeros(tree.num_columns, dtype=np.uint64)
    order = [np.zeros(1, dtype=np.int32)]
    count = 1
    frontier = order[0]
    mixed = rng.integers(1, 2**63, size=machine.num_states, dtype=np.uint64)
    while len(frontier):
        hit = np.zeros(machine.num_states, dtype=bool)
        for _, states in _chunks(frontier, tree.size()):
            targets = tree.walk(machine.step, states)
            hit[targets.reshape(-1)] = True
            fingerprint += (mixed[targets] * weights[states][:, None]).sum(axis=0)
        frontier = np.flatnonzero(hit & ~reached).astype(np.int32)
        reached[frontier] = True
        order.append(frontier)
        count += len(frontier)
        if count > most:
            raise TableTooLarge(budget)
    return np.concatenate(order), fingerprint


def _chunks(states: IntArray, width: int) -> Iterator[tuple[slice, IntArray]]:
    size = max(1, _CHUNK // width)
    for start in range(0, len(states), size):
        yield slice(start, min(start + size, len(states))), states[start : start + size]


def successors(step: NDArray[np.integer], num_targets: int) -> tuple[IntArray, IntArray]:
    """For each row the distinct targets: `targets[bounds[i]:bounds[i + 1]]`, none of them -1."""
    found = []
    counts = []
    for rows, _ in _chunks(np.arange(len(step), dtype=np.int32), max(num_targets, step.shape[1])):
        block = step[rows]
        hit = np.zeros((len(block), num_targets + 1), dtype=bool)
        np.put_along_axis(hit, block.astype(np.int64), True, axis=1)
        hit[:, num_targets] = False
        row, target = np.nonzero(hit)
        found.append(target.astype(np.int32))
        counts.append(np.bincount(row, minlength=len(block)))
    bounds = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    return np.concatenate(found), bounds.astype(np.int64)
