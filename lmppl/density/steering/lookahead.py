"""Looking ahead: the factors of a text, scored as if the text ended where it is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from lmppl.density.stages.strings import growing_strings, own_lengths
from lmppl.density.stages.text import TextStage
from lmppl.density.steering.protocol import Steering
from lmppl.density.target import Target
from lmppl.density.traces import Traces
from lmppl.errors import InferenceError
from lmppl.evaluation.columns import TextColumn
from lmppl.evaluation.environment import Environment
from lmppl.evaluation.powers import exponent, reads_value
from lmppl.evaluation.values import evaluate
from lmppl.ir.model import Potential
from lmppl.timing import timed

if TYPE_CHECKING:
    from lmppl.density.stages.run import TextRun


@dataclass(frozen=True, slots=True)
class PrefixLookahead(Steering):
    """ψ = Πφ over the factors of a text site, on unfinished texts taken as they are.

    Without the powers of the text's own probability, which `Power` follows token by token. A guess
    of the final score. A value that is not finite, or that cannot be computed on an
    unfinished text, is nothing known. `traces` are the executions that the texts are for; a state
    is the row of one's own among them. Factors whose labels are in `left_out` are not looked at.
    """

    by_value: ClassVar[bool] = True

    target: Target
    number: int
    stage: TextStage
    traces: Traces
    left_out: frozenset[str] = frozenset()

    @property
    def is_trivial(self) -> bool:
        return not self._factors()

    def _factors(self) -> list[Potential]:
        model, name = self.target.model, self.stage.name
        return [
            p
            for p in self.target.potentials_at(self.number)
            if p.kind == "factor"
            and p.label not in self.left_out
            and reads_value(model, p.expr, name)
        ]

    def without(self, labels: frozenset[str]) -> PrefixLookahead:
        return replace(self, left_out=self.left_out | labels)

    def begin(self, rows: Tensor) -> Tensor:
        return rows

    @timed("rewards")
    def log_value(self, run: TextRun, rows: Tensor, states: Tensor) -> tuple[Tensor, str | None]:
        so_far = TextColumn(
            strings=growing_strings(self.stage, run, rows),
            num_tokens=own_lengths(self.stage, run)[rows].cpu().numpy(),
            finished=run.finished[rows].cpu().numpy(),
            token_ids=run.tokens[rows],
        )
        traces, name = self.traces.select(states), self.stage.name
        costs = run.log_prior[rows]

        def environment(cost: Tensor) -> Environment:
            scored = replace(traces, log_prior={**traces.log_prior, name: cost})
            return self.target.environment(scored, {name: so_far})

        # As if a text cost nothing, a factor is what it is without its power.
        free, priced = environment(torch.zeros_like(costs)), environment(costs)
        total = torch.zeros(rows.shape[0], dtype=torch.float64, device=rows.device)
        for factor in self._factors():
            try:
                has_power = exponent(self.target.model, factor.expr, name) is not None
                found = evaluate(factor.expr, free if has_power else priced)
                value = np.asarray(found, dtype=np.float64)
            except InferenceError as error:
                return torch.full_like(total, math.nan), error.diagnostics[0].message
            value = np.broadcast_to(value, (rows.shape[0],))
            total = total + torch.from_numpy(np.array(value)).to(total.device)
        return torch.where(torch.isfinite(total), total, math.nan), None
