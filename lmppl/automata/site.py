"""The constraints of one LM site as automata over its tokens, looked up in batches.

A row of a batch carries one integer of state.  What may follow is a gather from a table, taking
into account how many tokens remain: a token is allowed exactly when the text can still be
completed, within `max_tokens`, so that every constraint holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lmppl.automata.predicates import Predicate
from lmppl.automata.tokens import TokenAutomaton
from lmppl.records import brief


@dataclass(frozen=True, slots=True)
class SiteAutomaton:
    """The constraints of one LM site, over its tokens.

    One automaton for all constraints where that fits the budget; otherwise several, side by side,
    whose states are packed into one integer.  Then, and for automata "on demand", `is_exact` is
    false: a token is never refused wrongly, but one may be allowed after which nothing is left.
    Constraints for which every automaton is too large are `left_out`: they are met by no mask, and
    nothing here knows of them.

    States are LongTensors `[rows]`; -1 is the dead state.  A row that has ended keeps its state.
    `remaining` is how many tokens may still be drawn, the next one included: `max_tokens` at the
    start.  It is an int, or a LongTensor `[rows]` for rows at different positions.
    """

    max_tokens: int
    parts: tuple[TokenAutomaton, ...]
    is_exact: bool
    left_out: tuple[Predicate, ...] = ()

    __repr__ = brief

    @property
    def device(self) -> torch.device:
        return self.parts[0].device

    @property
    def kind(self) -> str:
        """How masks are found: "table", "on demand", or the kinds of the parts."""
        kinds = list(dict.fromkeys(part.steps.kind for part in self.parts))
        name = " and ".join(kinds)
        return name if len(self.parts) == 1 else f"{len(self.parts)} automata: {name}"

    @property
    def num_states(self) -> int:
        """States of all parts together (not of their product)."""
        return sum(part.num_rows for part in self.parts)

    @property
    def num_bytes(self) -> int:
        """Size of the tables."""
        return sum(
            part.step.numel() * part.step.element_size() + part.levels.numel()
            for part in self.parts
        )

    @property
    def is_impossible(self) -> bool:
        """Whether no sequence of tokens satisfies the constraints within `max_tokens`.

        False is certain only where the automaton is exact.
        """
        return any(
            not part.levels_on_host[part.level_of(self.max_tokens)][0] for part in self.parts
        )

    @property
    def min_tokens(self) -> int | None:
        """The fewest tokens, an end token included, of a text that satisfies the constraints.

        The smallest budget that would do; None where no budget up to `max_tokens` does.  Lengths
        in tokens count against the budget of this site.
        """
        possible = [
            [bool(part.levels_on_host[part.level_of(r)][0]) for part in self.parts]
            for r in range(self.max_tokens + 1)
        ]
        return next((r for r, parts in enumerate(possible) if all(parts)), None)

    def to(self, device: torch.device | str) -> SiteAutomaton:
        """The same automaton with its tables on another device."""
        target = torch.device(device)
        if target == self.device:
            return self
        return SiteAutomaton(
            self.max_tokens,
            tuple(part.to(target) for part in self.parts),
            self.is_exact,
            self.left_out,
        )

    def initial(self, rows: int) -> Tensor:
        """`[rows]`: the state before the first token."""
        return torch.zeros(rows, dtype=torch.long, device=self.device)

    def advance(self, states: Tensor, tokens: Tensor) -> Tensor:
        """`[rows]`: the states after one more token each; dead and ended rows stay so."""
        return self._pack([p.advance(s, tokens) for p, s in self._split(states)])

    def mask(self, states: Tensor, remaining: int | Tensor) -> Tensor:
        """BoolTensor `[rows, vocab]`: the tokens after which the constraints can still be met.

        A row that is dead allows nothing; one that has ended and satisfies its constraints allows
        everything, because whatever is fed changes nothing.  The tensor may be shared: do not
        write to it.
        """
        masks = [
            p.mask(s, p.level_of(_at_least_one(remaining) - 1))
            if isinstance(remaining, int)
            else p.mask_ragged(s, (remaining - 1).clamp(0, len(p.levels_on_host) - 1))
            for p, s in self._split(states)
        ]
        return _all(masks)

    def masks_at(self, remaining: int) -> bool:
        """Whether any token could be refused to any row at this point; if not, skip the mask."""
        return not all(p.allows_all[p.level_of(_at_least_one(remaining) - 1)] for p in self.parts)

    def is_dead(self, states: Tensor, remaining: int | Tensor) -> Tensor:
        """BoolTensor `[rows]`: the constraints can no longer be met (or are not, at the end)."""
        alive = [
            p.levels[p.level_of(remaining)][p.rows(s)]
            if isinstance(remaining, int)
            else p.levels[remaining.clamp(0, len(p.levels_on_host) - 1), p.rows(s)]
            for p, s in self._split(states)
        ]
        return ~_all(alive)

    def ended(self, states: Tensor) -> Tensor:
        """BoolTensor `[rows]`: an end token was drawn or a stop string completed.

        Of a dead row it is unknown, and False.
        """
        (part, own), *_ = self._split(states)
        return part.ended[part.rows(own)]

    def accepts(
        self, states: Tensor, finished: Tensor | bool, num_tokens: Tensor | int | None = None
    ) -> Tensor:
        """BoolTensor `[rows]`: the constraints hold of the text if it ends here.

        `finished` `[rows]` is false of texts that reached `max_tokens`.  `num_tokens` `[rows]`, the
        tokens without end tokens, is needed only by constraints on the length in tokens.

        Raises:
            ValueError: `num_tokens` is needed and was not given.
        """
        if num_tokens is None:
            if any(part.rule.counts_tokens for part in self.parts):
                raise ValueError("these constraints depend on the number of tokens")
            num_tokens = 0
        ends = torch.as_tensor(finished, device=self.device).expand(states.shape)
        counts = torch.as_tensor(num_tokens, device=self.device).expand(states.shape)
        return _all([p.accepts(s, ends, counts) for p, s in self._split(states)])

    def _split(self, states: Tensor) -> list[tuple[TokenAutomaton, Tensor]]:
        if len(self.parts) == 1:
            return [(self.parts[0], states)]
        found = []
        rest = states
        for part in self.parts:
            own = torch.where(states < 0, -1, rest % part.num_rows)
            found.append((part, own))
            rest = rest // part.num_rows
        return found

    def _pack(self, states: list[Tensor]) -> Tensor:
        if len(self.parts) == 1:
            return states[0]
        packed = torch.zeros_like(states[0])
        dead = torch.zeros_like(states[0], dtype=torch.bool)
        factor = 1
        for part, own in zip(self.parts, states, strict=True):
            packed = packed + factor * own.clamp_min(0)
            dead = dead | (own < 0)
            factor *= part.num_rows
        return torch.where(dead, -1, packed)


def _at_least_one(remaining: int) -> int:
    if remaining < 1:
        raise ValueError("no token can follow when none remains")
    return remaining


def _all(masks: list[Tensor]) -> Tensor:
    result = masks[0]
    for mask in masks[1:]:
        result = result & mask
    return result
