"""Finite-state language models whose state is hidden: hidden Markov models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmppl.finite.automaton import WeightedAutomaton
from lmppl.finite.known import KnownStates
from lmppl.finite.prior import Forward, Pull
from lmppl.records import brief
from lmppl.sequences.log_space import LogMatrix, log_matmul, log_sum_groups


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """In state s a token is drawn, and then the next state, whatever the token was.

    `log_initial` `[S]`, `log_transition` `[S, S]` (from, to), `log_emission` `[S, V]`: log
    probabilities. A belief is the log probability of every state given the tokens, `[S]`.
    """

    log_initial: Tensor
    log_transition: Tensor
    log_emission: Tensor

    __repr__ = brief

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
        found = []
        for prompt in prompts:
            belief = self.log_initial[None]
            for token in prompt:
                belief = self.advance(belief, torch.tensor([token], device=self.device))
            found.append(belief)
        return torch.cat(found)

    def advance(self, beliefs: Tensor, tokens: Tensor) -> Tensor:
        seen = beliefs + self.log_emission[:, tokens].T
        total = torch.logsumexp(seen, -1, keepdim=True)
        # A token that cannot be leaves nothing to believe.
        seen = seen - total.masked_fill(total == -math.inf, 0.0)
        return log_matmul(seen, self.log_transition)

    def log_probs(self, beliefs: Tensor) -> Tensor:
        return log_matmul(beliefs, self.log_emission)

    def log_expected(self, beliefs: Tensor, log_value: Tensor, states: Tensor) -> Tensor:
        found = torch.logsumexp(beliefs + log_value[:, states.clamp_min(0)].T.double(), -1)
        return found.masked_fill(states < 0, -math.inf)

    def log_ahead(
        self,
        beliefs: Tensor,
        automaton: WeightedAutomaton,
        states: Tensor,
        log_next: Tensor,
    ) -> Tensor:
        # Tokens are grouped by where the automaton goes: the sum over hidden states is made for
        # every row and each of the places that any row can go to, not for every token's weight.
        where, weights = automaton.moves(states)
        ahead = log_matmul(self.log_transition, log_next.double())
        result = torch.full_like(beliefs[:, :1], -math.inf).repeat(1, self.vocab_size)
        for place in torch.unique(where[where >= 0]).tolist():
            rows = (where == place).any(-1).nonzero().squeeze(-1)
            found = log_matmul(beliefs[rows] + ahead[:, place], self.log_emission)
            result[rows] = torch.where(where[rows] == place, found, result[rows])
        probs = self.log_probs(beliefs)
        result = (result - probs).masked_fill(probs == -math.inf, -math.inf)
        return result if weights is None else result + weights

    def powered(self, exponent: float) -> HiddenStates:
        if exponent == 1.0:
            return self
        raise ValueError("a power of a mixture over hidden states is no sum over them")

    def support(self) -> KnownStates:
        possible = (self.log_emission > -math.inf).any(0)
        counting = torch.where(possible, 0.0, -math.inf).double()[None]
        return KnownStates.of(counting, torch.zeros_like(possible, dtype=torch.long), 0)

    def forward(
        self, automaton: WeightedAutomaton, reached: Tensor, log_value: Tensor, log_next: Tensor
    ) -> Forward:
        num_states, classes = automaton.num_states, automaton.token_class
        emission = self.log_emission
        if automaton.log_token is not None:
            emission = emission + automaton.log_token
        by_class = log_sum_groups(emission, classes, automaton.num_classes)
        dead = log_next.new_full((self.num_states, 1), -math.inf)
        ahead = torch.cat([log_matmul(self.log_transition, log_next), dead], 1)
        where = automaton.step.masked_fill(automaton.step < 0, num_states)
        moves = reached.new_zeros(where.shape)
        if automaton.log_weight is not None:
            moves = automaton.log_weight
        tokens = reached.new_zeros(self.vocab_size)
        by_move = reached.new_zeros(where.shape)
        source = reached.new_full((self.num_states, num_states), -math.inf)
        reach = reached.log() - torch.where(reached > 0, log_value, 0.0)
        for state in range(self.num_states):
            # [automaton states, classes]
            own = reach[state][:, None] + moves
            later = own + ahead[state][where]
            tokens += (emission[state] + torch.logsumexp(later, 0)[classes]).exp()
            by_move += (by_class[state] + later).exp()
            flat = (own + by_class[state]).flatten()[None]
            source[state] = log_sum_groups(flat, where.flatten(), num_states + 1)[0, :-1]
        after = (log_matmul(self.log_transition.T, source) + log_next).exp()
        log_weight = (by_move * moves.masked_fill(moves == -math.inf, 0.0)).sum()
        if automaton.log_token is not None:
            own_scores = automaton.log_token
            log_weight += (tokens * own_scores.masked_fill(own_scores == -math.inf, 0.0)).sum()
        return Forward(tokens, after, log_weight, None)

    def pull(self, automaton: WeightedAutomaton) -> Pull:
        emission = self.log_emission
        if automaton.log_token is not None:
            emission = emission + automaton.log_token
        num_classes, num_states = automaton.num_classes, automaton.num_states
        by_class = LogMatrix.of(log_sum_groups(emission, automaton.token_class, num_classes))
        # Tokens are grouped by where the automaton goes: one column for each pair of states.
        step = automaton.step
        origin = torch.arange(num_states, device=step.device)[:, None].expand_as(step)
        pairs, pair_of = torch.unique(
            torch.where(step < 0, -1, origin * num_states + step), return_inverse=True
        )
        groups = step.new_zeros(()).double().new_full((num_classes, len(pairs)), -math.inf)
        column = torch.arange(num_classes, device=step.device).expand_as(step)
        weights = automaton.log_weight
        groups[column, pair_of] = torch.zeros(step.shape, dtype=torch.float64, device=step.device)
        if weights is not None:
            groups[column, pair_of] = weights
        alive = pairs >= 0
        pairs, groups = pairs[alive], groups[:, alive]
        grouped = by_class.times(groups)
        source, target = pairs // num_states, pairs % num_states
        transition = LogMatrix.of(self.log_transition)

        def step_back(log_next: Tensor) -> Tensor:
            ahead = transition.times(log_next)
            return log_sum_groups(grouped + ahead[:, target], source, num_states)

        return step_back
