"""A target whose factors are raised to a power: the path from the prior to the posterior."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from lmppl.density.target import Target
from lmppl.density.traces import Traces
from lmppl.errors import InternalError
from lmppl.records import brief

# What the power takes from the factors, beside them. No label of a program is written like this.
CORRECTION = "(power - 1) * factors"


@dataclass(frozen=True)
class Tempered(Target):
    """log density = Σ log p(site | parents) + Σ log requirements + λ Σ log factors.

    `powers` `[groups]` has λ in [0, 1] of every binding. Factors keep their own values in
    executions, and a column beside them holds (λ − 1) Σ log factors: so what is asked for the
    density of an execution gets that at λ, moves among others, and another λ costs no evaluation.
    A factor that is −inf rules out at every λ, 0 included.
    """

    powers: Tensor | None = None

    __repr__ = brief

    @classmethod
    def of(cls, target: Target, powers: Tensor) -> Tempered:
        """`target` with its factors to these powers `[groups]`."""
        same = {each.name: getattr(target, each.name) for each in fields(Target)}
        made = cls(**same, powers=powers.to(target.device))
        # They do not look at factors, and compiling their automata takes long.
        vars(made)["requirements"] = target.requirements
        return made

    def apply_potentials(self, traces: Traces, stage: int) -> Traces:
        """The traces with the potentials of `stage` evaluated, and what the power takes of them."""
        return self.corrected(super().apply_potentials(traces, stage))

    def corrected(self, traces: Traces) -> Traces:
        """Executions of the target at any other powers, at these."""
        factors = self.log_factors(traces)
        if factors is None:
            return traces
        if self.powers is None:
            raise InternalError("a tempered target needs powers")
        taken = (self.powers[traces.group] - 1.0) * factors
        # −inf times a power: what is ruled out stays so.
        return traces.with_potentials({CORRECTION: taken.masked_fill(factors == -math.inf, 0.0)})

    def log_factors(self, traces: Traces) -> Tensor | None:
        """Σ log factors that are applied, `[rows]`, to the power of 1; None where none is."""
        labels = [p.label for p in self.model.potentials if p.kind == "factor"]
        found = [traces.log_potential[name] for name in labels if name in traces.log_potential]
        return torch.stack(found).sum(0) if found else None


def untempered(traces: Traces) -> Traces:
    """Executions as those of the target itself."""
    kept = {label: x for label, x in traces.log_potential.items() if label != CORRECTION}
    return replace(traces, log_potential=kept)
