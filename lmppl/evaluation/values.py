"""The value of an expression for a batch of draws.

NaN, +∞ and undefined arithmetic raise where they are born, with the expression and the values that
it was given.
−∞ is a legal log potential (zero mass); it can come from a reward, from `preferred` and from
log(0), never from other arithmetic on finite numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmppl.errors import InternalError
from lmppl.evaluation.calls import call_builtin, call_extern, call_reward
from lmppl.evaluation.columns import (
    TextColumn,
    Value,
    bools,
    by_items,
    by_row,
    column,
    is_by_row,
    is_numeric,
    items,
    numbers,
    plain,
    tidy,
)
from lmppl.evaluation.constants import interpolate
from lmppl.evaluation.environment import Environment, failure, finite, first_row
from lmppl.evaluation.formatting import format_value
from lmppl.ir.expr import (
    Array,
    Binary,
    Call,
    Conditional,
    Constant,
    Expr,
    ExternCall,
    Index,
    Interpolation,
    Reference,
    RewardCall,
    Unary,
    in_order,
    spine,
)
from lmppl.rewards.uncertain import UncertainScores


def evaluate(
    expr: Expr, environment: Environment, *, label: str | None = None
) -> NDArray[Any] | list[Any] | tuple[Any, ...] | UncertainScores:
    """The value of an expression, one per row.

    Numbers are float64 or int64 `[rows]` (an `int` where a `real` is expected becomes float64),
    conditions bool `[rows]`, strings a list, uncertain rewards `UncertainScores`; an array is one
    tuple where all rows share it, else a list with a tuple for each row. `label` names the factor
    or constraint in errors.

    Raises:
        InferenceError: a value is undefined, NaN or +∞, an index is out of range, or a reward or
            function of the host failed (LMP92x).
    """
    if label is not None:
        environment = replace(environment, label=label)
    value = _value(expr, environment)
    if isinstance(value, tuple):
        return value
    if isinstance(value, TextColumn):
        return list(value.strings)
    found: NDArray[Any] | list[Any] | UncertainScores = by_row(value, environment.num_rows)
    if isinstance(found, np.ndarray) and expr.type.kind == "real":
        return found.astype(np.float64, copy=False)
    return found


def _value(expr: Expr, env: Environment) -> Value:
    match expr:
        case Constant(value=value):
            return plain(value)
        case Reference():
            return _reference(expr, env)
        case Unary(operator=operator, operand=operand):
            value = _value(operand, env)
            if operator == "not":
                return tidy(np.logical_not(numbers(value)))
            return finite(expr, np.negative(numbers(value)), [value], env)
        case Binary():
            return _chain(expr, env)
        case Conditional(condition=condition, consequent=consequent, alternative=alternative):
            return _choose(expr, _value(condition, env), consequent, alternative, env)
        case Interpolation(parts=parts):
            return _interpolation(expr, parts, env)
        case Array(elements=elements):
            values = [_value(element, env) for element in elements]
            if not any(is_by_row(value) for value in values):
                return tuple(values)
            return list(zip(*[items(value, env.num_rows) for value in values], strict=True))
        case Index():
            return _index(expr, env)
        case Call():
            given = {name: _value(value, env) for name, value in expr.arguments}
            return call_builtin(expr, given, env)
        case RewardCall():
            return call_reward(expr, [_value(each, env) for each in expr.arguments], env)
        case ExternCall():
            return call_extern(expr, [_value(each, env) for each in expr.arguments], env)
    raise InternalError(f"expressions of class {type(expr).__name__} have no value")


def _reference(expr: Reference, env: Environment) -> Value:
    name = expr.name
    if expr.role == "let":
        if name not in env.evaluated:
            for each in in_order(name, env.lets.__getitem__, env.evaluated):
                env.evaluated[each] = _value(env.lets[each], env)
        return env.evaluated[name]
    value = env.known(name)
    if value is None:
        raise InternalError(f"`{name}` has no value here")
    return value


def _choose(
    expr: Expr,
    condition: Value,
    consequent: Expr | bool,
    alternative: Expr | bool,
    env: Environment,
) -> Value:
    """The value of one branch or the other, each evaluated only on the rows that take it."""

    def branch(side: Expr | bool, env: Environment) -> Value:
        return _value(side, env) if isinstance(side, Expr) else side

    if not is_by_row(condition):
        return branch(consequent if condition else alternative, env)
    mask = np.asarray(condition, dtype=bool)
    if mask.all():
        return branch(consequent, env)
    if not mask.any():
        return branch(alternative, env)
    yes, no = np.flatnonzero(mask), np.flatnonzero(~mask)
    first = branch(consequent, env.take(yes))
    second = branch(alternative, env.take(no))
    if not is_by_row(first) and not is_by_row(second) and first == second:
        return first
    # Row i of the result is row order[i] of the two halves laid end to end.
    order = np.empty(len(mask), dtype=np.int64)
    order[yes] = np.arange(len(yes))
    order[no] = np.arange(len(no)) + len(yes)
    halves = (by_row(first, len(yes)), by_row(second, len(no)))
    match halves:
        case (np.ndarray() as a, np.ndarray() as b):
            return np.concatenate([a, b])[order]
        case (TextColumn() as a, TextColumn() as b):
            joined = TextColumn(
                [*a.strings, *b.strings],
                np.concatenate([a.num_tokens, b.num_tokens]),
                np.concatenate([a.finished, b.finished]),
            )
            return joined.take(order)
        case (UncertainScores() as a, UncertainScores() as b):
            return _join_uncertain(expr, a, b, env).take(order)
    both = items(halves[0], len(yes)) + items(halves[1], len(no))
    return [both[row] for row in order.tolist()]


def _join_uncertain(
    expr: Expr, a: UncertainScores, b: UncertainScores, env: Environment
) -> UncertainScores:
    if a.members is not None and b.members is not None and a.num_members == b.num_members:
        return UncertainScores(members=np.concatenate([a.members, b.members]))
    if a.is_gaussian and b.is_gaussian:
        means = [scores.moments()[0] for scores in (a, b)]
        stds = [scores.moments()[1] for scores in (a, b)]
        return UncertainScores.gaussian(np.concatenate(means), np.concatenate(stds))
    raise failure(
        "LMP927",
        "the two branches are uncertain in different ways",
        expr,
        env,
        notes=("ensembles can be joined when they have the same number of members",),
        help="apply the risk rule inside each branch",
    )


_COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def _chain(expr: Binary, env: Environment) -> Value:
    """The value of operators on operators, as in `a + b + c`, from left to right."""
    first, operators = spine(expr)
    value = _value(first, env)
    for node in operators:
        match node.operator:
            case "and":
                value = _choose(node, value, node.right, False, env)
            case "or":
                value = _choose(node, value, True, node.right, env)
            case _:
                value = _binary(node, value, _value(node.right, env), env)
    return value


def _binary(expr: Binary, left: Value, right: Value, env: Environment) -> Value:
    operator = expr.operator
    if operator == "in":
        return by_items(lambda a, b: a in b, [left, right], env.num_rows, bools)
    if operator in _COMPARISONS:
        compare = _COMPARISONS[operator]
        if is_numeric(left) and is_numeric(right):
            return tidy(compare(numbers(left), numbers(right)))
        return by_items(compare, [left, right], env.num_rows, bools)
    if operator == "+" and expr.type.kind == "string":
        return by_items(lambda a, b: a + b, [left, right], env.num_rows, list)
    return _arithmetic(expr, left, right, env)


def _arithmetic(expr: Binary, left: Value, right: Value, env: Environment) -> Value:
    a, b = numbers(left), numbers(right)
    operator = expr.operator
    if operator == "/" and not np.all(b):
        row = first_row(np.equal(b, 0), env)
        raise failure(
            "LMP920",
            "division by zero",
            expr,
            env,
            row,
            help="keep the divisor away from 0, or choose with `if ... then ... else ...`",
        )
    are_ints = a.dtype.kind in "bi" and b.dtype.kind in "bi"
    if are_ints:
        a, b = a.astype(np.int64), b.astype(np.int64)
    with np.errstate(all="ignore"):
        match operator:
            case "+":
                result = a + b
            case "-":
                result = a - b
            case "*":
                result = a * b
            case "/":
                result = a.astype(np.float64) / b.astype(np.float64)
            case "^":
                if are_ints and expr.type.kind == "int" and np.all(b >= 0):
                    result = np.power(a, b)
                else:
                    result = np.power(a.astype(np.float64), b.astype(np.float64))
            case _:
                raise InternalError(f"no operator `{operator}`")
        if result.dtype.kind == "i" and operator in "+-*^":
            # int64 wraps around silently; float64 knows when it is near.
            real = {"+": np.add, "-": np.subtract, "*": np.multiply, "^": np.power}[operator]
            size = np.abs(real(a.astype(np.float64), b.astype(np.float64)))
            if np.any(size >= 2.0**63):
                row = first_row(size >= 2.0**63, env)
                raise failure("LMP920", "the result is too large for an int", expr, env, row)
    return finite(expr, result, [left, right], env)


def _interpolation(expr: Expr, parts: tuple[str | Expr, ...], env: Environment) -> Value:
    values = [part if isinstance(part, str) else _value(part, env) for part in parts]
    if not any(is_by_row(value) for value in values):
        try:
            return interpolate(values)
        except ValueError as problem:
            raise failure("LMP920", str(problem), expr, env) from problem
    columns = [
        [format_value(item) for item in items(value, env.num_rows)]
        if is_by_row(value)
        else [format_value(value)] * env.num_rows
        for value in values
    ]
    try:
        return [interpolate(row) for row in zip(*columns, strict=True)]
    except ValueError as problem:
        raise failure("LMP920", str(problem), expr, env) from problem


def _index(expr: Index, env: Environment) -> Value:
    array, index = _value(expr.array, env), _value(expr.index, env)
    lengths = np.array([len(item) for item in items(array, env.num_rows)], dtype=np.int64)
    outside = (numbers(index) < 0) | (numbers(index) >= lengths)
    if np.any(outside):
        row = first_row(outside, env)
        at = items(index, env.num_rows)[row]
        raise failure(
            "LMP928",
            f"there is no element {at} in an array of {lengths[row]}",
            expr,
            env,
            row,
            help="elements are counted from 0",
        )
    return by_items(lambda a, i: a[i], [array, index], env.num_rows, lambda v: column(v, expr.type))
