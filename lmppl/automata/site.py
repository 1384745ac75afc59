"""The constraints of one LM site as automata over its tokens, looked up in batches.

A row of a batch carries one integer of state.  What may follow is a gather from a table, taking
into account how many tokens remain: a token is allowed exactly when the text can still be
completed, within `max_tokens`, so that every constraint holds.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmppl.automata.dfa import (
    EVERYTHING,
    STATE_BUDGET,
    Dfa,
    TooManyStates,
    Work,
    minimise,
    product,
)
from lmppl.automata.ends import EndRule, conjuncts, split
from lmppl.automata.language import predicate_dfa
from lmppl.automata.machine import ByteMachine, byte_machine
from lmppl.automata.predicates import Predicate, True_
from lmppl.automata.tables import (
    MOST_WORK,
    TableTooLarge,
    TokenTable,
    TokenTree,
    joint_table,
    successors,
    token_table,
    token_tree,
)

TABLE_BUDGET = 64 * 2**20

Kind = Literal["table", "on demand"]
BoolArray = NDArray[np.bool_]


class Vocabulary(Protocol):
    """What is needed of a language model's vocabulary; see `lmppl.lm`."""

    @property
    def size(self) -> int: ...
    @property
    def token_bytes(self) -> tuple[bytes, ...]: ...
    @property
    def eos_ids(self) -> frozenset[int]: ...
    @property
    def digest(self) -> str: ...


# --- one automaton over tokens -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Steps:
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


