"""Batches of draws from the prior that can come to an end sooner, for methods that go by them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmppl.density import Target
from lmppl.density.proposal import Proposal, recovered_site
from lmppl.inference.proposing import Unfinished, most_tokens_to_come
from lmppl.rng import Stream

# Fewer than this say nothing about their own error.
FEWEST_DRAWS = 4


@dataclass(frozen=True, slots=True)
class Batch:
    """The next `size` draws of every binding in `groups`, row by row: all of one binding, then all
    of the next."""

    unfinished: Unfinished
    groups: tuple[int, ...]
    size: int

    def hurried(
        self, target: Target, stream: Stream, left: float, proposal: Proposal | None = None
    ) -> Batch:
        """The batch, or one of so few draws that about `left` tokens are enough for them.

        Which draws stay is drawn too, and not what ended first: short texts would be too many. So
        whatever their number hangs on, the mean of what they weigh is unbiased. All bindings keep
        the same, as each would alone.
        """
        needed = self.unfinished.most_tokens_to_come(target, proposal)
        if needed <= left:
            return self
        # A step takes longer for each text, the fewer there are.
        fewer = max(int(0.9 * self.size * left / needed), min(FEWEST_DRAWS, self.size))
        if fewer >= self.size:
            return self
        order = stream.child("thin").uniforms(torch.arange(self.size), fewer).argsort()
        kept = order[:fewer].sort().values
        first = self.size * torch.arange(len(self.groups)).unsqueeze(-1)
        at = (first + kept).view(-1).to(target.device)
        return replace(self, unfinished=self.unfinished.thinned(at), size=fewer)

    def recovered(self, target: Target, proposal: Proposal | None = None) -> Batch:
        """The batch before a step that was broken off, good to be gone on with."""
        unfinished = self.unfinished
        if unfinished.run is None:
            return self
        rows = target.rows(unfinished.site, unfinished.traces)
        run = recovered_site(target, proposal, unfinished.run, rows)
        return replace(self, unfinished=replace(unfinished, run=run))


def room_for(
    target: Target,
    num_groups: int,
    left: float,
    num_done: int,
    spent: float,
    proposal: Proposal | None = None,
) -> int:
    """How many more draws of every binding may be begun: those that `left` tokens are enough for,
    whatever their length, and none after an interruption; but the fewest where there are none."""
    fewest = 0 if num_done else FEWEST_DRAWS
    if math.isinf(spent) and num_done:
        return 0
    longest = most_tokens_to_come(target, 0, None, num_groups, proposal)
    return max(int(min(left / max(1, longest), 2**31)), fewest)


@dataclass(frozen=True, slots=True)
class Hurry:
    """How soon the end must come: `spent` and `left` are numbers of tokens, as `Hurrying` says."""

    target: Target
    stream: Stream
    spent: float
    left: float
    proposal: Proposal | None = None

    def shortened(
        self, batch: Batch | None, num_done: int, limit: int, *, size: int, num_groups: int
    ) -> tuple[Batch | None, int]:
        """The batch at work, and how many draws of every binding are wanted: as many of both as
        there are tokens for. Nothing changes before half of the budget is spent.

        `num_done` draws are complete and `limit` were wanted; the next batch would have `size` of
        `num_groups` bindings.
        """
        if self.spent < self.left:
            return batch, limit
        if batch is not None:
            stream = self.stream.child("hurry", num_done)
            fewer = batch.hurried(self.target, stream, self.left, self.proposal)
            return fewer, limit if fewer is batch else num_done + fewer.size
        room = room_for(self.target, num_groups, self.left, num_done, self.spent, self.proposal)
        return None, limit if room >= size else num_done + room


def numbers_of(groups: tuple[int, ...], first: int, size: int) -> tuple[Tensor, Tensor]:
    """The bindings and the numbers of the next `size` draws of each of them, `[rows]`."""
    numbers = torch.arange(first, first + size).repeat(len(groups))
    return torch.tensor(groups, dtype=torch.long).repeat_interleave(size), numbers
