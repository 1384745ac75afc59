"""Expressions, calls and literals."""

from __future__ import annotations

from typing import Any

from lmppl.errors import InternalError, Label
from lmppl.syntax import ast, literals
from lmppl.syntax.building.builder import Builder, Rule
from lmppl.syntax.tokens import Token, Tree


def _conditional(make: Builder, tree: Tree) -> ast.Conditional:
    condition, positive, negative = (make.expression(child) for child in make.trees(tree))
    return ast.Conditional(condition, positive, negative, make.span(tree))


def _disjunction(make: Builder, tree: Tree) -> ast.Logical:
    operands = tuple(make.expression(child) for child in make.trees(tree))
    return ast.Logical("or", operands, make.span(tree))


def _conjunction(make: Builder, tree: Tree) -> ast.Logical:
    operands = tuple(make.expression(child) for child in make.trees(tree))
    return ast.Logical("and", operands, make.span(tree))


def _negation(make: Builder, tree: Tree) -> ast.Unary:
    return ast.Unary("not", make.expression(tree.children[1]), make.span(tree))


def _minus(make: Builder, tree: Tree) -> ast.Unary:
    return ast.Unary("-", make.expression(tree.children[1]), make.span(tree))


def _comparison(make: Builder, tree: Tree) -> ast.Compare:
    left, *operator, right = tree.children
    tokens = [each for each in operator if isinstance(each, Token)]
    words: Any = " ".join(str(each) for each in tokens)
    where = make.token_span(tokens[0]).to(make.token_span(tokens[-1]))
    return ast.Compare(words, make.expression(left), make.expression(right), where, make.span(tree))


def _binary(make: Builder, tree: Tree) -> ast.Binary:
    # `a + b + c` leans to the left. Going along it, not down it, a sum may have any length.
    chain = [tree]
    while isinstance(left := chain[-1].children[0], Tree) and left.data in ("sum", "product"):
        chain.append(left)
    built = make.expression(left)
    start = make.span(chain[-1])
    for each in reversed(chain):
        _, operator, right = each.children
        if not isinstance(operator, Token) or not isinstance(right, Tree):
            raise InternalError("an operator is missing from a binary expression")
        sign: Any = str(operator)
        built = ast.Binary(
            sign,
            built,
            make.expression(right),
            make.token_span(operator),
            start.to(make.span(right)),
        )
    assert isinstance(built, ast.Binary)
    return built


def _call(make: Builder, tree: Tree) -> ast.Call:
    function, arguments = make.trees(tree)
    return ast.Call(make.build(function), make.build(arguments), make.span(tree))


def _attribute(make: Builder, tree: Tree) -> ast.Attribute:
    name, name_span = make.name(tree)
    value = make.build(make.trees(tree)[0])
    return ast.Attribute(value, name, name_span, make.span(tree))


def _index(make: Builder, tree: Tree) -> ast.Index:
    value, index = make.trees(tree)
    return ast.Index(make.expression(value), make.expression(index), make.span(tree))


def _arguments(make: Builder, tree: Tree) -> tuple[ast.Argument, ...]:
    built: tuple[ast.Argument, ...] = tuple(make.build(child) for child in make.trees(tree))
    named: ast.Argument | None = None
    for argument in built:
        if argument.name is not None:
            named = argument
        elif named is not None:
            make.report(
                "LMP024",
                argument.span,
                "a positional argument after a named one",
                "put the positional arguments first, or name this one, too",
                Label(named.span, "named from here on"),
            )
    make.forbid_repeated([each for each in built if each.name is not None])
    return built


def _positional_argument(make: Builder, tree: Tree) -> ast.Argument:
    value = make.expression(tree.children[0])
    return ast.Argument(None, None, value, make.span(tree))


def _named_argument(make: Builder, tree: Tree) -> ast.Argument:
    name, name_span = make.name(tree)
    value = make.expression(tree.children[-1])
    return ast.Argument(name, name_span, value, make.span(tree))


def _integer(make: Builder, tree: Tree) -> ast.Int:
    token = make.literal_token(tree)
    return ast.Int(literals.decode_int(token)[0], str(token), make.token_span(token))


def _real(make: Builder, tree: Tree) -> ast.Real:
    token = make.literal_token(tree)
    return ast.Real(literals.decode_real(token)[0], str(token), make.token_span(token))


def _string(make: Builder, tree: Tree) -> ast.String:
    return make.literal(tree.children[0])


def _f_string(make: Builder, tree: Tree) -> ast.FString:
    token = make.literal_token(tree)
    base = token.start_pos or 0
    pieces, _ = literals.decode_string(token, make.reserved)
    parts: list[ast.Segment | ast.Interpolation] = []
    for piece in pieces:
        span = make.scan.span(base + piece.start, base + piece.end)
        if piece.name is None:
            if piece.value:
                parts.append(ast.Segment(piece.value, span))
        else:
            inside = make.scan.span(base + piece.name_start, base + piece.name_end)
            parts.append(ast.Interpolation(piece.name, inside, span))
    return ast.FString(tuple(parts), str(token), make.token_span(token))


def _boolean(make: Builder, tree: Tree) -> ast.Bool:
    token = make.literal_token(tree)
    return ast.Bool(token.type == "TRUE", make.token_span(token))


def _variable(make: Builder, tree: Tree) -> ast.Name:
    return ast.Name(*make.name(tree))


def _list(make: Builder, tree: Tree) -> ast.List:
    items = tuple(make.expression(child) for child in make.trees(tree))
    return ast.List(items, make.span(tree))


def _group(make: Builder, tree: Tree) -> ast.Expr:
    return make.expression(tree.children[1])


EXPRESSIONS: dict[str, Rule] = {
    "conditional": _conditional,
    "disjunction": _disjunction,
    "conjunction": _conjunction,
    "negation": _negation,
    "minus": _minus,
    "comparison": _comparison,
    "sum": _binary,
    "product": _binary,
    "power": _binary,
    "call": _call,
    "attribute": _attribute,
    "index": _index,
    "arguments": _arguments,
    "positional_argument": _positional_argument,
    "named_argument": _named_argument,
    "integer": _integer,
    "real": _real,
    "string": _string,
    "f_string": _f_string,
    "boolean": _boolean,
    "name": _variable,
    "list": _list,
    "group": _group,
}
