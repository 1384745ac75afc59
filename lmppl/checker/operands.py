"""What an operand must be; an expression that was reported has a type that fits everywhere."""

from __future__ import annotations

from lmppl.checker.report import Report
from lmppl.checker.typing_rules import in_words
from lmppl.errors import Span
from lmppl.ir import expr as ir
from lmppl.ir.types import UNKNOWN


def unknown(span: Span) -> ir.Constant:
    """What stands for an expression that was reported."""
    return ir.Constant(UNKNOWN, span, None)


def require_number(report: Report, expr: ir.Expr, wanted_by: str) -> bool:
    """Whether the expression is a number; reported where it is not."""
    if expr.type.is_number or expr.type.kind == "unknown":
        return True
    if expr.type.kind == "uncertain":
        report_uncertain(report, expr, wanted_by)
        return False
    help = None
    if expr.type.kind == "bool":
        help = f"write `if {report.text(expr.span)} then 1 else 0`"
    report.error(
        "LMP105",
        expr.span,
        f"{wanted_by} takes numbers, but this is {in_words(expr.type)}",
        help=help,
    )
    return False


def report_uncertain(
    report: Report, expr: ir.Expr, wanted_by: str, wanted: str = "a number"
) -> None:
    """Refuses a distribution where a number, or a condition on one, is wanted."""
    text = report.text(expr.span)
    report.error(
        "LMP210",
        expr.span,
        f"`{text}` is uncertain, and {wanted_by} takes {wanted}",
        label="a distribution, not a number",
        notes=["averaging is never silent: how to treat the uncertainty is for you to say"],
        help=f"name a risk rule: `mean({text})`, `lcb({text}, k=1)`, `worst({text})`, …",
    )


def require_condition(report: Report, expr: ir.Expr, wanted_by: str) -> bool:
    """Whether the expression is a condition; reported where it is not."""
    if expr.type.kind == "unknown" or (expr.type.kind == "bool" and not expr.type.is_array):
        return True
    if expr.type.kind == "uncertain":
        report_uncertain(report, expr, wanted_by, "a condition")
        return False
    text = report.text(expr.span)
    report.error(
        "LMP105",
        expr.span,
        f"{wanted_by} takes a condition, but this is {in_words(expr.type)}",
        help=f"compare it: `{text} > 0`" if expr.type.is_number else None,
    )
    return False
