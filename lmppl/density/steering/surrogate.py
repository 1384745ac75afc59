"""Looking ahead by what a surrogate, with finitely many states, expects of what is to come."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmppl.density.steering.protocol import Steering
from lmppl.finite.automaton import WeightedAutomaton
from lmppl.finite.columns import ColumnLevels
from lmppl.finite.prior import FiniteStateLM
from lmppl.records import brief
from lmppl.timing import timed

if TYPE_CHECKING:
    from lmppl.density.stages.run import TextRun

# How far, in nats, what a surrogate expects after some beginning may fall behind what it expects of
# the empty text: e⁻²⁰ is next to nothing, and not nothing.
DEPTH = 20.0


@dataclass(frozen=True, slots=True)
class Outlook:
    """log ψ by the states of a surrogate and of an automaton.

    `automaton` is what the requirements and the factors that add up weigh. `log_value`
    `[T + 1, S, A]` is, with r tokens to go, the log of what a surrogate expects of that weight from
    then on; what the tokens before have weighed comes on top of it. ψ is the expectation, no less
    than `floor` `[T + 1]`, to a `power`: what the surrogate deems impossible, and the masks do not,
    stays possible; −∞ is no floor. Of a text that has ended all is known, and nothing is taken to a
    power. Where `log_value` weighs a power of the text's own probability too, it is that of the
    tokens to come; what those before have cost is not looked at here.
    """

    prior: FiniteStateLM
    automaton: WeightedAutomaton
    log_value: Tensor | ColumnLevels
    floor: tuple[float, ...]
    power: float = 1.0

    __repr__ = brief

    @classmethod
    def of(
        cls,
        prior: FiniteStateLM,
        automaton: WeightedAutomaton,
        log_value: Tensor | ColumnLevels,
        log_start: float,
        power: float = 1.0,
    ) -> Outlook:
        """With the floor `DEPTH` nats below `log_start`, what is expected of the empty text.

        Of the highest of all states it is as far at every step: expectations grow with the tokens
        that are to come where every token may add to them.
        """
        highest = (
            log_value.highest()
            if isinstance(log_value, ColumnLevels)
            else log_value.flatten(1).amax(-1).tolist()
        )
        fallen = DEPTH + highest[-1] - log_start
        floor = tuple(h - fallen for h in highest)
        return cls(prior, automaton, log_value, floor, power)

    @property
    def vocab_size(self) -> int:
        return self.prior.vocab_size

    def log_psi(self, remaining: int) -> Tensor:
        """`[S, A]`: log ψ of what is to come with so many tokens to go; no less than the floor."""
        return self._log_psi(self.log_value[remaining], self.automaton.ended, remaining)

    def _log_psi(self, log_value: Tensor, ended: Tensor, remaining: int) -> Tensor:
        """That of some states of the automaton, of which what is expected is `[S, n]`."""
        log_psi = log_value.clamp_min(self.floor[remaining])
        if self.power == 1.0 or remaining == 0:
            return log_psi
        return torch.where(ended, log_psi, self.power * log_psi)

    def _some(self, log_value: ColumnLevels, remaining: int, states: Tensor) -> Tensor:
        """log ψ of some states of a large automaton."""
        return self._log_psi(
            log_value.some(remaining, states), self.automaton.ended[states], remaining
        )

    def log_expected(self, beliefs: Tensor, states: Tensor, remaining: int) -> Tensor:
        """`[n]` float64: log ψ of texts so far, without what their tokens have weighed."""
        if isinstance(self.log_value, ColumnLevels):
            some, place = torch.unique(states.clamp_min(0), return_inverse=True)
            log_psi = self._some(self.log_value, remaining, some)
            states = place.masked_fill(states < 0, -1)
        else:
            log_psi = self.log_psi(remaining)
        return self.prior.log_expected(beliefs, log_psi, states).double()

    def ahead(self, beliefs: Tensor, states: Tensor, remaining: int) -> Tensor:
        """log ψ(x<t v) / ψ(x<t) of every token, `[n, V]`; `states` `[n]` are open ones."""
        automaton, place = self.automaton, states
        if isinstance(self.log_value, ColumnLevels):
            some, place = torch.unique(states, return_inverse=True)
            automaton, after = automaton.outgoing(some)
            log_psi = self._some(self.log_value, remaining - 1, after)
        else:
            log_psi = self.log_psi(remaining - 1)
        found = self.prior.log_ahead(beliefs, automaton, place, log_psi).to(log_psi.dtype)
        if remaining == len(self.floor) - 1:
            # Without a token ψ is 1: so weights are of the size of the evidence from the first on.
            return found
        here = self.log_expected(beliefs, states, remaining).to(found.dtype)
        # Where nothing is possible no token is: that needs no ratio.
        return found.sub_(here.masked_fill_(here == -math.inf, 0.0).unsqueeze(-1))


@dataclass(frozen=True, slots=True)
class SurrogateLookahead(Steering):
    """ψ = what a surrogate expects that a text will weigh under the requirements and under the
    factors that add up token by token (Zhang et al. 2023, arXiv:2304.07438, and 2024,
    arXiv:2406.13892).

    That is the best ψ where the surrogate is the prior itself, and one that costs draws and no
    truth where it is not. `outlooks[which[row]]` is that of a row of what this was made for (None:
    nothing is looked ahead to), `beliefs` `[rows, …]` are the surrogate's after the prompts.
    A state is `[n, 2 + …]`: the number of the outlook, the state of its automaton, the belief.
    """

    outlooks: tuple[Outlook | None, ...]
    which: Tensor
    beliefs: Tensor

    @property
    def is_trivial(self) -> bool:
        return all(outlook is None for outlook in self.outlooks)

    def begin(self, rows: Tensor) -> Tensor:
        beliefs = _columns(self.beliefs[rows])
        which = self.which[rows].to(beliefs.dtype)
        return torch.cat([torch.stack([which, torch.zeros_like(which)], -1), beliefs], -1)

    @timed("look ahead")
    def log_next(self, run: TextRun, states: Tensor) -> Tensor | None:
        remaining = run.remaining
        total: Tensor | None = None
        for _, outlook, at, own, beliefs in self.numbered(states):
            # A dead row has no token to choose: what is said of it is not looked at.
            own = own.clamp_min(0)
            if isinstance(remaining, int):
                found = outlook.ahead(beliefs, own, remaining)
            else:
                left = remaining if at is None else remaining[at]
                found = torch.empty(
                    (len(own), outlook.vocab_size),
                    dtype=outlook.log_value.dtype,
                    device=own.device,
                )
                for many in torch.unique(left).tolist():
                    rows = (left == many).nonzero().squeeze(-1)
                    found[rows] = outlook.ahead(beliefs[rows], own[rows], many)
            if at is None:
                return found
            if total is None:
                total = found.new_zeros((len(states), found.shape[1]))
            total[at] = found
        return total

    def advance(self, states: Tensor, tokens: Tensor) -> Tensor:
        new = states
        for _, outlook, at, own, beliefs in self.numbered(states):
            mine = tokens if at is None else tokens[at]
            which = states[:, 0] if at is None else states[at, 0]
            moved = outlook.automaton.advance(own, mine).to(states.dtype)
            after = _columns(outlook.prior.advance(beliefs, mine)).to(states.dtype)
            rows = torch.cat([torch.stack([which, moved], -1), after], -1)
            new = rows if at is None else new.index_copy(0, at, rows)
        return new

    def numbered(self, states: Tensor) -> list[tuple[int, Outlook, Tensor | None, Tensor, Tensor]]:
        """The outlooks in use with their numbers, the positions of their rows (None: all), the
        states of their automata (−1: dead) and their beliefs."""
        own = states[:, 1].long()
        beliefs = states[:, 2:] if self.beliefs.dim() > 1 else states[:, 2]
        if len(self.outlooks) == 1:
            outlook = self.outlooks[0]
            return [] if outlook is None else [(0, outlook, None, own, beliefs)]
        found: list[tuple[int, Outlook, Tensor | None, Tensor, Tensor]] = []
        which = states[:, 0].long()
        for number, outlook in enumerate(self.outlooks):
            if outlook is None:
                continue
            at = (which == number).nonzero().squeeze(-1)
            if at.numel():
                found.append((number, outlook, at, own[at], beliefs[at]))
        return found


def _columns(beliefs: Tensor) -> Tensor:
    """Beliefs `[n, …]` with a second dimension."""
    return beliefs.unsqueeze(-1) if beliefs.dim() == 1 else beliefs
