"""Whether a method would run on a model, and why not; nothing is loaded or run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from lmppl.errors import Diagnostic
from lmppl.factors.ranges import expr_range
from lmppl.inference.settings import Settings, option_default
from lmppl.ir.model import Model


@dataclass(frozen=True, slots=True)
class Plan:
    """What a method would do on a model: the settings it would use and its refusals."""

    model: str
    settings: Settings
    refusals: tuple[Diagnostic, ...]
    warnings: tuple[Diagnostic, ...]

    @property
    def supported(self) -> bool:
        return not self.refusals

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the method refuses, a sentence each."""
        return tuple(refusal.message for refusal in self.refusals)

    def __str__(self) -> str:
        method = self.settings
        lines = [f"{method.name} on {self.model}: {'would run' if self.supported else 'refuses'}"]
        lines += [f"  {d.code}: {d.message}" for d in (*self.refusals, *self.warnings)]
        lines += [f"      {d.help}" for d in self.refusals if d.help]
        lines.append(f"  {method.name} {method.summary}")
        for setting in fields(method):
            value = getattr(method, setting.name)
            mark = "" if value == option_default(setting) else " (set)"
            lines.append(f"  {setting.name} = {value!r}{mark}: {setting.metadata['doc']}")
        return "\n".join(lines)


def plan_method(model: Model, settings: Settings, values: Mapping[str, object]) -> Plan:
    """The plan of a method for a model with these parameters."""
    known = dict(values)
    for parameter in model.parameters:
        default = getattr(parameter.default, "value", None)
        if parameter.name not in known and default is not None:
            known[parameter.name] = default
    refusals = tuple(
        refusal
        for refusal in settings.unsupported(model)
        if not (refusal.code == "LMP410" and _is_bounded(model, refusal, known))
    )
    return Plan(model.name, settings, refusals, settings.warnings(model))


def _is_bounded(model: Model, refusal: Diagnostic, values: Mapping[str, object]) -> bool:
    """Whether the factor that was refused has an upper bound for these parameters."""
    for potential in model.potentials:
        if potential.span == refusal.span:
            return expr_range(potential.expr, model, values).upper < math.inf
    return False
