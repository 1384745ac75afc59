"""Tables of what is to be expected, for those states of a large automaton that texts are in."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lmppl.finite.automaton import WeightedAutomaton
from lmppl.finite.backward import TablesTooLarge, corrected
from lmppl.finite.prior import FiniteStateLM
from lmppl.records import brief

# The share of what texts weigh that may lie in states without a column, at every length.
LEFT_OUT = 1e-3


@runtime_checkable
class ColumnPull(Protocol):
    """A step of the backward pass that can be made for some states of the automaton alone."""

    def columns(self, states: Tensor) -> Tensor:
        """The states that tokens lead to from `states` `[n]`, in order, each once."""
        ...

    def some(self, log_next: Tensor, states: Tensor) -> Tensor:
        """Values `[S, n]` of `states` `[n]`, by `log_next` of the `columns` of these states."""
        ...


@dataclass(frozen=True, slots=True)
class ColumnLevels:
    """What is to be expected with 0, 1, … tokens to go, as `BackwardTables.log_value` has it.

    With r tokens to go `columns[r]` `[A_r]` are the automaton's states whose values depend on the
    state of the prior, in `values[r]` `[S, A_r]`; those of all others are in `elsewhere` `[T + 1,
    A]`. Read by the number of tokens, as a tensor `[T + 1, S, A]` is.
    """

    columns: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    elsewhere: Tensor

    __repr__ = brief

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, remaining: int) -> Tensor:
        """`[S, A]`, of all states of the automaton."""
        every = torch.arange(self.elsewhere.shape[1], device=self.elsewhere.device)
        return self.some(remaining, every)

    def some(self, remaining: int, states: Tensor) -> Tensor:
        """`[S, n]`, of the automaton's `states` `[n]`."""
        columns, values = self.columns[remaining], self.values[remaining]
        table = self.elsewhere[remaining][states].expand(values.shape[0], -1)
        if not columns.shape[0]:
            return table.clone()
        place = torch.searchsorted(columns, states).clamp_max(columns.shape[0] - 1)
        return torch.where(columns[place] == states, values.index_select(1, place), table)

    def __mul__(self, factor: float) -> ColumnLevels:
        """With all values multiplied by a positive number."""
        values = tuple(each * factor for each in self.values)
        return replace(self, values=values, elsewhere=self.elsewhere * factor)

    @property
    def dtype(self) -> torch.dtype:
        """Of all tables."""
        return self.elsewhere.dtype

    @property
    def num_bytes(self) -> int:
        """Of memory."""
        return sum(each.nbytes for each in self.values) + self.elsewhere.nbytes

    def highest(self) -> list[float]:
        """The highest value with 0, 1, … tokens to go."""
        found = []
        for columns, values, elsewhere in zip(
            self.columns, self.values, self.elsewhere, strict=True
        ):
            rest = elsewhere.index_fill(0, columns, -math.inf)
            found.append(float(torch.cat([rest, values.flatten()]).amax()))
        return found


@dataclass(frozen=True, slots=True)
class Shares:
    """Where texts are whose tokens are drawn independently, weighed by an automaton.

    `log_share` `[T + 1, A]` is, with r tokens to go, the log of the share of all weight that texts
    in each state have; `log_value` `[T + 1, A]` what is expected of them from there on. Natural
    logs in float64.
    """

    log_share: Tensor
    log_value: Tensor

    __repr__ = brief

    @classmethod
    def of(cls, automaton: WeightedAutomaton, log_probs: Tensor, max_tokens: int) -> Shares:
        """Under the probabilities `[V]` of the tokens; a pass back and one forth."""
        log_token = log_probs.double()
        if automaton.log_token is not None:
            log_token = log_token + automaton.log_token
        shape = automaton.step.shape
        by_class = log_token.new_zeros(shape[1])
        top = log_token.amax()
        by_class.index_add_(0, automaton.token_class, (log_token - top).exp())
        moves = (by_class.log() + top).expand(shape)
        if automaton.log_weight is not None:
            moves = moves + automaton.log_weight
        step = automaton.step
        moves = moves.masked_fill((step < 0) | automaton.ended[:, None], -math.inf)
        where = step.clamp_min(0)
        value = automaton.final(max_tokens)
        values = [value]
        for remaining in range(1, max_tokens + 1):
            ended = automaton.final(max_tokens - remaining)
            value = torch.logsumexp(moves + value[where], 1)
            value = torch.where(automaton.ended, ended, value)
            values.append(value)
        reach = torch.full_like(value, -math.inf)
        reach[0] = 0.0
        reached = [reach]
        for _ in range(max_tokens):
            # What has ended goes nowhere.
            each = reach[:, None] + moves
            top = each.amax()
            if float(top) == -math.inf:
                reach = torch.full_like(reach, -math.inf)
            else:
                flat = (each - top).exp().flatten()
                reach = torch.zeros_like(reach).index_add(0, where.flatten(), flat).log() + top
            reached.append(reach)
        log_value = torch.stack(values)
        log_share = torch.stack(reached[::-1]) + log_value
        return cls(log_share - log_value[-1, 0], log_value)

    def columns(self, automaton: WeightedAutomaton, left_out: float = LEFT_OUT) -> list[Tensor]:
        """For 0, 1, … tokens to go, the states that all but `left_out` of the weight goes by.

        Without those that have ended, of which all is known.
        """
        found = []
        for log_share in self.log_share:
            share = log_share.exp().masked_fill(automaton.ended, 0.0)
            ordered, order = share.sort(descending=True, stable=True)
            before = ordered.cumsum(0) - ordered
            kept = (ordered > 0) & (before < (1.0 - left_out) * ordered.sum())
            found.append(order[kept].sort().values)
        return found


