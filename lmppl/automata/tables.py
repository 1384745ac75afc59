"""Token-level tables of a byte machine over a vocabulary (numpy; no torch here).

Tokens that act alike in every state share a column, so a table is `[states, token classes]`, far
smaller than `[states, vocabulary]`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lmppl.automata.dfa import Work
from lmppl.automata.machine import ByteMachine
from lmppl.automata.utf8 import IntArray

_Integer = TypeVar("_Integer", bound=np.integer)

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

    def walk(self, step: IntArray, states: IntArray) -> NDArray[np.int64]:
        """`[columns, states]`: where each state goes on the tokens of each column."""
        # Offsets into the flattened table, so that a level is one addition and one look-up.
        width = step.shape[1]
        offsets = step.reshape(-1).astype(np.int64) * width
        result = np.empty((self.num_columns, len(states)), dtype=np.int64)
        result[0] = states
        current = states[None, :].astype(np.int64) * width
        for parents, classes, ends, first in zip(
            self.parents, self.classes, self.ends, self.offsets, strict=True
        ):
            current = np.take(current, parents, axis=0)
            current += classes[:, None]
            current = np.take(offsets, current)
            result[first : first + len(ends)] = np.take(current, ends, axis=0)
        result[1:] //= width
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
        step[rows] = numbers[few.walk(machine.step, states)[few.leaf]].T
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
    while len(frontier):
        hit = np.zeros(machine.num_states, dtype=bool)
        for _, states in _chunks(frontier, tree.size()):
            targets = tree.walk(machine.step, states)
            hit[targets.reshape(-1)] = True
            fingerprint += targets.view(np.uint64) @ weights[states]
        frontier = np.flatnonzero(hit & ~reached).astype(np.int32)
        reached[frontier] = True
        order.append(frontier)
        count += len(frontier)
        if count > most:
            raise TableTooLarge(budget)
    return np.concatenate(order), fingerprint


def _chunks(states: NDArray[_Integer], width: int) -> Iterator[tuple[slice, NDArray[_Integer]]]:
    size = max(1, _CHUNK // width)
    for start in range(0, len(states), size):
        yield slice(start, min(start + size, len(states))), states[start : start + size]


# Tuples of states are numbered through an array where there are at most so many.
_DENSE_TUPLES = 1 << 24


# Units are about five nanoseconds: of one element, of one round, of one element that is sorted.
MOST_WORK = 100_000_000
_ROUND, _SORTED = 10_000, 40


def joint_table(
    tables: Sequence[TokenTable], budget: int, work: Work | None = None
) -> tuple[TokenTable, IntArray]:
    """All tables side by side, over the tuples of states that tokens reach.

    A tuple is dead as soon as one of its states is.  The second result is `[states + 1, tables]`:
    the outputs of all parts; those of the joint table itself are 0 throughout.

    Raises:
        TableTooLarge: the table would take more than `budget` bytes.
        TooManyStates: it would take more than is left of `work`, or more than `MOST_WORK`.
    """
    own_work = Work(MOST_WORK)
    combined = np.stack([table.token_class for table in tables], axis=1)
    classes, token_class = np.unique(combined, axis=0, return_inverse=True)
    sizes = [len(table.outputs) - 1 for table in tables]
    if math.prod(sizes) >= 2**62:
        raise TableTooLarge(budget)
    radix = np.concatenate([[1], np.cumprod(sizes, dtype=np.int64)[:-1]])
    steps = [table.step[:, classes[:, i]] for i, table in enumerate(tables)]
    numbering = _Numbering(math.prod(sizes))
    frontier = numbering.add(np.zeros(1, dtype=np.int64))
    visited = [frontier]
    blocks: list[NDArray[np.int32]] = []
    while len(frontier):
        fresh = []
        sorting = 0 if numbering.dense else _SORTED * numbering.count
        for each in (own_work, work):
            if each is not None:
                each.spend(_ROUND + sorting + len(frontier) * len(classes) * len(tables))
        for _, codes in _chunks(frontier, len(classes)):
            targets = np.zeros((len(codes), len(classes)), dtype=np.int64)
            dead = np.zeros(targets.shape, dtype=bool)
            for step, weight, size in zip(steps, radix, sizes, strict=True):
                moved = step[(codes // weight) % size]
                dead |= moved < 0
                targets += moved * weight
            targets[dead] = -1
            fresh.append(numbering.add(targets))
            blocks.append(numbering.of(targets))
            if numbering.count * len(classes) * 2 > budget:
                raise TableTooLarge(budget)
        frontier = np.concatenate(fresh)
        visited.append(frontier)
    codes = np.concatenate(visited)
    states = [(codes // weight) % size for weight, size in zip(radix, sizes, strict=True)]
    dtype = np.int16 if len(codes) < 2**15 else np.int32
    if (len(codes) + 1) * len(classes) * np.dtype(dtype).itemsize > budget:
        raise TableTooLarge(budget)
    step = np.full((len(codes) + 1, len(classes)), -1, dtype=dtype)
    np.concatenate(blocks, out=step[:-1], casting="same_kind")
    outputs = np.zeros((len(codes) + 1, len(tables)), dtype=np.int32)
    for i, (table, own) in enumerate(zip(tables, states, strict=True)):
        outputs[:-1, i] = table.outputs[own]
    stopped = np.append(tables[0].stopped[states[0]], False)
    joint = TokenTable(
        step, token_class.reshape(-1).astype(np.int32), np.zeros_like(outputs[:, 0]), stopped
    )
    return joint, outputs


class _Numbering:
    """Numbers codes 0, 1, ... in the order in which they are first added; -1 stays -1."""

    def __init__(self, num_codes: int) -> None:
        self.count = 0
        self.dense = num_codes <= _DENSE_TUPLES
        # One more entry, which the code -1 finds.
        self.numbers = np.full(num_codes + 1 if self.dense else 0, -1, dtype=np.int32)
        self.codes = np.zeros(0, dtype=np.int64)

    def add(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The codes that are new, each once, ascending."""
        if self.dense:
            missing = codes[(codes >= 0) & (self.numbers[codes] < 0)]
            fresh = np.unique(missing)
            self.numbers[fresh] = np.arange(self.count, self.count + len(fresh))
        else:
            fresh = np.setdiff1d(np.unique(codes), np.append(self.codes, -1))
            merged = np.concatenate([self.codes, fresh])
            numbers = np.concatenate(
                [self.numbers, np.arange(self.count, self.count + len(fresh), dtype=np.int32)]
            )
            order = np.argsort(merged, kind="stable")
            self.codes, self.numbers = merged[order], numbers[order]
        self.count += len(fresh)
        return fresh

    def of(self, codes: NDArray[np.int64]) -> NDArray[np.int32]:
        """The numbers of codes that were added."""
        if self.dense:
            return self.numbers[codes]
        found = self.numbers[
            np.searchsorted(self.codes, codes.clip(min=0)).clip(max=self.count - 1)
        ]
        return np.where(codes < 0, -1, found).astype(np.int32)


def successors(step: NDArray[np.integer], num_targets: int) -> tuple[IntArray, IntArray]:
    """For each row the distinct targets: `targets[bounds[i]:bounds[i + 1]]`, none of them -1."""
    found = []
    counts = []
    width = step.shape[1]
    # Sorting a row of moves, or ticking off a row of targets: whichever is shorter.
    by_sorting = num_targets > 16 * width
    for rows, _ in _chunks(np.arange(len(step), dtype=np.int32), max(1, width)):
        block = step[rows]
        if by_sorting:
            moves = np.sort(block, axis=1)
            keep = moves >= 0
            keep[:, 1:] &= moves[:, 1:] != moves[:, :-1]
            found.append(moves[keep].astype(np.int32))
            counts.append(keep.sum(axis=1))
        else:
            hit = np.zeros((len(block), num_targets + 1), dtype=bool)
            np.put_along_axis(hit, block.astype(np.int64), True, axis=1)
            hit[:, num_targets] = False
            counts.append(hit.sum(axis=1))
            found.append((np.flatnonzero(hit) % (num_targets + 1)).astype(np.int32))
    bounds = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    return np.concatenate(found), bounds.astype(np.int64)
