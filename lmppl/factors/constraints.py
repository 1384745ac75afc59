"""Requirements on one text as predicates that automata can decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

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
from lmppl.ir.expr import (
    Binary,
    Call,
    Conditional,
    Constant,
    Expr,
    Reference,
    Unary,
    in_order,
    spine,
)
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


# Predicates are trees that everybody walks through by recursion and compares whole.
_MAX_PARTS = 2_000
_MAX_DEPTH = 50


def as_predicate(
    model: Model, expr: Expr, site_name: str, values: Mapping[str, object]
) -> Predicate | None:
    """What a condition asks of the text of one site, or None where no automaton can decide it.

    `values` holds the parameters, and those choices that are already known; a condition that
    needs another site, a reward or an extern gives None, and so does one that comes to thousands of
    parts once its `let`s are written out.
    """
    try:
        return _Reader(model, site_name, values).read(expr).predicate
    except _UNREADABLE:
        return None


_UNREADABLE = (NotConstant, ArithmeticError, ValueError, TypeError)


@dataclass(frozen=True, slots=True)
class _Read:
    """A predicate, its number of parts and how deep it is."""

    predicate: Predicate
    size: int = 1
    depth: int = 1


class _Reader:
    """Reads conditions on the text of one site; each `let` once, however often it is named."""

    def __init__(self, model: Model, site: str, values: Mapping[str, object]) -> None:
        self.model = model
        self.site = site
        self.values = values
        self._lets: dict[str, _Read | Exception] = {}

    def read(self, expr: Expr) -> _Read:
        """What an expression asks.

        Raises:
            NotConstant, ArithmeticError, ValueError, TypeError: no automaton can decide it.
        """
        match expr:
            case Reference(role="let"):
                return self._let(expr.name)
            case Unary(operator="not"):
                part = self.read(expr.operand)
                return _limited(Not(part.predicate), part.size + 1, part.depth + 1)
            case Binary(operator="and" | "or"):
                first, operators = spine(expr)
                found: _Read | None = None
                for node in operators:
                    if node.operator not in ("and", "or"):
                        # The chain begins with a comparison, say.
                        first, found = node, None
                        continue
                    left = self.read(first) if found is None else found
                    found = _joined(node.operator, left, self.read(node.right))
                assert found is not None
                return found
            case Conditional():
                condition = self.read(expr.condition)
                no = _limited(Not(condition.predicate), condition.size + 1, condition.depth + 1)
                return _joined(
                    "or",
                    _joined("and", condition, self.read(expr.consequent)),
                    _joined("and", no, self.read(expr.alternative)),
                )
            case Binary() if expr.operator in COMPARISONS:
                return _Read(self._comparison(expr))
            case Call() if expr.function in _TEXT_PREDICATES or expr.function == "finished":
                return _Read(self._text_predicate(expr))
            case _:
                return _Read(True_() if self._value(expr) else False_())

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

    def _comparison(self, expr: Binary) -> Predicate:
        left, right = self.model.resolve(expr.left), self.model.resolve(expr.right)
        if self._is_length(left):
            return Length(_unit(left), cast(Comparison, expr.operator), float(self._value(right)))
        if self._is_length(right):
            return Length(_unit(right), _FLIPPED[expr.operator], float(self._value(left)))
        return True_() if self._value(expr) else False_()

    def _is_length(self, expr: Expr) -> bool:
        return (
            isinstance(expr, Call)
            and expr.function == "length"
            and is_text_of(self.model, expr.argument("text"), self.site)
        )

    def _text_predicate(self, expr: Call) -> Predicate:
        if not is_text_of(self.model, expr.argument("text"), self.site):
            raise NotConstant(expr.function)

        def flag(name: str) -> bool:
            given = expr.argument(name)
            return given is not None and bool(self._value(given))

        def words() -> tuple[str, ...]:
            given = expr.argument("words")
            assert given is not None
            value = self._value(given)
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
                return Matches(self._value(pattern), flag("ignore_case"))
            case _:
                return Finished()


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


def is_text_of(model: Model, expr: Expr | None, site: str) -> bool:
    """Whether an expression is the text of the site itself."""
    if expr is None:
        return False
    found = model.resolve(expr)
    return isinstance(found, Reference) and found.role == "site" and found.name == site


def _unit(expr: Expr) -> Unit:
    assert isinstance(expr, Call)
    unit = expr.argument("unit")
    value = unit.value if isinstance(unit, Constant) else builtin("length").default("unit")
    return cast(Unit, value)
