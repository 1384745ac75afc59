"""Finite-state language models whose state is known from the tokens: Markov chains and n-grams."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmppl.finite.automaton import WeightedAutomaton
from lmppl.finite.prior import Forward, Pull
from lmppl.records import brief
from lmppl.sequences.log_space import LogMatrix, log_matmul

# Entries of the largest array that a step makes.
_CHUNK = 1 << 23


@dataclass(frozen=True, slots=True)
class KnownStates:
    """The state after a token is a function of the state before it and the token.

    `log_emission` `[S, V]` are the log probabilities of tokens by state. States that agree where
    every token leads are a family: `family` `[S]` is its number, `successor` `[F, V]` where the
    tokens lead from there. A Markov chain has one family, for its state is the last token whatever
    came before; an n-gram model has one for every way in which its context goes on without its
    oldest token. `initial` is the state before any token. A belief is the number of a state.
    """

    log_emission: Tensor
    successor: Tensor
    family: Tensor
    initial: int

    __repr__ = brief

    @classmethod
    def of(cls, log_emission: Tensor, successor: Tensor, initial: int) -> KnownStates:
        """Of where tokens lead from each state, `[S, V]`, or from all of them alike, `[V]`."""
        num_states = log_emission.shape[0]
        if successor.dim() == 1:
            family = torch.zeros(num_states, dtype=torch.long, device=successor.device)
            return cls(log_emission.double(), successor[None], family, initial)
        rows, family = torch.unique(successor, dim=0, return_inverse=True)
        return cls(log_emission.double(), rows, family, initial)

    @property
    def num_states(self) -> int:
        return self.log_emission.shape[0]

    @property
    def vocab_size(self) -> int:
        return self.log_emission.shape[1]

    @property
    def device(self) -> torch.device:
        return self.log_emission.device

    def begin(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        table = self.successor
        found = []
        for prompt in prompts:
            state = self.initial
            for token in prompt:
                state = int(table[self.family[state], token])
            found.append(state)
        return torch.tensor(found, dtype=torch.long, device=self.device)

    def advance(self, beliefs: Tensor, tokens: Tensor) -> Tensor:
        return self.successor[self.family[beliefs], tokens]

    def log_probs(self, beliefs: Tensor) -> Tensor:
        return self.log_emission[beliefs]

    def log_expected(self, beliefs: Tensor, log_value: Tensor, states: Tensor) -> Tensor:
        found = log_value[beliefs, states.clamp_min(0)]
        return found.masked_fill(states < 0, -math.inf)

    def log_ahead(
        self,
        beliefs: Tensor,
        automaton: WeightedAutomaton,
        states: Tensor,
        log_next: Tensor,
    ) -> Tensor:
        where, weights = automaton.moves(states)
        found = log_next[self.successor[self.family[beliefs]], where.clamp_min(0)]
        found = found.double().masked_fill(where < 0, -math.inf)
        return found if weights is None else found + weights

    def powered(self, exponent: float) -> KnownStates:
        # What cannot be drawn stays so, whatever the power.
        powers = torch.where(self.log_emission > -math.inf, exponent * self.log_emission, -math.inf)
        return replace(self, log_emission=powers)

    def support(self) -> KnownStates:
        possible = self.log_emission > -math.inf
        counting = torch.where(possible, 0.0, -math.inf).double()
        return replace(self, log_emission=counting)

    def forward(
        self, automaton: WeightedAutomaton, reached: Tensor, log_value: Tensor, log_next: Tensor
    ) -> Forward:
        ahead_of = _Ahead(automaton, log_next)
        # What reached a state, without what was expected of it: ρ / value.
        reach = reached.log() - torch.where(reached > 0, log_value, 0.0)
        tokens = reached.new_zeros(self.vocab_size)
        after = reached.new_zeros(reached.shape)
        log_weight = log_prob = reached.new_zeros(())
        for members, families in self._blocks():
            emission = self.log_emission[members]
            # [families, V, automaton states]
            ahead = ahead_of.block(self.successor[families], slice(None))
            drawn = (emission + log_matmul(reach[members], ahead.transpose(-1, -2))).exp()
            tokens = tokens + drawn.sum((0, 1))
            log_prob = log_prob + (drawn * _finite(emission)).sum()
            joint = (log_matmul(emission.transpose(-1, -2), reach[members]) + ahead).exp()
            log_weight = log_weight + (joint * _finite(ahead_of.weights(slice(None)))).sum()
            # What is dead has probability zero, wherever that is added.
            leads = ahead_of.leads(slice(None)).clamp_max(automaton.num_states - 1)
            place = self.successor[families][:, :, None] * automaton.num_states + leads
            after.view(-1).index_add_(0, place.flatten(), joint.flatten())
        return Forward(tokens, after, log_weight, log_prob)

    def pull(self, automaton: WeightedAutomaton) -> Pull:
        parts = [
            (members, families, LogMatrix.of(self.log_emission[members]))
            for members, families in self._blocks()
        ]

        def step(log_next: Tensor) -> Tensor:
            ahead_of = _Ahead(automaton, log_next)
            result = torch.empty_like(log_next)
            for members, families, emission in parts:
                after = self.successor[families]
                width = max(1, _CHUNK // max(1, after.numel()))
                for first in range(0, automaton.num_states, width):
                    chosen = slice(first, min(first + width, automaton.num_states))
                    result[members, chosen] = emission.times(ahead_of.block(after, chosen))
            return result

        return step

    def _blocks(self) -> list[tuple[Tensor, Tensor]]:
        """Families in blocks of one size: their states `[families, size]`, and their numbers.

        So that a block is one product of matrices; the sizes of families are few.
        """
        sizes = torch.bincount(self.family, minlength=self.successor.shape[0])
        order = torch.argsort(self.family, stable=True)
        ends = sizes.cumsum(0)
        blocks = []
        for size in torch.unique(sizes[sizes > 0]).tolist():
            families = (sizes == size).nonzero().squeeze(-1)
            place = (ends[families] - size)[:, None] + torch.arange(size, device=self.device)
            members = order[place]
            most = max(1, _CHUNK // max(1, size * self.vocab_size))
            blocks += list(
                zip(torch.split(members, most), torch.split(families, most), strict=True)
            )
        return blocks


class _Ahead:
    """What each token leads to, by the automaton's state, its own weight included."""

    def __init__(self, automaton: WeightedAutomaton, log_next: Tensor) -> None:
        self.automaton = automaton
        num_states = automaton.num_states
        # The dead state is one more column, of −∞.
        dead = log_next.new_full((log_next.shape[0], 1), -math.inf)
        self.table = torch.cat([log_next, dead], 1)
        self.where = automaton.step.masked_fill(automaton.step < 0, num_states)

    def leads(self, chosen: slice) -> Tensor:
        """`[V, chosen]`: the next state, the number of states for the dead one."""
        return self.where[chosen][:, self.automaton.token_class].T

    def weights(self, chosen: slice) -> Tensor:
        """`[V, chosen]`: the log weight of each move."""
        automaton = self.automaton
        if automaton.log_weight is None:
            found = self.table.new_zeros(automaton.vocab_size, len(automaton.step[chosen]))
        else:
            found = automaton.log_weight[chosen][:, automaton.token_class].T
        return found if automaton.log_token is None else found + automaton.log_token[:, None]

    def block(self, after: Tensor, chosen: slice) -> Tensor:
        """`[families, V, chosen]`, where tokens lead to the prior's states `after`."""
        found = self.table[after[:, :, None], self.leads(chosen)[None]]
        if self.automaton.log_weight is None and self.automaton.log_token is None:
            return found
        return found + self.weights(chosen)


def _finite(logs: Tensor) -> Tensor:
    """Logs of what has probability zero do not count."""
    return logs.masked_fill(logs == -math.inf, 0.0)
