"""A constraint as a machine on the bytes of a text: decoding, stop strings and the character DFA.

The text of a site ends when a stop string is completed, which is not part of it, or where it has
come to what ends it as it is. Characters that may be the beginning of a stop string are held back
until that is decided: they belong to the text if it ends before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmppl.automata.alphabet import common_refinement, partition
from lmppl.automata.dfa import NOTHING, Dfa, TooManyStates, live_states
from lmppl.automata.stopping import Stopping
from lmppl.automata.utf8 import Decoder, IntArray, decoder

MAX_BYTE_STATES = 400_000

# A state on characters: that of the automaton, what is held back (None: the text has ended, and the
# first is its output), and the state of what watches for a text that ends as it is.
_Key = tuple[int, str | None, int]
# The state in which a leading space is stripped.
_FIRST: _Key = (-1, "", 0)


@dataclass(frozen=True, slots=True)
class ByteMachine:
    """A deterministic machine on bytes.

    `step` `[states, byte classes]` is the next state.  `outputs` `[states]` is the output of the
    text when it ends there by itself, `stopped` `[states]` is true once a stop string was completed
    (the output is then that of the text before it, or with it, as `Stopping` says).  State 0 is
    the initial state.  Output 0 is hopeless: `dead` is the state (-1 if there is none) from which
    no text has another.
    """

    step: IntArray
    byte_class: IntArray
    outputs: IntArray
    stopped: NDArray[np.bool_]
    dead: int

    @property
    def num_states(self) -> int:
        return len(self.step)

    def bytes_to_end(self) -> NDArray[np.float64]:
        """`[states]`: the fewest bytes after which the text has an output that is not 0."""
        distance = np.where(self.outputs != 0, 0.0, np.inf)
        while True:
            closer = np.minimum(distance, distance[self.step].min(axis=1) + 1.0)
            closer[self.stopped] = distance[self.stopped]
            if np.array_equal(closer, distance):
                return distance
            distance = closer


def byte_machine(dfa: Dfa, stopping: Stopping, strip_leading_space: bool) -> ByteMachine:
    """The machine for texts that something ends.

    With `strip_leading_space` a space that is the very first character is not part of the text.

    Raises:
        ValueError: an empty stop string, or one that contains U+FFFD.
        NotRegular: a pattern that no finite automaton decides.
        TooManyStates: the machine would be too large.
    """
    chars = _character_machine(dfa, stopping, strip_leading_space)
    return _merge_partial_characters(*_compose(chars, decoder(chars.dfa.alphabet)))


@dataclass(frozen=True, slots=True)
class _CharacterMachine:
    """A DFA whose outputs are those at the end of the text, with the states that have stopped."""

    dfa: Dfa
    stopped: tuple[bool, ...]


def _character_machine(
    dfa: Dfa, stopping: Stopping, strip_leading_space: bool
) -> _CharacterMachine:
    stops = tuple(dict.fromkeys(stopping.before))
    for stop in (*stops, *stopping.after):
        if not stop:
            raise ValueError("a stop string must not be empty")
        if "\ufffd" in stop:
            raise ValueError("a stop string must not contain U+FFFD")
    if not stopping and not strip_leading_space:
        return _CharacterMachine(_collapse_dead(dfa), (False,) * dfa.num_states)
    ending = _collapse_dead(stopping.kept(MAX_BYTE_STATES) or NOTHING)
    letters = sorted({*"".join(stops), *(" " if strip_leading_space else "")})
    alphabet, columns = common_refinement(
        [
            dfa.alphabet,
            ending.alphabet,
            partition([((ord(c), ord(c)),) for c in letters])[0],
        ]
    )
    dfa = _collapse_dead(
        Dfa(
            alphabet,
            tuple(tuple(row[cls] for cls, _, _ in columns) for row in dfa.rows),
            dfa.outputs,
        )
    )
    ending_rows = tuple(tuple(row[cls] for _, cls, _ in columns) for row in ending.rows)
    # What is held back is a prefix of a stop string, which names the state with the DFA's state.
    prefixes = {stop[:i] for stop in stops for i in range(len(stop))} | {""}
    letter_of: list[str | None] = [None] * alphabet.num_classes
    for char in letters:
        letter_of[_class_of(dfa, char)] = char
    classes_of = {prefix: tuple(_class_of(dfa, char) for char in prefix) for prefix in prefixes}
    moves: dict[str, list[tuple[tuple[int, ...], str | None]]] = {prefix: [] for prefix in prefixes}
    for prefix in prefixes:
        for cls, letter in enumerate(letter_of):
            free, kept = _hold(prefix, letter, prefixes, stops)
            classes = tuple(_class_of(dfa, char) for char in free)
            moves[prefix].append((classes if letter is not None else (*classes, cls), kept))
    dfa_rows = dfa.rows

    def read(state: int, classes: tuple[int, ...]) -> int:
        for cls in classes:
            state = dfa_rows[state][cls]
        return state

    numbers: dict[_Key, int] = {}
    order: list[_Key] = []

    def number(key: _Key) -> int:
        found = numbers.get(key)
        if found is None:
            found = numbers[key] = len(order)
            order.append(key)
            if found >= MAX_BYTE_STATES:
                raise TooManyStates(MAX_BYTE_STATES)
        return found

    if strip_leading_space:
        number(_FIRST)
    number((0, "", 0))
    rows: list[tuple[int, ...]] = []
    outputs: list[int] = []
    for key in order:
        state, held, at = (0, "", 0) if key == _FIRST else key
        if held is None:
            rows.append((number(key),) * alphabet.num_classes)
            outputs.append(state)
            continue
        row = []
        for cls, (released, still_held) in enumerate(moves[held]):
            if key == _FIRST and letter_of[cls] == " ":
                row.append(number((0, "", 0)))
                continue
            seen = ending_rows[at][cls]
            target = read(state, released)
            if still_held is None:
                row.append(number((dfa.outputs[target], None, 0)))
            elif ending.outputs[seen]:
                # What is held back is part of a text that ends as it is.
                target = read(target, classes_of[still_held])
                row.append(number((dfa.outputs[target], None, 0)))
            else:
                row.append(number((target, still_held, seen)))
        rows.append(tuple(row))
        outputs.append(dfa.outputs[read(state, classes_of[held])])
    stopped = [held is None for _, held, _ in order]
    machine = Dfa(alphabet, tuple(rows), tuple(outputs))
    return _CharacterMachine(_collapse_dead(machine), tuple(stopped))


def _class_of(dfa: Dfa, char: str) -> int:
    probe = Dfa(dfa.alphabet, (tuple(range(dfa.alphabet.num_classes)),), (0,))
    return probe.step(0, char)


def _hold(
    held: str, letter: str | None, prefixes: set[str], stops: tuple[str, ...]
) -> tuple[str, str | None]:
    """What is released and what is held after one more character; held None: a stop completed.

    `letter` None is a character that occurs in no stop string; it is released too.
    """
    if letter is None:
        return held, ""
    seen = held + letter
    completed = [stop for stop in stops if seen.endswith(stop)]
    if completed:
        return seen[: len(seen) - max(map(len, completed))], None
    start = next(i for i in range(len(seen) + 1) if seen[i:] in prefixes)
    return seen[:start], seen[start:]


def _collapse_dead(dfa: Dfa) -> Dfa:
    """Every state from which only output 0 is possible goes on to one and the same such state."""
    live = live_states(dfa)
    if all(live):
        return dfa
    dead = live.index(False)
    rows = tuple(
        tuple(target if live[target] else dead for target in row) if alive else (dead,) * len(row)
        for row, alive in zip(dfa.rows, live, strict=True)
    )
    return Dfa(dfa.alphabet, rows, dfa.outputs)


def _compose(
    chars: _CharacterMachine, bytes_: Decoder
) -> tuple[IntArray, IntArray, IntArray, NDArray[np.bool_], NDArray[np.bool_], int]:
    """Characters fed from bytes; only reachable states, numbered in order of discovery."""
    moves = np.asarray(chars.dfa.rows, dtype=np.int64)
    # One more column: no character, no move.
    moves = np.concatenate([moves, np.arange(len(moves))[:, None]], axis=1)
    final = np.zeros(len(moves), dtype=bool)
    final[[i for i, stopped in enumerate(chars.stopped) if stopped]] = True
    live = live_states(chars.dfa)
    dead_char = live.index(False) if not all(live) else -1
    if dead_char >= 0:
        final |= ~np.asarray(live)
    width = bytes_.num_states
    alike = _alike_within_characters(moves, final, bytes_)
    numbers = np.full(len(moves) * width, -1, dtype=np.int64)
    numbers[0] = 0
    frontier = np.zeros(1, dtype=np.int64)
    visited = [frontier]
    blocks = []
    count = 1
    while len(frontier):
        state, partial = np.divmod(frontier, width)
        target = moves[state[:, None], bytes_.first[partial]]
        target = moves[target, bytes_.second[partial]]
        follow = np.where(final[target], 0, bytes_.following[partial])
        codes = np.where(follow > 0, alike[target], target) * width + follow
        blocks.append(codes)
        fresh = np.unique(codes[numbers[codes] < 0])
        numbers[fresh] = np.arange(count, count + len(fresh))
        count += len(fresh)
        if count > MAX_BYTE_STATES:
            raise TooManyStates(MAX_BYTE_STATES)
        visited.append(fresh)
        frontier = fresh
    codes = np.concatenate(visited)
    step = numbers[np.concatenate(blocks)].astype(np.int32)
    state, partial = np.divmod(codes, width)
    at_end = np.where(partial > 0, moves[state, bytes_.replacement], state)
    outputs = np.asarray(chars.dfa.outputs, dtype=np.int32)[at_end]
    stopped = np.asarray(chars.stopped)[state]
    dead = int(numbers[dead_char * width]) if dead_char >= 0 else -1
    return step, bytes_.byte_class, outputs, stopped, partial > 0, dead


def _alike_within_characters(
    moves: NDArray[np.int64], final: NDArray[np.bool_], bytes_: Decoder
) -> NDArray[np.int64]:
    """`[states]`: one state for all that act alike on every character of several bytes.

    Inside such a character only this matters: thousands of states, of long lists of whole words
    say, that differ in letters only are then a handful, where each would be followed by hundreds.
    """
    # Some states of a decoder are there for overlong forms, and reached by nothing.
    reached = np.zeros(1, dtype=np.int64)
    while len(more := np.union1d(reached, bytes_.following[reached])) > len(reached):
        reached = more
    partial = reached[reached > 0]
    within = np.setdiff1d(bytes_.first[partial], [moves.shape[1] - 1])
    _, first, inverse = np.unique(
        np.concatenate([final[:, None], moves[:, within]], axis=1),
        axis=0,
        return_index=True,
        return_inverse=True,
    )
    found: NDArray[np.int64] = first[inverse.reshape(-1)].astype(np.int64)
    return found


def _merge_partial_characters(
    step: IntArray,
    byte_class: IntArray,
    outputs: IntArray,
    stopped: NDArray[np.bool_],
    partial: NDArray[np.bool_],
    dead: int,
) -> ByteMachine:
    """Merges states inside a character that act alike.

    States between characters are those of a machine that is small already; they stay apart, so
    the refinement settles within the length of a character.
    """
    num_states = len(outputs)
    label = np.arange(num_states, dtype=np.int64)
    label[partial] = num_states + outputs[partial]
    weights = np.random.Generator(np.random.PCG64(0x1EC0DE)).integers(
        1, 2**63, size=step.shape[1], dtype=np.uint64
    )
    rows = np.flatnonzero(partial)
    blocks = -1
    while len(rows):
        # Rows are compared by a 64-bit fingerprint.
        fingerprint = (label[step[rows]].astype(np.uint64) * weights).sum(axis=1)
        fingerprint += outputs[rows].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        _, inverse = np.unique(fingerprint, return_inverse=True)
        label[rows] = num_states + inverse.reshape(-1)
        found = int(inverse.max()) + 1
        if found == blocks:
            break
        blocks = found
    _, kept, numbers = np.unique(label, return_index=True, return_inverse=True)
    numbers = numbers.reshape(-1)
    # State 0 is between characters and has the smallest label.
    return ByteMachine(
        numbers[step[kept]].astype(np.int32),
        byte_class,
        outputs[kept],
        stopped[kept],
        int(numbers[dead]) if dead >= 0 else -1,
    )
