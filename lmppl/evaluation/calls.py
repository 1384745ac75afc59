"""The values of calls: built-ins by their descriptors, rewards, and functions of the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lmppl.automata.predicates import Reads
from lmppl.automata.recognition import recognise
from lmppl.automata.regex import NotRegular
from lmppl.builtins import builtin
from lmppl.builtins.kinds import Function, Measure, Predicate, PriorScore, Rule
from lmppl.errors import InferenceError, InternalError
from lmppl.evaluation.columns import (
    TextColumn,
    Value,
    as_array,
    by_items,
    column,
    ints,
    is_by_row,
    items,
    numbers,
    plain,
)
from lmppl.evaluation.environment import Environment, failure, finite, first_row, named
from lmppl.evaluation.formatting import format_value
from lmppl.ir.expr import Call, ExternCall, Reference, RewardCall, resolved
from lmppl.ir.types import Type
from lmppl.rewards.scorer import shorten
from lmppl.rewards.uncertain import UncertainScores


def call_builtin(expr: Call, given: Mapping[str, Value], env: Environment) -> Value:
    """The value of a built-in, from those of its arguments by name.

    Raises:
        InferenceError: it has none for some row (LMP920, LMP927).
    """
    described = builtin(expr.function)
    match described:
        case Predicate():
            return _predicate(described, expr, given, env)
        case Measure():
            return _measure(described, expr, given, env)
        case Function():
            return _function(described, expr, list(given.values()), env)
        case Rule():
            return _rule(described, expr, given, env)
        case PriorScore():
            site = resolved(expr.arguments[0][1], env.lets.get)
            assert isinstance(site, Reference)
            return env.log_prior(site.name)
    raise InternalError(f"{described!r} has no value in an expression")


def _rule(rule: Rule, expr: Call, given: Mapping[str, Value], env: Environment) -> Value:
    scores, *parameter = given.values()
    if not isinstance(scores, UncertainScores):
        raise InternalError(f"`{rule.name}` of something that is certain")
    try:
        result = rule.apply(scores, *(numbers(each) for each in parameter))
    except InferenceError as error:
        raise _located(error, expr, env) from error
    return finite(expr, result, [result] if rule.may_be_zero_mass else [], env)


def _located(error: InferenceError, expr: Call | RewardCall, env: Environment) -> InferenceError:
    """The error with the place of the call and the factor that it is in."""
    diagnostics = [
        replace(each, span=each.span or expr.span, message=named(each.message, env))
        for each in error.diagnostics
    ]
    return InferenceError(diagnostics, {**env.sources, **error.sources})


def _predicate(
    described: Predicate, expr: Call, given: Mapping[str, Value], env: Environment
) -> Value:
    (_, text), *others = given.items()
    if described.reads != "text":
        condition = described.asked(**dict(others))
        return _by_end(condition.definition(), _read(expr, text, described.reads))
    names = [name for name, _ in others]
    is_column = any(is_by_row(value) for value in given.values())
    columns = [items(value, env.num_rows) if is_column else [value] for value in given.values()]
    # The rows of each text, for each of the other arguments.
    asked: dict[tuple[Any, ...], dict[str, list[int]]] = {}
    for row, (string, *rest) in enumerate(zip(*columns, strict=True)):
        asked.setdefault(tuple(rest), {}).setdefault(string, []).append(row)
    found = np.zeros(len(columns[0]), dtype=bool)
    for values, rows in asked.items():
        condition = described.asked(**dict(zip(names, values, strict=True)))
        try:
            truths = recognise(condition, list(rows))
        except NotRegular as error:
            raise failure("LMP920", f"this pattern {error.reason}", expr, env) from error
        for truth, same in zip(truths.tolist(), rows.values(), strict=True):
            found[same] = truth
    return found if is_column else bool(found[0])


def _measure(described: Measure, expr: Call, given: Mapping[str, Value], env: Environment) -> Value:
    (_, text), *others = given.items()
    arguments = described.complete(dict(others))
    reads = described.countable.reads(**arguments)
    count = partial(described.countable.count, **arguments)
    if reads != "text":
        return _by_end(count, _read(expr, text, reads))
    return by_items(count, [text], env.num_rows, ints)


def _read(expr: Call, text: Value, reads: Reads) -> NDArray[Any]:
    """How the texts of a site ended, or how many tokens they have, `[rows]`."""
    if not isinstance(text, TextColumn):
        raise InternalError(f"{expr.function}() needs the text of an lm site")
    return np.asarray(text.finished if reads == "ending" else text.num_tokens)


def _by_end(function: Callable[[Any], Any], read: NDArray[Any]) -> NDArray[Any]:
    """The function of how each text ended, or of how many tokens it has."""
    if read.dtype == bool:
        return np.asarray(np.where(read, function(True), function(False)))
    return np.asarray(function(read))


def _function(described: Function, expr: Call, values: list[Value], env: Environment) -> Value:
    arrays = [numbers(value) for value in values]
    if described.remedy is not None:
        _require_domain(described, expr, values, env)
    with np.errstate(all="ignore"):
        result = np.asarray(_on_arrays(described)(*arrays))
    if expr.type.kind == "int" and result.dtype.kind == "f":
        if np.any(np.abs(result) >= 2.0**63):
            row = first_row(np.abs(result) >= 2.0**63, env)
            raise failure("LMP920", "the result is too large for an int", expr, env, row)
        result = result.astype(np.int64)
    return finite(expr, result, [result] if described.may_be_zero_mass else values, env)


def _require_domain(described: Function, expr: Call, values: list[Value], env: Environment) -> None:
    """Raises: InferenceError, LMP920, an argument is where the function has no value."""
    domain = described.domain
    for value in values:
        # Not `<`: a NaN is in no domain.
        inside = (numbers(value) >= domain.lower) & (numbers(value) <= domain.upper)
        if not np.all(inside):
            row = first_row(~inside, env)
            shown = ", ".join(format_value(items(each, env.num_rows)[row]) for each in values)
            message = f"{expr.function}({shown}) has no value"
            raise failure("LMP920", message, expr, env, row, help=described.remedy)


@cache
def _on_arrays(described: Function) -> Callable[..., Any]:
    module, _, name = described.arrays.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def call_reward(expr: RewardCall, values: Sequence[Value], env: Environment) -> Value:
    """The scores of every row.

    Raises:
        InferenceError: the reward failed, or gave something that is no score (LMP92x).
    """
    scorer = env.scorers[expr.reward]
    columns = [items(value, env.num_rows) for value in values]
    tokens = None
    if scorer.inputs == "tokens":
        pairs = []
        for value in values:
            if isinstance(value, TextColumn):
                if value.token_ids is None:
                    raise InternalError(f"reward `{expr.reward}` needs token ids")
                pairs.append((as_array(value.token_ids), np.asarray(value.num_tokens)))
        tokens = tuple(pairs)
    try:
        scores = scorer.score(*columns, tokens=tokens)
    except InferenceError as error:
        raise _located(error, expr, env) from error
    if expr.type.kind == "int" and isinstance(scores, np.ndarray):
        return scores.astype(np.int64)
    if expr.type.kind == "bool" and isinstance(scores, np.ndarray):
        return scores.astype(bool)
    return scores


def call_extern(expr: ExternCall, values: Sequence[Value], env: Environment) -> Value:
    """What a function of the host gives for every row; equal arguments are asked once.

    Raises:
        InferenceError: it raised (LMP924), or gave something of another type (LMP923).
    """
    function = env.functions[expr.function]

    def asked(given: tuple[Any, ...]) -> object:
        lists = [list(item) if isinstance(item, tuple) else item for item in given]
        try:
            result = function(*lists)
        except Exception as error:
            raise failure(
                "LMP924",
                f"the host function `{expr.function}` raised {type(error).__name__}: {error}",
                expr,
                env,
                notes=(f"it was called with {_shown(given)}",),
            ) from error
        return _returned(expr, result, given, env)

    def call(*given: Any) -> object:
        return env.memory.of((expr.function, *given), lambda: asked(given))

    return by_items(call, values, env.num_rows, lambda v: column(v, expr.type))


def _returned(expr: ExternCall, result: object, given: tuple[Any, ...], env: Environment) -> object:
    """What a host function gave, as a plain value of the declared type."""
    value = plain(result)
    declared = expr.type
    if not _is_of_type(value, declared):
        problem = f"gave {shorten(repr(value))}, which is not {_article(str(declared))}"
    elif declared.is_number and cast(float, value) not in declared.range:
        problem = f"gave {value}, outside its declared range {declared.range}"
    else:
        return value
    raise failure(
        "LMP923",
        f"the host function `{expr.function}` {problem}",
        expr,
        env,
        notes=(f"it was called with {_shown(given)}",),
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


def _shown(given: tuple[Any, ...]) -> str:
    return ", ".join(shorten(repr(item)) for item in given) or "no arguments"
