"""Whether a method would run on a model, and why not; nothing is loaded or run."""

from __future__ import annotations

import textwrap
from dataclasses import fields

from lmppl.errors import Diagnostic
from lmppl.inference.settings import Settings, Values, option_default
from lmppl.ir.model import Model
from lmppl.records import brief, dataclass

_WIDTH = 96
_WIDEST_HEAD = 40


@dataclass(frozen=True, slots=True)
class Plan:
    """What a method would do on a model: the settings it would use and its refusals.

    `unknowns` are refusals that only the run itself can tell of; `how` says in words which of its
    ways the method would go.
    """

    model: str
    settings: Settings
    refusals: tuple[Diagnostic, ...]
    warnings: tuple[Diagnostic, ...]
    unknowns: tuple[Diagnostic, ...] = ()
    how: str = ""

    __repr__ = brief

    @property
    def supported(self) -> bool:
        return not self.refusals

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
        if self.how and self.supported:
            lines += textwrap.wrap(
                self.how, _WIDTH, initial_indent="  here: ", subsequent_indent="    "
            )
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


def plan_method(model: Model, settings: Settings, values: Values) -> Plan:
    """The plan of a method for a model with these parameters."""
    known = dict(values)
    for parameter in model.parameters:
        default = getattr(parameter.default, "value", None)
        if parameter.name not in known and default is not None:
            known[parameter.name] = default
    return Plan(
        model.name,
        settings,
        settings.unsupported(model, known),
        settings.warnings(model),
        settings.unknowns(model, known),
        settings.how(model, known),
    )
