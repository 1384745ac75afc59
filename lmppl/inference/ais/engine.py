"""Annealed importance sampling on whole executions."""

from __future__ import annotations

from dataclasses import dataclass

from lmppl.inference.ais import AIS
from lmppl.inference.annealing.findings import of_binding
from lmppl.inference.annealing.run import Annealing
from lmppl.inference.annealing.state import State
from lmppl.inference.annealing.stepping import AnnealingEngine
from lmppl.inference.loop import Draws
from lmppl.posterior import Estimate


@dataclass(frozen=True, slots=True)
class AISEngine(AnnealingEngine):
    """Chains that never meet, each with the weight Π φ^(λ' − λ) of its states on the way (Neal
    2001): along the path that a pilot run has chosen they are independent, and their mean weight is
    an unbiased estimate of the evidence. See `Annealing`.
    """

    settings: AIS

    @property
    def annealing(self) -> Annealing:
        settings = self.settings
        return Annealing(
            self.target,
            self.stream,
            num_runs=1,
            size=settings.num_samples,
            num_moves=settings.num_moves,
            stage_ess=settings.stage_ess,
            resample_below=0.0,
        )

    def of_group(self, state: State, complete: bool, group: int) -> Draws:
        found = of_binding(self.target, state, group)
        every = found.log_weight.view(-1).cpu()
        num_chains = every.shape[0]
        evidence = Estimate.from_weights(every.numpy(), log_bound=found.bound.log_bound)
        warnings = list(found.warnings)
        if state.size < self.settings.num_samples:
            warnings.append(
                f"only {num_chains} chains could be finished in the time there was; the result is"
                " right, and worth that many"
            )
        return Draws(
            found.traces,
            every[found.alive.cpu()],
            evidence,
            unseen=found.bound.unseen(evidence.value, num_chains),
            diagnostics={
                "num_draws": num_chains,
                "num_dead": num_chains - found.alive.shape[0],
                **found.diagnostics,
            },
            warnings=warnings,
            info=found.info,
            complete=complete,
        )
