"""Everything that a guide and a Pyro program say about the executions of a case, by enumeration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from lmppl.lowering.distribution import padding_token
from lmppl.lowering.objective import log_prob_of_rows
from lmppl.lowering.program import scoped
from lmppl.target import ChoiceStage, Target
from tests.exactness.cases import Case


def values_of(case: Case, target: Target) -> dict[str, Tensor]:
    """All executions of a case as the values of Pyro's sites, a row each, in the table's order."""
    values: dict[str, Tensor] = {}
    for stage in target.stages:
        if isinstance(stage, ChoiceStage):
            number = case.choice_names.index(stage.name)
            index = [stage.support.index(e.choices[number]) for e in case.table]
            values[stage.name] = torch.tensor(index)
        else:
            padded = torch.full((len(case.table), stage.max_tokens), padding_token(stage))
            for row, execution in enumerate(case.table):
                padded[row, : len(execution.tokens)] = torch.tensor(execution.tokens)
            values[stage.name] = padded
    return values


def log_prob_at(program: Callable[[int], Any], values: dict[str, Tensor]) -> Tensor:
    """The log density of a Pyro program at given values, `[rows]`, with a gradient."""
    num_rows = len(next(iter(values.values())))
    with scoped():
        conditioned = poutine.condition(program, data=values)
        return log_prob_of_rows(poutine.trace(conditioned).get_trace(num_rows))


@dataclass(frozen=True)
class Fit:
    """How far a guide is from a case's posterior, by enumeration; nats."""

    total_mass: float
    kl_guide_posterior: float
    kl_posterior_guide: float
    elbo: float
    log_z: float


def fit_of(case: Case, log_guide: Tensor) -> Fit:
    """Both divergences and the ELBO of a guide given its log probability on the table."""
    log_q = log_guide.detach().double().numpy()
    joint = np.array([e.log_prior + e.log_phi for e in case.table])
    log_post = joint - case.log_z
    q, post = np.exp(log_q), np.exp(log_post)
    drawn, likely = q > 0, post > 0
    with np.errstate(divide="ignore"):
        backward = float(np.sum(q[drawn] * (log_q[drawn] - log_post[drawn])))
        forward = float(np.sum(post[likely] * (log_post[likely] - log_q[likely])))
    return Fit(float(q.sum()), backward, forward, case.log_z - backward, case.log_z)
