"""The range of an expression once parameters are known: how rejection knows its envelope."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeGuard

from lmppl.factors import builtin as builtin_named
from lmppl.factors.risk_ranges import rule_range
from lmppl.ir.expr import (
    Binary,
    Call,
    Conditional,
    Constant,
    Expr,
    Reference,
    RewardCall,
    Unary,
    spine,
)
from lmppl.ir.model import Model
from lmppl.ir.types import Interval


def range_of(expr: Expr, model: Model, values: Mapping[str, object]) -> tuple[float, float]:
    """The least and largest value of any expression: 0 and 1 of a condition, infinite where it is
    no number."""
    if expr.type.kind == "bool":
        return 0.0, 1.0
    if not expr.type.is_number:
        return -math.inf, math.inf
    found = expr_range(expr, model, values)
    return found.lower, found.upper


def expr_range(expr: Expr, model: Model, values: Mapping[str, object]) -> Interval:
    """An interval that holds every value the number `expr` can take, given the parameters.

    `values` maps parameters to their values. Anything not known better has the range of its type,
    which the checker found for all permitted parameters.
    """

    found: dict[str, Interval] = {}
    # In program order, so that a chain of lets is no chain of calls, and each is looked at once.
    used = {node.name for node in model.nodes(expr) if _is_let(node)}
    for let in model.lets:
        if let.name in used:
            found[let.name] = _range(let.expr, model, values, found)
    return _range(expr, model, values, found)


def _is_let(node: Expr) -> TypeGuard[Reference]:
    return isinstance(node, Reference) and node.role == "let"


def _range(
    expr: Expr, model: Model, values: Mapping[str, object], lets: Mapping[str, Interval]
) -> Interval:
    def of(part: Expr) -> Interval:
        return _range(part, model, values, lets)

    match expr:
        case Constant():
            return _point(expr.value, expr.type.range)
        case Reference(role="parameter"):
            return _point(values.get(expr.name), expr.type.range)
        case Reference(role="let"):
            return lets[expr.name]
        case Unary(operator="-"):
            return -of(expr.operand)
        case Conditional():
            return of(expr.consequent).union(of(expr.alternative))
        case Binary(operator="+" | "-" | "*" | "/"):
            first, operators = spine(expr)
            result = of(first)
            for node in operators:
                result = _operated(node, result, of(node.right))
            return result
        case Call():
            builtin = builtin_named(expr.function)
            numbers = {
                name: of(value)
                for name, value in expr.arguments
                if value.type.is_number or value.type.kind == "uncertain"
            }
            for argument in builtin.arguments:
                default = argument.default
                if argument.name not in numbers and isinstance(default, (int, float)):
                    numbers[argument.name] = Interval(float(default), float(default))
            if builtin.kind == "risk" and _is_ensemble(expr.argument("r"), model):
                # Values of an ensemble never leave the range of its members.
                range = rule_range(builtin.name, numbers["r"], numbers, may_be_gaussian=False)
            else:
                range = builtin.result_range(numbers)
            return _intersection(range, expr.type.range)
        case RewardCall():
            return model.rewards[expr.reward].type.range
        case _:
            return expr.type.range


def _operated(node: Binary, left: Interval, right: Interval) -> Interval:
    match node.operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "/":
            return left / right
        case _:
            return node.type.range


def _is_ensemble(expr: Expr | None, model: Model) -> bool:
    if expr is not None:
        expr = model.resolve(expr)
    return isinstance(expr, RewardCall) and model.rewards[expr.reward].source.kind == "ensemble"


def _point(value: object, otherwise: Interval) -> Interval:
    if isinstance(value, (int, float)) and not math.isnan(value):
        return Interval(float(value), float(value))
    return otherwise


def _intersection(a: Interval, b: Interval) -> Interval:
    lower, upper = max(a.lower, b.lower), min(a.upper, b.upper)
    return Interval(lower, upper) if lower <= upper else a
