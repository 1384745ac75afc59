"""The range of an expression once parameters are known: how rejection knows its envelope."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeGuard

from lmppl.builtins import builtin as builtin_named
from lmppl.builtins import distribution_of, source_of
from lmppl.builtins.kinds import Measure, PriorScore, Rule
from lmppl.evaluation.constants import NotConstant, constant_value
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

    def measure(
        self, measure: Measure, arguments: Mapping[str, object], site: str
    ) -> Interval | None:
        """The range of a number on the text of a site, such as its length."""

    def summands(self, name: str) -> Sequence[tuple[float, Mapping[str, object]]] | None:
        """What a reward is a sum of, as `rewards.scorer.Summed` says it; None: that is unknown."""


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

    return Ranges(model, values, texts).of(expr)


class Ranges:
    """The ranges of expressions under the same circumstances.

    `given` has ranges of expressions, by the identity of their nodes, that are taken as they are:
    what is found then holds wherever those expressions lie in those ranges. A condition has the
    range of 0 and 1.
    """

    def __init__(
        self,
        model: Model,
        values: Mapping[str, object],
        texts: TextRanges | None = None,
        given: Mapping[int, Interval] | None = None,
    ) -> None:
        self.model, self.values, self.texts = model, values, texts
        self.given: Mapping[int, Interval] = given or {}
        self._lets: dict[str, Interval] = {}

    def of(self, expr: Expr) -> Interval:
        """An interval that holds every value of a number or a condition."""
        # In program order: a chain of lets is no chain of calls, and each is looked at once.
        used = {node.name for node in self.model.nodes(expr) if _is_let(node)}
        for let in self.model.lets:
            if let.name in used and let.name not in self._lets:
                self._lets[let.name] = self._range(let.expr)
        return self._range(expr)

    def _range(self, expr: Expr) -> Interval:
        if id(expr) in self.given:
            return self.given[id(expr)]
        if _is_let(expr):
            return self._lets[expr.name]
        if expr.type.kind == "bool" and not expr.type.is_array:
            return self._truth(expr)
        of, model = self._range, self.model
        match expr:
            case Constant():
                return _point(expr.value, expr.type.range)
            case Reference(role="parameter"):
                return _point(self.values.get(expr.name), expr.type.range)
            case Unary(operator="-"):
                return -of(expr.operand)
            case Conditional():
                condition = of(expr.condition)
                if condition.lower == 1.0:
                    return of(expr.consequent)
                if condition.upper == 0.0:
                    return of(expr.alternative)
                return of(expr.consequent).union(of(expr.alternative))
            case Binary(operator="+" | "-" | "*" | "/"):
                first, operators = spine(expr)
                for number in range(len(operators) - 1, -1, -1):
                    if id(operators[number]) in self.given:
                        first, operators = operators[number], operators[number + 1 :]
                        break
                result = of(first)
                for node in operators:
                    result = _operated(node, result, of(node.right))
                return result
            case Call():
                builtin = builtin_named(expr.function)
                if isinstance(builtin, Measure):
                    return _measure_range(builtin, expr, model, self.texts)
                if isinstance(builtin, PriorScore):
                    return _prior_range(expr, model, self.values)
                numbers = {
                    name: of(value)
                    for name, value in expr.arguments
                    if value.type.is_number or value.type.kind == "uncertain"
                }
                for argument in builtin.arguments:
                    default = argument.default
                    if argument.name not in numbers and isinstance(default, (int, float)):
                        numbers[argument.name] = Interval(float(default), float(default))
                if isinstance(builtin, Rule):
                    may_be_gaussian = not _gives_members(expr.arguments[0][1], model)
                    found = builtin.range(numbers, may_be_gaussian=may_be_gaussian)
                else:
                    found = builtin.range(numbers)
                return _intersection(found, expr.type.range)
            case RewardCall():
                declared = model.rewards[expr.reward].type.range
                derived = None if self.texts is None else _reward_range(expr, model, self.texts)
                return declared if derived is None else _intersection(declared, derived)
            case _:
                return expr.type.range

    def _truth(self, expr: Expr) -> Interval:
        """0, 1, or from 0 to 1 where it is not known whether a condition holds."""
        # Chains of `and` and `or` are as long as the program likes: from left to right.
        chain: list[Binary] = []
        while isinstance(expr, Binary) and expr.operator in ("and", "or"):
            if id(expr) in self.given:
                break
            chain.append(expr)
            expr = expr.left
        found = self._simple_truth(expr)
        for node in reversed(chain):
            right = self._range(node.right)
            best = min if node.operator == "and" else max
            found = Interval(best(found.lower, right.lower), best(found.upper, right.upper))
        return found

    def _simple_truth(self, expr: Expr) -> Interval:
        if id(expr) in self.given:
            return self.given[id(expr)]
        if _is_let(expr):
            return self._lets[expr.name]
        match expr:
            case Constant() if isinstance(expr.value, bool):
                return _known(expr.value)
            case Reference(role="parameter"):
                value = self.values.get(expr.name)
                return _known(value) if isinstance(value, bool) else _EITHER
            case Unary(operator="not"):
                inner = self._range(expr.operand)
                return Interval(1.0 - inner.upper, 1.0 - inner.lower)
            case Binary() if expr.left.type.is_number and expr.right.type.is_number:
                whole = expr.left.type.kind == expr.right.type.kind == "int"
                left, right = self._range(expr.left), self._range(expr.right)
                return _compared(expr.operator, left, right, 0.0 if whole else _ROUNDING)
            case _:
                return _EITHER


_EITHER = Interval(0.0, 1.0)
# What arithmetic on reals may be off, and a comparison must not hang on.
_ROUNDING = 1e-9


def _known(holds: bool) -> Interval:
    return Interval(float(holds), float(holds))


def _compared(operator: str, a: Interval, b: Interval, rounding: float) -> Interval:
    """Whether a comparison holds of all numbers in two ranges, of none, or of some.

    Ends that are equal up to `rounding`, a part of them, decide nothing.
    """
    if operator in (">", ">="):
        operator, a, b = operator.replace(">", "<"), b, a
    ends = [abs(end) for end in (a.lower, a.upper, b.lower, b.upper) if math.isfinite(end)]
    slack = rounding * max(1.0, *ends, 0.0)
    below, above = a.upper + slack < b.lower, a.lower > b.upper + slack
    if operator in ("==", "!="):
        if below or above:
            return _known(operator == "!=")
        if slack == 0.0 and a.lower == a.upper == b.lower == b.upper:
            return _known(operator == "==")
    elif operator == "<" and slack == 0.0 and a.lower == b.upper:
        return _known(False)
    elif operator == "<=" and slack == 0.0 and a.upper == b.lower:
        return _known(True)
    elif operator in ("<", "<=") and (below or above):
        return _known(below)
    return _EITHER


def _is_let(node: Expr) -> TypeGuard[Reference]:
    return isinstance(node, Reference) and node.role == "let"


def _reward_range(expr: RewardCall, model: Model, texts: TextRanges) -> Interval | None:
    site = _text_of(expr.arguments[0], model) if len(expr.arguments) == 1 else None
    return texts.reward(expr.reward, site)


def _measure_range(
    measure: Measure, expr: Call, model: Model, texts: TextRanges | None
) -> Interval:
    (_, text), *others = expr.arguments
    site, derived = _text_of(text, model), None
    known = _intersection(measure.range({}), expr.type.range)
    if texts is not None and site is not None:
        if all(isinstance(value, Constant) for _, value in others):
            given = {name: value.value for name, value in others if isinstance(value, Constant)}
            derived = texts.measure(measure, measure.complete(given), site)
    return known if derived is None else _intersection(known, derived)


def _prior_range(expr: Call, model: Model, values: Mapping[str, object]) -> Interval:
    """What the log probability of a choice can be, from arguments that are known."""
    site = model.resolve(expr.arguments[0][1])
    assert isinstance(site, Reference)
    distribution = model.site(site.name).distribution
    try:
        known = {
            name: constant_value(value, model, values)
            for name, value in distribution.arguments.items()
        }
    except (NotConstant, ArithmeticError, ValueError):
        return expr.type.range
    return distribution_of(distribution).log_masses(known) or expr.type.range


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


def _gives_members(expr: Expr, model: Model) -> bool:
    """Whether an uncertain reward never leaves the range of its members."""
    expr = model.resolve(expr)
    return (
        isinstance(expr, RewardCall) and source_of(model.rewards[expr.reward].source).gives_members
    )


def _point(value: object, otherwise: Interval) -> Interval:
    if isinstance(value, (int, float)) and not math.isnan(value):
        return Interval(float(value), float(value))
    return otherwise


def _intersection(a: Interval, b: Interval) -> Interval:
    lower, upper = max(a.lower, b.lower), min(a.upper, b.upper)
    return Interval(lower, upper) if lower <= upper else a
