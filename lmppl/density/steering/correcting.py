"""What a surrogate believes of the moves of an automaton, corrected by a language model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmppl.density.steering.surrogate import Outlook
from lmppl.finite.automaton import WeightedAutomaton
from lmppl.records import brief

# Rows that count as having agreed with the surrogate before any was looked at.
_AGREEING = 1.0

# A correction of more nats than that is not believed.
_MOST = 6.0


@dataclass(frozen=True, slots=True)
class Moves:
    """How likely the moves of an automaton were, by a language model and by a surrogate.

    `by_model` and `by_surrogate` `[A, C]` float64 add up, over the texts in the making that were in
    each state, the probability of the tokens of each class next, each to the power `exponent`;
    `num_rows` `[A]` counts them.
    """

    automaton: WeightedAutomaton
    by_model: Tensor
    by_surrogate: Tensor
    num_rows: Tensor
    exponent: float = 1.0

    __repr__ = brief

    @classmethod
    def none(cls, automaton: WeightedAutomaton, exponent: float = 1.0) -> Moves:
        """Before any text was looked at."""
        shape = (automaton.num_states, automaton.num_classes)
        zeros = torch.zeros(shape, dtype=torch.float64, device=automaton.device)
        return cls(automaton, zeros, zeros, zeros[:, 0], exponent)

    def seen(self, outlook: Outlook, states: Tensor, beliefs: Tensor, probs: Tensor) -> Moves:
        """With texts in `states` `[n]`, none dead, after which `probs` `[n, V]` are the model's."""
        token_class = self.automaton.token_class
        guessed = outlook.prior.log_probs(beliefs).mul(self.exponent).exp().to(probs.dtype)
        if self.exponent != 1.0:
            probs = probs.pow(self.exponent)

        def added(total: Tensor, each: Tensor) -> Tensor:
            classes = each.new_zeros((each.shape[0], total.shape[1]))
            classes.index_add_(1, token_class, each)
            return total.index_add(0, states, classes.to(total.dtype))

        return replace(
            self,
            by_model=added(self.by_model, probs),
            by_surrogate=added(self.by_surrogate, guessed),
            num_rows=self.num_rows.index_add(0, states, torch.ones_like(states).double()),
        )

    def correction(self) -> Tensor:
        """log of model over surrogate, `[A, C]`, of all classes that lead from a state to another.

        Where few texts were seen, both are taken to agree: nobody has seen a word of several
        tokens half spelled as often as its first token.
        """
        step, size = self.automaton.step, self.automaton.num_states
        origin = torch.arange(size, device=step.device).unsqueeze(-1)
        moves, number = torch.unique(origin * (size + 1) + step + 1, return_inverse=True)

        def by_move(values: Tensor) -> Tensor:
            total = values.new_zeros(moves.shape[0])
            return total.index_add_(0, number.view(-1), values.reshape(-1))[number]

        rows = self.num_rows.unsqueeze(-1)
        model, surrogate = by_move(self.by_model), by_move(self.by_surrogate)
        agreeing = _AGREEING * surrogate / rows.clamp_min(1.0)
        log_ratio = torch.log((model + agreeing) / (surrogate + agreeing))
        most = _MOST * max(1.0, self.exponent)
        return torch.where(surrogate > 0, log_ratio, 0.0).nan_to_num(0.0).clamp(-most, most)
