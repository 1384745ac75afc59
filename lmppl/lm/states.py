"""Language models whose tables can be looked at whole: those with finitely many states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from lmppl.lm.protocol import Prompt
from lmppl.records import brief

# Entries of the largest table of emissions, states × tokens.
MOST_ENTRIES = 1 << 26


class TooManyStates(ValueError):
    """A language model has more states than a table has room for."""


@dataclass(frozen=True, slots=True)
class StateTables:
    """A language model as what it does in each state, float64 natural logs.

    In state s it draws a token v with `log_emission[s, v]` `[S, V]`. Then, where `successor` is
    given (`[S, V]`, or `[V]` where it is the same for all states), it is in the state
    `successor[s, v]`; else the next state is drawn from `log_transition[s]` `[S, S]`, whatever the
    token was. `initial` is the state before any token, a number, or log probabilities `[S]`.
    """

    log_emission: Tensor
    initial: int | Tensor
    successor: Tensor | None = None
    log_transition: Tensor | None = None

    __repr__ = brief


@runtime_checkable
class HasStates(Protocol):
    """A language model that is given by such tables."""

    def encode_prompt(self, prompt: Prompt) -> tuple[int, ...]:
        """The tokens of a prompt, which lead to the state in which a text begins."""
        ...

    def states(self) -> StateTables:
        """The tables; prompts are what it was fed with before.

        Raises:
            TooManyStates: they would be too large.
        """
        ...
