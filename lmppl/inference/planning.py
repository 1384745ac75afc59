"""Whether a method would run on a model, and why not; nothing is loaded or run."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, fields

from lmppl.errors import Diagnostic
from lmppl.evaluation.constants import NotConstant, constant_value
from lmppl.evaluation.ranges import expr_range
from lmppl.inference.settings import Exact, Settings, option_default
from lmppl.ir.model import Model

_WIDTH = 96
_WIDEST_HEAD = 40


@dataclass(frozen=True, slots=True)
class Plan:
    """What a method would do on a model: the settings it would use and its refusals.

    `unknowns` are refusals that only the run itself can tell of.
    """

    model: str
    settings: Settings
    refusals: tuple[Diagnostic, ...]
    warnings: tuple[Diagnostic, ...]
    unknowns: tuple[Diagnostic, ...] = ()

    @property
    def supported(self) -> bool:
        return not self.refusals

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the method refuses, a sentence each."""
        return tuple(refusal.message for refusal in self.refusals)

    def __str__(self) -> str:
        method = self.settings
        verdict = "would run" if self.supported else "refuses"
        if self.supported and self.unknowns:
            verdict = "would start, and may refuse while it runs"
        lines = [f"{method.name} on {self.model}: {verdict}"]
        found = (*self.refusals, *self.unknowns, *self.warnings)
        lines += [f"  {d.code}: {d.message}" for d in found]
        lines += [f"      {d.help}" for d in (*self.refusals, *self.unknowns) if d.help]
        lines.append(f"  {method.name}: {method.summary}")
        heads = []
        for setting in fields(method):
            value = getattr(method, setting.name)
            mark = "" if value == option_default(setting) else " (set)"
            heads.append(f"  {setting.name} = {value!r}{mark}")
        column = min(max(len(head) for head in heads) + 2, _WIDEST_HEAD)
        for head, setting in zip(heads, fields(method), strict=True):
            lines += textwrap.wrap(
                setting.metadata["doc"],
                _WIDTH,
                initial_indent=f"{head:<{column - 2}}  ",
                subsequent_indent=" " * column,
            )
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
    return Plan(
        model.name, settings, refusals, settings.warnings(model), _unknowns(model, settings, known)
    )


def _unknowns(
    model: Model, settings: Settings, values: Mapping[str, object]
) -> tuple[Diagnostic, ...]:
    """What may stop the run and cannot be told from the program: the size of a support."""
    if not isinstance(settings, Exact):
        return ()
    if _num_executions(model, values) <= settings.max_sequences:
        return ()
    return (
        Diagnostic(
            "LMP416",
            "error",
            f"exact refuses where more than {settings.max_sequences:,} executions are open, and"
            " only running it counts them",
            help="raise max_sequences if it does, or use smc",
        ),
    )


def _num_executions(model: Model, values: Mapping[str, object]) -> float:
    """At most how many executions a model has; ∞ where it draws a text or that is not known."""
    product = 1.0
    for site in model.sites:
        if site.distribution.kind == "bernoulli":
            product *= 2
            continue
        options = site.distribution.argument("values")
        if site.is_text or options is None:
            return math.inf
        try:
            product *= len(constant_value(options, model, values))
        except (NotConstant, ArithmeticError, ValueError):
            return math.inf
    return product


def _is_bounded(model: Model, refusal: Diagnostic, values: Mapping[str, object]) -> bool:
    """Whether the factor that was refused has an upper bound for these parameters."""
    for potential in model.potentials:
        if potential.span == refusal.span:
            return expr_range(potential.expr, model, values).upper < math.inf
    return False
