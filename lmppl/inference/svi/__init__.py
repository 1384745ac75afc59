"""Stochastic variational inference."""

from __future__ import annotations

import math
from typing import ClassVar

from lmppl.builtins import builtin
from lmppl.builtins.kinds import Function
from lmppl.errors import Diagnostic
from lmppl.inference.proposed import GUIDE
from lmppl.inference.settings import Referee, Settings, Values, noisy, option, refusal
from lmppl.ir.expr import Call
from lmppl.ir.model import Model, Potential
from lmppl.records import dataclass

# Adam moves a weight by about the rate in each step.
_LARGEST_RATE = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SVI(Settings):
    """Stochastic variational inference: a trainable copy of the prior fitted by reverse KL."""

    name: ClassVar[str] = "svi"
    summary: ClassVar[str] = "fits a guide (a tuned copy of the prior) and draws from it"
    engine: ClassVar[str] = "lmppl.inference.svi.engine:SVIEngine"
    restoring: ClassVar[str] = "lmppl.inference.svi.restoring"
    referee: ClassVar[Referee] = "guide"
    more_draws: ClassVar[str] = "draw more (num_samples)"
    gives: ClassVar[str] = GUIDE

    num_steps: int = option(300, "optimiser steps", lower=0)
    num_particles: int = option(64, "texts drawn from the guide in each step", lower=2)
    lr: float | None = option(
        None,
        "learning rate of Adam at the start, falls linearly to a tenth; by default 1e-4 for"
        " guide='full' and 1e-3 for guide='lora'",
        lower=0.0,
        upper=_LARGEST_RATE,
    )
    table_lr: float = option(
        0.05,
        "the same for what is a table of logits: discrete choices, and language models without"
        " weights (a fifth of it where a recurrent network stands for a table too large)",
        lower=0.0,
        upper=_LARGEST_RATE,
    )
    max_grad_norm: float | None = option(
        None, "length to which a longer gradient is cut; absent: never", lower=0.0
    )
    guide: str = option(
        "full",
        "'full' trains a copy of the prior's weights, 'lora' low-rank adapters (peft)",
        choices=("full", "lora"),
    )
    lora_rank: int = option(8, "rank of the adapters of guide='lora'", lower=1)
    num_samples: int = option(256, "draws from the fitted guide, weighted to the target", lower=2)

    @classmethod
    def better_draws(cls, *, scored: bool) -> str:
        return "fit the guide for longer (num_steps)"

    @property
    def starting_lr(self) -> float:
        """The learning rate of weights, given or the guide's default."""
        if self.lr is not None:
            return self.lr
        return 1e-3 if self.guide == "lora" else 1e-4

    def unsupported(self, model: Model, values: Values) -> tuple[Diagnostic, ...]:
        avoidable = ("constant", "safety", "automaton", "liveness")
        blocked = tuple(
            refusal(
                "LMP411",
                f"the posterior is zero where {p.label} fails, and the guide cannot see that from"
                " a prefix: the reverse KL is infinite",
                p,
                "use smc, mcmc or rejection; or turn the requirement into a factor",
            )
            for p in model.potentials
            if p.kind == "require" and p.facts.decidable not in avoidable
        )
        minus_infinity = tuple(
            refusal(
                "LMP411",
                f"{p.title} can be −∞, where the posterior is zero and no guide can know it",
                p,
                "bound the factor from below, for instance by declaring the reward's lower bound",
            )
            for p in model.potentials
            if p.kind == "factor" and _can_be_log_of_zero(model, p)
        )
        return blocked + minus_infinity + noisy(model, self.name)


def _can_be_log_of_zero(model: Model, potential: Potential) -> bool:
    return any(
        isinstance(node, Call)
        and isinstance(function := builtin(node.function), Function)
        and function.may_be_zero_mass
        and node.type.range.lower == -math.inf
        for node in model.nodes(potential.expr)
    )
