"""Numbers on one text that automata can follow: lengths, counts, and what is affine in one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import cast

from lmppl.automata.counting import require_countable
from lmppl.automata.predicates import (
    COMPARISONS,
    And,
    Comparison,
    Count,
    False_,
    Length,
    Or,
    Predicate,
    True_,
    Unit,
)
from lmppl.builtins import builtin
from lmppl.evaluation.constants import NotConstant, apply_binary, constant_value
from lmppl.ir.expr import Binary, Call, Constant, Expr, Reference, RewardCall, Unary
from lmppl.ir.model import Model

# Beyond this, sums of reals need not be what they seem.
_EXACT = 2.0**50
# Counts are told apart up to here.
_MOST = 10_000
# What is affine is rarely written with more operators, and every one of them is a call.
_MAX_DEPTH = 50


@dataclass(frozen=True, slots=True)
class Measure:
    """A number on a text: `value(k)`, affine in a length or a count k of which `compare` asks.

    `value` is None where the number is k itself.
    """

    compare: Callable[[Comparison, float], Predicate]
    value: Callable[[int], float] | None = None
    depth: int = 0

    def of(self, count: int) -> float:
        """The number where k is `count`."""
        return float(count) if self.value is None else self.value(count)

    def compared(self, operator: Comparison, bound: float) -> Predicate:
        """The comparison of the number with a bound, as comparisons of k.

        Which k pass is found by computing the number as it is computed on a text, up to a k beyond
        which nothing changes.

        Raises:
            ValueError: that k is too large to count to, or rounding makes it uncertain.
        """
        if self.value is None:
            return self.compare(operator, float(bound))
        origin, slope = self.of(0), self.of(1) - self.of(0)
        if slope == 0 and self.of(_MOST) == origin:
            return True_() if COMPARISONS[operator](origin, bound) else False_()
        largest = max(abs(origin), abs(bound), abs(slope))
        if not (largest < _EXACT and abs(slope) * _EXACT > largest * _MOST):
            raise ValueError("rounding may decide the comparison")
        turn = (bound - origin) / slope
        if turn > _MOST:
            raise ValueError("too many counts to tell apart")
        passes = [COMPARISONS[operator](self.of(k), bound) for k in range(max(0, int(turn)) + 3)]
        runs: list[Predicate] = []
        first = 0
        for passed, group in groupby(passes):
            last = first + len(list(group)) - 1
            if passed:
                lowest = () if first == 0 else (self.compare(">=", first),)
                highest = () if last == len(passes) - 1 else (self.compare("<=", last),)
                runs.append(And((*lowest, *highest)))
            first = last + 1
        return runs[0] if len(runs) == 1 else Or(tuple(runs))


def measure_of(model: Model, expr: Expr, site: str, values: Mapping[str, object]) -> Measure:
    """An expression as a number on the text of a site.

    Raises:
        NotConstant: it is another function of the text than one that is affine in a length or a
            count.
    """
    found = model.resolve(expr)
    if _is_length(model, found, site):
        unit = _unit(found)
        return Measure(lambda operator, bound: Length(unit, operator, bound))
    # A reward that was reported is not among those of the model.
    if isinstance(found, RewardCall) and found.reward in model.rewards:
        source = model.rewards[found.reward].source
        if source.kind == "count" and is_text_of(model, found.arguments[0], site):
            pattern = str(source.arguments["pattern"])
            ignore_case = bool(source.arguments.get("ignore_case", False))
            try:
                require_countable(pattern, ignore_case)
            except ValueError as problem:
                raise NotConstant("a count that no automaton follows", found) from problem
            return Measure(lambda operator, bound: Count(pattern, operator, bound, ignore_case))
    if isinstance(found, Unary) and found.operator == "-":
        inner = measure_of(model, found.operand, site, values)
        return _deeper(inner, lambda k: -inner.of(k), found)
    if isinstance(found, Binary) and found.operator in ("+", "-", "*", "/"):
        operator = found.operator
        in_left = site in model.sites_of(found.left)
        if in_left and site not in model.sites_of(found.right):
            left = measure_of(model, found.left, site, values)
            known = constant_value(found.right, model, values)
            return _deeper(left, lambda k: float(apply_binary(operator, left.of(k), known)), found)
        if not in_left and operator != "/":
            right = measure_of(model, found.right, site, values)
            known = constant_value(found.left, model, values)
            return _deeper(
                right, lambda k: float(apply_binary(operator, known, right.of(k))), found
            )
    raise NotConstant("a number on a text", found)


def _deeper(inner: Measure, value: Callable[[int], float], expr: Expr) -> Measure:
    if inner.depth >= _MAX_DEPTH:
        raise NotConstant("too many operators", expr)
    return replace(inner, value=value, depth=inner.depth + 1)


def is_text_of(model: Model, expr: Expr | None, site: str) -> bool:
    """Whether an expression is the text of the site itself."""
    if expr is None:
        return False
    found = model.resolve(expr)
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