@dataclass(frozen=True, slots=True)
class _Site:
    """What automata are built for."""

    vocab: Vocabulary
    stops: tuple[str, ...]
    strip_leading_space: bool
    max_tokens: int
    table_budget: int
    state_budget: int
    # What may be spent on joining tables, for all constraints of the site together.
    work: Work = field(default_factory=lambda: Work(2 * MOST_WORK), compare=False)

    def textual_table(self, predicate: Predicate, required: bool) -> TokenTable:
        """The table of one textual part; not required, no state counts as dead.

        Outputs are 0 and 1 where required, else 1 and 2.
        """
        dfa = predicate_dfa(predicate, self.state_budget)
        if not required:
            dfa = Dfa(dfa.alphabet, dfa.rows, tuple(output + 1 for output in dfa.outputs))
        key = (
            dfa.digest(),
            self.vocab.digest,
            self.stops,
            self.strip_leading_space,
            self.table_budget,
        )
        found = _tables.get(key)
        if found is None:
            machine = byte_machine(dfa, self.stops, self.strip_leading_space)
            found = _tables[key] = token_table(
                machine, [self.vocab.token_bytes[i] for i in self.other_tokens], self.table_budget
            )
            while len(_tables) > _TABLES_CACHED:
                _tables.popitem(last=False)
        _tables.move_to_end(key)
        return found

    @property
    def other_tokens(self) -> list[int]:
        """The tokens that are not end tokens."""
        return [i for i in range(self.vocab.size) if i not in self.vocab.eos_ids]

    def automaton(self, group: Sequence[Predicate]) -> tuple[_Steps, EndRule]:
        """One automaton for a group of constraints.

        Raises:
            TooManyStates, TableTooLarge: it does not fit the budgets.
        """
        parts = split(group)
        tables = [self.textual_table(part, required=True) for part in parts.required]
        tables += [self.textual_table(part, required=False) for part in parts.consulted]
        if not tables:
            # Something has to know when a stop string is completed.
            tables = [self.textual_table(True_(), required=False)]
        if len(tables) == 1:
            table, truths = tables[0], tables[0].outputs[:, None]
        else:
            table, truths = joint_table(tables, self.table_budget, self.work)
        shift = np.array([0] * len(parts.required) + [1] * len(parts.consulted), dtype=np.int32)
        truths = truths[:-1, : len(shift)] - shift
        found, inverse = np.unique(truths, axis=0, return_inverse=True)
        outputs, rule = parts.rule(
            [tuple(bool(value) for value in row) for row in found], self.max_tokens
        )
        return self._with_ends(table, np.array(outputs)[inverse.reshape(-1)], rule), rule

    def _with_ends(self, table: TokenTable, outputs: NDArray[np.int64], rule: EndRule) -> _Steps:
        """The table with the states after an end token, and the end tokens' column."""
        num_states, num_outputs = len(outputs), len(rule.accepts)
        num_classes, num_rows = table.step.shape[1], num_states + num_outputs + 1
        dtype = np.int16 if num_rows < 2**15 else np.int32
        has_eos = bool(self.vocab.eos_ids)
        step = np.full((num_rows, num_classes + has_eos), -1, dtype=dtype)
        step[:num_states, :num_classes] = table.step[:-1]
        step[num_states:-1] = np.arange(num_states, num_states + num_outputs)[:, None]
        token_class = np.full(self.vocab.size, num_classes, dtype=np.int64)
        token_class[self.other_tokens] = table.token_class
        stopped = table.stopped[:-1]
        if has_eos:
            # A text that has ended stays as it is, whatever is fed.
            step[:num_states, num_classes] = np.where(
                stopped, np.arange(num_states), num_states + outputs
            )
        targets, bounds = successors(step, num_rows - 1)
        return _Steps(
            "table", step, token_class, *_ended_rows(outputs, stopped, num_outputs), targets, bounds
        )

    def alone(self, constraint: Predicate) -> tuple[_Steps, EndRule]:
        """The automaton of one constraint: a table, or rows on demand where that is too large.

        Raises:
            TooManyStates: neither fits its budget.
        """
        try:
            return self.automaton([constraint])
        except TableTooLarge:
            return self.on_demand(constraint)

    def on_demand(self, constraint: Predicate) -> tuple[_Steps, EndRule]:
        """An automaton for a constraint that has no table; states are those of a byte machine.

        Raises:
            TooManyStates: it does not fit the budget.
        """
        parts = split([constraint])
        textual = [*parts.required, *parts.consulted]
        dfas = [predicate_dfa(part, self.state_budget) for part in textual] or [EVERYTHING]
        bits = list(itertools.product((False, True), repeat=len(textual)))
        outputs, rule = parts.rule(bits, self.max_tokens)
        output_of = dict(zip(bits, outputs, strict=True))

        def output(found: tuple[int, ...]) -> int:
            return output_of[tuple(map(bool, found[: len(textual)]))]

        both = product(dfas, output, self.state_budget)
        machine = byte_machine(minimise(both), self.stops, self.strip_leading_space)
        num_outputs = len(rule.accepts)
        # An end token adds nothing to the text, whatever bytes a tokenizer has for it.
        token_bytes = [
            b"" if i in self.vocab.eos_ids else token
            for i, token in enumerate(self.vocab.token_bytes)
        ]
        after = np.where(np.arange(num_outputs) > 0, 0.0, math.inf)
        steps = _Steps(
            "on demand",
            np.zeros((machine.num_states + num_outputs + 1, 0), dtype=np.int32),
            np.zeros(0, dtype=np.int64),
            *_ended_rows(machine.outputs, machine.stopped, num_outputs),
            np.zeros(0, dtype=np.int64),
            np.zeros(0, dtype=np.int64),
            bytes_to_end=np.concatenate([machine.bytes_to_end(), after, [math.inf]]),
            longest_token=max(map(len, token_bytes), default=0),
            machine=machine,
            tree=token_tree(token_bytes, machine.byte_class),
        )
        return steps, rule


# Tables of single constraints, shared between sites and runs.
_tables: OrderedDict[object, TokenTable] = OrderedDict()
_TABLES_CACHED = 32


def _ended_rows(
    outputs: NDArray[np.integer], stopped: BoolArray, num_outputs: int
) -> tuple[NDArray[np.int64], BoolArray, BoolArray]:
    """Outputs, `stopped` and `ended` of all rows: states, ends by end token, the dead state."""
    return (
        np.concatenate([outputs, np.arange(num_outputs), [0]]).astype(np.int64),
        np.concatenate([stopped, np.zeros(num_outputs + 1, dtype=bool)]),
        np.concatenate([stopped, np.ones(num_outputs, dtype=bool), [False]]),
    )


