"""Looking ahead: the factors of a text, scored as if the text ended where it is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from lmppl.density.stages.strings import growing_strings
from lmppl.density.stages.text import TextStage
from lmppl.density.steering.protocol import Steering
from lmppl.density.target import Target
from lmppl.density.traces import Traces
from lmppl.errors import InferenceError
from lmppl.evaluation.columns import TextColumn
from lmppl.evaluation.values import evaluate
from lmppl.ir.model import Potential
from lmppl.timing import timed

if TYPE_CHECKING:
    from lmppl.density.stages.run import TextRun


@dataclass(frozen=True, slots=True)
class PrefixLookahead(Steering):
    """ψ = Πφ over the factors of a text site, on unfinished texts taken as they are.

    A guess of the final score. A value that is not finite, or that cannot be computed on an
    unfinished text, is nothing known. `traces` are the executions that the texts are for; a state
    is the row of one's own among them.
    """

    by_value: ClassVar[bool] = True

    target: Target
    number: int
    stage: TextStage
    traces: Traces

    @property
    def is_trivial(self) -> bool:
        return not self._factors()

    def _factors(self) -> list[Potential]:
        return [p for p in self.target.potentials_at(self.number) if p.kind == "factor"]

    def begin(self, rows: Tensor) -> Tensor:
        return rows

    @timed("rewards")
    def log_value(self, run: TextRun, rows: Tensor, states: Tensor) -> tuple[Tensor, str | None]:
        so_far = TextColumn(
            strings=growing_strings(self.stage, run, rows),
            num_tokens=run.positions[rows].cpu().numpy(),
            finished=run.finished[rows].cpu().numpy(),
            token_ids=run.tokens[rows],
        )
        traces, name = self.traces.select(states), self.stage.name
        # What the text has cost so far.
        traces = replace(traces, log_prior={**traces.log_prior, name: run.log_prior[rows]})
        environment = self.target.environment(traces, {name: so_far})
        total = torch.zeros(rows.shape[0], dtype=torch.float64, device=rows.device)
        for factor in self._factors():
            try:
                value = np.asarray(evaluate(factor.expr, environment), dtype=np.float64)
            except InferenceError as error:
                return torch.full_like(total, math.nan), error.diagnostics[0].message
            value = np.broadcast_to(value, (rows.shape[0],))
            total = total + torch.from_numpy(np.array(value)).to(total.device)
        return torch.where(torch.isfinite(total), total, math.nan), None
