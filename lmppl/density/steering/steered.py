"""Texts in the making under several steerings at once, whose ψ multiply."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmppl.density.steering.protocol import Steering
from lmppl.timing import timed

if TYPE_CHECKING:
    from lmppl.density.stages.run import TextRun


@dataclass(frozen=True, slots=True)
class Steered:
    """Where the rows of a run are under each of its steerings.

    `states` are aligned with `parts`, a row each. `log_tokens` `[rows]` float64 adds up `log_next`
    of the tokens taken, None as long as nothing but masks has spoken; `log_values`, aligned with
    `parts`, are the last `log_value` `[rows]` of each, None where none was asked.
    """

    parts: tuple[Steering, ...]
    states: tuple[Tensor, ...]
    log_values: tuple[Tensor | None, ...]
    log_tokens: Tensor | None = None

    @classmethod
    def begin(cls, steering: Sequence[Steering], rows: Tensor) -> Steered:
        """Texts of no tokens for the rows `rows` `[n]` of what the steerings were made for."""
        parts = tuple(part for part in steering if not part.is_trivial)
        states = tuple(part.begin(rows) for part in parts)
        return cls(parts, states, (None,) * len(parts))

    def select(self, indices: Tensor) -> Steered:
        return replace(
            self,
            states=tuple(states[indices] for states in self.states),
            log_values=tuple(
                None if values is None else values[indices] for values in self.log_values
            ),
            log_tokens=None if self.log_tokens is None else self.log_tokens[indices],
        )

    @property
    def by_token(self) -> bool:
        """Whether some steering scores the choice of every token."""
        return any(not part.by_value for part in self.parts)

    @property
    def by_value(self) -> bool:
        """Whether some steering scores texts as far as they go."""
        return any(part.by_value for part in self.parts)

    @property
    def log_psi(self) -> Tensor | None:
        """log ψ of the texts so far as it is contained in their weights, `[rows]`; None: 0.

        Without the masks: what they allow has ψ = 1, and what they do not has weight zero.
        """
        found, scores = self.log_tokens, self.log_scores
        if found is None or scores is None:
            return scores if found is None else found
        return found + scores

    @property
    def log_scores(self) -> Tensor | None:
        """The part of `log_psi` that comes of scores of texts as far as they go, `[rows]`."""
        found: Tensor | None = None
        for values in self.log_values:
            if values is not None:
                found = values if found is None else found + values
        return found

    @timed("mask")
    def log_next(self, run: TextRun) -> tuple[Tensor | None, Tensor | None]:
        """What all steerings say of the next token of the open rows, `[open, vocab]` each.

        Which tokens are allowed (None: all), and the log of what else multiplies their
        probabilities (None: nothing).
        """
        mask: Tensor | None = None
        log_factors: Tensor | None = None
        for part, states in zip(self.parts, self.states, strict=True):
            found = None if part.by_value else part.log_next(run, states[run.open])
            if found is None:
                continue
            if found.dtype == torch.bool:
                mask = found if mask is None else mask & found
            else:
                log_factors = found if log_factors is None else log_factors + found
        return mask, log_factors

    def advance(self, rows: Tensor, tokens: Tensor, log_factors: Tensor | None = None) -> Steered:
        """After a token of each of `rows` `[n]`, of which `log_factors` `[n]` is what `log_next`
        said without the masks (None: 0)."""
        states = tuple(
            old.index_copy(0, rows, part.advance(old[rows], tokens))
            for part, old in zip(self.parts, self.states, strict=True)
        )
        log_tokens = self.log_tokens
        if log_factors is not None:
            if log_tokens is None:
                log_tokens = log_factors.new_zeros(self.states[0].shape[0], dtype=torch.float64)
            # A row without an allowed token is dead; its weight says so, and is not divided by 0.
            log_factors = log_factors.double().masked_fill(log_factors == -math.inf, 0.0)
            log_tokens = log_tokens.index_add(0, rows, log_factors)
        return replace(self, states=states, log_tokens=log_tokens)

    def replay(self, tokens: Tensor, lengths: Tensor) -> Steered:
        """After the first `lengths` `[rows]` of `tokens` `[rows, length]`.

        What `log_next` would have said of them is not looked up: ψ counts from there.
        """
        new = self.states
        for t in range(int(lengths.max())) if self.parts else ():
            rows = (lengths > t).nonzero().squeeze(-1)
            new = tuple(
                states.index_copy(0, rows, part.advance(states[rows], tokens[rows, t]))
                for part, states in zip(self.parts, new, strict=True)
            )
        return replace(self, states=new)

    def ended(self, rows: Tensor) -> Tensor | None:
        """Whose text the last token has ended by a stop string, `[n]`; None: nobody's."""
        found: Tensor | None = None
        for part, states in zip(self.parts, self.states, strict=True):
            ended = part.ended(states[rows])
            if ended is not None:
                found = ended if found is None else found | ended
        return found

    def is_dead(self, rows: Tensor, remaining: Tensor | int) -> Tensor:
        """Where ψ = 0 with so many tokens to come, `[n]`."""
        found = torch.zeros_like(rows, dtype=torch.bool)
        for part, states in zip(self.parts, self.states, strict=True):
            dead = part.is_dead(states[rows], remaining)
            if dead is not None:
                found = found | dead
        return found

    def look(self, run: TextRun, rows: Tensor) -> tuple[Steered, Tensor, str | None]:
        """Scores the texts so far of `rows` `[n]`.

        Returns what log ψ has gained since it was last looked at, `[n]`, and why it could not be
        where it could not.
        """
        gain = torch.zeros(rows.shape[0], dtype=torch.float64, device=rows.device)
        blind: str | None = None
        log_values = list(self.log_values)
        for number, (part, states) in enumerate(zip(self.parts, self.states, strict=True)):
            if not part.by_value:
                continue
            found, why = part.log_value(run, rows, states[rows])
            known = log_values[number]
            if known is None:
                known = found.new_zeros(states.shape[0])
            old = known[rows]
            new = torch.where(torch.isnan(found), old, found)
            gain = gain + (new - old)
            log_values[number] = known.index_copy(0, rows, new)
            blind = blind or why
        return replace(self, log_values=tuple(log_values)), gain, blind