def column_levels(
    prior: FiniteStateLM,
    automaton: WeightedAutomaton,
    max_tokens: int,
    log_probs: Tensor,
    *,
    budget: int,
    left_out: float = LEFT_OUT,
    correction: Tensor | None = None,
) -> ColumnLevels:
    """Tables for a large automaton: float32, of the states that matter.

    Which those are is judged by texts of tokens that are drawn independently, with the
    probabilities e^`log_probs` `[V]`; what is expected in all others is judged by those, too,
    and moved to the height of what the prior expects in the states that have columns. So this is
    no table of the prior's expectations, as `backward` makes it, but a guide. A `correction` is as
    for `backward`; where tables of what it comes to would be too large, it is not evened out.

    Raises:
        TablesTooLarge: they would take more than `budget` bytes, or the prior has no tables of
            some states alone.
    """
    alone = automaton
    if correction is not None:
        automaton, alone = corrected(automaton, correction)
    shares = Shares.of(automaton, log_probs, max_tokens)
    columns = shares.columns(automaton, left_out)
    num_bytes = 4 * prior.num_states * sum(map(len, columns))
    pull = prior.pull(automaton)
    if num_bytes > budget or not isinstance(pull, ColumnPull):
        raise TablesTooLarge(num_bytes, budget)
    used = torch.unique(torch.cat(columns))
    log_total: Tensor | None = None
    if correction is not None and 4 * prior.num_states * len(used) <= budget:
        even = torch.zeros(prior.num_states, len(used), dtype=torch.float64, device=prior.device)
        of_all = prior.pull(alone)
        assert isinstance(of_all, ColumnPull)
        log_total = of_all.some(even, used).float()
    elsewhere = [automaton.final(max_tokens)]
    states = columns[0]
    last = elsewhere[0][states].expand(prior.num_states, -1)
    values = [last.float()]
    for remaining in range(1, max_tokens + 1):
        states, before = columns[remaining], columns[remaining - 1]
        needed = pull.columns(states)
        log_next = elsewhere[-1][needed].expand(prior.num_states, -1).clone()
        place = torch.full((automaton.num_states,), -1, device=prior.device)
        place[before] = torch.arange(len(before), device=place.device)
        known = (place[needed] >= 0).nonzero().squeeze(-1)
        log_next[:, known] = last[:, place[needed[known]]]
        last = pull.some(log_next, states)
        if log_total is not None:
            last = last - log_total[:, torch.searchsorted(used, states)]
        rest = shares.log_value[remaining]
        height = _height(last.mean(0) - rest[states], shares.log_share[remaining][states])
        ended = automaton.final(max_tokens - remaining)
        elsewhere.append(torch.where(automaton.ended, ended, rest + height))
        values.append(last.float())
    return ColumnLevels(tuple(columns), tuple(values), torch.stack(elsewhere).float())


def _height(above: Tensor, log_share: Tensor) -> float:
    """How much higher values `[n]` are on average over states with these shares; 0 of none."""
    kept = torch.isfinite(above)
    if not bool(kept.any()):
        return 0.0
    return float((above[kept] * log_share[kept].softmax(0)).sum())
