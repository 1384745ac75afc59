"""What a language model with finitely many states can be asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lmppl.finite.automaton import WeightedAutomaton
from lmppl.records import brief

# One step of the backward pass: `log_next` [states, automaton states] → the same, a token earlier.
Pull = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Forward:
    """One step of the pass from the beginning of a text to its end, under the posterior.

    `tokens` `[V]` is the probability of each token at this place (they sum to that of the texts
    that have not ended before), `reached` `[S, A]` that of each pair of states behind it.
    `log_weight` is the mean log weight of the moves, and `log_prob` that of the tokens under the
    prior; None where it is not a sum over tokens, as where states are hidden. Both count the texts
    that have a token here.
    """

    tokens: Tensor
    reached: Tensor
    log_weight: Tensor
    log_prob: Tensor | None

    __repr__ = brief


class FiniteStateLM(Protocol):
    """A distribution over tokens whose future depends on its past by way of finitely many states.

    In state s it draws a token v, and goes on to another state. Whether that state is known from
    the tokens (an n-gram model: the last tokens) or hidden (a hidden Markov model) is its own
    affair: what is known of a text in the making is a `belief`, an entry along the first dimension
    of a tensor, so that rows are copied and dropped by indexing.

    Nobody here assumes that it is the language model of a program: it may as well be a surrogate
    that only resembles it. All numbers are natural logs in float64.

    End tokens are tokens like all others; that they end a text is what the automaton says.
    """

    @property
    def num_states(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def begin(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """The beliefs `[n, …]` before the first token, after prompts of tokens."""
        ...

    def advance(self, beliefs: Tensor, tokens: Tensor) -> Tensor:
        """The beliefs `[n, …]` after one more token `[n]` each."""
        ...

    def log_probs(self, beliefs: Tensor) -> Tensor:
        """`[n, V]`: the log probability of every token next."""
        ...

    def log_expected(self, beliefs: Tensor, log_value: Tensor, states: Tensor) -> Tensor:
        """`[n]`: log of the expectation, over what state s it is in, of exp(log_value[s, states]).

        `log_value` is `[states, automaton states]`, `states` `[n]` the automaton's (−1: −∞).
        """
        ...

    def log_ahead(
        self,
        beliefs: Tensor,
        automaton: WeightedAutomaton,
        states: Tensor,
        log_next: Tensor,
    ) -> Tensor:
        """`[n, V]`: what is to be expected after each token, its own weights included.

        For token v: log w(a, v) + log E[exp(log_next[s', δ(a, v)])], a being the automaton's state
        (`states` `[n]`, none dead or ended), s' this model's state behind v. So

            log_probs + log_ahead, summed over tokens = log_expected of the table a token earlier.
        """
        ...

    def powered(self, exponent: float) -> FiniteStateLM:
        """Every text with its probability to this power, not normalised.

        Raises:
            ValueError: that is no such model.
        """
        ...

    def support(self) -> FiniteStateLM:
        """Weight 1 for every text that this can draw, and perhaps for others: to count them.

        Exact where states are known.
        """
        ...

    def pull(self, automaton: WeightedAutomaton) -> Pull:
        """One step of the backward pass through the product with an automaton:

            value[s, a] = log Σ_v p(v | s) w(a, v) E[exp(log_next[s', δ(a, v)]) | s, v].

        What does not depend on `log_next` is computed here once. Rows of states a that have ended
        may hold anything; the caller knows better.
        """
        ...

    def forward(
        self, automaton: WeightedAutomaton, reached: Tensor, log_value: Tensor, log_next: Tensor
    ) -> Forward:
        """One step of the forward pass.

        `reached` `[S, A]` are the posterior probabilities of states, those that have ended left
        out; `log_value` and `log_next` the tables of the backward pass here and a token later.
        """
        ...
