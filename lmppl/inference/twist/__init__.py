"""Twists that are learned: a small head that says how promising an unfinished text is."""

from __future__ import annotations

from typing import ClassVar

from lmppl.errors import Diagnostic
from lmppl.inference.proposed import TWIST
from lmppl.inference.settings import Referee, Settings, Values, noisy, option, refusal
from lmppl.ir.model import Model
from lmppl.records import dataclass

PATHS, CONTRASTIVE, SOFT_Q, LOG_RATIO = "paths", "contrastive", "soft-q", "log-ratio"
SIXO, FUDGE = "sixo", "fudge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Twist(Settings):
    """Fits a twist for sequential Monte Carlo, and draws by it."""

    name: ClassVar[str] = "twist"
    summary: ClassVar[str] = "fits a head that looks ahead for particles, and draws by it"
    engine: ClassVar[str] = "lmppl.inference.twist.engine:TwistEngine"
    num_draws_option: ClassVar[str] = "num_particles"
    referee: ClassVar[Referee] = "weighted"
    more_draws: ClassVar[str] = "use more particles (num_particles)"
    gives: ClassVar[str] = TWIST

    num_steps: int = option(240, "optimiser steps of the head", lower=0)
    num_rounds: int = option(
        12, "how often new particles are drawn for the fit, by the head as it is then", lower=1
    )
    batch_size: int = option(32, "texts of each kind in an optimiser step", lower=1)
    objective: str = option(
        PATHS,
        "'paths' makes every beginning agree with what became of it and of the tokens after it;"
        " 'contrastive' tells texts of the posterior from those that the head would have;"
        " 'soft-q' makes every token agree with those after it; 'log-ratio' makes all texts weigh"
        " the same; 'sixo' tells texts of the posterior from those of the prior; 'fudge' foretells"
        " from texts of the prior how much they will weigh",
        choices=(PATHS, CONTRASTIVE, SOFT_Q, LOG_RATIO, SIXO, FUDGE),
    )
    width: int = option(64, "units of the head", lower=1)
    lr: float = option(0.003, "learning rate of Adam, falls linearly to a tenth", lower=0.0)
    num_particles: int = option(
        128, "particles of each round of the fit, and of the run that follows", lower=2
    )

    @classmethod
    def better_draws(cls, *, scored: bool) -> str:
        return "fit the head for longer (num_steps, num_rounds)"

    def unsupported(self, model: Model, values: Values) -> tuple[Diagnostic, ...]:
        found = list(noisy(model, self.name))
        if not model.text_sites:
            found.append(
                refusal("LMP419", "the model has no text, and a twist is of texts", None, "use smc")
            )
        return tuple(found)
