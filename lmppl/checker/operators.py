"""Operators: their types and ranges, folded where all is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lmppl.checker.operands import report_uncertain, require_condition, require_number, unknown
from lmppl.checker.report import Report, did_you_mean
from lmppl.checker.scope import Scope
from lmppl.checker.typing_rules import in_words, join, literal, type_of_value
from lmppl.errors import Label
from lmppl.evaluation.constants import apply_binary, apply_unary
from lmppl.ir import expr as ir
from lmppl.ir.types import BOOL, CHAT, INT, REAL, STRING, Interval, Type
from lmppl.records import replace
from lmppl.syntax import ast


class OperatorChecker:
    """Checks operators on operands that were checked; problems go to the report."""

    def __init__(self, scope: Scope, report: Report) -> None:
        self.scope = scope
        self.report = report

    def unary(self, node: ast.Unary, operand: ir.Expr) -> ir.Expr:
        """`-x` or `not x`."""
        if operand.type.kind == "unknown":
            return unknown(node.span)
        if node.operator == "not":
            if not require_condition(self.report, operand, "`not`"):
                return unknown(node.span)
            type = BOOL
        else:
            if not require_number(self.report, operand, "`-`"):
                return unknown(node.span)
            type = replace(operand.type, range=-operand.type.range)
        if isinstance(operand, ir.Constant):
            return ir.Constant(type, node.span, apply_unary(node.operator, operand.value))
        return ir.Unary(type, node.span, node.operator, operand)

    def binary(self, node: ast.Binary, left: ir.Expr, right: ir.Expr) -> ir.Expr:
        """Arithmetic on two numbers, folded where both are known."""
        if "unknown" in (left.type.kind, right.type.kind):
            return unknown(node.span)
        if node.operator == "+" and left.type == STRING and right.type == STRING:
            self.report.error(
                "LMP105",
                node.operator_span,
                "strings are not added",
                help='join them with an f-string: f"{a}{b}" (names only inside the braces)',
            )
            return unknown(node.span)
        wanted = f"`{node.operator}`"
        if not (
            require_number(self.report, left, wanted) & require_number(self.report, right, wanted)
        ):
            return unknown(node.span)
        if node.operator == "/" and isinstance(right, ir.Constant) and right.value == 0:
            self.report.error(
                "LMP205",
                right.span,
                "division by zero",
                labels=[Label(left.span, "this is divided")],
            )
            return unknown(node.span)
        type = self._arithmetic_type(node.operator, left, right)
        if isinstance(left, ir.Constant) and isinstance(right, ir.Constant):
            return self._fold(node, left, right)
        return ir.Binary(type, node.span, node.operator, left, right)

    def _arithmetic_type(self, operator: str, left: ir.Expr, right: ir.Expr) -> Type:
        a, b = left.type.range, right.type.range
        both_int = left.type.kind == right.type.kind == "int"
        match operator:
            case "+":
                return replace(INT if both_int else REAL, range=a + b)
            case "-":
                return replace(INT if both_int else REAL, range=a - b)
            case "*":
                return replace(INT if both_int else REAL, range=a * b)
            case "/":
                return replace(REAL, range=a / b)
            case _:
                is_int = both_int and isinstance(right, ir.Constant) and b.lower >= 0
                return replace(INT if is_int else REAL, range=power_range(a, b))

    def _fold(self, node: ast.Binary, left: ir.Constant, right: ir.Constant) -> ir.Expr:
        try:
            value: Any = apply_binary(node.operator, left.value, right.value)
        except (ArithmeticError, ValueError) as problem:
            self.report.error(
                "LMP205", node.span, "this has no value", label=str(problem) or "not a number"
            )
            return unknown(node.span)
        found = type_of_value(value)
        if found is None or not math.isfinite(value):
            self.report.error("LMP205", node.span, "this is too large for a number")
            return unknown(node.span)
        return ir.Constant(found, node.span, value)

    def compare(self, node: ast.Compare, left: ir.Expr, right: ir.Expr) -> ir.Expr:
        """A comparison, or whether something is in an array."""
        if "unknown" in (left.type.kind, right.type.kind):
            return unknown(node.span)
        if node.operator in ("in", "not in"):
            return self._membership(node, left, right)
        if node.operator in ("<", "<=", ">", ">="):
            wanted = f"`{node.operator}`"
            if not (
                require_number(self.report, left, wanted)
                & require_number(self.report, right, wanted)
            ):
                return unknown(node.span)
        elif not self._comparable(node, left, right):
            return unknown(node.span)
        self._warn_impossible_value(node, left, right)
        if isinstance(left, ir.Constant) and isinstance(right, ir.Constant):
            value = apply_binary(node.operator, left.value, right.value)
            return ir.Constant(BOOL, node.span, value)
        return ir.Binary(BOOL, node.span, node.operator, left, right)

    def _comparable(self, node: ast.Compare, left: ir.Expr, right: ir.Expr) -> bool:
        if "uncertain" in (left.type.kind, right.type.kind):
            wanted = f"`{node.operator}`"
            return require_number(self.report, left, wanted) and require_number(
                self.report, right, wanted
            )
        if join(left.type, right.type) is None or left.type.is_array or left.type.kind == CHAT.kind:
            self.report.error(
                "LMP105",
                node.operator_span,
                f"{in_words(left.type)} and {in_words(right.type)} cannot be compared",
                labels=[
                    Label(left.span, in_words(left.type)),
                    Label(right.span, in_words(right.type)),
                ],
            )
            return False
        return True

    def _membership(self, node: ast.Compare, left: ir.Expr, right: ir.Expr) -> ir.Expr:
        if right.type == STRING or not right.type.is_array:
            self.report.error(
                "LMP105",
                right.span,
                f"`in` looks into an array, but this is {in_words(right.type)}",
                help=f"write `contains({self.report.text(right.span)},"
                f" {self.report.text(left.span)})`"
                if right.type.kind == "string"
                else None,
            )
            return unknown(node.span)
        if join(left.type, right.type.element()) is None:
            self.report.error(
                "LMP105",
                left.span,
                f"this is {in_words(left.type)}, which is never in {in_words(right.type)}",
            )
            return unknown(node.span)
        found: ir.Expr
        if isinstance(left, ir.Constant) and isinstance(right, ir.Constant):
            inside = apply_binary("in", left.value, right.value)
            return ir.Constant(BOOL, node.span, inside == (node.operator == "in"))
        found = ir.Binary(BOOL, node.span, "in", left, right)
        return found if node.operator == "in" else ir.Unary(BOOL, node.span, "not", found)

    def _warn_impossible_value(self, node: ast.Compare, left: ir.Expr, right: ir.Expr) -> None:
        """A choice that is compared with something it can never be."""
        for choice, other in ((left, right), (right, left)):
            found, known = self.scope.resolve(choice), self.scope.resolve(other)
            if not isinstance(found, ir.Reference) or not isinstance(known, ir.Constant):
                continue
            symbol = self.scope.find(found.name)
            if symbol is None or symbol.values is None or node.operator not in ("==", "!="):
                continue
            if known.value not in symbol.values:
                always = "never" if node.operator == "==" else "always"
                strings = [each for each in symbol.values if isinstance(each, str)]
                self.report.warning(
                    "LMP207",
                    other.span,
                    f"`{found.name}` is never {literal(known.value)}, so this is {always} true",
                    labels=[Label(symbol.span, f"it is one of {literal(symbol.values)}")],
                    help=did_you_mean(str(known.value), strings),
                )

    def logical(self, node: ast.Logical, operands: Sequence[ir.Expr]) -> ir.Expr:
        """A chain of `and`, or of `or`."""
        bad = False
        for operand in operands:
            if operand.type.kind == "unknown":
                bad = True
            elif not require_condition(self.report, operand, f"`{node.operator}`"):
                bad = True
        if bad:
            return unknown(node.span)
        # A constant operand either decides the whole or adds nothing.
        deciding = node.operator == "or"
        kept: list[ir.Expr] = []
        for operand in operands:
            if isinstance(operand, ir.Constant):
                if operand.value == deciding:
                    return ir.Constant(BOOL, node.span, deciding)
                continue
            kept.append(operand)
        if not kept:
            return ir.Constant(BOOL, node.span, not deciding)
        found = kept[0]
        for operand in kept[1:]:
            span = found.span.to(operand.span)
            found = ir.Binary(BOOL, span, node.operator, found, operand)
        return found

    def conditional(
        self,
        node: ast.Conditional,
        condition: ir.Expr,
        consequent: ir.Expr,
        alternative: ir.Expr,
    ) -> ir.Expr:
        """`if … then … else …`, whose branches have one type."""
        if condition.type.kind == "unknown":
            return unknown(node.span)
        if not require_condition(self.report, condition, "`if`"):
            return unknown(node.span)
        if "unknown" in (consequent.type.kind, alternative.type.kind):
            return unknown(node.span)
        type = join(consequent.type, alternative.type)
        if type is None:
            self.report.error(
                "LMP105",
                alternative.span,
                "both branches have one type, but this is " + in_words(alternative.type),
                labels=[Label(consequent.span, f"and this is {in_words(consequent.type)}")],
            )
            return unknown(node.span)
        if type.kind == "uncertain":
            report_uncertain(self.report, consequent, "`if`")
            return unknown(node.span)
        if isinstance(condition, ir.Constant):
            chosen = consequent if condition.value else alternative
            return replace(chosen, span=node.span)
        return ir.Conditional(type, node.span, condition, consequent, alternative)


def power_range(base: Interval, exponent: Interval) -> Interval:
    """The range of `base ^ exponent`; unbounded where nothing simple is known."""
    point = exponent.lower if exponent.lower == exponent.upper else None
    if base.lower >= 0.0:
        corners = [
            _power(b, e)
            for b in (base.lower, base.upper)
            for e in (exponent.lower, exponent.upper)
            if not (b == 0.0 and e < 0.0)
        ]
        if base.lower == 0.0 and exponent.lower < 0.0:
            return Interval(0.0, math.inf)
        corners += [1.0] if base.lower <= 1.0 <= base.upper else []
        corners += [1.0] if exponent.lower <= 0.0 <= exponent.upper else []
        return Interval(min(corners), max(corners))
    if point is None or point < 0.0 or point != math.floor(point) or math.isinf(point):
        return Interval()
    low, high = _power(base.lower, point), _power(base.upper, point)
    if point % 2 == 1:
        return Interval(low, high)
    smallest = 0.0 if base.lower <= 0.0 <= base.upper else min(low, high)
    return Interval(smallest if point > 0 else 1.0, max(low, high))


def _power(base: float, exponent: float) -> float:
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return -math.inf if base < 0 and exponent % 2 == 1 else math.inf
