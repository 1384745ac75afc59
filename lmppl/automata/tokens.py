"""One automaton over tokens on a device: moves and masks of many rows, looked up at once."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lmppl.automata.ends import EndRule
from lmppl.automata.steps import BoolArray, Steps
from lmppl.records import brief

# What a table, or the rows of one that is made on demand, may take in memory, in bytes.
TABLE_BUDGET = 64 * 2**20

# Rows of masks kept for levels that come again at every step.
_MASK_BUDGET = 32 * 2**20


@dataclass(slots=True)
class TokenAutomaton:
    """Tables of one automaton on one device, for one `max_tokens`."""

    steps: Steps
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

    __repr__ = brief

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
        """At which levels every token is allowed in every row, so that no mask is needed."""
        if self.steps.kind != "table":
            return [False] * len(self.levels_on_host)
        if (self.steps.step[:-1] < 0).any():
            return [False] * len(self.levels_on_host)
        # Rows that ended at an end token come last before the dead row: nothing is drawn there.
        num_ended = int((self.steps.ended & ~self.steps.stopped).sum())
        reached = np.zeros(self.num_rows, dtype=bool)
        reached[self.steps.targets[: self.steps.bounds[self.num_rows - 1 - num_ended]]] = True
        return [bool(level[reached].all()) for level in self.levels_on_host]

    def to(self, device: torch.device) -> TokenAutomaton:
        return TokenAutomaton(
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
        # Near the budget every step has a level of its own; rows in one state share their mask.
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
