"""Text to `Program`, or all syntax errors at once."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from lmppl.errors import Diagnostic, InternalError, LmpError
from lmppl.syntax import ast
from lmppl.syntax.automaton import END, Automaton
from lmppl.syntax.building import builder, literal_diagnostics
from lmppl.syntax.grammar import keywords, tables
from lmppl.syntax.remains import remains
from lmppl.syntax.scanner import Scan, allowances, normalize, scan
from lmppl.syntax.tokens import Token, Tree


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
        raise SyntaxFailure(diagnostics, {path: text}, scanned)
    return program


class SyntaxFailure(LmpError):
    """The syntax errors of a text."""

    def __init__(
        self,
        diagnostics: Sequence[Diagnostic],
        sources: Mapping[str | None, str],
        scanned: Scan | None = None,
    ) -> None:
        super().__init__(diagnostics, sources)
        self._scanned = scanned

    def remains(
        self, distributions: Container[str] = ()
    ) -> tuple[ast.Program, frozenset[str], bool] | None:
        """The program without the statements that have the errors; the words in those, and
        whether they declare something under a name that may be unreadable.

        With the names of `distributions`, a statement of which it is plain what was meant stays.
        None where what is left is no program either.
        """
        if self._scanned is None:  # it was pickled
            return None
        reserved = frozenset(keywords())
        # What cannot be mended is left out.
        for known in (distributions, ()):
            left = remains(self._scanned, self.diagnostics, _tree_or_place, known)
            if left is None:
                continue
            make = builder(self._scanned, reserved)
            program = make.program(left.tree, allowances(self._scanned))
            if program is not None and not make.diagnostics:
                return program, left.lost, left.declares
        return None


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
            # A program without mistakes never needs it.
            from lmppl.syntax.recovery import find_errors

            diagnostics.extend(find_errors(scanned))
    else:
        make = builder(scanned, reserved)
        program = make.program(tree, allowed)
        diagnostics.extend(make.diagnostics)
    if tree is None and not diagnostics:
        raise InternalError("the parser refused the program without saying why")
    if diagnostics:
        diagnostics.sort(key=_place)
        return None, diagnostics
    return program, []


def _tree(tokens: list[Token]) -> Tree | None:
    """The tree of the tokens; None where they are not a program."""
    found = _tree_or_place(tokens)
    return found if isinstance(found, Tree) else None


def _tree_or_place(tokens: list[Token]) -> Tree | int:
    """The tree of the tokens, or the index of the token (or the end) that does not fit."""
    automaton = Automaton(tables())
    for number, token in enumerate([*tokens, Token(END, "")]):
        if not automaton.feed(token):
            return number
    return automaton.tree


def _place(diagnostic: Diagnostic) -> tuple[int, int]:
    span = diagnostic.span
    return (span.start, span.end) if span is not None else (0, 0)
