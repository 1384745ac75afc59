"""Steering: what says, while a text is being drawn, how promising it is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lmppl.density.stages.run import TextRun


class Steering(Protocol):
    """ψ, a positive function of texts in the making; also called a twist.

    Tokens are drawn from p(v) ψ(x<t v) / ψ(x<t), renormalised; the weight takes what that left of
    the probability, log Σ_v p(v) ψ(x<t v) / ψ(x<t), and ψ of the whole text is divided out at its
    end. So steering decides which texts are looked at and never what they weigh: a ψ that is wrong
    costs draws, not truth. ψ = 0 promises that every text that begins so has weight zero.
    Without a token ψ is 1. Several steerings multiply (see `Steered`).

    Where a row is with a text is a `state`, an entry along the first dimension of a tensor, so that
    rows are copied and dropped by indexing. Everything else is about one row at a time and the same
    whatever the batch. A subclass implements `begin` and one of `log_next` and `log_value`, and
    `advance` where states change; what it leaves out says nothing.
    """

    # Whether only the finished choice of a token can be scored: `log_value` is asked, not
    # `log_next`.
    by_value: ClassVar[bool] = False
    # Whether ψ is 0 or 1 throughout: `log_next` says which tokens are allowed, and no more.
    is_mask: ClassVar[bool] = False

    @property
    def is_trivial(self) -> bool:
        """Whether ψ = 1 throughout, so that it need not be asked."""
        return False

    def is_within(self, labels: frozenset[str]) -> bool:
        """Whether all that this says of how tokens are drawn is a mask, or a part of the factors
        with these labels: what is expected of those, exactly, is then what is to be expected."""
        return self.is_trivial or self.is_mask or self.by_value

    def without(self, labels: frozenset[str]) -> Steering:
        """The same without what it makes of the factors with these labels, which something else
        looks ahead to; all the same where it makes nothing of factors."""
        return self

    def begin(self, rows: Tensor) -> Tensor:
        """The states `[n, …]` before the first token of texts for `rows` `[n]`, which may repeat.

        Rows are those of the executions that the steering was made for.
        """
        ...

    def log_next(self, run: TextRun, states: Tensor) -> Tensor | None:
        """log ψ(x<t v) / ψ(x<t) of every token v after the open texts, `[open, vocab]`.

        Booleans stand for {0, −inf}: which tokens are allowed, and cost no arithmetic. Never NaN
        or +inf. None: 0 for all. `states` `[open, …]` are those of the open rows.
        """
        return None

    def log_value(self, run: TextRun, rows: Tensor, states: Tensor) -> tuple[Tensor, str | None]:
        """log ψ of the texts so far of `rows`, `[n]` float64, and why some could not be scored.

        NaN: nothing is known, so that what was known before still holds. `states` are theirs.
        """
        nothing = torch.full((rows.shape[0],), math.nan, dtype=torch.float64, device=rows.device)
        return nothing, None

    def advance(self, states: Tensor, tokens: Tensor) -> Tensor:
        """The states `[n, …]` after one more token `[n]` each."""
        return states

    def ended(self, states: Tensor) -> Tensor | None:
        """Whose text the last token has ended by a stop string, `[n]`; None: not followed here."""
        return None

    def is_dead(self, states: Tensor, remaining: Tensor | int) -> Tensor | None:
        """Where ψ = 0 with so many tokens to come, `[n]`; None: nowhere."""
        return None
