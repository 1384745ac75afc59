"""What a run knows of the largest weight that there may be, as its sites are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lmppl.density import Target
from lmppl.density.steering.protocol import Steering
from lmppl.inference.smc import SMC
from lmppl.inference.smc.ahead import Ahead
from lmppl.inference.smc.known import known
from lmppl.inference.smc.state import State
from lmppl.inference.starting import Population
from lmppl.sequences.weights import log_mean_exp


def with_known(
    target: Target, num_runs: int, state: State, ahead: Ahead, others: Sequence[Steering]
) -> State:
    """The state before any text of a site is begun, with what is known of their weights.

    `ahead` looks ahead in them; `others` is what steers them beside that.
    """
    found = known(target, state.stage, state.traces, ahead, others)
    if found is None:
        return state
    return replace(
        state,
        is_known=True,
        log_most=state.log_most + found.log_most.repeat_interleave(num_runs),
        log_constant=found.log_evidence.repeat_interleave(num_runs),
        followed=state.followed | found.labels,
    )


def population_of(settings: SMC, state: State) -> Population:
    """All particles of a state that is done.

    Texts that a surrogate has drawn are no draws of the prior: they count as not having looked.
    """
    num_looks = settings.num_particles - state.unlooked
    return Population(
        state.traces,
        state.log_weight,
        state.log_evidence + log_mean_exp(state.log_weight),
        num_looks if state.is_bounded else torch.zeros_like(num_looks),
    )


def most_of_factors(
    target: Target,
    num_runs: int,
    first: int,
    last: int,
    followed: frozenset[str] = frozenset(),
) -> Tensor:
    """The most that the factors of sites `first` to `last` can be together, without those
    `followed`, `[populations]` in nats; site −1 is before all others."""
    factors = [
        potential.expr
        for potential in target.model.potentials
        if potential.kind == "factor"
        and first <= potential.stage <= last
        and potential.label not in followed
    ]
    every = [
        sum(target.number_range(expr, group).upper for expr in factors)
        for group in range(target.num_groups)
    ]
    most = torch.tensor(every, dtype=torch.float64, device=target.device)
    return most.repeat_interleave(num_runs)
