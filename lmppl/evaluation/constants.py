"""Values that are known before anything is drawn: operators on plain Python values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from lmppl.builtins import builtin
from lmppl.builtins.kinds import Function
from lmppl.evaluation.formatting import format_value
from lmppl.ir.expr import (
    Array,
    Binary,
    Call,
    Conditional,
    Constant,
    Expr,
    Index,
    Interpolation,
    Reference,
    Unary,
    in_order,
    spine,
)
from lmppl.ir.model import Model

# What is put together of strings: thirty lines that double one would fill any memory.
MOST_CHARACTERS = 1_000_000

# Integers beyond this become reals, as in the arrays that the target computes with.
_LARGEST_INT = 2**63 - 1


class NotConstant(Exception):
    """The value of an expression depends on something that is not known yet, on `expr` if given."""

    def __init__(self, what: str, expr: Expr | None = None) -> None:
        super().__init__(what)
        self.expr = expr


def constant_value(
    expr: Expr,
    model: Model | None,
    values: Mapping[str, object],
    given: Mapping[int, object] | None = None,
) -> Any:
    """The value of an expression from the parameters, and the choices, in `values`.

    Arrays are tuples. `model` resolves the `let` of a model. `given` has values of nodes by their
    identity, which are then taken as they are.

    Raises:
        NotConstant: it depends on a name that is not in `values`, on a reward, an extern or a
            text predicate.
        ArithmeticError, ValueError: a division by zero, a logarithm of a negative number.
    """

    return _value(expr, model, values, {}, given or {})


def _value(
    expr: Expr,
    model: Model | None,
    values: Mapping[str, object],
    lets: dict[str, Any],
    given: Mapping[int, object],
) -> Any:
    """The value, with those of the `let`s that were needed for it in `lets`."""

    def of(part: Expr) -> Any:
        return _value(part, model, values, lets, given)

    if id(expr) in given:
        return given[id(expr)]
    match expr:
        case Constant():
            return expr.value
        case Reference(role="let") if model is not None:
            if expr.name not in lets and given:
                # What is given may stand for what a let has no value for.
                lets[expr.name] = of(model.let(expr.name).expr)
            elif expr.name not in lets:
                for name in in_order(expr.name, lambda let: model.let(let).expr, lets):
                    lets[name] = of(model.let(name).expr)
            return lets[expr.name]
        case Reference():
            if expr.name not in values:
                raise NotConstant(expr.name, expr)
            value = values[expr.name]
            return tuple(value) if isinstance(value, list) else value
        case Unary():
            return apply_unary(expr.operator, of(expr.operand))
        case Binary():
            first, operators = spine(expr)
            result = of(first)
            for node in operators:
                match node.operator:
                    case "and":
                        result = result and of(node.right)
                    case "or":
                        result = result or of(node.right)
                    case _:
                        result = apply_binary(node.operator, result, of(node.right))
            return result
        case Conditional():
            return of(expr.consequent) if of(expr.condition) else of(expr.alternative)
        case Interpolation():
            return interpolate(part if isinstance(part, str) else of(part) for part in expr.parts)
        case Array():
            return tuple(of(element) for element in expr.elements)
        case Index():
            array, index = of(expr.array), of(expr.index)
            if not 0 <= index < len(array):
                raise ValueError(f"index {index} of an array of {len(array)}")
            return array[index]
        case Call():
            function = arithmetic(expr.function)
            if function is None:
                raise NotConstant(expr.function, expr)
            return function(*(of(value) for _, value in expr.arguments))
        case _:
            raise NotConstant(type(expr).__name__, expr)


def apply_unary(operator: str, value: Any) -> Any:
    """`-value` or `not value`."""
    return not value if operator == "not" else -value


def apply_binary(operator: str, left: Any, right: Any) -> Any:
    """The value of a binary operator on known values; `/` gives a real.

    Raises:
        ArithmeticError: a division by zero, or a result that is too large.
        ValueError: a root of a negative number.
    """
    match operator:
        case "+" | "-" | "*":
            value = {"+": left + right, "-": left - right, "*": left * right}[operator]
            return float(value) if isinstance(value, int) and abs(value) > _LARGEST_INT else value
        case "/":
            return left / right
        case "^":
            return _power(left, right)
        case "==":
            return left == right
        case "!=":
            return left != right
        case "<":
            return left < right
        case "<=":
            return left <= right
        case ">":
            return left > right
        case ">=":
            return left >= right
        case "in":
            return left in right
        case "and":
            return left and right
        case _:
            return left or right


def _power(base: float, exponent: float) -> float:
    value = math.pow(base, exponent)
    if isinstance(base, int) and isinstance(exponent, int) and 0 <= exponent:
        return base**exponent if abs(value) <= _LARGEST_INT else value
    return value


def interpolate(parts: Any) -> str:
    """The text of an f-string from its parts; `0.5` reads as `0.5`, `3` as `3`, true as `true`.

    Raises:
        ValueError: it has more than `MOST_CHARACTERS`.
    """
    texts = [format_value(part) for part in parts]
    size = sum(map(len, texts))
    if size > MOST_CHARACTERS:
        raise ValueError(f"this string would have {size:,} characters")
    return "".join(texts)


def arithmetic(function: str) -> Callable[..., Any] | None:
    """What computes a built-in function of numbers; None for one that is not about numbers."""
    described = builtin(function)
    return described.plain if isinstance(described, Function) else None
