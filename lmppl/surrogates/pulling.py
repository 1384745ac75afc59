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
    """A sparse matrix [states × states]: the moves by the tokens of one class, its `number`.

    Row `rows[i]` has the columns `after[column[begin[i]:begin[i + 1]]]` with those weights, which
    are to be multiplied by e^`log_scale`.
    """

    number: int
    rows: Tensor
    begin: Tensor
    after: Tensor
    column: Tensor
    weight: Tensor
    log_scale: Tensor

    __repr__ = brief

    def times(self, values: Tensor, chosen: Tensor) -> Tensor:
        """`[rows, n]`: the sums of the columns `chosen` `[n]` of `values` `[states, m]` behind the
        moves of every state."""
        # Tokens of one class lead to few states: their rows are taken first.
        table = values.index_select(0, self.after).index_select(1, chosen)
        return F.embedding_bag(
            self.column, table, self.begin, mode="sum", per_sample_weights=self.weight
        )


@dataclass(frozen=True, slots=True)
class _Leads:
    """Where states of the automaton go by the tokens of one class.

    `target` `[T]` are the columns that the class leads to, and `target_of` `[A]` which of those
    each state leads to; states that it kills, or that have ended, are not `alive` `[A]`.
    `log_scale` `[A]` is the log of what the move weighs.
    """

    target: Tensor
    target_of: Tensor
    alive: Tensor
    log_scale: Tensor

    __repr__ = brief

    @classmethod
    def of(cls, moves: _ClassMoves, step: Tensor, log_weight: Tensor | None) -> _Leads:
        """By the moves of one class; `step` and `log_weight` `[A, C]` are of all classes."""
        where = step[:, moves.number]
        target, target_of = torch.unique(where.clamp_min(0), return_inverse=True)
        log_scale = moves.log_scale.expand(len(where))
        if log_weight is not None:
            log_scale = log_scale + log_weight[:, moves.number]
        return cls(target, target_of, where >= 0, log_scale)


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
        self._step = automaton.step.masked_fill(automaton.ended[:, None], -1)
        self._every: list[_Leads] | None = None
        self._classes = []
        for number, at in enumerate(torch.split(order, sizes)):
            alive = self._step[:, number] >= 0
            scale = torch.zeros((), dtype=torch.float64, device=model.device)
            own = weight[at]
            if log_token is not None and at.shape[0]:
                scale = log_token[token[at]].amax()
                own = own * (log_token[token[at]] - scale).exp().nan_to_num(0.0)
            if not at.shape[0] or not bool(alive.any()) or float(scale) == -math.inf:
                continue
            rows, counts = torch.unique_consecutive(source[at], return_counts=True)
            begin = counts.cumsum(0) - counts
            after, place = torch.unique(column[at], return_inverse=True)
            self._classes.append(_ClassMoves(number, rows, begin, after, place, own, scale))

    def __call__(self, log_next: Tensor) -> Tensor:
        """Values `[states, automaton states]` a token earlier; see the class."""
        if self._every is None:
            weights = self._automaton.log_weight
            self._every = [_Leads.of(each, self._step, weights) for each in self._classes]
        return self._pulled(log_next, self._every, len(self._step))

    def columns(self, states: Tensor) -> Tensor:
        """Those that tokens lead to from some `states` `[n]` of the automaton, in order."""
        where = self._step[states]
        found: Tensor = torch.unique(where[where >= 0])
        return found

    def some(self, log_next: Tensor, states: Tensor) -> Tensor:
        """Values `[states, n]` a token earlier for the automaton's `states` `[n]` alone.

        `log_next` has the columns `columns(states)`.
        """
        automaton = self._automaton
        place = torch.full((automaton.num_states + 1,), -1, device=log_next.device)
        needed = self.columns(states)
        place[needed] = torch.arange(len(needed), device=place.device)
        # Number −1 is the last, which leads nowhere.
        step = place[self._step[states]]
        weights = None if automaton.log_weight is None else automaton.log_weight[states]
        leads = [_Leads.of(each, step, weights) for each in self._classes]
        return self._pulled(log_next, leads, len(states))

    def _pulled(self, log_next: Tensor, leads: list[_Leads], num_states: int) -> Tensor:
        model = self._model
        sums = log_next.new_zeros(len(log_next), num_states)
        if not leads or not log_next.shape[1]:
            return sums.fill_(-math.inf)
        top = log_next.amax(0)
        scaled = (log_next - torch.where(top == -math.inf, 0.0, top)).exp()
        scales = [
            (each.log_scale + top[each.target[each.target_of]]).masked_fill(~each.alive, -math.inf)
            for each in leads
        ]
        highest = torch.stack(scales).amax(0)
        reference = torch.where(highest == -math.inf, 0.0, highest)
        for moves, each, scale in zip(self._classes, leads, scales, strict=True):
            factor = (scale - reference).exp()
            found = moves.times(scaled, each.target)
            sums.index_add_(0, moves.rows, found.index_select(1, each.target_of) * factor)
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
