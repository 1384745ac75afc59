"""Requirements on one text as predicates that automata can decide."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any, cast

from lmppl.automata.predicates import (
    COMPARISONS,
    And,
    Asked,
    Comparison,
    False_,
    Not,
    OneOf,
    Or,
    Predicate,
    True_,
)
from lmppl.builtins import builtin, kinds
from lmppl.evaluation.constants import NotConstant, constant_value
from lmppl.evaluation.measures import is_text_of, measure_of
from lmppl.ir.expr import (
    Binary,
    Call,
    Conditional,
    Expr,
    Reference,
    Unary,
    in_order,
    spine,
)
from lmppl.ir.model import Model, Potential
from lmppl.records import dataclass, replace

_FLIPPED: Mapping[str, Comparison] = {
    "<=": ">=",
    "<": ">",
    ">=": "<=",
    ">": "<",
    "==": "==",
    "!=": "!=",
}

# Predicates are trees that everybody walks through by recursion and compares whole.
_MAX_PARTS = 2_000
_MAX_DEPTH = 50


def as_predicate(
    model: Model, expr: Expr, site_name: str, values: Mapping[str, object]
) -> Predicate | None:
    """What a condition asks of the text of one site, or None where no automaton can decide it.

    `values` holds the parameters, and those choices that are already known; a condition that
    needs another site, a reward other than a count, or an extern gives None, and so does one that
    comes to thousands of parts once its `let`s are written out.
    """
    return PredicateReader(model, site_name, values).predicate(expr)


def required_predicate(
    model: Model, potential: Potential, site_name: str, values: Mapping[str, object]
) -> Predicate | None:
    """What a `require` asks of the text of one site, or None where no automaton can decide it.

    A `when` that asks about the text is part of it; any other is not looked at.
    """
    predicate = as_predicate(model, potential.expr, site_name, values)
    if predicate is None or not asks_of_text(model, potential, site_name):
        return predicate
    assert potential.when is not None
    applies = as_predicate(model, potential.when, site_name, values)
    return None if applies is None else Or((Not(applies), predicate))


def asks_of_text(model: Model, potential: Potential, site_name: str) -> bool:
    """Whether the condition after `when` is about the text of a site."""
    return potential.when is not None and site_name in model.sites_of(potential.when)


def hindrance(
    model: Model, potential: Potential, site_name: str, values: Mapping[str, object]
) -> Expr | None:
    """The part of a `require` on the text of a site that no automaton can decide.

    None where there is no such part, or where that hangs on the values.
    """
    asked = potential.when if asks_of_text(model, potential, site_name) else None
    for expr in (potential.expr, asked):
        try:
            if expr is not None:
                PredicateReader(model, site_name, values).read(expr)
        except NotConstant as problem:
            return problem.expr
        except (ArithmeticError, ValueError, TypeError):
            return None
    return None


_UNREADABLE = (NotConstant, ArithmeticError, ValueError, TypeError)


@dataclass(frozen=True, slots=True)
class _Read:
    """A predicate, its number of parts and how deep it is."""

    predicate: Predicate
    size: int = 1
    depth: int = 1


class PredicateReader:
    """Reads conditions on the text of one site; each `let` once, however often it is named."""

    def __init__(self, model: Model, site: str, values: Mapping[str, object]) -> None:
        self.model = model
        self.site = site
        self.values = values
        self._lets: dict[str, _Read | Exception] = {}
        # By the id of its last operator: who looks for a part that can be read goes down a chain.
        self._chains: dict[int, _Read] = {}
        # With its sides, so that they live as long as their ids are asked for.
        self._compared: dict[tuple[str, int, int], tuple[Expr, Expr, _Read | Exception]] = {}
        self._num_extremes = 0

    def predicate(self, expr: Expr) -> Predicate | None:
        """What a condition asks, as `as_predicate` says it."""
        try:
            return self.read(expr).predicate
        except _UNREADABLE:
            return None

    def read(self, expr: Expr) -> _Read:
        """What an expression asks.

        Raises:
            NotConstant, ArithmeticError, ValueError, TypeError: no automaton can decide it.
        """
        match expr:
            case Reference(role="let"):
                return self._let(expr.name)
            case Unary(operator="not"):
                return _negated(self.read(expr.operand))
            case Binary(operator="and" | "or"):
                return self._chain(expr)
            case Conditional():
                return _either(
                    self.read(expr.condition),
                    self.read(expr.consequent),
                    self.read(expr.alternative),
                )
            case Binary(operator="in"):
                return self._membership(expr)
            case Binary() if expr.operator in COMPARISONS:
                return self._comparison(expr)
            case Call() if isinstance(asked := builtin(expr.function), kinds.Predicate):
                return _Read(self._asked(asked, expr))
            case _:
                return _Read(True_() if self._value(expr) else False_())

    def _chain(self, expr: Binary) -> _Read:
        first, operators = spine(expr)
        found: _Read | None = None
        for node in operators:
            if node.operator not in ("and", "or"):
                # The chain begins with a comparison, say.
                first, found = node, None
                continue
            if id(node) not in self._chains:
                left = self.read(first) if found is None else found
                self._chains[id(node)] = _joined(node.operator, left, self.read(node.right))
            found = self._chains[id(node)]
        assert found is not None
        return found

    def _let(self, name: str) -> _Read:
        if name not in self._lets:
            for each in in_order(name, lambda let: self.model.let(let).expr, self._lets):
                expr = self.model.let(each).expr
                if each != name and expr.type.kind != "bool":
                    continue
                try:
                    self._lets[each] = self.read(expr)
                except _UNREADABLE as problem:
                    self._lets[each] = problem
        found = self._lets[name]
        if isinstance(found, Exception):
            raise found
        return found

    def _value(self, expr: Expr) -> Any:
        return constant_value(expr, self.model, self.values)

    def _comparison(self, expr: Binary) -> _Read:
        model, site = self.model, self.site
        if site not in model.sites_of(expr):
            return _Read(True_() if self._value(expr) else False_())
        left, right = model.resolve(expr.left), model.resolve(expr.right)
        # What a `let` names twice is compared once: a branch of branches is else read 2^n times.
        key = (expr.operator, id(left), id(right))
        if key not in self._compared:
            try:
                found: _Read | Exception = self._sides(expr, left, right)
            except _UNREADABLE as problem:
                found = problem
            self._compared[key] = (left, right, found)
        *_, read = self._compared[key]
        if isinstance(read, Exception):
            raise read
        return read

    def _sides(self, expr: Binary, left: Expr, right: Expr) -> _Read:
        model, site = self.model, self.site
        for side, other, is_left in ((left, right, True), (right, left, False)):
            # A comparison of a choice between two values is a choice between two comparisons.
            if isinstance(side, Conditional):
                consequent, alternative = (
                    replace(expr, left=branch, right=other)
                    if is_left
                    else replace(expr, left=other, right=branch)
                    for branch in (side.consequent, side.alternative)
                )
                return _either(
                    self.read(side.condition),
                    self._comparison(consequent),
                    self._comparison(alternative),
                )
            if isinstance(side, Call) and (extremes := _extremes(side)) is not None:
                operator = cast(Comparison, expr.operator) if is_left else _FLIPPED[expr.operator]
                compared = replace(expr, operator=operator, left=side, right=other)
                return self._extreme(extremes, compared)
        if left.type.kind == "bool":
            holds_too = self.read(right)
            same = _either(self.read(left), holds_too, _negated(holds_too))
            return same if expr.operator == "==" else _negated(same)
        for side, other, operator in (
            (left, right, cast(Comparison, expr.operator)),
            (right, left, _FLIPPED[expr.operator]),
        ):
            if is_text_of(model, side, site):
                equal = _Read(OneOf((str(self._value(other)),)))
                return equal if operator == "==" else _negated(equal)
            if site in model.sites_of(side) and site not in model.sites_of(other):
                measure = measure_of(model, side, site, self.values)
                return _Read(measure.compared(operator, self._value(other)))
        raise NotConstant(expr.operator, expr)

    def _extreme(self, extremes: kinds.Extremes, expr: Binary) -> _Read:
        """A comparison of the largest or the smallest of several numbers, as several of each."""
        # Parts that are alike are joined, but what a `let` names is read each time it is named.
        self._num_extremes += 1
        if self._num_extremes > _MAX_PARTS:
            raise NotConstant("too many parts", expr)
        if expr.operator in ("==", "!="):
            equal = _joined(
                "and",
                self._extreme(extremes, replace(expr, operator="<=")),
                self._extreme(extremes, replace(expr, operator=">=")),
            )
            return equal if expr.operator == "==" else _negated(equal)
        # The largest of several is below a bound where all are, and above it where one is.
        is_below = expr.operator in ("<", "<=")
        joint = "and" if (extremes.which == "largest") == is_below else "or"
        found = [self._comparison(replace(expr, left=part)) for part in extremes.of]
        return reduce(lambda a, b: _joined(joint, a, b), found)

    def _membership(self, expr: Binary) -> _Read:
        item, array = self.model.resolve(expr.left), self.model.resolve(expr.right)
        if self.site not in self.model.sites_of(expr):
            return _Read(True_() if self._value(expr) else False_())
        members = tuple(self._value(array))
        if is_text_of(self.model, item, self.site):
            return _Read(OneOf(members))
        if isinstance(item, Conditional):
            return _either(
                self.read(item.condition),
                self._membership(replace(expr, left=item.consequent)),
                self._membership(replace(expr, left=item.alternative)),
            )
        measure = measure_of(self.model, item, self.site, self.values)
        parts = tuple(measure.compared("==", member) for member in members)
        return _limited(Or(parts), len(parts) + 1, 4)

    def _asked(self, predicate: kinds.Predicate, expr: Call) -> Asked:
        (_, text), *others = expr.arguments
        if not is_text_of(self.model, text, self.site):
            raise NotConstant(expr.function, expr)
        asked = predicate.asked(**{name: self._value(value) for name, value in others})
        if predicate.automaton is None and predicate.reads == "text":
            raise NotConstant(f"no automaton of {expr.function}", expr)
        return asked


def _extremes(call: Call) -> kinds.Extremes | None:
    """What a number is the largest or the smallest of; None for one that is not."""
    function = builtin(call.function)
    if not isinstance(function, kinds.Function) or function.extremes is None:
        return None
    return function.extremes(call)


def _either(condition: _Read, consequent: _Read, alternative: _Read) -> _Read:
    return _joined(
        "or",
        _joined("and", condition, consequent),
        _joined("and", _negated(condition), alternative),
    )


def _negated(part: _Read) -> _Read:
    return _limited(Not(part.predicate), part.size + 1, part.depth + 1)


def _joined(operator: str, left: _Read, right: _Read) -> _Read:
    """`left and right`, or `or`; chains of one operator are flat, and nothing stands twice."""
    kind = And if operator == "and" else Or
    parts: dict[Predicate, None] = {}
    for each in (left.predicate, right.predicate):
        parts.update(dict.fromkeys(each.parts if isinstance(each, kind) else (each,)))
    if len(parts) == 1:
        return left
    deepest = max(
        read.depth - 1 if isinstance(read.predicate, kind) else read.depth for read in (left, right)
    )
    return _limited(kind(tuple(parts)), left.size + right.size + 1, deepest + 1)


def _limited(predicate: Predicate, size: int, depth: int) -> _Read:
    if size > _MAX_PARTS or depth > _MAX_DEPTH:
        raise NotConstant("too many parts")
    return _Read(predicate, size, depth)
