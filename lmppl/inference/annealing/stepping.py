"""What the engines of methods that bring factors in by degrees have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from lmppl.density import Target
from lmppl.inference.annealing.run import Annealing
from lmppl.inference.annealing.state import State, side_by_side
from lmppl.inference.failures import by_binding
from lmppl.inference.loop import WHOLE, Draws, Info, Shard
from lmppl.rng import Stream
from lmppl.timing import timed


@dataclass(frozen=True, slots=True)
class AnnealingEngine(ABC):
    """Steps an `Annealing`. A method says which, and what its executions amount to in the end."""

    settings: Any
    target: Target
    stream: Stream

    @property
    @abstractmethod
    def annealing(self) -> Annealing:
        """The path with the sizes that the settings ask for."""

    @abstractmethod
    def of_group(self, state: State, complete: bool, group: int) -> Draws:
        """The draws of one binding, from a state that is done."""

    def init(self, shard: Shard = WHOLE) -> State:
        return self.annealing.begin(shard.index)

    def merge(self, states: Sequence[State]) -> State:
        return side_by_side(states, self.target.num_groups)

    def is_done(self, state: State) -> bool:
        return self.annealing.is_done(state)

    def step(self, state: State) -> tuple[State, Info]:
        return self.annealing.step(state)

    def hurry(self, state: State, *, spent: float, left: float) -> State:
        """Fewer executions, as many as can be finished; not before half of the budget is spent."""
        return self.annealing.hurry(state, spent, left)

    def recover(self, state: State) -> State:
        return self.annealing.recover(state)

    @timed("result")
    def result(self, state: State, *, complete: bool) -> list[Draws]:
        if not self.is_done(state):
            nothing = self.target.start(torch.zeros(0, dtype=torch.long))
            return [Draws(nothing, nothing.log_density(), None, complete=False)]
        return by_binding(self.target, partial(self.of_group, state, complete))
