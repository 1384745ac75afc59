"""Tempered sequential Monte Carlo on whole executions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from lmppl.density import Target
from lmppl.inference.annealing.findings import of_binding
from lmppl.inference.annealing.run import Annealing
from lmppl.inference.annealing.state import State, side_by_side
from lmppl.inference.failures import by_binding
from lmppl.inference.loop import WHOLE, Draws, Info, Shard
from lmppl.inference.tempered import Tempered
from lmppl.posterior import Estimate
from lmppl.rng import Stream
from lmppl.timing import timed


@dataclass(frozen=True, slots=True)
class TemperedEngine:
    """Populations weighed, resampled and moved along the path that a pilot run has chosen; see
    `Annealing`. The evidence is unbiased, its error that of the genealogy."""

    settings: Tempered
    target: Target
    stream: Stream

    @property
    def _annealing(self) -> Annealing:
        settings = self.settings
        return Annealing(
            self.target,
            self.stream,
            num_runs=settings.num_runs,
            size=settings.num_particles,
            num_moves=settings.num_moves,
            stage_ess=settings.stage_ess,
            resample_below=settings.ess_threshold,
        )

    def init(self, shard: Shard = WHOLE) -> State:
        return self._annealing.begin(shard.index)

    def merge(self, states: Sequence[State]) -> State:
        return side_by_side(states, self.target.num_groups)

    def is_done(self, state: State) -> bool:
        return self._annealing.is_done(state)

    def step(self, state: State) -> tuple[State, Info]:
        return self._annealing.step(state)

    def hurry(self, state: State, *, spent: float, left: float) -> State:
        """Fewer particles, as many as can be finished; not before half of the budget is spent."""
        return self._annealing.hurry(state, spent, left)

    def recover(self, state: State) -> State:
        return self._annealing.recover(state)

    @timed("result")
    def result(self, state: State, *, complete: bool) -> list[Draws]:
        if not self.is_done(state):
            nothing = self.target.start(torch.zeros(0, dtype=torch.long))
            return [Draws(nothing, nothing.log_density(), None, complete=False)]
        return by_binding(self.target, partial(self._of_group, state, complete))

    def _of_group(self, state: State, complete: bool, group: int) -> Draws:
        found = of_binding(self.target, state, group)
        runs, size = found.log_weight.shape
        first = self.settings.num_particles
        eve, log_weight = found.eve.cpu().numpy(), found.log_weight.cpu()
        evidence = Estimate.from_genealogy(
            log_weight.numpy(),
            eve % first,
            num_first=first,
            # Every first particle is a whole execution whose factors were looked at.
            num_looks=float(first * runs),
            log_bound=found.bound.log_bound,
        )
        warnings = list(found.warnings)
        if size < first:
            warnings.append(
                f"only {size} of {first} particles{' of each run' if runs > 1 else ''} could be"
                " finished in the time there was; the result is right, and worth that many"
            )
        dead = int((log_weight.amax(-1) == -torch.inf).sum())
        if dead:
            warnings.append(
                f"{dead} of {runs} runs lost all their particles; their evidence counts as zero."
                " Use more particles"
            )
        return Draws(
            found.traces,
            log_weight.view(-1)[found.alive.cpu()],
            evidence,
            clusters=eve.reshape(-1)[found.alive.cpu().numpy()],
            unseen=found.bound.unseen(evidence.value, first * runs),
            diagnostics={
                "num_particles": size,
                "num_ancestors": found.info["num_ancestors"][-1].tolist(),
                "num_dead_runs": dead,
                "log_evidence_runs": (log_weight.logsumexp(-1) - math.log(size)).tolist(),
                **found.diagnostics,
            },
            warnings=warnings,
            info=found.info,
            complete=complete,
        )
