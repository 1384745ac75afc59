"""Everything that a guide and a Pyro program say about the executions of a case, by enumeration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from lmppl.density import ChoiceStage, Target
from lmppl.lowering import Guide, LeaveOneOutELBO, PyroGuide, PyroModel
from lmppl.lowering.distribution import padding_token
from lmppl.lowering.isolation import isolated
from lmppl.lowering.objective import Batch, log_prob_of_rows
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
    conditioned = poutine.condition(program, data=values)
    return isolated(lambda: log_prob_of_rows(poutine.trace(conditioned).get_trace(num_rows)))


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


class Perturbed:
    """A guide away from its start, with what enumeration says of it.

    `direction` is the true gradient of the ELBO with respect to all parameters, and `slopes`
    `[executions]` the derivatives of log q along it, so that the projection of a score-function
    estimate on the true gradient is a weighted mean of slopes.
    """

    def __init__(self, case: Case) -> None:
        self.case, self.target = case, case.target()
        self.module = Guide(self.target)
        self.program = PyroGuide(self.module)
        self.model = PyroModel(self.target)
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in self.parameters:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(0.6 * noise)
        self.values = values_of(case, self.target)
        self.joint = torch.tensor([e.log_prior + e.log_phi for e in case.table])
        self.prior = torch.tensor([e.log_prior for e in case.table]).double()
        self.log_q = log_prob_at(self.program, self.values)
        drawn = self.log_q.detach() > -torch.inf
        # −∞ is left out before it is multiplied by 0.
        log_q = self.log_q[drawn]
        elbo = (log_q.exp() * (self.joint[drawn] - log_q)).sum()
        self.direction = torch.autograd.grad(elbo, self.parameters, retain_graph=True)
        self.squared_norm = float(sum((g**2).sum() for g in self.direction))
        self.slopes = self._slopes(1e-5)
        self.probs = self.log_q.detach().exp().numpy()

    def _slopes(self, step: float) -> Tensor:
        sides = []
        for sign in (1.0, -1.0):
            self._move(sign * step)
            sides.append(log_prob_at(self.program, self.values).detach())
            self._move(-sign * step)
        return ((sides[0] - sides[1]) / (2 * step)).nan_to_num(0.0)

    def _move(self, distance: float) -> None:
        with torch.no_grad():
            for parameter, gradient in zip(self.parameters, self.direction, strict=True):
                parameter.add_(distance * gradient)

    def projections(self, objective: LeaveOneOutELBO, num: int, rows: int) -> np.ndarray:
        """Independent estimates of ‖∇ELBO‖² by `objective`, `[num]`, each from `rows` draws."""
        rng = np.random.default_rng(7)
        drawn = torch.from_numpy(
            rng.choice(len(self.probs), (num, rows), p=self.probs / self.probs.sum())
        )
        log_q = self.log_q.detach()[drawn].requires_grad_()
        log_density = self.joint[drawn]
        batch = Batch(log_density, log_q, self.prior[drawn], None)  # type: ignore[arg-type]
        # The surrogate is a mean over estimates; each estimate's own is its sum of slopes.
        (gradient,) = torch.autograd.grad(-objective.surrogate(batch) * num, log_q)
        return (gradient * self.slopes[drawn]).sum(-1).numpy()
