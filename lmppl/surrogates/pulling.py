"""A step of the backward pass with sparse tables, a class of tokens at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from lmppl.finite.automaton import WeightedAutomaton
from lmppl.records import brief

if TYPE_CHECKING:
    from lmppl.surrogates.backoff import BackoffLM

# What a difference of two sums that agree in all their bits may still be, relatively.
_ROUNDING = 2.0**-50


@dataclass(frozen=True, slots=True)
class _ClassMoves:
    """A sparse matrix [states × states]: the moves by the tokens of one class.

    Row `rows[i]` has the columns `column[begin[i]:begin[i + 1]]` with those weights.
    `target` `[T]` are the automaton's states that the class leads to, and `target_of` `[A]` which
    of those each state leads to; states that it kills, or that have ended, are not `alive` `[A]`.
    """

    rows: Tensor
    begin: Tensor
    column: Tensor
    weight: Tensor
    log_scale: Tensor
    target: Tensor
    target_of: Tensor
    alive: Tensor

    __repr__ = brief

    def times(self, values: Tensor) -> Tensor:
        """`[rows, A]`: the sums of `values` `[states, A]` behind the moves of every state."""
        table = values.index_select(1, self.target)
        sums = F.embedding_bag(
            self.column, table, self.begin, mode="sum", per_sample_weights=self.weight
        )
        return sums.index_select(1, self.target_of)


class BackoffPull:
    """`log_next` [states, automaton states] → the same, a token earlier.

    The moves of a state are its own pairs, and those of its parent times `rest` for all other
    tokens. So what its parent's sum has too much, the parent's moves by the state's own tokens, is
    taken away again: a pair of which both lead to the same state counts once, with `own`.

    Sums are made of values scaled by the largest of an automaton's state. As every token is
    possible everywhere, a value is positive for all states of the model or for none; no difference
    of sums is let below what rounding may have left.
    """

    def __init__(self, model: BackoffLM, automaton: WeightedAutomaton) -> None:
        self._model, self._automaton = model, automaton
        self._levels = [
            (model.level == level).nonzero().squeeze(-1)
            for level in range(1, int(model.level.max()) + 1)
        ]
        source, column, token, weight = _moves(model)
        log_token = automaton.log_token
        token_class = automaton.token_class[token]
        order = torch.argsort(token_class * model.num_states + source, stable=True)
        sizes = torch.bincount(token_class, minlength=automaton.num_classes).tolist()
        self._classes = []
        for number, at in enumerate(torch.split(order, sizes)):
            alive = (automaton.step[:, number] >= 0) & ~automaton.ended
            scale = torch.zeros((), dtype=torch.float64, device=model.device)
            own = weight[at]
            if log_token is not None and at.shape[0]:
                scale = log_token[token[at]].amax()
                own = own * (log_token[token[at]] - scale).exp().nan_to_num(0.0)
            if not at.shape[0] or not bool(alive.any()) or float(scale) == -math.inf:
                continue
            rows, counts = torch.unique_consecutive(source[at], return_counts=True)
            target, target_of = torch.unique(
                automaton.step[:, number].clamp_min(0), return_inverse=True
            )
            begin = counts.cumsum(0) - counts
            weights = automaton.log_weight
            log_scale = scale.expand(automaton.num_states)
            if weights is not None:
                log_scale = log_scale + weights[:, number]
            self._classes.append(
                _ClassMoves(rows, begin, column[at], own, log_scale, target, target_of, alive)
            )

    def __call__(self, log_next: Tensor) -> Tensor:
        """Values `[states, automaton states]` a token earlier; see the class."""
        model = self._model
        top = log_next.amax(0)
        scaled = (log_next - torch.where(top == -math.inf, 0.0, top)).exp()
        scales = [
            (each.log_scale + top[each.target[each.target_of]]).masked_fill(~each.alive, -math.inf)
            for each in self._classes
        ]
        sums = torch.zeros_like(log_next)
        if not scales:
            return sums.fill_(-math.inf)
        highest = torch.stack(scales).amax(0)
        reference = torch.where(highest == -math.inf, 0.0, highest)
        for each, scale in zip(self._classes, scales, strict=True):
            factor = (scale - reference).exp()
            sums.index_add_(0, each.rows, each.times(scaled) * factor)
        for states in self._levels:
            shorter = model.rest[states, None] * sums[model.parent[states]]
            sums[states] = torch.maximum(sums[states] + shorter, _ROUNDING * shorter)
        return sums.log() + highest


def _moves(model: BackoffLM) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where moves come from and lead to, by which token and with which weight; see the class."""
    longer = model.source > 0
    differs = longer & (model.after != model.after_shorter)
    same = longer & ~differs
    tokens = torch.arange(model.vocab_size, device=model.device)
    taken = model.rest[model.source] * model.shorter
    parts = (
        (torch.zeros_like(tokens), model.root_after, tokens, model.root),
        (model.source[same], model.after[same], model.token[same], model.own[same]),
        (model.source[differs], model.after[differs], model.token[differs], model.whole[differs]),
        (
            model.source[differs],
            model.after_shorter[differs],
            model.token[differs],
            -taken[differs],
        ),
    )
    source, column, token, weight = (torch.cat(list(each)) for each in zip(*parts, strict=True))
    return source, column, token, weight
