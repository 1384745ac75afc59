"""Tempered sequential Monte Carlo."""

from __future__ import annotations

from typing import ClassVar

from lmppl.errors import Diagnostic
from lmppl.inference.annealing.words import nothing_to_temper
from lmppl.inference.settings import Referee, Settings, Values, noisy, option
from lmppl.ir.model import Model
from lmppl.records import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tempered(Settings):
    """Sequential Monte Carlo on whole texts, along a path from the prior to the posterior."""

    name: ClassVar[str] = "tempered"
    summary: ClassVar[str] = "whole texts moved from the prior to the posterior by degrees"
    engine: ClassVar[str] = "lmppl.inference.tempered.engine:TemperedEngine"
    num_draws_option: ClassVar[str] = "num_particles"
    referee: ClassVar[Referee] = "weighted"
    more_draws: ClassVar[str] = "use more particles (num_particles)"

    num_particles: int = option(256, "particles in each run", lower=2)
    num_runs: int = option(
        1, "independent runs, batched together; their spread is the error of the evidence", lower=1
    )
    num_moves: int = option(3, "moves of every particle at each stage of the path", lower=1)
    stage_ess: float = option(
        0.6,
        "the next stage is where this share of the particles still counts, by conditional effective"
        " sample size in a pilot run: more stages where it is larger",
        lower=0.05,
        upper=0.99,
    )
    ess_threshold: float = option(
        0.5,
        "resample when the effective sample size falls below this share of the particles",
        lower=0.0,
        upper=1.0,
    )

    @classmethod
    def better_draws(cls, *, scored: bool) -> str:
        return "move more at each stage (num_moves), or take smaller steps (stage_ess)"

    def unsupported(self, model: Model, values: Values) -> tuple[Diagnostic, ...]:
        return noisy(model, self.name)

    def warnings(self, model: Model) -> tuple[Diagnostic, ...]:
        return nothing_to_temper(model, self.name)
