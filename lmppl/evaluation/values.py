"""The value of an expression for a batch of draws.

A value that is the same for all rows stays a plain Python object until somebody needs it by row,
so that a list of ten thousand words is not copied for every particle. NaN, +∞ and undefined
arithmetic raise where they are born, with the expression and the values that it was given.
−∞ is a legal log potential (zero mass); it can come from a reward, from `preferred` and from
log(0), never from other arithmetic on finite numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from lmppl.automata.predicates import (
    Contains,
    EndsWith,
    Matches,
    Never,
    Predicate,
    StartsWith,
)
from lmppl.automata.recognition import recognise
from lmppl.automata.regex import NotRegular
from lmppl.builtins.functions import FUNCTIONS
from lmppl.builtins.risk import UncertainScores, apply_rule
from lmppl.builtins.risk_ranges import RISK_RULES
from lmppl.errors import Diagnostic, InferenceError, InternalError
from lmppl.evaluation.constants import interpolate
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
    walk,
)
from lmppl.ir.types import Type
from lmppl.rewards.scorer import Scorer, shorten

Rows: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class TextColumn:
    """The texts of one site, with what only their tokens know.

    `num_tokens` is int64 `[rows]`, without the end token; `finished` is bool `[rows]`: ended by
    an end token or a stop string. `token_ids` is `[rows, length]`, padded after `num_tokens`, as an
    array or a tensor; None where no reward reads tokens.
    """

    strings: Sequence[str]
    num_tokens: NDArray[np.int64]
    finished: NDArray[np.bool_]
    token_ids: object | None = None

    def __len__(self) -> int:
        return len(self.strings)

    def take(self, rows: Rows) -> TextColumn:
        """The texts of the given rows, in that order."""
        ids = None if self.token_ids is None else _as_array(self.token_ids)[rows]
        strings = self.strings
        return TextColumn(
            [strings[row] for row in rows.tolist()],
            np.asarray(self.num_tokens)[rows],
            np.asarray(self.finished)[rows],
            ids,
        )


# A value by row, or one Python value (str, int, float, bool, tuple) that all rows share.
# The values of one name: a number or a condition per row in an array, strings, or texts.
Column: TypeAlias = "NDArray[Any] | Sequence[str] | TextColumn"
ByRow: TypeAlias = "NDArray[Any] | list[Any] | TextColumn | UncertainScores"
Value: TypeAlias = "ByRow | str | int | float | bool | tuple[Any, ...]"


@dataclass(frozen=True, slots=True, eq=False)
class Environment:
    """What the names in an expression stand for, for `num_rows` draws.

    `values` holds parameters (one value for all rows); `columns` holds sites, and parameters that
    differ by row: arrays `[rows]`, lists of strings, or texts. `lets` holds the expressions of the
    model's `let`s, each evaluated once for this environment. `label` names the factor in errors;
    `sources` are the texts that spans point into.
    """

    num_rows: int
    values: Mapping[str, object] = field(default_factory=dict)
    columns: Mapping[str, Column] = field(default_factory=dict)
    scorers: Mapping[str, Scorer] = field(default_factory=dict)
    functions: Mapping[str, Callable[..., object]] = field(default_factory=dict)
    lets: Mapping[str, Expr] = field(default_factory=dict)
    label: str | None = None
    sources: Mapping[str | None, str] = field(default_factory=dict)
    evaluated: dict[str, Value] = field(default_factory=dict)
    called: dict[tuple[object, ...], object] = field(default_factory=dict)

    def take(self, rows: Rows) -> Environment:
        """The same names for some of the rows."""
        return replace(
            self,
            num_rows=len(rows),
            columns={name: _take(column, rows) for name, column in self.columns.items()},
            evaluated={name: _take(value, rows) for name, value in self.evaluated.items()},
        )


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
    column: NDArray[Any] | list[Any] | UncertainScores = _by_row(value, environment.num_rows)
    if isinstance(column, np.ndarray) and expr.type.kind == "real":
        return column.astype(np.float64, copy=False)
    return column


def _value(expr: Expr, env: Environment) -> Value:
    match expr:
        case Constant(value=value):
            return _plain(value)
        case Reference():
            return _reference(expr, env)
        case Unary(operator=operator, operand=operand):
            value = _value(operand, env)
            if operator == "not":
                return _tidy(np.logical_not(_numbers(value)))
            return _finite(expr, np.negative(_numbers(value)), [value], env)
        case Binary():
            return _chain(expr, env)
        case Conditional(condition=condition, consequent=consequent, alternative=alternative):
            return _choose(expr, _value(condition, env), consequent, alternative, env)
        case Interpolation(parts=parts):
            return _interpolation(expr, parts, env)
        case Array(elements=elements):
            values = [_value(element, env) for element in elements]
            if not any(_is_by_row(value) for value in values):
                return tuple(values)
            return list(zip(*[_items(value, env.num_rows) for value in values], strict=True))
        case Index():
            return _index(expr, env)
        case Call():
            return _call(expr, env)
        case RewardCall():
            return _reward(expr, env)
        case ExternCall():
            return _extern(expr, env)
    raise InternalError(f"expressions of class {type(expr).__name__} have no value")


def _reference(expr: Reference, env: Environment) -> Value:
    name = expr.name
    if expr.role == "let":
        if name not in env.evaluated:
            for each in in_order(name, env.lets.__getitem__, env.evaluated):
                env.evaluated[each] = _value(env.lets[each], env)
        return env.evaluated[name]
    if name in env.columns:
        column = env.columns[name]
        if isinstance(column, np.ndarray | TextColumn | list):
            return column
        return list(column)
    if name in env.values:
        return _plain(env.values[name])
    raise InternalError(f"`{name}` has no value here")


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

    if not _is_by_row(condition):
        return branch(consequent if condition else alternative, env)
    mask = np.asarray(condition, dtype=bool)
    if mask.all():
        return branch(consequent, env)
    if not mask.any():
        return branch(alternative, env)
    yes, no = np.flatnonzero(mask), np.flatnonzero(~mask)
    first = branch(consequent, env.take(yes))
    second = branch(alternative, env.take(no))
    if not _is_by_row(first) and not _is_by_row(second) and first == second:
        return first
    # Row i of the result is row order[i] of the two halves laid end to end.
    order = np.empty(len(mask), dtype=np.int64)
    order[yes] = np.arange(len(yes))
    order[no] = np.arange(len(no)) + len(yes)
    halves = (_by_row(first, len(yes)), _by_row(second, len(no)))
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
    items = _items(halves[0], len(yes)) + _items(halves[1], len(no))
    return [items[row] for row in order.tolist()]


def _join_uncertain(
    expr: Expr, a: UncertainScores, b: UncertainScores, env: Environment
) -> UncertainScores:
    if a.members is not None and b.members is not None and a.num_members == b.num_members:
        return UncertainScores(members=np.concatenate([a.members, b.members]))
    if a.is_gaussian and b.is_gaussian:
        means = [scores.moments()[0] for scores in (a, b)]
        stds = [scores.moments()[1] for scores in (a, b)]
        return UncertainScores.gaussian(np.concatenate(means), np.concatenate(stds))
    raise _failure(
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
        return _by_items(lambda a, b: a in b, [left, right], env, _bools)
    if operator in _COMPARISONS:
        compare = _COMPARISONS[operator]
        if _is_numeric(left) and _is_numeric(right):
            return _tidy(compare(_numbers(left), _numbers(right)))
        return _by_items(compare, [left, right], env, _bools)
    if operator == "+" and expr.type.kind == "string":
        return _by_items(lambda a, b: a + b, [left, right], env, list)
    return _arithmetic(expr, left, right, env)


def _arithmetic(expr: Binary, left: Value, right: Value, env: Environment) -> Value:
    a, b = _numbers(left), _numbers(right)
    operator = expr.operator
    if operator == "/" and not np.all(b):
        row = _first_row(np.equal(b, 0), env)
        raise _failure(
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
                row = _first_row(size >= 2.0**63, env)
                raise _failure("LMP920", "the result is too large for an int", expr, env, row)
    return _finite(expr, result, [left, right], env)


def _interpolation(expr: Expr, parts: tuple[str | Expr, ...], env: Environment) -> Value:
    values = [part if isinstance(part, str) else _value(part, env) for part in parts]
    if not any(_is_by_row(value) for value in values):
        try:
            return interpolate(values)
        except ValueError as problem:
            raise _failure("LMP920", str(problem), expr, env) from problem
    columns = [
        [format_value(item) for item in _items(value, env.num_rows)]
        if _is_by_row(value)
        else [format_value(value)] * env.num_rows
        for value in values
    ]
    try:
        return [interpolate(row) for row in zip(*columns, strict=True)]
    except ValueError as problem:
        raise _failure("LMP920", str(problem), expr, env) from problem


def _index(expr: Index, env: Environment) -> Value:
    array, index = _value(expr.array, env), _value(expr.index, env)
    lengths = np.array([len(item) for item in _items(array, env.num_rows)], dtype=np.int64)
    outside = (_numbers(index) < 0) | (_numbers(index) >= lengths)
    if np.any(outside):
        row = _first_row(outside, env)
        at = _items(index, env.num_rows)[row]
        raise _failure(
            "LMP928",
            f"there is no element {at} in an array of {lengths[row]}",
            expr,
            env,
            row,
            help="elements are counted from 0",
        )
    return _by_items(lambda a, i: a[i], [array, index], env, lambda v: _column(v, expr.type))


def _call(expr: Call, env: Environment) -> Value:
    name = expr.function
    arguments = {key: _value(value, env) for key, value in expr.arguments}
    first = next(iter(arguments.values()), None)
    if name in RISK_RULES and isinstance(first, UncertainScores):
        parameter = RISK_RULES[name].parameter
        argument = arguments.get(parameter) if parameter is not None else None
        numbers = None if argument is None else _numbers(argument)
        try:
            result = apply_rule(name, first, numbers)
        except InferenceError as error:
            located = [
                replace(each, span=expr.span, message=_named(each.message, env))
                for each in error.diagnostics
            ]
            raise InferenceError(located, env.sources) from error
        return _finite(expr, result, [result] if name == "preferred" else [], env)
    if name in _PREDICATES:
        return _predicate(expr, arguments, env)
    if name == "finished":
        return _text(expr, first).finished
    if name == "length":
        return _length(expr, first, arguments.get("unit", "tokens"), env)
    if name in FUNCTIONS:
        return _function(expr, list(arguments.values()), env)
    raise InternalError(f"no function `{name}`")


def _as_words(value: object) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(cast("Sequence[str]", value))


# How each text predicate is built from its arguments by name, the text left out.
_PREDICATES: Mapping[str, Callable[[Mapping[str, Any]], Predicate]] = {
    "never": lambda a: Never(
        _as_words(a["words"]), a.get("ignore_case", False), a.get("whole_words", False)
    ),
    "contains": lambda a: Contains(
        _as_words(a["words"]), a.get("ignore_case", False), a.get("whole_words", False)
    ),
    "matches": lambda a: Matches(a["pattern"], a.get("ignore_case", False)),
    "starts_with": lambda a: StartsWith(_as_words(a["words"]), a.get("ignore_case", False)),
    "ends_with": lambda a: EndsWith(_as_words(a["words"]), a.get("ignore_case", False)),
}


def _predicate(expr: Call, arguments: dict[str, Value], env: Environment) -> Value:
    build = _PREDICATES[expr.function]
    names = [name for name, _ in expr.arguments]
    values = list(arguments.values())
    is_by_row = any(_is_by_row(value) for value in values)
    columns = [_items(value, env.num_rows) if is_by_row else [value] for value in values]
    # The rows of each text, for each of the other arguments.
    asked: dict[tuple[Any, ...], dict[str, list[int]]] = {}
    for row, (text, *others) in enumerate(zip(*columns, strict=True)):
        asked.setdefault(tuple(others), {}).setdefault(text, []).append(row)
    found = np.zeros(len(columns[0]), dtype=bool)
    for given, rows in asked.items():
        try:
            truths = recognise(build(dict(zip(names[1:], given, strict=True))), list(rows))
        except NotRegular as error:
            raise _failure("LMP920", f"this pattern {error.reason}", expr, env) from error
        for truth, same in zip(truths.tolist(), rows.values(), strict=True):
            found[same] = truth
    return found if is_by_row else bool(found[0])


def _text(expr: Call, value: Value | None) -> TextColumn:
    if not isinstance(value, TextColumn):
        raise InternalError(f"{expr.function}() needs the text of an lm site")
    return value


def _length(expr: Call, value: Value | None, unit: Value, env: Environment) -> Value:
    if value is None:
        raise InternalError("length() without an argument")
    if expr.arguments[0][1].type.is_array:
        return _by_items(len, [value], env, _ints)
    match unit:
        case "tokens":
            return np.asarray(_text(expr, value).num_tokens, dtype=np.int64)
        case "words":
            return _by_items(lambda text: len(text.split()), [value], env, _ints)
        case "characters":
            return _by_items(len, [value], env, _ints)
    raise InternalError(f"no unit {unit!r} of length")


def _function(expr: Call, values: list[Value], env: Environment) -> Value:
    function = FUNCTIONS[expr.function]
    arrays = [_numbers(value) for value in values]
    if function.domain is not None:
        outside = ~np.asarray(function.domain(*arrays))
        if np.any(outside):
            row = _first_row(outside, env)
            given = ", ".join(format_value(_items(value, env.num_rows)[row]) for value in values)
            raise _failure(
                "LMP920",
                f"{expr.function}({given}) has no value",
                expr,
                env,
                row,
                help=function.remedy,
            )
    with np.errstate(all="ignore"):
        result = np.asarray(function.compute(*arrays))
    if expr.type.kind == "int" and result.dtype.kind == "f":
        if np.any(np.abs(result) >= 2.0**63):
            row = _first_row(np.abs(result) >= 2.0**63, env)
            raise _failure("LMP920", "the result is too large for an int", expr, env, row)
        result = result.astype(np.int64)
    return _finite(expr, result, [result] if function.may_be_zero_mass else values, env)


def _reward(expr: RewardCall, env: Environment) -> Value:
    scorer = env.scorers[expr.reward]
    values = [_value(argument, env) for argument in expr.arguments]
    columns = [_items(value, env.num_rows) for value in values]
    tokens = None
    if scorer.inputs == "tokens":
        pairs = []
        for value in values:
            if isinstance(value, TextColumn):
                if value.token_ids is None:
                    raise InternalError(f"reward `{expr.reward}` needs token ids")
                pairs.append((_as_array(value.token_ids), np.asarray(value.num_tokens)))
        tokens = tuple(pairs)
    try:
        scores = scorer.score(*columns, tokens=tokens)
    except InferenceError as error:
        located = [
            replace(each, span=each.span or expr.span, message=_named(each.message, env))
            for each in error.diagnostics
        ]
        raise InferenceError(located, {**env.sources, **error.sources}) from error
    if expr.type.kind == "int" and isinstance(scores, np.ndarray):
        return scores.astype(np.int64)
    if expr.type.kind == "bool" and isinstance(scores, np.ndarray):
        return scores.astype(bool)
    return scores


def _extern(expr: ExternCall, env: Environment) -> Value:
    function = env.functions[expr.function]
    values = [_value(argument, env) for argument in expr.arguments]

    def call(*items: Any) -> object:
        key = (expr.function, *items)
        if key not in env.called:
            given = [list(item) if isinstance(item, tuple) else item for item in items]
            try:
                result = function(*given)
            except Exception as error:
                raise _failure(
                    "LMP924",
                    f"the host function `{expr.function}` raised {type(error).__name__}: {error}",
                    expr,
                    env,
                    notes=(f"it was called with {_shown(items)}",),
                ) from error
            env.called[key] = _returned(expr, result, items, env)
        return env.called[key]

    return _by_items(call, values, env, lambda v: _column(v, expr.type))


def _returned(expr: ExternCall, result: object, items: tuple[Any, ...], env: Environment) -> object:
    """What a host function gave, as a plain value of the declared type."""
    value = _plain(result)
    declared = expr.type
    if not _is_of_type(value, declared):
        problem = f"gave {shorten(repr(value))}, which is not {_article(str(declared))}"
    elif declared.is_number and cast(float, value) not in declared.range:
        problem = f"gave {value}, outside its declared range {declared.range}"
    else:
        return value
    raise _failure(
        "LMP923",
        f"the host function `{expr.function}` {problem}",
        expr,
        env,
        notes=(f"it was called with {_shown(items)}",),
    )


def _is_of_type(value: object, declared: Type) -> bool:
    if declared.is_array:
        element = declared.element()
        return isinstance(value, tuple) and all(_is_of_type(each, element) for each in value)
    match declared.kind:
        case "string":
            return isinstance(value, str)
        case "bool":
            return isinstance(value, bool)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "real":
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            return is_number and value == value and value != float("inf")
    return False


def _article(noun: str) -> str:
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"


def _finite(expr: Expr, result: Any, operands: Sequence[Value], env: Environment) -> Value:
    """The result, unless a row of it is NaN, +∞, or a −∞ that no operand brought."""
    array = np.asarray(result)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        brought = np.zeros(array.shape, dtype=bool)
        for operand in operands:
            if _is_numeric(operand):
                brought = brought | np.isneginf(_numbers(operand).astype(np.float64))
        bad = ~np.isfinite(array) & ~(np.isneginf(array) & brought)
        if bad.any():
            row = _first_row(bad, env)
            value = float(np.broadcast_to(array, (env.num_rows,))[row])
            what = "NaN" if value != value else ("+∞" if value > 0 else "−∞")
            raise _failure(
                "LMP920",
                f"this is {what}",
                expr,
                env,
                row,
                help="bound the values that go into it, or choose with `if ... then ... else ...`",
            )
    return _tidy(array)


def _failure(
    code: str,
    message: str,
    expr: Expr,
    env: Environment,
    row: int | None = None,
    *,
    notes: tuple[str, ...] = (),
    help: str | None = None,
) -> InferenceError:
    """The error, with what the names in the expression stood for in the offending row."""
    shown: list[str] = []
    if row is not None:
        for node in walk(expr):
            if isinstance(node, Reference):
                value = _items(_reference(node, env), env.num_rows)[row]
                line = f"{node.name} = {shorten(repr(value))}"
                if line not in shown:
                    shown.append(line)
    diagnostic = Diagnostic(
        code, "error", _named(message, env), expr.span, notes=(*notes, *shown), help=help
    )
    return InferenceError([diagnostic], env.sources)


def _named(message: str, env: Environment) -> str:
    return message if env.label is None else f"{env.label}: {message}"


def _shown(items: tuple[Any, ...]) -> str:
    return ", ".join(shorten(repr(item)) for item in items) or "no arguments"


def _first_row(mask: Any, env: Environment) -> int:
    return int(np.argmax(np.broadcast_to(np.asarray(mask), (env.num_rows,))))


def _is_by_row(value: object) -> bool:
    return isinstance(value, np.ndarray | list | TextColumn | UncertainScores)


def _is_numeric(value: object) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "bif"
    return isinstance(value, int | float)


def _numbers(value: object) -> NDArray[Any]:
    """A number or column of numbers as an array, of shape `[]` or `[rows]`."""
    return np.asarray(value)


def _tidy(array: Any) -> Value:
    """An array `[rows]` as it is; an array `[]` as a Python number."""
    if isinstance(array, np.ndarray) and array.ndim:
        return array
    plain: bool | int | float = np.asarray(array).item()
    return plain


def _plain(value: object) -> Value:
    """A value given from outside as str, int, float, bool or tuples of them."""
    if isinstance(value, np.generic):
        plain: Value = value.item()
        return plain
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return tuple(_plain(each) for each in value)
    return value  # type: ignore[return-value]


def _items(value: Value, num_rows: int) -> list[Any]:
    """A value as one Python object per row."""
    if isinstance(value, np.ndarray):
        items: list[Any] = value.tolist()
        return items
    if isinstance(value, TextColumn):
        return list(value.strings)
    if isinstance(value, list):
        return value
    if isinstance(value, UncertainScores):
        raise InternalError("an uncertain reward was used as a plain value")
    return [value] * num_rows


def _by_items(
    function: Callable[..., Any],
    values: Sequence[Value],
    env: Environment,
    column: Callable[[list[Any]], ByRow],
) -> Value:
    """A function of Python values, row by row; once where all rows share the arguments."""
    if not any(_is_by_row(value) for value in values):
        shared: Value = function(*values)
        return shared
    columns = [_items(value, env.num_rows) for value in values]
    return column([function(*items) for items in zip(*columns, strict=True)])


def _bools(values: list[Any]) -> NDArray[np.bool_]:
    return np.array(values, dtype=bool)


def _ints(values: list[Any]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def _column(values: list[Any], type: Type) -> ByRow:
    if type.is_array or type.kind == "string":
        return values
    return np.array(values, dtype={"int": np.int64, "bool": bool}.get(type.kind, np.float64))


def _by_row(value: Value, num_rows: int) -> Any:
    """A value with one entry per row."""
    if _is_by_row(value):
        return value
    if isinstance(value, str | tuple):
        return [value] * num_rows
    kind = bool if isinstance(value, bool) else np.int64 if isinstance(value, int) else np.float64
    return np.full(num_rows, value, dtype=kind)


def _take(value: Any, rows: Rows) -> Any:
    if isinstance(value, np.ndarray):
        return value[rows]
    if isinstance(value, TextColumn | UncertainScores):
        return value.take(rows)
    if isinstance(value, str | tuple) or not isinstance(value, Sequence):
        return value
    return [value[row] for row in rows.tolist()]


def _as_array(token_ids: object) -> NDArray[np.int64]:
    """Token ids as a NumPy array, wherever they live."""
    tensor: Any = token_ids
    return np.asarray(tensor.cpu() if hasattr(tensor, "cpu") else tensor, dtype=np.int64)
