"""Annealed importance sampling."""

from __future__ import annotations

from typing import ClassVar

from lmppl.errors import Diagnostic
from lmppl.inference.annealing.words import nothing_to_temper
from lmppl.inference.settings import Referee, Settings, Values, noisy, option
from lmppl.ir.model import Model
from lmppl.records import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AIS(Settings):
    """Independent chains from the prior to the posterior, weighted by what each step gained."""

    name: ClassVar[str] = "ais"
    summary: ClassVar[str] = "independent chains from the prior to the posterior; unbiased evidence"
    engine: ClassVar[str] = "lmppl.inference.ais.engine:AISEngine"
    referee: ClassVar[Referee] = "weighted"
    more_draws: ClassVar[str] = "run more chains (num_samples)"

    num_samples: int = option(256, "chains, each of which gives a weighted draw", lower=1)
    num_moves: int = option(2, "moves of every chain at each stage of the path", lower=1)
    stage_ess: float = option(
        0.9,
        "the next stage is where this share of the chains still counts, by conditional effective"
        " sample size in a pilot run: more stages where it is larger",
        lower=0.05,
        upper=0.999,
    )

    @classmethod
    def better_draws(cls, *, scored: bool) -> str:
        return "take smaller steps (stage_ess), or move more at each (num_moves)"

    def unsupported(self, model: Model, values: Values) -> tuple[Diagnostic, ...]:
        return noisy(model, self.name)

    def warnings(self, model: Model) -> tuple[Diagnostic, ...]:
        return nothing_to_temper(model, self.name)
