"""What every rule of the grammar is built with: parts of the tree, spans, reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lmppl.errors import Diagnostic, InternalError, Label, Span
from lmppl.syntax import ast, literals
from lmppl.syntax.scanner import Scan
from lmppl.syntax.tokens import Token, Tree

# Deeper trees would overflow the stack of whoever walks them.
_MAX_DEPTH = 150


class _TooDeep(Exception):
    """An expression is nested beyond _MAX_DEPTH."""

    def __init__(self, span: Span) -> None:
        self.span = span


def literal_diagnostics(token: Token, scan: Scan, reserved: frozenset[str]) -> list[Diagnostic]:
    """What is wrong inside a literal token; nothing for other tokens."""
    match token.type:
        case "INT":
            problems = literals.decode_int(token)[1]
        case "FLOAT":
            problems = literals.decode_real(token)[1]
        case "STRING" | "RAW_STRING" | "LONG_STRING" | "F_STRING" | "LONG_F_STRING":
            problems = literals.decode_string(token, reserved)[1]
        case _:
            return []
    start = int(token.start_pos or 0)
    return [
        Diagnostic(
            each.code,
            "error",
            each.message,
            scan.span(start + each.start, start + each.end),
            help=each.help,
        )
        for each in problems
    ]


class Builder:
    """Builds one program; what is wrong with it beyond the grammar lands in `diagnostics`."""

    def __init__(self, scan: Scan, reserved: frozenset[str], rules: Mapping[str, Rule]) -> None:
        self.scan = scan
        self.path = scan.path
        self.reserved = reserved
        self._rules = rules
        self._depth = 0
        self.diagnostics: list[Diagnostic] = []

    def program(
        self, tree: Tree, allowances: tuple[tuple[int, tuple[str, ...]], ...]
    ) -> ast.Program | None:
        """The program, or None where it is nested too deeply to be built."""
        source = self.scan.source
        items: list[Any] = []
        for child in tree.children:
            if isinstance(child, Token):
                continue
            try:
                items.append(self.build(child))
            except _TooDeep as error:
                self.diagnostics.append(_too_deep(error.span))
                return None
        span = self.scan.span(0, len(source))
        return ast.Program(self.path, source, tuple(items), allowances, span)

    def build(self, tree: Tree) -> Any:
        """What a branch becomes by the rule that it is named after."""
        rule = str(tree.data)
        make = self._rules.get(rule)
        if make is None:
            raise InternalError(f"the grammar rule {rule} has no builder")
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _TooDeep(self.span(tree))
        built = make(self, tree)
        self._depth -= 1
        return built

    def expression(self, child: Tree | Token) -> ast.Expr:
        if isinstance(child, Token):
            raise InternalError(f"a token {child.type} where an expression belongs")
        built: ast.Expr = self.build(child)
        return built

    def trees(self, tree: Tree) -> list[Tree]:
        return [child for child in tree.children if isinstance(child, Tree)]

    def tokens(self, tree: Tree, kind: str) -> list[Token]:
        return [child for child in tree.children if isinstance(child, Token) and child.type == kind]

    def token_span(self, token: Token) -> Span:
        return Span(
            self.path,
            token.start_pos or 0,
            token.end_pos or 0,
            token.line or 1,
            token.column or 1,
            token.end_line or 1,
            token.end_column or 1,
        )

    def span(self, tree: Tree) -> Span:
        first: Tree | Token = tree
        while isinstance(first, Tree):
            first = first.children[0]
        last: Tree | Token = tree
        while isinstance(last, Tree):
            last = last.children[-1]
        return Span(
            self.path,
            first.start_pos or 0,
            last.end_pos or 0,
            first.line or 1,
            first.column or 1,
            last.end_line or 1,
            last.end_column or 1,
        )

    def name(self, tree: Tree, which: int = 0) -> tuple[str, Span]:
        token = self.tokens(tree, "NAME")[which]
        return str(token), self.token_span(token)

    def optional(self, tree: Tree, rule: str) -> Any:
        for child in self.trees(tree):
            if child.data == rule:
                return self.build(child)
        return None

    def label(self, tree: Tree) -> tuple[ast.TermLabel | None, list[Tree]]:
        """The label of a statement, if it has one, and its expressions."""
        trees = self.trees(tree)
        if trees and trees[0].data == "label":
            return self.build(trees[0]), trees[1:]
        return None, trees

    def literal_token(self, tree: Tree) -> Token:
        token = tree.children[0]
        if not isinstance(token, Token):
            raise InternalError("a literal is missing its token")
        self.diagnostics.extend(literal_diagnostics(token, self.scan, self.reserved))
        return token

    def literal(self, token: Tree | Token) -> ast.String:
        if not isinstance(token, Token):
            raise InternalError("a string is missing its token")
        self.diagnostics.extend(literal_diagnostics(token, self.scan, self.reserved))
        pieces, _ = literals.decode_string(token, self.reserved)
        value = "".join(piece.value for piece in pieces)
        return ast.String(value, str(token), self.token_span(token))

    def report(self, code: str, span: Span, message: str, help: str, *labels: Label) -> None:
        self.diagnostics.append(Diagnostic(code, "error", message, span, labels, (), help))

    def forbid_repeated(self, arguments: list[ast.Argument]) -> None:
        seen: dict[str, ast.Argument] = {}
        for argument in arguments:
            if argument.name is None:
                continue
            if argument.name in seen:
                self.report(
                    "LMP025",
                    argument.span,
                    f"`{argument.name}` is given twice",
                    "keep one of them",
                    Label(seen[argument.name].span, "first given here"),
                )
            seen.setdefault(argument.name, argument)


# What a branch of the tree, named after a rule of the grammar, becomes.
Rule = Callable[[Builder, Tree], Any]


def _too_deep(span: Span) -> Diagnostic:
    """The diagnostic for an expression that is nested too deeply."""
    return Diagnostic(
        "LMP018",
        "error",
        "this expression is nested too deeply",
        span,
        (),
        (f"the limit is {_MAX_DEPTH} levels",),
        "name parts of it with `let`",
    )
