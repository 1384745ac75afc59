"""What is to be known of executions that were brought to the posterior by degrees."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmppl.density import Target, Traces
from lmppl.density.tempered import untempered
from lmppl.inference.annealing.state import State
from lmppl.inference.bounds import WeightBound, weight_bound
from lmppl.inference.failures import NoMass
from lmppl.posterior.pareto import pareto_tail

# Moves are hardly ever accepted below this rate: what was resampled stays as it is.
_STUCK = 0.02


@dataclass(frozen=True, slots=True)
class OfBinding:
    """The particles of one binding, `[runs, particles]`: their weights with those of the
    resamplings, unnormalised, and their ancestors. `traces` are those that are alive, in order."""

    traces: Traces
    log_weight: Tensor
    eve: Tensor
    bound: WeightBound
    diagnostics: Mapping[str, Any]
    info: Mapping[str, Any]
    warnings: Sequence[str]

    @property
    def alive(self) -> Tensor:
        """Positions of the living particles, flat."""
        return (self.log_weight.view(-1) > -math.inf).nonzero().squeeze(-1)


def of_binding(target: Target, state: State, group: int) -> OfBinding:
    """What has become of the particles of one binding.

    Raises:
        NoMass: all are dead.
    """
    runs = state.log_weight.shape[0] // target.num_groups
    here = slice(group * runs, (group + 1) * runs)
    total = state.log_evidence[here].unsqueeze(-1) + state.log_weight[here]
    alive = (total.reshape(-1) > -math.inf).nonzero().squeeze(-1)
    if alive.shape[0] == 0:
        raise NoMass(f"none of {total.numel()} draws has positive weight")
    first = group * runs * state.size
    assert state.traces is not None
    accepted, proposed = int(state.accepted[group]), int(state.proposed[group])
    num_stages = len(state.paths[group])
    diagnostics: dict[str, Any] = {
        "path": list(state.paths[group]),
        "num_stages": num_stages,
        "num_runs": runs,
        "num_resamplings": state.num_resamplings[here].tolist(),
        **_tails(state, here),
    }
    warnings = []
    if proposed:
        diagnostics["acceptance_rate"] = accepted / proposed
        if accepted < _STUCK * proposed:
            warnings.append(
                f"of the moves of texts only {accepted / proposed:.1%} were accepted: particles"
                " hardly moved, and those that descend from one are nearly alike"
            )
    info = {
        "ess": torch.stack([ess[here] for ess in state.ess[:num_stages]]).cpu().numpy(),
        "num_ancestors": torch.stack([n[here] for n in state.num_ancestors[:num_stages]])
        .cpu()
        .numpy(),
    }
    return OfBinding(
        traces=untempered(state.traces.select(first + alive)),
        log_weight=total,
        eve=state.eve[first : first + total.numel()].view(runs, state.size),
        bound=weight_bound(target, group),
        diagnostics=diagnostics,
        info=info,
        warnings=warnings,
    )


def _tails(state: State, here: slice) -> dict[str, float]:
    """The worst k-hat and the largest share of one particle over all weights that were used:
    those before every resampling, and the last."""
    rows = [
        row
        for weights in (*state.resampled, state.log_weight)
        for row in weights[here].cpu().numpy()
        if row.max() > -math.inf
    ]
    shares = [math.exp(row.max() - np.logaddexp.reduce(row)) for row in rows]
    found = {"max_weight": max(shares)}
    shapes = [k for row in rows if (k := pareto_tail(row).k) is not None]
    return {**found, "pareto_k": max(shapes)} if shapes else found
