"""The score-function objective: reverse KL with a leave-one-out baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

Program = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Batch:
    """Draws of a guide, scored: `log_density` of the model and `log_guide`, `[..., rows]` float64.

    `log_guide` carries the gradient with respect to the guide's parameters. `guide_trace` and
    `model_trace` are Pyro's.
    """

    log_density: Tensor
    log_guide: Tensor
    guide_trace: Trace
    model_trace: Trace

    @property
    def log_weight(self) -> Tensor:
        """log density − log q of every row, without a gradient; its mean is the ELBO."""
        return (self.log_density - self.log_guide).detach()


class LeaveOneOutELBO(ELBO):
    """The ELBO and an unbiased estimate of its gradient, for models and guides over rows.

    With x₁ … x_N the rows of one call, drawn independently from the guide q, and
    Gᵢ = log density(xᵢ) − log q(xᵢ),

        ELBO ≈ (1/N) Σᵢ Gᵢ      ∇ELBO ≈ (1/N) Σᵢ (Gᵢ − (1/(N−1)) Σ_{j≠i} Gⱼ) ∇log q(xᵢ).

    The Kullback–Leibler divergence to the prior is inside G ("KL in the reward"), sampled as it
    is: an estimator of it that is differentiated itself, such as k3, moves the optimum, and so does
    a division by the standard deviation of the batch. The baseline leaves out the row's own
    sample, so that the estimate has no bias (Kool, van Hoof and Welling 2019, "Buy 4 REINFORCE
    samples, get a baseline for free!"). Where q is the posterior all Gᵢ are log Z, and the gradient
    has no noise; it is half the gradient of the variance of G over draws of q (Richter et al. 2020,
    arXiv:2010.10436).

    The rows are the innermost plate: the model and the guide take their number, `elbo.loss(model,
    guide, 64)` or `SVI(model, guide, optimiser, LeaveOneOutELBO()).step(64)`. Axes to the left of
    the rows (bindings of the parameters) have an objective each, and these are averaged.
    """

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Minus the ELBO in nats, of one row, estimated from one call."""
        with torch.no_grad():
            return -float(self.draw(model, guide, *args, **kwargs).log_weight.mean())

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """As `loss`; adds the gradient of it to the guide's parameters."""
        batch = self.draw(model, guide, *args, **kwargs)
        if batch.log_guide.requires_grad:
            self.surrogate(batch).backward()  # type: ignore[no-untyped-call]
        return -float(batch.log_weight.mean())

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """A scalar whose value is the loss and whose gradient is that of `loss_and_grads`."""
        batch = self.draw(model, guide, *args, **kwargs)
        surrogate = self.surrogate(batch)
        return surrogate - surrogate.detach() - batch.log_weight.mean()

    def draw(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Batch:
        """Draws from the guide and scores them under both.

        Raises:
            ValueError: the programs were run without at least two rows.
        """
        model_trace, guide_trace = self._get_trace(model, guide, args, kwargs)
        with torch.no_grad():
            log_density = log_prob_of_rows(model_trace)
        log_guide = log_prob_of_rows(guide_trace)
        if log_guide.dim() == 0 or log_guide.shape[-1] < 2:
            raise ValueError(
                "a leave-one-out baseline needs at least two rows: call the model and the guide"
                " with their number"
            )
        return Batch(log_density, log_guide, guide_trace, model_trace)

    def _get_trace(
        self, model: Program, guide: Program, args: Any, kwargs: Any
    ) -> tuple[Trace, Trace]:
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        with torch.no_grad():
            replayed = poutine.replay(model, trace=guide_trace)
            model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
        return model_trace, guide_trace

    def advantage(self, log_weight: Tensor) -> Tensor:
        """Gᵢ minus the mean of the others, `[..., rows]`."""
        num_rows = log_weight.shape[-1]
        others = (log_weight.sum(-1, keepdim=True) - log_weight) / (num_rows - 1)
        return log_weight - others

    def surrogate(self, batch: Batch) -> Tensor:
        """A scalar whose gradient is that of the loss."""
        return -(self.advantage(batch.log_weight) * batch.log_guide).mean()


def log_prob_of_rows(trace: Trace) -> Tensor:
    """The log density of a Pyro trace for each element of its plates, float64."""
    trace = prune_subsample_sites(trace)
    trace.compute_log_prob()
    total: Tensor | None = None
    for site in trace.nodes.values():
        if site["type"] != "sample":
            continue
        term = site["log_prob"].double()
        total = term if total is None else total + term
    if total is None:
        return torch.zeros((), dtype=torch.float64)
    return total
