"""Numbers on one text that automata can follow: lengths, counts, and what is affine in one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import groupby

from lmppl.automata.predicates import (
    COMPARISONS,
    And,
    Comparison,
    False_,
    Or,
    Predicate,
    True_,
)
from lmppl.builtins import builtin, kinds, source_of
from lmppl.evaluation.constants import NotConstant, apply_binary, constant_value
from lmppl.ir.expr import Binary, Call, Constant, Expr, Reference, RewardCall, Unary
from lmppl.ir.model import Model
from lmppl.records import dataclass, replace

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
    what = counted(model, found, site)
    if what is not None:
        countable, arguments = what
        try:
            countable.require(**arguments)
        except ValueError as problem:
            raise NotConstant(f"a {countable.name} that no automaton follows", found) from problem
        return Measure(partial(countable.compared, arguments))
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


def counted(
    model: Model, expr: Expr, site: str
) -> tuple[kinds.Countable, dict[str, object]] | None:
    """What is counted on the text of a site, and the arguments; None for something else."""
    if isinstance(expr, Call):
        measure = builtin(expr.function)
        if isinstance(measure, kinds.Measure) and is_text_of(model, expr.arguments[0][1], site):
            others = expr.arguments[1:]
            given = {name: each.value for name, each in others if isinstance(each, Constant)}
            return measure.countable, measure.complete(given)
    # A reward that was reported is not among those of the model.
    if isinstance(expr, RewardCall) and expr.reward in model.rewards:
        described = model.rewards[expr.reward].source
        source = source_of(described)
        if source.countable is not None and is_text_of(model, expr.arguments[0], site):
            return source.countable, source.complete(described.arguments)
    return None


def might_be_summed(model: Model, expr: Expr) -> bool:
    """Whether a reward is one of those whose score can be a sum of counts, and is none here."""
    if not isinstance(expr, RewardCall) or expr.reward not in model.rewards:
        return False
    described = model.rewards[expr.reward].source
    source = source_of(described)
    return source.summed is not None and not source.is_sum(source.complete(described.arguments))


def summed_source(model: Model, expr: Expr, site: str) -> kinds.Source | None:
    """The source of a reward of the text of a site whose score is a sum of counts; None for
    something else."""
    if not isinstance(expr, RewardCall) or expr.reward not in model.rewards:
        return None
    described = model.rewards[expr.reward].source
    source = source_of(described)
    if source.summed is None or not is_text_of(model, expr.arguments[0], site):
        return None
    return source if source.is_sum(source.complete(described.arguments)) else None
