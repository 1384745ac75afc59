"""Steps of Adam that change nothing where it lies: new values, and what it remembers, are new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# What Adam remembers of every value, by its own names; None where it had no gradient yet.
Memory = tuple[Mapping[str, Tensor] | None, ...]


@dataclass(frozen=True, slots=True)
class Trained:
    """The values of what is trained, and what Adam remembers of each from the steps before.

    None of the tensors is ever written to, so that a state that holds them can be kept and stepped
    again.

    A step holds old and new at once: in bytes three times as much as all values, until the old
    state is let go.
    """

    values: tuple[Tensor, ...]
    memory: Memory

    @classmethod
    def start(cls, parameters: Sequence[Tensor]) -> Trained:
        """The values that parameters have now, of which nothing is remembered."""
        values = tuple(parameter.detach().clone() for parameter in parameters)
        return cls(values, (None,) * len(values))

    def fill(self, parameters: Sequence[Tensor]) -> None:
        """Writes the values into parameters, whose gradients are forgotten."""
        with torch.no_grad():
            for parameter, value in zip(parameters, self.values, strict=True):
                parameter.copy_(value)
                parameter.grad = None

    def stepped(
        self, gradients: Sequence[Tensor | None], rates: Sequence[tuple[int, Mapping[str, Any]]]
    ) -> Trained:
        """After a step of Adam (Kingma and Ba 2015, arXiv 1412.6980, algorithm 1).

        `rates` says of how many values, in order, each set of Adam's own options is.
        """
        moved = [value.clone() for value in self.values]
        for parameter, gradient in zip(moved, gradients, strict=True):
            parameter.grad = gradient
        groups, first = [], 0
        for size, options in rates:
            groups.append({**options, "params": moved[first : first + size]})
            first += size
        optimiser = torch.optim.Adam(groups)
        for parameter, known in zip(moved, self.memory, strict=True):
            if known is not None:
                optimiser.state[parameter] = {name: each.clone() for name, each in known.items()}
        optimiser.step()
        memory = tuple(
            dict(optimiser.state[each]) if each in optimiser.state else None for each in moved
        )
        for parameter in moved:
            parameter.grad = None
        return Trained(tuple(moved), memory)
