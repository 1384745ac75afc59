"""Going through the trees of `ast`: what is under a node, whether two are alike, a tree as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from lmppl.errors import Span
from lmppl.syntax import ast


def children(node: ast.Node) -> Iterator[ast.Node]:
    """The nodes directly under `node`, in source order."""
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        for each in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(each) and not isinstance(each, (Span, type)):
                yield each  # type: ignore[misc]


def walk(node: ast.Node) -> Iterator[ast.Node]:
    """`node` and all nodes under it, parents first, in source order."""
    waiting = [node]
    while waiting:
        each = waiting.pop()
        yield each
        waiting.extend(reversed(list(children(each))))


def spine(node: ast.Binary) -> tuple[ast.Expr, list[ast.Binary]]:
    """What stands at the far left of `a + b + c`, and the operators from left to right."""
    chain = [node]
    while isinstance(chain[-1].left, ast.Binary):
        chain.append(chain[-1].left)
    return chain[-1].left, chain[::-1]


# What does not matter to what a program says.
_LAYOUT = frozenset({"path", "source", "allowances", "name_span"})


def are_alike(one: ast.Node, other: ast.Node) -> bool:
    """Whether two trees are the same but for their spans, as `dump` says, however deep."""
    waiting: list[tuple[object, object]] = [(one, other)]
    while waiting:
        a, b = waiting.pop()
        if type(a) is not type(b):
            return False
        if isinstance(a, tuple) and isinstance(b, tuple):
            if len(a) != len(b):
                return False
            waiting.extend(zip(a, b, strict=True))
        elif dataclasses.is_dataclass(a) and not isinstance(a, type):
            for field in dataclasses.fields(a):
                value = getattr(a, field.name)
                if not isinstance(value, Span) and field.name not in _LAYOUT:
                    waiting.append((value, getattr(b, field.name)))
        elif a != b:
            return False
    return True


def dump(node: ast.Node, indent: int = 0) -> str:
    """The tree as indented text without spans; equal texts mean the same program."""
    pad = "  " * indent
    plain: list[str] = []
    nested: list[str] = []
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if isinstance(value, Span) or field.name in _LAYOUT:
            continue
        members = value if isinstance(value, tuple) else (value,)
        if members and all(dataclasses.is_dataclass(member) for member in members):
            nested.append(f"{pad}  {field.name}:")
            nested.extend(dump(member, indent + 2) for member in members)
        else:
            plain.append(f"{field.name}={value!r}")
    return "\n".join([f"{pad}{type(node).__name__} {' '.join(plain)}".rstrip(), *nested])
