"""Steering by automata: only tokens after which the requirements can still be met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from lmppl.automata import SiteAutomaton, compile_constraint
from lmppl.automata.predicates import Predicate
from lmppl.density.steering.protocol import Steering
from lmppl.lm.protocol import Prompt

if TYPE_CHECKING:
    from lmppl.density.stages.run import TextRun
    from lmppl.density.stages.text import TextStage


@dataclass(frozen=True, slots=True)
class Automata(Steering):
    """The automata of a batch: several where the rows' earlier choices ask for different ones.

    Row i is watched by `machines[which[i]]`; None watches nothing. `which` None means machine 0.
    A state is that of the row's automaton (−1: dead), `[n]`; with `which` it is `[n, 2]`: the
    number of the automaton, and its state.
    """

    machines: tuple[SiteAutomaton | None, ...]
    which: Tensor | None = None

    is_mask: ClassVar[bool] = True

    @property
    def is_trivial(self) -> bool:
        return all(machine is None for machine in self.machines)

    def select(self, indices: Tensor) -> Automata:
        return self if self.which is None else Automata(self.machines, self.which[indices])

    def begin(self, rows: Tensor) -> Tensor:
        if self.which is not None:
            # Every automaton begins in state 0.
            return torch.stack([self.which[rows], torch.zeros_like(rows)], -1)
        machine = self.machines[0]
        return torch.zeros_like(rows) if machine is None else machine.initial(rows.shape[0])

    def log_next(self, run: TextRun, states: Tensor) -> Tensor | None:
        return self.mask(states, run.remaining)

    def mask(self, states: Tensor, remaining: Tensor | int) -> Tensor | None:
        """Tokens `[n, vocab]` after which the text can still be completed; None: all.

        `remaining` is how many tokens may still be drawn, the next one included.
        """
        mask: Tensor | None = None
        for machine, at, own in self._each(states):
            if isinstance(remaining, int) and not machine.masks_at(remaining):
                continue
            if at is None:
                return machine.mask(own, remaining)
            part = machine.mask(own, remaining if isinstance(remaining, int) else remaining[at])
            if mask is None:
                shape = (states.shape[0], part.shape[1])
                mask = torch.ones(shape, dtype=torch.bool, device=part.device)
            mask[at] = part
        return mask

    def advance(self, states: Tensor, tokens: Tensor) -> Tensor:
        new = states
        for machine, at, own in self._each(states):
            if at is None:
                return machine.advance(own, tokens)
            moved = torch.stack([states[at, 0], machine.advance(own, tokens[at])], -1)
            new = new.index_copy(0, at, moved)
        return new

    def ended(self, states: Tensor) -> Tensor:
        found = torch.zeros(states.shape[0], dtype=torch.bool, device=states.device)
        for machine, at, own in self._each(states):
            if at is None:
                return machine.ended(own)
            found[at] = machine.ended(own)
        return found

    def is_dead(self, states: Tensor, remaining: Tensor | int) -> Tensor:
        """Whether no continuation of `remaining` tokens meets the requirements, `[n]`."""
        found = torch.zeros(states.shape[0], dtype=torch.bool, device=states.device)
        for machine, at, own in self._each(states):
            if at is None:
                return machine.is_dead(own, remaining)
            left = remaining if isinstance(remaining, int) else remaining[at]
            found[at] = machine.is_dead(own, left)
        return found

    def _each(self, states: Tensor) -> list[tuple[SiteAutomaton, Tensor | None, Tensor]]:
        """The machines in use with the positions of their rows (None: all), and their states."""
        if self.which is None:
            machine = self.machines[0]
            return [] if machine is None else [(machine, None, states)]
        which, own = states.unbind(-1)
        found: list[tuple[SiteAutomaton, Tensor | None, Tensor]] = []
        for number in torch.unique(which).tolist():
            machine = self.machines[number]
            if machine is not None:
                at = (which == number).nonzero().squeeze(-1)
                found.append((machine, at, own[at]))
        return found


def automaton_of(
    stage: TextStage,
    predicates: Sequence[Predicate],
    strip_leading_space: bool = False,
    device: torch.device | str = "cpu",
    max_tokens: int | None = None,
) -> SiteAutomaton:
    """What follows these predicates, and what ends texts, while a text of this site grows."""
    return compile_constraint(
        tuple(predicates),
        stage.lm.vocab,
        stopping=stage.stopping,
        max_tokens=stage.max_tokens if max_tokens is None else max_tokens,
        strip_leading_space=strip_leading_space,
        device=device,
    )


def stop_automata(stage: TextStage, prompts: Sequence[Prompt]) -> Automata:
    """What watches for what ends texts after these prompts, and for nothing else."""
    if not stage.stopping:
        return Automata((None,))
    strips = stage.lm.vocab.strips_leading_space
    which = [strips and prompt == "" for prompt in prompts]
    kinds = sorted(set(which))
    machines = tuple(automaton_of(stage, (), strip, stage.device) for strip in kinds)
    if len(machines) == 1:
        return Automata(machines)
    numbers = [kinds.index(strip) for strip in which]
    return Automata(machines, torch.tensor(numbers, device=stage.device))
