"""Weighted automata over the tokens of a vocabulary: what a text weighs, token by token."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmppl.records import brief


@dataclass(frozen=True, slots=True)
class WeightedAutomaton:
    """A deterministic automaton that gives every text a weight e^w ≥ 0, w being a sum of

    - `log_token[v]` for every token v that was drawn,
    - `log_weight[a, c]` for every move, from state a by a token of class c,
    - `log_final[·, a]` for the state a in which the text ends.

    States are 0 … A−1, and 0 is the first. Tokens that act alike everywhere share a class.

    `step` `[A, C]` is the next state, −1 where the text weighs nothing whatever follows.
    `log_weight` float64 `[A, C]` or None (0 throughout). `token_class` `[V]`.
    `log_token` float64 `[V]` or None (0 throughout).
    `ended` `[A]` is true of the states in which nothing more is drawn: an end token was drawn or a
    stop string completed. What `step` says of those is never looked at.
    `log_final` float64 `[1, A]`, or `[max_tokens + 1, A]` where it depends on how many tokens were
    drawn, an end token included. Of a state that has not ended it is the weight of the text that
    is cut there, at `max_tokens`.

    Weights are natural logs; −∞ weighs nothing; +∞ and NaN do not occur. The score of a token that
    ends a text is given once, by the move to the state that has ended.
    """

    step: Tensor
    log_weight: Tensor | None
    token_class: Tensor
    log_token: Tensor | None
    ended: Tensor
    log_final: Tensor

    __repr__ = brief

    @property
    def is_plain(self) -> bool:
        """Whether every text weighs 0 or 1."""
        final = self.log_final
        alike = bool(((final == 0.0) | (final == -math.inf)).all())
        return self.log_weight is None and self.log_token is None and alike

    def to_power(self, power: float) -> WeightedAutomaton:
        """That in which every text weighs what it does here to a positive power."""
        return replace(
            self,
            log_weight=None if self.log_weight is None else power * self.log_weight,
            log_token=None if self.log_token is None else power * self.log_token,
            log_final=power * self.log_final,
        )

    @property
    def num_states(self) -> int:
        return self.step.shape[0]

    @property
    def num_classes(self) -> int:
        return self.step.shape[1]

    @property
    def vocab_size(self) -> int:
        return self.token_class.shape[0]

    @property
    def device(self) -> torch.device:
        return self.step.device

    @property
    def max_tokens(self) -> int | None:
        """The number of tokens for which this was made, or None: it does for any."""
        return None if self.log_final.shape[0] == 1 else self.log_final.shape[0] - 1

    def final(self, num_tokens: int) -> Tensor:
        """`[A]`: the log weight of ending in each state after so many tokens."""
        return self.log_final[min(num_tokens, self.log_final.shape[0] - 1)]

    def start(self, rows: int) -> Tensor:
        """`[rows]`: the state before the first token."""
        return torch.zeros(rows, dtype=torch.long, device=self.device)

    def advance(self, states: Tensor, tokens: Tensor) -> Tensor:
        """`[n]`: the states after one more token each; what is dead (−1) or has ended stays so."""
        new = self.step[states, self.token_class[tokens]]
        return torch.where((states < 0) | self.ended[states], states, new)

    def moves(self, states: Tensor) -> tuple[Tensor, Tensor | None]:
        """Where each token leads from `states` `[n]`, `[n, V]`, and its log weight, `[n, V]`.

        `states` are none of the dead. Weights None: 0 throughout.
        """
        where = self.step[states][:, self.token_class]
        if self.log_weight is None:
            return where, None if self.log_token is None else self.log_token.expand_as(where)
        weights = self.log_weight[states][:, self.token_class]
        return where, weights if self.log_token is None else weights + self.log_token

    def outgoing(self, states: Tensor) -> tuple[WeightedAutomaton, Tensor]:
        """The moves of `states` `[n]` alone, and the states `[m]` that these lead to, in order.

        Of the automaton that is returned states 0 … n−1 are those, and moves lead to places in
        the second. It says nothing of ends.
        """
        step = self.step[states]
        after, place = torch.unique(step.clamp_min(0), return_inverse=True)
        nothing = torch.zeros(len(states), device=self.device)
        moves = WeightedAutomaton(
            place.masked_fill(step < 0, -1),
            None if self.log_weight is None else self.log_weight[states],
            self.token_class,
            self.log_token,
            nothing.bool(),
            nothing.double().unsqueeze(0),
        )
        return moves, after

    def log_weight_of(self, tokens: Tensor) -> float:
        """The log weight of one whole text, its tokens `[length]` (an end token included).

        The definition, a token at a time, for tests and for those who read. Tokens after the end
        are an error.
        """
        state, total = 0, 0.0
        for token in tokens.tolist():
            if bool(self.ended[state]):
                raise ValueError("the text ended before its last token")
            column = int(self.token_class[token])
            total += 0.0 if self.log_token is None else float(self.log_token[token])
            total += 0.0 if self.log_weight is None else float(self.log_weight[state, column])
            state = int(self.step[state, column])
            if state < 0:
                return -math.inf
        return total + float(self.final(len(tokens))[state])

    def to(self, device: torch.device | str) -> WeightedAutomaton:
        """The same automaton with its tables on another device."""
        return WeightedAutomaton(
            self.step.to(device),
            None if self.log_weight is None else self.log_weight.to(device),
            self.token_class.to(device),
            None if self.log_token is None else self.log_token.to(device),
            self.ended.to(device),
            self.log_final.to(device),
        )
