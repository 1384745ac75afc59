"""Requirements on one text as predicates that automata can decide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from lmppl.factors import builtin
from lmppl.factors.automata.predicates import (
    COMPARISONS,
    And,
    Comparison,
    Contains,
    EndsWith,
    False_,
    Finished,
    Length,
    Matches,
    Never,
    Not,
    Or,
    Predicate,
    StartsWith,
    True_,
    Unit,
)
from lmppl.factors.constants import NotConstant, constant_value
from lmppl.ir.expr import Binary, Call, Conditional, Constant, Expr, Reference, Unary
from lmppl.ir.model import Model

_FLIPPED: Mapping[str, Comparison] = {
    "<=": ">=",
    "<": ">",
    ">=": "<=",
    ">": "<",
    "==": "==",
    "!=": "!=",
}
_TEXT_PREDICATES = frozenset({"never", "contains", "matches", "starts_with", "ends_with"})


def as_predicate(
    model: Model, expr: Expr, site_name: str, values: Mapping[str, object]
) -> Predicate | None:
    """What a condition asks of the text of one site, or None where no automaton can decide it.

    `values` holds the parameters, and those choices that are already known; a condition that
    needs another site, a reward or an extern gives None.
    """
    try:
        return _predicate(model, expr, site_name, values)
    except (NotConstant, ArithmeticError, ValueError, TypeError):
        return None


def _predicate(model: Model, expr: Expr, site: str, values: Mapping[str, object]) -> Predicate:
    match expr:
        case Reference(role="let"):
            return _predicate(model, model.let(expr.name).expr, site, values)
        case Unary(operator="not"):
            return Not(_predicate(model, expr.operand, site, values))
        case Binary(operator="and" | "or"):
            parts = (
                _predicate(model, expr.left, site, values),
                _predicate(model, expr.right, site, values),
            )
            return And(parts) if expr.operator == "and" else Or(parts)
        case Conditional():
            condition = _predicate(model, expr.condition, site, values)
            consequent = _predicate(model, expr.consequent, site, values)
            alternative = _predicate(model, expr.alternative, site, values)
            return Or((And((condition, consequent)), And((Not(condition), alternative))))
        case Binary() if expr.operator in COMPARISONS:
            return _comparison(model, expr, site, values)
        case Call() if expr.function in _TEXT_PREDICATES or expr.function == "finished":
            return _text_predicate(model, expr, site, values)
        case _:
            return True_() if constant_value(expr, model, values) else False_()


def _comparison(model: Model, expr: Binary, site: str, values: Mapping[str, object]) -> Predicate:
    left, right = resolve(model, expr.left), resolve(model, expr.right)
    if _is_length(model, left, site):
        bound = constant_value(right, model, values)
        return Length(_unit(left), cast(Comparison, expr.operator), float(bound))
    if _is_length(model, right, site):
        bound = constant_value(left, model, values)
        return Length(_unit(right), _FLIPPED[expr.operator], float(bound))
    return True_() if constant_value(expr, model, values) else False_()


def resolve(model: Model, expr: Expr) -> Expr:
    """The expression that a chain of `let a = b` stands for."""
    while isinstance(expr, Reference) and expr.role == "let":
        expr = model.let(expr.name).expr
    return expr


def is_text_of(model: Model, expr: Expr | None, site: str) -> bool:
    """Whether an expression is the text of the site itself."""
    if expr is None:
        return False
    found = resolve(model, expr)
    return isinstance(found, Reference) and found.role == "site" and found.name == site


def _is_length(model: Model, expr: Expr, site: str) -> bool:
    return (
        isinstance(expr, Call)
        and expr.function == "length"
        and is_text_of(model, expr.argument("text"), site)
    )


def _unit(expr: Expr) -> Unit:
    assert isinstance(expr, Call)
    unit = expr.argument("unit")
    value = unit.value if isinstance(unit, Constant) else builtin("length").default("unit")
    return cast(Unit, value)


def _text_predicate(model: Model, expr: Call, site: str, values: Mapping[str, object]) -> Predicate:
    if not is_text_of(model, expr.argument("text"), site):
        raise NotConstant(expr.function)

    def flag(name: str) -> bool:
        given = expr.argument(name)
        return given is not None and bool(constant_value(given, model, values))

    def words() -> tuple[str, ...]:
        given = expr.argument("words")
        assert given is not None
        value = constant_value(given, model, values)
        return (value,) if isinstance(value, str) else tuple(value)

    match expr.function:
        case "never":
            return Never(words(), flag("ignore_case"), flag("whole_words"))
        case "contains":
            return Contains(words(), flag("ignore_case"), flag("whole_words"))
        case "starts_with":
            return StartsWith(words(), flag("ignore_case"))
        case "ends_with":
            return EndsWith(words(), flag("ignore_case"))
        case "matches":
            pattern = expr.argument("pattern")
            assert pattern is not None
            return Matches(constant_value(pattern, model, values), flag("ignore_case"))
        case _:
            return Finished()
