"""Typed expressions: what the checker hands to the target.

Every node carries its type (whose `range` is the interval its value is known to lie in) and the
span it came from. Top-level constants are inlined by the checker; a `let` of a model stays a
reference, because its value is computed once per draw.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from typing import Literal

from lmppl.errors import Span
from lmppl.ir.types import Type
from lmppl.records import dataclass

Role = Literal["parameter", "site", "let"]


@dataclass(frozen=True, slots=True)
class Expr:
    """The common part of every expression."""

    type: Type
    span: Span


@dataclass(frozen=True, slots=True)
class Constant(Expr):
    """A literal, or a top-level `let` or `file(...)` already evaluated by the checker."""

    value: object  # str, int, float, bool, or a tuple of these


@dataclass(frozen=True, slots=True)
class Reference(Expr):
    """The value of a parameter, of a site, or of a `let` of the model."""

    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class Unary(Expr):
    """`-x` or `not x`."""

    operator: Literal["-", "not"]
    operand: Expr


@dataclass(frozen=True, slots=True)
class Binary(Expr):
    """Arithmetic (`+ - * / % ^`), comparison (`== != < <= > >=`, `in`) or `and` / `or`."""

    operator: str
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Conditional(Expr):
    """`if condition then consequent else alternative`."""

    condition: Expr
    consequent: Expr
    alternative: Expr


@dataclass(frozen=True, slots=True)
class Interpolation(Expr):
    """An f-string: literal parts and interpolated values in order."""

    parts: tuple[str | Expr, ...]


@dataclass(frozen=True, slots=True)
class Array(Expr):
    """`[a, b, c]`, elements not all constant (a constant array is a `Constant` with a tuple)."""

    elements: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Index(Expr):
    """`array[i]`, counted from 0."""

    array: Expr
    index: Expr


@dataclass(frozen=True, slots=True)
class Call(Expr):
    """A call of a built-in function; arguments bound to the signature's parameter names.

    Built-ins are those of `lmppl.builtins`: text predicates (`never`, `matches`, …), risk rules
    (`mean`, `lcb`, …) and plain functions (`length`, `log`, `exp`, …). An omitted optional
    argument is absent from `arguments`.
    """

    function: str
    arguments: tuple[tuple[str, Expr], ...]

    def argument(self, name: str) -> Expr | None:
        return next((value for key, value in self.arguments if key == name), None)


@dataclass(frozen=True, slots=True)
class RewardCall(Expr):
    """A call of a declared reward (also an extern one), arguments in declaration order."""

    reward: str
    arguments: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class ExternCall(Expr):
    """A call of an `extern function`, arguments in declaration order."""

    function: str
    arguments: tuple[Expr, ...]


def children(expr: Expr) -> tuple[Expr, ...]:
    """The direct subexpressions, left to right."""
    match expr:
        case Unary():
            return (expr.operand,)
        case Binary():
            return (expr.left, expr.right)
        case Conditional():
            return (expr.condition, expr.consequent, expr.alternative)
        case Interpolation():
            return tuple(part for part in expr.parts if isinstance(part, Expr))
        case Array():
            return expr.elements
        case Index():
            return (expr.array, expr.index)
        case Call():
            return tuple(value for _, value in expr.arguments)
        case RewardCall() | ExternCall():
            return expr.arguments
        case _:
            return ()


def walk(expr: Expr) -> Iterator[Expr]:
    """The expression as it is written and everything below it, outermost first.

    It stops at the name of a `let`: what an expression depends on, `Model.nodes` says.
    """
    # A stack and no recursion: a sum of thousands of terms is a tree that is thousands deep.
    stack = [expr]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(children(node)))


def walk_through(exprs: Iterable[Expr], value_of: Callable[[str], Expr | None]) -> Iterator[Expr]:
    """Every node that expressions depend on, each once: the value of a `let` where it is named.

    `value_of` gives the expression of a `let`, or None where there is none to go on with.
    """
    seen: set[str] = set()
    roots = list(exprs)
    # A value that is also among the expressions is gone through in its own turn.
    own = {id(expr) for expr in roots}
    waiting = roots[::-1]
    while waiting:
        for node in walk(waiting.pop()):
            yield node
            if isinstance(node, Reference) and node.role == "let" and node.name not in seen:
                seen.add(node.name)
                value = value_of(node.name)
                if value is not None and id(value) not in own:
                    waiting.append(value)


def resolved(expr: Expr, value_of: Callable[[str], Expr | None]) -> Expr:
    """The expression that a chain of `let a = b` stands for."""
    while isinstance(expr, Reference) and expr.role == "let":
        value = value_of(expr.name)
        if value is None:
            break
        expr = value
    return expr


def spine(expr: Binary) -> tuple[Expr, list[Binary]]:
    """What stands at the far left of a chain such as `a + b + c`, and its operators, innermost
    first: to go through it from left to right takes no recursion."""
    chain = [expr]
    while isinstance(chain[-1].left, Binary):
        chain.append(chain[-1].left)
    return chain[-1].left, chain[::-1]


def in_order(name: str, expr_of: Callable[[str], Expr], known: Container[str]) -> list[str]:
    """The `let` of that name and those that its value cannot do without, each after what it needs.

    What is in `known` is left out. Whoever evaluates them in this order is never deeper in calls
    than one expression is, however long the chain of lets. A `let` that only a branch needs, or the
    right of an `and` or `or`, is not among them: it may have no value where it is not needed.
    """
    found: dict[str, None] = {}
    waiting = [(name, False)]
    while waiting:
        each, is_ready = waiting.pop()
        if is_ready:
            found[each] = None
        elif each not in found and each not in known:
            waiting.append((each, True))
            waiting.extend((need, False) for need in _strict_lets(expr_of(each)))
    return list(found)


def _strict_lets(expr: Expr) -> Iterator[str]:
    stack = [expr]
    while stack:
        node = stack.pop()
        if isinstance(node, Reference):
            if node.role == "let":
                yield node.name
        elif isinstance(node, Conditional):
            stack.append(node.condition)
        elif isinstance(node, Binary) and node.operator in ("and", "or"):
            stack.append(node.left)
        else:
            stack.extend(children(node))
