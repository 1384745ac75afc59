"""Steering by requirements on how likely a text is itself, as `log_prob(text) > -40`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmppl.density.stages.text import TextStage
from lmppl.density.steering.protocol import Steering
from lmppl.density.target import Target
from lmppl.density.traces import Traces
from lmppl.evaluation.columns import TextColumn
from lmppl.evaluation.powers import floors
from lmppl.evaluation.values import evaluate
from lmppl.ir.expr import Expr
from lmppl.timing import timed

if TYPE_CHECKING:
    from lmppl.density.stages.run import TextRun

# Of sums of logs in another order; who is that near is judged when the text is finished.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Likely(Steering):
    """Only tokens after which the text is still likely enough: more tokens make none likelier.

    `least` `[rows]` float64 is what log p(text) must exceed for the executions that the texts are
    for, −∞ where it need not; a state is the row of one's own among them.
    """

    is_mask: ClassVar[bool] = True

    stage: TextStage
    least: Tensor

    @property
    def is_trivial(self) -> bool:
        return not bool((self.least > -math.inf).any())

    def begin(self, rows: Tensor) -> Tensor:
        return rows

    @timed("mask")
    def log_next(self, run: TextRun, states: Tensor) -> Tensor:
        prefixes = run.prefixes
        assert prefixes is not None
        log_probs = self.stage.warp(prefixes.row_logits()).double().log_softmax(-1)
        left = self.least[states] - run.log_prior[run.open]
        return log_probs > (left - _ROUNDING * (1.0 + left.abs())).unsqueeze(-1)


def likely(target: Target, number: int, stage: TextStage, traces: Traces) -> Likely:
    """What the requirements on a text's own probability ask of it, for the executions that texts
    are for."""
    model, name = target.model, stage.name
    least = torch.full((traces.num_rows,), -math.inf, dtype=torch.float64, device=stage.device)
    asked = [
        (floor, potential.when)
        for potential in target.potentials_at(number)
        if potential.kind == "require"
        and (potential.when is None or name not in model.sites_of(potential.when))
        for floor in floors(model, potential.expr, name)
    ]
    if not asked or not traces.num_rows:
        return Likely(stage, least)
    # As if the text cost nothing: what remains of the difference is known before it is drawn.
    unwritten = TextColumn(
        strings=[""] * traces.num_rows,
        num_tokens=np.zeros(traces.num_rows, dtype=np.int64),
        finished=np.zeros(traces.num_rows, dtype=bool),
        token_ids=torch.zeros((traces.num_rows, 0), dtype=torch.long),
    )
    free = Traces(
        traces.group,
        traces.values,
        {**traces.log_prior, name: torch.zeros_like(least)},
        traces.log_potential,
    )
    environment = target.environment(free, {name: unwritten})

    def number_of(expr: Expr, kind: type) -> Tensor:
        found: NDArray[Any] = np.asarray(evaluate(expr, environment), dtype=kind)
        return torch.from_numpy(np.array(np.broadcast_to(found, (traces.num_rows,)))).to(least)

    for floor, when in asked:
        slope, rest = number_of(floor.slope, float), number_of(floor.difference, float)
        own = torch.where(slope > 0.0, -rest / slope.clamp_min(1e-300), -math.inf)
        if when is not None:
            own = torch.where(number_of(when, bool) > 0.0, own, -math.inf)
        least = torch.maximum(
            least, own.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        )
    return Likely(stage, least)
