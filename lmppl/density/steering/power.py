"""Steering towards powers of a text's own probability, token by token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lmppl.density.stages.text import TextStage
from lmppl.density.steering.protocol import Steering
from lmppl.density.target import Target
from lmppl.density.traces import Traces
from lmppl.evaluation.powers import exponent
from lmppl.evaluation.values import evaluate

if TYPE_CHECKING:
    from lmppl.density.stages.run import TextRun

# What stands for the log probability of a token that has none: a text with it is never drawn.
_NEVER = -1e4


@dataclass(frozen=True, slots=True)
class Power(Steering):
    """ψ = p(x≤t)^(c s), with the c of a factor c · log_prob(text): the target is p^(1 + c).

    Tokens are drawn from p^(1 + c s), renormalised, and weights take log Σ_v p(v)^(1 + c s): of all
    proposals that look one token ahead the one of least variance (Azizi et al. 2026, "Power-SMC",
    arXiv:2602.10273). The share s = 1 − (1 − t/T)² grows from 0 to 1 at the largest number of
    tokens T: with all of c at once, every text would have gone the likeliest way for a few tokens,
    whatever comes after it. A text that has ended keeps the share of its last token, so that it is
    compared with texts in the making as it was, and the rest of its factor comes when all are done.
    Of the factors that something else looks ahead to (`without`), which knows what is to come, all
    of c is in from the first token on.

    `by_label` has, for each factor, its c `[rows]` float64 of the executions that the texts are
    for; a state is the row of one's own among them. Those of `whole` are in at once.
    """

    stage: TextStage
    by_label: Mapping[str, Tensor]
    whole: frozenset[str] = frozenset()

    @property
    def is_trivial(self) -> bool:
        return not any(bool((each != 0.0).any()) for each in self.by_label.values())

    def is_within(self, labels: frozenset[str]) -> bool:
        left = (each for label, each in self.by_label.items() if label not in labels)
        return not any(bool((each != 0.0).any()) for each in left)

    def without(self, labels: frozenset[str]) -> Power:
        return replace(self, whole=self.whole | labels)

    def begin(self, rows: Tensor) -> Tensor:
        return rows

    def log_next(self, run: TextRun, states: Tensor) -> Tensor:
        prefixes = run.prefixes
        assert prefixes is not None
        logits = self.stage.warp(prefixes.logits)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        log_probs = logits.log_softmax(-1).clamp_(min=_NEVER)
        if not prefixes.identity:
            log_probs = log_probs.index_select(0, prefixes.index)
        none = torch.zeros_like(run.log_prior[run.open])
        at_once, slowly = none, none
        for label, exponents in self.by_label.items():
            if label in self.whole:
                at_once = at_once + exponents[states]
            else:
                slowly = slowly + exponents[states]
        before = at_once + slowly * self._share(run, 0)
        now = at_once + slowly * self._share(run, 1)
        # What all tokens have in common: the part of c that was not in yet before this one.
        common = (now - before) * run.log_prior[run.open]
        scale, shift = now.unsqueeze(-1), common.unsqueeze(-1)
        return log_probs.mul_(scale.to(log_probs.dtype)).add_(shift.to(log_probs.dtype))

    def _share(self, run: TextRun, more: int) -> Tensor | float:
        """s after `more` tokens more of the open texts, from 0 to 1."""
        so_far: Tensor | int = run.positions[run.open] if run.position is None else run.position
        return 1.0 - (1.0 - (so_far + more) / self.stage.max_tokens) ** 2


def power(target: Target, number: int, stage: TextStage, traces: Traces) -> Power:
    """The power of a text that the factors on it make, for the executions that texts are for."""
    environment = target.environment(traces)
    by_label = {}
    for factor in target.potentials_at(number):
        slope = exponent(target.model, factor.expr, stage.name)
        if factor.kind == "factor" and slope is not None:
            value = np.asarray(evaluate(slope, environment), dtype=np.float64)
            rows = np.array(np.broadcast_to(value, (traces.num_rows,)))
            by_label[factor.label] = torch.from_numpy(rows).to(stage.device)
    return Power(stage, by_label)
