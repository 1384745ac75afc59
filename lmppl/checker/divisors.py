"""Division by a parameter: never by zero, and a temperature is positive."""

from __future__ import annotations

from collections.abc import Mapping

from lmppl.checker.report import Report
from lmppl.errors import Label, Span
from lmppl.ir.expr import Binary, Constant, Reference
from lmppl.ir.model import Model
from lmppl.records import dataclass


@dataclass(frozen=True, slots=True)
class Divisor:
    """A parameter that divides: where, and whether a factor's value depends on the quotient."""

    parameter: str
    span: Span
    in_factor: bool

    def refuses(self, value: object) -> bool:
        """Whether the parameter may not have this value."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return value <= 0 if self.in_factor else value == 0


def divisors(model: Model) -> Mapping[str, Divisor]:
    """The parameters that divide, each at its first division; those in factors come first."""
    found: dict[str, Divisor] = {}
    factors = [each.expr for each in model.potentials if each.kind == "factor"]
    for in_factor, exprs in ((True, factors), (False, model.expressions)):
        for node in model.nodes(*exprs):
            if isinstance(node, Binary) and node.operator == "/":
                right = model.resolve(node.right)
                if isinstance(right, Reference) and right.role == "parameter":
                    found.setdefault(right.name, Divisor(right.name, right.span, in_factor))
    return found


def check_divisors(model: Model, report: Report) -> None:
    """Reports parameters whose default, or whose whole range, cannot divide (205, 206)."""
    for divisor in divisors(model).values():
        parameter = next((p for p in model.parameters if p.name == divisor.parameter), None)
        if parameter is None:
            continue
        labels = [Label(divisor.span, "divides here")]
        default = parameter.default
        if isinstance(default, Constant) and divisor.refuses(default.value):
            _report(report, divisor, default.span, f"the default of `{parameter.name}`", labels)
        elif default is None and (parameter.type.range.upper <= 0.0):
            if divisor.in_factor or parameter.type.range.lower == 0.0:
                _report(report, divisor, parameter.span, f"`{parameter.name}`", labels)


def _report(report: Report, divisor: Divisor, span: Span, what: str, labels: list[Label]) -> None:
    code, message, why = divisor_problem(divisor, what)
    report.error(code, span, message, labels=labels, notes=why)


def divisor_problem(divisor: Divisor, what: str) -> tuple[str, str, tuple[str, ...]]:
    """The code, the message and the reason for a value that may not divide."""
    if divisor.in_factor:
        return (
            "LMP206",
            f"{what} must be above 0, because `{divisor.parameter}` divides in a factor",
            ("at 0 the factor has no value, and below 0 it favours the opposite",),
        )
    return "LMP205", f"{what} cannot be 0, because `{divisor.parameter}` divides", ()