def _levels(steps: _Steps, rule: EndRule, max_tokens: int) -> BoolArray:
    """`[levels, rows]`: whether a row's text can be completed with `remaining` tokens to come.

    Level r is for r tokens remaining; levels beyond the last are equal to the last.
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


# Rows of masks kept for levels that come again at every step.
_MASK_BUDGET = 32 * 2**20


@dataclass(slots=True)
class _TokenAutomaton:
    """Tables of one automaton on one device, for one `max_tokens`."""

    steps: _Steps
    rule: EndRule
    max_tokens: int
    vocab_size: int
    eos_ids: tuple[int, ...]
    levels_on_host: BoolArray
    device: torch.device
    step: Tensor = field(init=False)
    token_class: Tensor = field(init=False)
    levels: Tensor = field(init=False)
    outputs: Tensor = field(init=False)
    ended: Tensor = field(init=False)
    stopped: Tensor = field(init=False)
    accepts_at_end: Tensor = field(init=False)
    allows_all: list[bool] = field(init=False)
    every_mask: Tensor | None = field(init=False, default=None)
    kept: Tensor | None = field(init=False, default=None)
    slots: Tensor = field(init=False)
    num_kept: int = field(init=False, default=0)
    row_cache: OrderedDict[int, Tensor] = field(init=False, default_factory=OrderedDict)

    def __post_init__(self) -> None:
        steps, device = self.steps, self.device
        self.step = torch.as_tensor(steps.step, device=device)
        self.token_class = torch.as_tensor(steps.token_class, device=device)
        self.levels = torch.as_tensor(self.levels_on_host, device=device)
        self.outputs = torch.as_tensor(steps.outputs, device=device)
        self.ended = torch.as_tensor(steps.ended, device=device)
        self.stopped = torch.as_tensor(steps.stopped, device=device)
        self.accepts_at_end = torch.as_tensor(self.rule.accepts, device=device)
        self.slots = torch.zeros(0, dtype=torch.long)
        self.allows_all = self._levels_that_allow_all()

    @property
    def num_rows(self) -> int:
        return len(self.steps.outputs)

    def level_of(self, remaining: int) -> int:
        return min(remaining, len(self.levels_on_host) - 1)

    def _levels_that_allow_all(self) -> list[bool]:
        if self.steps.kind != "table":
            return [False] * len(self.levels_on_host)
        if (self.steps.step[:-1] < 0).any():
            return [False] * len(self.levels_on_host)
        # Rows that ended at an end token come last before the dead row: nothing is drawn there.
        num_ended = int((self.steps.ended & ~self.steps.stopped).sum())
        reached = np.zeros(self.num_rows, dtype=bool)
        reached[self.steps.targets[: self.steps.bounds[self.num_rows - 1 - num_ended]]] = True
        return [bool(level[reached].all()) for level in self.levels_on_host]

    def to(self, device: torch.device) -> _TokenAutomaton:
        return _TokenAutomaton(
            self.steps,
            self.rule,
            self.max_tokens,
            self.vocab_size,
            self.eos_ids,
            self.levels_on_host,
            device,
        )

    def rows(self, states: Tensor) -> Tensor:
        """States as indices of rows: -1 becomes the last row."""
        return torch.where(states < 0, self.num_rows - 1, states)

    def advance(self, states: Tensor, tokens: Tensor) -> Tensor:
        if self.steps.kind == "table":
            return self.step[self.rows(states), self.token_class[tokens]].long()
        unique, inverse = torch.unique(states, return_inverse=True)
        return self._dense(unique)[inverse, tokens]

    def mask(self, states: Tensor, level: int) -> Tensor:
        """`[rows, vocab]`: tokens after which the text can be completed at `level`."""
        if self.steps.kind == "on demand":
            unique, inverse = torch.unique(states, return_inverse=True)
            targets = self._dense(unique)
            return self.levels[level][self.rows(targets)].index_select(0, inverse)
        states = self.rows(states)
        if level == len(self.levels_on_host) - 1:
            # The level of every step until the budget draws near: its rows are worth keeping.
            if self.num_rows * self.vocab_size <= _MASK_BUDGET:
                if self.every_mask is None:
                    every = torch.arange(self.num_rows, device=self.device)
                    self.every_mask = self._masks(every, level)
                return self.every_mask.index_select(0, states)
            if self.device.type == "cpu":
                return self._kept_masks(states, level)
        if self.device.type == "cpu" and len(states) > 8:
            unique, inverse = torch.unique(states, return_inverse=True)
            return self._masks(unique, level).index_select(0, inverse)
        return self._masks(states, level)

    def _masks(self, states: Tensor, level: int) -> Tensor:
        targets = self.step.index_select(0, states).long()
        by_class = self.levels[level][self.rows(targets)]
        return self._by_token(by_class)

    def _by_token(self, by_class: Tensor) -> Tensor:
        """`[rows, vocab]` from `[rows, classes]`."""
        # Ten times faster than index_select along the second dimension.
        return by_class.gather(1, self.token_class.expand(len(by_class), -1))

    def _kept_masks(self, states: Tensor, level: int) -> Tensor:
        """Masks of the last level, computed once for each state that occurs."""
        capacity = max(1024, _MASK_BUDGET // self.vocab_size)
        if self.kept is None or self.num_kept > capacity:
            self.num_kept = 0
            self.kept = torch.empty((0, self.vocab_size), dtype=torch.bool)
            self.slots = torch.full((self.num_rows,), -1)
        missing = torch.unique(states[self.slots[states] < 0])
        if len(missing):
            self.slots[missing] = torch.arange(self.num_kept, self.num_kept + len(missing))
            self.num_kept += len(missing)
            if self.num_kept > len(self.kept):
                grown = torch.empty((2 * self.num_kept, self.vocab_size), dtype=torch.bool)
                grown[: len(self.kept)] = self.kept
                self.kept = grown
            self.kept[self.num_kept - len(missing) : self.num_kept] = self._masks(missing, level)
        return self.kept.index_select(0, self.slots[states])

    def mask_ragged(self, states: Tensor, levels: Tensor) -> Tensor:
        """As `mask` with a level for each row."""
        if self.steps.kind == "on demand":
            unique, inverse = torch.unique(states, return_inverse=True)
            targets = self.rows(self._dense(unique)[inverse])
            return self.levels[levels[:, None], targets]
        targets = self.rows(self.step.index_select(0, self.rows(states)).long())
        return self._by_token(self.levels[levels[:, None], targets])

    def _dense(self, states: Tensor) -> Tensor:
        """`[states, vocab]`: next states, computed where they are not cached."""
        wanted = [state % self.num_rows for state in states.tolist()]
        missing = [state for state in wanted if state not in self.row_cache]
        if missing:
            for state, row in zip(missing, self._compute(missing), strict=True):
                self.row_cache[state] = row
        rows = []
        for state in wanted:
            self.row_cache.move_to_end(state)
            rows.append(self.row_cache[state])
        keep = max(64, TABLE_BUDGET // (4 * max(1, self.vocab_size)))
        while len(self.row_cache) > keep:
            self.row_cache.popitem(last=False)
        return torch.stack(rows).long()

    def _compute(self, states: list[int]) -> Tensor:
        machine, tree = self.steps.machine, self.steps.tree
        if machine is None or tree is None:
            raise ValueError("this automaton has a table")
        num_open = machine.num_states
        result = np.empty((len(states), self.vocab_size), dtype=np.int32)
        inside = [i for i, state in enumerate(states) if state < num_open]
        for i, state in enumerate(states):
            result[i] = -1 if state == self.num_rows - 1 else state
        if inside:
            chosen = np.array([states[i] for i in inside], dtype=np.int32)
            moved = tree.walk(machine.step, chosen)[tree.leaf].T
            if machine.dead >= 0:
                moved[moved == machine.dead] = -1
            at_end = np.where(machine.stopped[chosen], chosen, num_open + machine.outputs[chosen])
            moved[:, list(self.eos_ids)] = at_end[:, None]
            result[inside] = moved
        return torch.as_tensor(result, device=self.device)

    def accepts(self, states: Tensor, finished: Tensor, num_tokens: Tensor) -> Tensor:
        states = self.rows(states)
        return self.accepts_at_end[self.outputs[states], finished.long(), num_tokens]


# --- all constraints of a site -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SiteAutomaton:
    """The constraints of one LM site, over its tokens.

    One automaton for all constraints where that fits the budget; otherwise several, side by side,
    whose states are packed into one integer.  Then, and for automata "on demand", `is_exact` is
    false: a token is never refused wrongly, but one may be allowed after which nothing is left.
    Constraints for which every automaton is too large are `left_out`: they are met by no mask, and
    nothing here knows of them.

    States are LongTensors `[rows]`; -1 is the dead state.  A row that has ended keeps its state.
    `remaining` is how many tokens may still be drawn, the next one included: `max_tokens` at the
    start.  It is an int, or a LongTensor `[rows]` for rows at different positions.
    """

    max_tokens: int
    parts: tuple[_TokenAutomaton, ...]
    is_exact: bool
    left_out: tuple[Predicate, ...] = ()

    @property
    def device(self) -> torch.device:
        return self.parts[0].device

    @property
    def kind(self) -> str:
        """How masks are found: "table", "on demand", or the kinds of the parts."""
        kinds = list(dict.fromkeys(part.steps.kind for part in self.parts))
        name = " and ".join(kinds)
        return name if len(self.parts) == 1 else f"{len(self.parts)} automata: {name}"

    @property
    def num_states(self) -> int:
        """States of all parts together (not of their product)."""
        return sum(part.num_rows for part in self.parts)

    @property
    def num_bytes(self) -> int:
        """Size of the tables."""
        return sum(
            part.step.numel() * part.step.element_size() + part.levels.numel()
            for part in self.parts
        )

    @property
    def is_impossible(self) -> bool:
        """Whether no sequence of tokens satisfies the constraints within `max_tokens`.

        False is certain only where the automaton is exact.
        """
        return any(
            not part.levels_on_host[part.level_of(self.max_tokens)][0] for part in self.parts
        )

    @property
    def min_tokens(self) -> int | None:
        """The fewest tokens, an end token included, of a text that satisfies the constraints.

        The smallest budget that would do; None where no budget up to `max_tokens` does.  Lengths
        in tokens count against the budget of this site.
        """
        possible = [
            [bool(part.levels_on_host[part.level_of(r)][0]) for part in self.parts]
            for r in range(self.max_tokens + 1)
        ]
        return next((r for r, parts in enumerate(possible) if all(parts)), None)

    def to(self, device: torch.device | str) -> SiteAutomaton:
        """The same automaton with its tables on another device."""
        target = torch.device(device)
        if target == self.device:
            return self
        return SiteAutomaton(
            self.max_tokens,
            tuple(part.to(target) for part in self.parts),
            self.is_exact,
            self.left_out,
        )

    def initial(self, rows: int) -> Tensor:
        """`[rows]`: the state before the first token."""
        return torch.zeros(rows, dtype=torch.long, device=self.device)

    def advance(self, states: Tensor, tokens: Tensor) -> Tensor:
        """`[rows]`: the states after one more token each; dead and ended rows stay so."""
        return self._pack([p.advance(s, tokens) for p, s in self._split(states)])

    def mask(self, states: Tensor, remaining: int | Tensor) -> Tensor:
        """BoolTensor `[rows, vocab]`: the tokens after which the constraints can still be met.

        A row that is dead allows nothing; one that has ended and satisfies its constraints allows
        everything, because whatever is fed changes nothing.  The tensor may be shared: do not
        write to it.
        """
        masks = [
            p.mask(s, p.level_of(_at_least_one(remaining) - 1))
            if isinstance(remaining, int)
            else p.mask_ragged(s, (remaining - 1).clamp(0, len(p.levels_on_host) - 1))
            for p, s in self._split(states)
        ]
        return _all(masks)

    def masks_at(self, remaining: int) -> bool:
        """Whether any token could be refused to any row at this point; if not, skip the mask."""
        return not all(p.allows_all[p.level_of(_at_least_one(remaining) - 1)] for p in self.parts)

    def is_dead(self, states: Tensor, remaining: int | Tensor) -> Tensor:
        """BoolTensor `[rows]`: the constraints can no longer be met (or are not, at the end)."""
        alive = [
            p.levels[p.level_of(remaining)][p.rows(s)]
            if isinstance(remaining, int)
            else p.levels[remaining.clamp(0, len(p.levels_on_host) - 1), p.rows(s)]
            for p, s in self._split(states)
        ]
        return ~_all(alive)

    def ended(self, states: Tensor) -> Tensor:
        """BoolTensor `[rows]`: an end token was drawn or a stop string completed.

        Of a dead row it is unknown, and False.
        """
        (part, own), *_ = self._split(states)
        return part.ended[part.rows(own)]

    def accepts(
        self, states: Tensor, finished: Tensor | bool, num_tokens: Tensor | int | None = None
    ) -> Tensor:
        """BoolTensor `[rows]`: the constraints hold of the text if it ends here.

        `finished` `[rows]` is false of texts that reached `max_tokens`.  `num_tokens` `[rows]`, the
        tokens without end tokens, is needed only by constraints on the length in tokens.

        Raises:
            ValueError: `num_tokens` is needed and was not given.
        """
        if num_tokens is None:
            if any(part.rule.counts_tokens for part in self.parts):
                raise ValueError("these constraints depend on the number of tokens")
            num_tokens = 0
        ends = torch.as_tensor(finished, device=self.device).expand(states.shape)
        counts = torch.as_tensor(num_tokens, device=self.device).expand(states.shape)
        return _all([p.accepts(s, ends, counts) for p, s in self._split(states)])

    def _split(self, states: Tensor) -> list[tuple[_TokenAutomaton, Tensor]]:
        if len(self.parts) == 1:
            return [(self.parts[0], states)]
        found = []
        rest = states
        for part in self.parts:
            own = torch.where(states < 0, -1, rest % part.num_rows)
            found.append((part, own))
            rest = rest // part.num_rows
        return found

    def _pack(self, states: list[Tensor]) -> Tensor:
        if len(self.parts) == 1:
            return states[0]
        packed = torch.zeros_like(states[0])
        dead = torch.zeros_like(states[0], dtype=torch.bool)
        factor = 1
        for part, own in zip(self.parts, states, strict=True):
            packed = packed + factor * own.clamp_min(0)
            dead = dead | (own < 0)
            factor *= part.num_rows
        return torch.where(dead, -1, packed)


def _at_least_one(remaining: int) -> int:
    if remaining < 1:
        raise ValueError("no token can follow when none remains")
    return remaining


def _all(masks: list[Tensor]) -> Tensor:
    result = masks[0]
    for mask in masks[1:]:
        result = result & mask
    return result


def compile_constraint(
    predicates: Sequence[Predicate],
    vocab: Vocabulary,
    stop: Sequence[str] = (),
    max_tokens: int = 1,
    strip_leading_space: bool = False,
    *,
    device: torch.device | str = "cpu",
    table_budget: int = TABLE_BUDGET,
    state_budget: int = STATE_BUDGET,
) -> SiteAutomaton:
    """The automaton of an LM site that has to satisfy all predicates.

    `stop` are the site's stop strings; the automaton also says when they are completed, so it is
    useful without predicates.  `strip_leading_space` is for SentencePiece-style vocabularies where
    nothing comes before the text.  Tables take at most `table_budget` bytes each.
    A predicate that needs more than `state_budget` states is left out.

    Raises:
        NotRegular: a pattern that no finite automaton decides.
        ValueError: an empty stop string, or one that contains U+FFFD.
    """
    if max_tokens < 0:
        raise ValueError("max_tokens must not be negative")
    constraints = conjuncts(predicates)
    site = _Site(
        vocab,
        tuple(dict.fromkeys(stop)),
        strip_leading_space,
        max_tokens,
        table_budget,
        state_budget,
    )

    key = (
        tuple(constraints),
        site.stops,
        vocab.digest,
        strip_leading_space,
        max_tokens,
        table_budget,
        state_budget,
    )
    found = _sites.get(key)
    if found is None:
        found = _sites[key] = _build(constraints, site)
        while len(_sites) > _SITES_CACHED:
            _sites.popitem(last=False)
    _sites.move_to_end(key)
    return found.to(device)


# Automata of recent sites, on the CPU: MCMC and SVI ask for the same one again and again.
_sites: OrderedDict[object, SiteAutomaton] = OrderedDict()
_SITES_CACHED = 16


def _build(constraints: Sequence[Predicate], site: _Site) -> SiteAutomaton:
    left_out: tuple[Predicate, ...] = ()
    try:
        built = [site.automaton(constraints)]
    except (TooManyStates, TableTooLarge):
        built, left_out = _grouped(constraints, site)
    parts = tuple(
        _TokenAutomaton(
            steps,
            rule,
            site.max_tokens,
            site.vocab.size,
            tuple(sorted(site.vocab.eos_ids)),
            _levels(steps, rule, site.max_tokens),
            torch.device("cpu"),
        )
        for steps, rule in built
    )
    is_exact = len(parts) == 1 and parts[0].steps.kind == "table" and not left_out
    return SiteAutomaton(site.max_tokens, parts, is_exact, left_out)


def _grouped(
    constraints: Sequence[Predicate], site: _Site
) -> tuple[list[tuple[_Steps, EndRule]], tuple[Predicate, ...]]:
    """Groups of constraints that fit the budget together, as few as a greedy choice finds.

    Also the constraints that have no automaton even by themselves.
    """
    groups: list[tuple[list[Predicate], tuple[_Steps, EndRule]]] = []
    left_out: list[Predicate] = []
    for constraint in constraints or [True_()]:
        for position, (group, (steps, _)) in enumerate(groups):
            if steps.kind == "on demand":
                continue
            try:
                groups[position] = ([*group, constraint], site.automaton([*group, constraint]))
                break
            except (TooManyStates, TableTooLarge):
                continue
        else:
            try:
                groups.append(([constraint], site.alone(constraint)))
            except TooManyStates:
                left_out.append(constraint)
    # Something has to know when a stop string is completed.
    built = [steps for _, steps in groups] or [site.automaton([])]
    return built, tuple(left_out)
