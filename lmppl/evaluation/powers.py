"""What a program asks of the probabilities of its own choices, and powers of them."""

from __future__ import annotations

from lmppl.builtins import builtin
from lmppl.builtins.kinds import PriorScore
from lmppl.ir.expr import (
    Binary,
    Call,
    Conditional,
    Constant,
    Expr,
    Reference,
    Unary,
    spine,
)
from lmppl.ir.model import Model
from lmppl.ir.types import REAL
from lmppl.records import dataclass

# What is affine is rarely written with more operators, and every one of them is a call.
_MAX_DEPTH = 50


def sites_scored(model: Model, *exprs: Expr | None) -> frozenset[str]:
    """The names of the sites of which expressions ask how likely their values were."""
    asked = (scored_site(model, node) for node in model.nodes(*exprs))
    return frozenset(name for name in asked if name is not None)


def scored_site(model: Model, node: Expr) -> str | None:
    """The site of which a node itself asks how likely its value was."""
    if isinstance(node, Call) and isinstance(builtin(node.function), PriorScore):
        site = model.resolve(node.arguments[0][1])
        assert isinstance(site, Reference)
        return site.name
    return None


def reads_value(model: Model, expr: Expr, site: str) -> bool:
    """Whether a number hangs on the value of a site otherwise than by a power of its probability.

    True also where that is not plain to see.
    """
    if exponent(model, expr, site) is None:
        return True
    nodes = list(model.nodes(expr))
    calls = (node for node in nodes if isinstance(node, Call) and scored_site(model, node))
    asked = {id(call.arguments[0][1]) for call in calls}
    named = (node for node in nodes if isinstance(node, Reference) and node.name == site)
    return any(node.role == "site" and id(node) not in asked for node in named)


@dataclass(frozen=True, slots=True)
class Floor:
    """A condition that holds where `difference` = `slope` · log p(text) + r is above zero, or
    is zero where that does; neither `slope` nor r has to do with the text."""

    difference: Expr
    slope: Expr


def floors(model: Model, condition: Expr, site: str) -> list[Floor]:
    """The conditions on a text's own probability, and nothing else of the text, that must hold
    where the condition does."""
    found: list[Floor] = []
    waiting = [condition]
    while waiting:
        part = model.resolve(waiting.pop())
        if not isinstance(part, Binary):
            continue
        if part.operator == "and":
            waiting += [part.left, part.right]
            continue
        sides = _ORDERED.get(part.operator)
        if sides is None or not (part.left.type.is_number and part.right.type.is_number):
            continue
        more, less = (part.left, part.right) if sides > 0 else (part.right, part.left)
        difference = Binary(REAL, part.span, "-", more, less)
        slope = exponent(model, difference, site)
        if slope is not None and not reads_value(model, difference, site):
            found.append(Floor(difference, slope))
    return found


_ORDERED = {">": 1, ">=": 1, "<": -1, "<=": -1}


def exponent(model: Model, expr: Expr, site: str) -> Expr | None:
    """The c of a number c · log p(x) + r, p(x) the probability of the value of a site.

    Neither c nor r has p(x) in it, and c nothing of the site at all. None where the number is not
    of this form, or c is 0 because p(x) is not in it.
    """
    try:
        return _slope(model, expr, site, 0)
    except _NotAffine:
        return None


class _NotAffine(Exception):
    """A number is another function of log p(x) than an affine one."""


def _slope(model: Model, expr: Expr, site: str, depth: int) -> Expr | None:
    """The c of the number; None for 0."""
    if site not in sites_scored(model, expr):
        return None
    found = model.resolve(expr)
    if depth > _MAX_DEPTH:
        raise _NotAffine
    if scored_site(model, found) == site:
        return Constant(REAL, found.span, 1.0)

    def of(part: Expr) -> Expr | None:
        return _slope(model, part, site, depth + 1)

    match found:
        case Unary(operator="-"):
            inner = of(found.operand)
            return None if inner is None else Unary(REAL, found.span, "-", inner)
        case Conditional() if site not in model.sites_of(found.condition):
            zero = Constant(REAL, found.span, 0.0)
            sides = (of(found.consequent) or zero, of(found.alternative) or zero)
            return Conditional(REAL, found.span, found.condition, *sides)
        case Binary(operator="+" | "-" | "*" | "/"):
            first, operators = spine(found)
            slope, before = of(first), first
            for node in operators:
                slope = _operated(model, node, before, slope, of(node.right), site)
                before = node
            return slope
    raise _NotAffine


def _operated(
    model: Model, node: Binary, left: Expr, slope: Expr | None, other: Expr | None, site: str
) -> Expr | None:
    """The c of `left` op `right`, from those of the two."""

    def joined(operator: str, a: Expr, b: Expr) -> Expr:
        return Binary(REAL, node.span, operator, a, b)

    match node.operator:
        case "+" | "-" if other is not None:
            zero = Constant(REAL, node.span, 0.0)
            return joined(node.operator, slope or zero, other)
        case "+" | "-":
            return slope
        case "*" | "/" if slope is not None and site not in model.sites_of(node.right):
            return joined(node.operator, slope, node.right)
        case "*" if other is not None and slope is None and site not in model.sites_of(left):
            return joined("*", left, other)
        case _ if slope is None and other is None:
            return None
    raise _NotAffine
