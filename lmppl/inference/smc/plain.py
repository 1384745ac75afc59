"""Draws of the prior, which bound the evidence where texts are drawn by something else.

No weight of what a surrogate proposes has a bound, so that nothing which it has drawn bounds the
evidence from above. Independent draws of the masked prior do: no weight of theirs is above what the
factors can be at most, B, and prior mass of up to 1 − δ^(1/n) goes unseen by n of them with
probability δ. Far from the prior none of them weighs much, and log Z ≤ log(ln(1/δ)/n) + B is all
that they say; but that is proven.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lmppl.density import Target
from lmppl.inference.loop import Info
from lmppl.inference.proposing import Unfinished, advance, begin, completed, is_complete
from lmppl.posterior import Estimate
from lmppl.records import brief
from lmppl.rng import Stream


@dataclass(frozen=True, slots=True)
class PlainDraws:
    """As many for each binding, in the making (`unfinished`) or with their log weights, `[bindings,
    draws]`: −∞ where a requirement is not met."""

    log_weight: Tensor
    unfinished: Unfinished | None = None

    __repr__ = brief

    @classmethod
    def begin(cls, target: Target, size: int) -> PlainDraws:
        """Before anything is drawn."""
        group = torch.arange(target.num_groups).repeat_interleave(size)
        counters = torch.arange(size).repeat(target.num_groups)
        nothing = torch.full((target.num_groups, size), -math.inf, dtype=torch.float64)
        return cls(nothing.to(target.device), begin(target, group.to(target.device), counters))

    @property
    def is_done(self) -> bool:
        return self.unfinished is None

    def stepped(self, target: Target, stream: Stream) -> tuple[PlainDraws, Info]:
        """After one step more of all that are in the making."""
        assert self.unfinished is not None
        before = self.unfinished.num_tokens
        unfinished = advance(target, self.unfinished, stream)
        info = Info("draws of the prior", 0, None, num_tokens=unfinished.num_tokens - before)
        if not is_complete(target, unfinished):
            return replace(self, unfinished=unfinished), info
        found = completed(unfinished)
        log_weight = self.log_weight.view(-1).index_copy(0, found.rows, found.log_weight)
        return PlainDraws(log_weight.view_as(self.log_weight)), info

    def evidence(self, group: int, log_bound: float) -> Estimate:
        """The log evidence of one binding, where no weight is above exp(`log_bound`)."""
        return Estimate.from_units(self.log_weight[group].cpu().numpy(), log_bound=log_bound)

    def facts(self, evidence: Estimate) -> dict[str, Any]:
        """What is told of them, of which `evidence` is what they say of it."""
        return {"num_draws": self.log_weight.shape[1], "log_evidence_at_most": evidence.upper}


def side_by_side(parts: Sequence[PlainDraws | None]) -> PlainDraws | None:
    """The draws of all parts, which are done; None where one has none."""
    known = [each.log_weight for each in parts if each is not None]
    return PlainDraws(torch.cat(known, -1)) if len(known) == len(parts) else None
