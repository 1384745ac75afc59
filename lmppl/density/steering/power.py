"""Steering towards powers of a text's own probability, token by token."""

from __future__ import annotations

from dataclasses import dataclass
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

    `exponents` `[rows]` float64 are the c of the executions that the texts are for; a state is the
    row of one's own among them.
    """

    stage: TextStage
    exponents: Tensor

    @property
    def is_trivial(self) -> bool:
        return not bool((self.exponents != 0.0).any())

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
        exponents = self.exponents[states]
        before, now = exponents * self._share(run, 0), exponents * self._share(run, 1)
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
    total = np.zeros(traces.num_rows)
    for factor in target.potentials_at(number):
        slope = exponent(target.model, factor.expr, stage.name)
        if factor.kind == "factor" and slope is not None:
            total = total + np.asarray(evaluate(slope, environment), dtype=np.float64)
    return Power(stage, torch.from_numpy(total).to(stage.device))
