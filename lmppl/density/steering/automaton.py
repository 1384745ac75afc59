"""The automata of a batch of texts: what may follow, so that requirements can still be met."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmppl.automata import SiteAutomaton


@dataclass(frozen=True, slots=True)
class Automata:
    """The automata of a batch: several where the rows' earlier choices ask for different ones.

    Row i is watched by `machines[which[i]]`; None watches nothing. `which` None means machine 0.
    """

    machines: tuple[SiteAutomaton | None, ...]
    which: Tensor | None = None

    @property
    def is_trivial(self) -> bool:
        return all(machine is None for machine in self.machines)

    def select(self, indices: Tensor) -> Automata:
        return self if self.which is None else replace(self, which=self.which[indices])

    def _each(self, rows: Tensor) -> list[tuple[SiteAutomaton, Tensor | None]]:
        """The machines in use among `rows` with the positions of their rows (None: all)."""
        if self.which is None:
            machine = self.machines[0]
            return [] if machine is None else [(machine, None)]
        which = self.which[rows]
        found = []
        for number in torch.unique(which).tolist():
            machine = self.machines[number]
            if machine is not None:
                found.append((machine, (which == number).nonzero().squeeze(-1)))
        return found

    def initial(self, num_rows: int, device: torch.device) -> Tensor:
        states = torch.zeros(num_rows, dtype=torch.long, device=device)
        for machine, at in self._each(torch.arange(num_rows, device=device)):
            if at is None:
                return machine.initial(num_rows)
            states[at] = machine.initial(at.shape[0])
        return states

    def mask(self, rows: Tensor, states: Tensor, remaining: Tensor | int) -> Tensor | None:
        """Tokens `[rows, vocab]` after which the text can still be completed; None: all."""
        mask: Tensor | None = None
        for machine, at in self._each(rows):
            if isinstance(remaining, int) and not machine.masks_at(remaining):
                continue
            if at is None:
                return machine.mask(states, remaining)
            left = remaining if isinstance(remaining, int) else remaining[at]
            part = machine.mask(states[at], left)
            if mask is None:
                mask = torch.ones(
                    (rows.shape[0], part.shape[1]), dtype=torch.bool, device=part.device
                )
            mask[at] = part
        return mask

    def is_dead(self, rows: Tensor, states: Tensor, remaining: Tensor | int) -> Tensor:
        """Whether no continuation of `remaining` tokens meets the constraints, `[rows]`."""
        dead = torch.zeros_like(states, dtype=torch.bool)
        for machine, at in self._each(rows):
            if at is None:
                return machine.is_dead(states, remaining)
            left = remaining if isinstance(remaining, int) else remaining[at]
            dead = dead.index_copy(0, at, machine.is_dead(states[at], left))
        return dead

    def advance(self, rows: Tensor, states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """New states `[rows]` (−1 dead) and whether the text has ended `[rows]`."""
        new = states
        stopped = torch.zeros_like(states, dtype=torch.bool)
        for machine, at in self._each(rows):
            if at is None:
                new = machine.advance(states, tokens)
                return new, machine.ended(new)
            part = machine.advance(states[at], tokens[at])
            new = new.index_copy(0, at, part)
            stopped = stopped.index_copy(0, at, machine.ended(part))
        return new, stopped
