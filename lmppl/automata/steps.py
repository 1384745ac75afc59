"""How an automaton over tokens moves, and from where a text can still be completed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lmppl.automata.ends import EndRule
from lmppl.automata.machine import ByteMachine
from lmppl.automata.tables import TokenTree
from lmppl.records import brief

Kind = Literal["table", "on demand"]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Steps:
    """How one automaton moves, whatever the device.

    States are numbered 0 .. n-1, then for each output o a state n + o for "ended by an end token
    with output o", then one row for the dead state (also reached by the index -1).  With a table,
    `step` is `[rows, classes]`, `token_class` `[vocab]`, and the distinct moves from a row are
    `targets[bounds[row]:bounds[row + 1]]`.  On demand `step` has no columns.
    """

    kind: Kind
    step: NDArray[np.integer]
    token_class: NDArray[np.integer]
    outputs: NDArray[np.integer]
    stopped: BoolArray
    ended: BoolArray
    targets: NDArray[np.integer]
    bounds: NDArray[np.integer]
    # What is needed on demand only.
    bytes_to_end: NDArray[np.float64] | None = None
    longest_token: int = 0
    machine: ByteMachine | None = None
    tree: TokenTree | None = None

    __repr__ = brief


def ended_rows(
    outputs: NDArray[np.integer], stopped: BoolArray, num_outputs: int
) -> tuple[NDArray[np.int64], BoolArray, BoolArray]:
    """Outputs, `stopped` and `ended` of all rows: states, ends by end token, the dead state."""
    return (
        np.concatenate([outputs, np.arange(num_outputs), [0]]).astype(np.int64),
        np.concatenate([stopped, np.zeros(num_outputs + 1, dtype=bool)]),
        np.concatenate([stopped, np.ones(num_outputs, dtype=bool), [False]]),
    )


def levels_of(steps: Steps, rule: EndRule, max_tokens: int) -> BoolArray:
    """`[levels, rows]`: whether a row's text can be completed with `remaining` tokens to come.

    Level r is for r tokens remaining; levels beyond the last are equal to the last. They are found
    from the end backwards: with r tokens to come a row is good where a move leads to one that is
    good with r − 1. So a mask looks at the level below its own, and lets no text into a place from
    which the tokens left are too few.
    """
    num_rows = len(steps.outputs)
    ended = steps.ended
    by_eos = ended & ~steps.stopped
    open_rows = np.flatnonzero(~ended)
    levels: list[BoolArray] = []
    for remaining in range(max_tokens + 1):
        tokens = max_tokens - remaining
        level = np.zeros(num_rows, dtype=bool)
        level[ended] = rule.accepts[steps.outputs[ended], 1, tokens]
        # The end token itself was drawn but does not count.
        level[by_eos] = rule.accepts[steps.outputs[by_eos], 1, max(0, tokens - 1)]
        if remaining == 0:
            level[open_rows] = rule.accepts[steps.outputs[open_rows], 0, tokens]
        elif steps.kind == "table":
            possible = levels[-1][steps.targets]
            level[open_rows] = _any_of(possible, steps.bounds)[open_rows]
        elif steps.bytes_to_end is not None:
            # Rows are not known before they are asked for, so that no move can be followed back.
            # That the longest tokens would do is necessary: no token is refused wrongly.
            reach = steps.longest_token * remaining
            level[open_rows] = steps.bytes_to_end[open_rows] <= reach
        level[-1] = False
        levels.append(level)
        # Without a count of tokens each level is the same function of the one before.
        if (
            steps.kind == "table"
            and not rule.counts_tokens
            and remaining > 0
            and np.array_equal(level, levels[-2])
        ):
            break
    return np.stack(levels)


def _any_of(values: BoolArray, bounds: NDArray[np.integer]) -> BoolArray:
    """For each `bounds[i]:bounds[i + 1]`, whether any value is true."""
    total = np.concatenate([[0], np.cumsum(values)])
    found: BoolArray = total[bounds[1:]] > total[bounds[:-1]]
    return found
