"""Tempered sequential Monte Carlo on whole executions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from lmppl.inference.annealing.findings import of_binding
from lmppl.inference.annealing.run import Annealing
from lmppl.inference.annealing.state import State
from lmppl.inference.annealing.stepping import AnnealingEngine
from lmppl.inference.loop import Draws
from lmppl.inference.tempered import Tempered
from lmppl.posterior import Estimate


@dataclass(frozen=True, slots=True)
class TemperedEngine(AnnealingEngine):
    """Populations weighed, resampled and moved along the path that a pilot run has chosen; see
    `Annealing`. The evidence is unbiased, its error that of the genealogy."""

    settings: Tempered

    @property
    def annealing(self) -> Annealing:
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

    def of_group(self, state: State, complete: bool, group: int) -> Draws:
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
