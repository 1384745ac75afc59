"""The range of an expression once parameters are known: how rejection knows its envelope."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol, TypeGuard

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


class TextRanges(Protocol):
    """What is known of numbers on texts once language models and rewards are loaded."""

    def reward(self, name: str, site: str | None) -> Interval | None:
        """The range of a reward on the text of a site, or on any text; None where none is known."""

    def length(self, unit: str, site: str) -> Interval | None:
        """The range of the length of the text of a site."""


def range_of(
    expr: Expr, model: Model, values: Mapping[str, object], texts: TextRanges | None = None
) -> tuple[float, float]:
    """The least and largest value of any expression: 0 and 1 of a condition, infinite where it is
    no number."""
    if expr.type.kind == "bool":
        return 0.0, 1.0
    if not expr.type.is_number:
        return -math.inf, math.inf
    found = expr_range(expr, model, values, texts)
    return found.lower, found.upper


def expr_range(
    expr: Expr, model: Model, values: Mapping[str, object], texts: TextRanges | None = None
) -> Interval:
    """An interval that holds every value the number `expr` can take, given the parameters.

    `values` maps parameters to their values; `texts` knows what follows from the language models.
    Anything not known better has the range of its type, which the checker found for all permitted
    parameters.
    """

    found: dict[str, Interval] = {}
    # In program order, so that a chain of lets is no chain of calls, and each is looked at once.
    used = {node.name for node in model.nodes(expr) if _is_let(node)}
    for let in model.lets:
        if let.name in used:
            found[let.name] = _range(let.expr, model, values, found, texts)
    return _range(expr, model, values, found, texts)


def _is_let(node: Expr) -> TypeGuard[Reference]:
    return isinstance(node, Reference) and node.role == "let"


def _range(
    expr: Expr,
    model: Model,
    values: Mapping[str, object],
    lets: Mapping[str, Interval],
    texts: TextRanges | None,
) -> Interval:
    def of(part: Expr) -> Interval:
        return _range(part, model, values, lets, texts)

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
            if builtin.name == "length":
                return _length_range(expr, model, texts)
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
            declared = model.rewards[expr.reward].type.range
            derived = None if texts is None else _reward_range(expr, model, texts)
            return declared if derived is None else _intersection(declared, derived)
        case _:
            return expr.type.range


def _reward_range(expr: RewardCall, model: Model, texts: TextRanges) -> Interval | None:
    site = _text_of(expr.arguments[0], model) if len(expr.arguments) == 1 else None
    return texts.reward(expr.reward, site)


def _length_range(expr: Call, model: Model, texts: TextRanges | None) -> Interval:
    unit = expr.argument("unit")
    site = _text_of(expr.arguments[0][1], model) if expr.arguments else None
    derived = None
    if texts is not None and site is not None and (unit is None or isinstance(unit, Constant)):
        derived = texts.length("tokens" if unit is None else str(unit.value), site)
    known = _intersection(Interval(0.0, math.inf), expr.type.range)
    return known if derived is None else _intersection(known, derived)


def _text_of(expr: Expr, model: Model) -> str | None:
    """The site whose text an expression is."""
    expr = model.resolve(expr)
    if isinstance(expr, Reference) and expr.role == "site" and model.site(expr.name).is_text:
        return expr.name
    return None


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
