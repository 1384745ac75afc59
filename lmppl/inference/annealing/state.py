"""Where executions are on their way from the prior to the posterior, and such runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lmppl.density import Target, Traces, concatenate
from lmppl.inference.proposing import Unfinished

Path = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Afoot:
    """The bindings that still have a way to go, and what their moves need.

    `groups` are their numbers, `target` is the program for them alone, and `rows` `[own rows]` are
    theirs among all. `memories` is what each site keeps between moves of these rows.
    """

    groups: tuple[int, ...]
    target: Target
    rows: Tensor
    memories: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class State:
    """Populations of executions, one per binding and run; rows are `[populations, particles]` flat.

    While they are drawn from the prior they are `drawing`, and `traces` is None. `log_weight`
    `[populations, particles]` is since the last resampling, whose factors `log_evidence`
    `[populations]` holds; `eve` `[rows]` numbers each particle's ancestor at the start.
    `paths` has by binding the powers to come to, none where all particles are dead; of a pilot run,
    those that it came to. `num_stages` are entered, and `num_moves` done in the last of them.
    `ess` and `num_ancestors` have `[populations]` for each stage, and `resampled` the log weights
    before each resampling. Moves of `moved_rows` executions took `moved_tokens`; `accepted` and
    `proposed` `[bindings]` count moves that may be refused.
    """

    counters: Tensor
    log_weight: Tensor
    log_evidence: Tensor
    eve: Tensor
    paths: tuple[Path, ...]
    num_resamplings: Tensor
    accepted: Tensor
    proposed: Tensor
    is_pilot: bool
    drawing: Unfinished | None = None
    traces: Traces | None = None
    afoot: Afoot | None = None
    num_stages: int = 0
    num_moves: int = 0
    num_tokens: int = 0
    moved_tokens: int = 0
    moved_rows: int = 0
    first_run: int = 0
    shard: int = 0
    ess: tuple[Tensor, ...] = ()
    num_ancestors: tuple[Tensor, ...] = ()
    resampled: tuple[Tensor, ...] = ()

    @property
    def size(self) -> int:
        """The particles of each population."""
        return self.log_weight.shape[1]

    def powers(self, stage: int) -> Tensor:
        """λ of every binding after so many stages, `[bindings]`."""
        found = [
            0.0 if stage == 0 else path[min(stage, len(path)) - 1] if path else 0.0
            for path in self.paths
        ]
        return torch.tensor(found, dtype=torch.float64, device=self.log_weight.device)


def side_by_side(states: Sequence[State], num_groups: int) -> State:
    """The runs of all states that are done, for every binding those of one after those of another.

    Raises:
        ValueError: runs are not done, came by other paths, or are not of one size.
    """
    first = states[0]
    alike = {(state.paths, state.num_stages, state.num_moves, state.size) for state in states}
    if len(alike) > 1 or any(state.traces is None for state in states):
        raise ValueError("the parts have not come to the same end")
    sizes = [state.size * state.log_weight.shape[0] // num_groups for state in states]
    parts = torch.split(torch.arange(sum(sizes) * num_groups), [n * num_groups for n in sizes])
    rows = torch.cat([part.view(num_groups, -1) for part in parts], dim=-1).view(-1)
    rows = rows.to(first.log_weight.device)

    def flat(name: str) -> Tensor:
        return torch.cat([getattr(state, name).reshape(-1) for state in states])[rows]

    def of_runs(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.view(num_groups, -1) for part in parts], dim=-1).view(-1)

    def history(name: str) -> tuple[Tensor, ...]:
        found = [getattr(state, name) for state in states]
        return tuple(of_runs(step) for step in zip(*found, strict=True))

    most = max(len(state.resampled) for state in states)
    # Those that were resampled less often stay as they are in the end.
    weights = [
        (*state.resampled, *(state.log_weight,) * (most - len(state.resampled))) for state in states
    ]
    traces = [state.traces.light() for state in states if state.traces is not None]
    return replace(
        first,
        counters=flat("counters"),
        log_weight=flat("log_weight").view(-1, first.size),
        log_evidence=of_runs([state.log_evidence for state in states]),
        eve=flat("eve"),
        num_resamplings=of_runs([state.num_resamplings for state in states]),
        accepted=sum((state.accepted for state in states[1:]), first.accepted),
        proposed=sum((state.proposed for state in states[1:]), first.proposed),
        traces=concatenate(traces).select(rows),
        afoot=None,
        num_tokens=sum(state.num_tokens for state in states),
        first_run=min(state.first_run for state in states),
        ess=history("ess"),
        num_ancestors=history("num_ancestors"),
        resampled=tuple(
            torch.cat([each.reshape(-1) for each in step])[rows].view(-1, first.size)
            for step in zip(*weights, strict=True)
        ),
    )
