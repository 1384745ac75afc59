"""Text to `Program`, or all syntax errors at once."""

from __future__ import annotations

from typing import cast

from lark import Token, Tree
from lark.exceptions import UnexpectedToken

from lmppl.errors import Diagnostic, InternalError, LmpError
from lmppl.syntax import ast
from lmppl.syntax.builder import Builder, literal_diagnostics
from lmppl.syntax.grammar import keywords, parser
from lmppl.syntax.recovery import find_errors
from lmppl.syntax.scanner import Scan, allowances, normalize, scan


def parse(source: str | bytes, path: str | None = None) -> ast.Program:
    """The program that a text says, with spans into `Program.source`.

    `path` only names the file in spans and messages; nothing is read from it.

        >>> parse('model m() { x ~ bernoulli(0.5) return x }').models[0].name
        'm'

    Raises:
        LmpError: the text is not a program; it holds every syntax error that was found (codes
            LMP001 to LMP026), in the order of the text.
    """
    text = normalize(source, path)
    scanned = scan(text, path)
    program, diagnostics = build(scanned)
    if program is None:
        raise LmpError(diagnostics, {path: text})
    return program


def build(scanned: Scan) -> tuple[ast.Program | None, list[Diagnostic]]:
    """The program of scanned tokens, or None and the errors in the order of the text."""
    reserved = frozenset(keywords())
    allowed = allowances(scanned)
    diagnostics = scanned.diagnostics
    tree = _tree(scanned.tokens)
    program = None
    if tree is None or diagnostics:
        for token in scanned.tokens:
            # What was guessed has already been complained about.
            if token.end_pos not in scanned.doubtful:
                diagnostics.extend(literal_diagnostics(token, scanned, reserved))
        if tree is None:
            diagnostics.extend(find_errors(scanned))
    else:
        builder = Builder(scanned, reserved)
        program = builder.program(tree, allowed)
        diagnostics.extend(builder.diagnostics)
    if tree is None and not diagnostics:
        raise InternalError("the parser refused the program without saying why")
    if diagnostics:
        diagnostics.sort(key=_place)
        return None, diagnostics
    return program, []


def _tree(tokens: list[Token]) -> Tree[Token] | None:
    """Lark's tree of the tokens; None where they are not a program."""
    interactive = parser().parse_interactive()
    try:
        for token in tokens:
            interactive.feed_token(token)
        return cast("Tree[Token]", interactive.feed_token(Token("$END", "")))
    except UnexpectedToken:
        return None


def _place(diagnostic: Diagnostic) -> tuple[int, int]:
    span = diagnostic.span
    return (span.start, span.end) if span is not None else (0, 0)
