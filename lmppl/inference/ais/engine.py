"""Annealed importance sampling on whole executions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from lmppl.density import Target
from lmppl.inference.ais import AIS
from lmppl.inference.annealing.findings import of_binding
from lmppl.inference.annealing.run import Annealing
from lmppl.inference.annealing.state import State, side_by_side
from lmppl.inference.failures import by_binding
from lmppl.inference.loop import WHOLE, Draws, Info, Shard
from lmppl.posterior import Estimate
from lmppl.rng import Stream
from lmppl.timing import timed


@dataclass(frozen=True, slots=True)
class AISEngine:
    """Chains that never meet, each with the weight Π φ^(λ' − λ) of its states on the way (Neal
    2001): along the path that a pilot run has chosen they are independent, and their mean weight is
    an unbiased estimate of the evidence. See `Annealing`.
    """

    settings: AIS
    target: Target
    stream: Stream

    @property
    def _annealing(self) -> Annealing:
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

    def init(self, shard: Shard = WHOLE) -> State:
        return self._annealing.begin(shard.index)

    def merge(self, states: Sequence[State]) -> State:
        return side_by_side(states, self.target.num_groups)

    def is_done(self, state: State) -> bool:
        return self._annealing.is_done(state)

    def step(self, state: State) -> tuple[State, Info]:
        return self._annealing.step(state)

    def hurry(self, state: State, *, spent: float, left: float) -> State:
        """Fewer chains, as many as can be finished; not before half of the budget is spent."""
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
