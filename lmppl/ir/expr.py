"""Typed expressions: what the checker hands to the target.

Every node carries its type (whose `range` is the interval its value is known to lie in) and the
span it came from. Top-level constants are inlined by the checker; a `let` of a model stays a
reference, because its value is computed once per draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lmppl.errors import Span
from lmppl.ir.types import Type

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

    Built-ins are those of `lmppl.factors`: text predicates (`never`, `matches`, …), risk rules
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
    """The expression and everything below it, outermost first."""
    yield expr
    for child in children(expr):
        yield from walk(child)
