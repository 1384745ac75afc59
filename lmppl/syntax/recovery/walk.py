"""The walk over the tokens of one file: the parser is fed, brought back, and started again."""

from __future__ import annotations

from collections import Counter

from lmppl.errors import Diagnostic, Label, Span
from lmppl.syntax.automaton import END, Automaton
from lmppl.syntax.grammar import tables
from lmppl.syntax.recovery.words import (
    CLOSERS,
    ENDS,
    ITEMS,
    STATEMENTS,
    STRINGS,
    keyword_meant,
    virtual,
)
from lmppl.syntax.scanner import Scan
from lmppl.syntax.tokens import Token

# More than this and the rest is noise: the file is probably not a program at all.
_MOST = 25
_ATTEMPTS = 4


class Walk:
    """Where the parser is in the tokens of a file, and what was found wrong so far."""

    def __init__(self, scan: Scan) -> None:
        self.diagnostics: list[Diagnostic] = []
        self.scan = scan
        last = scan.tokens[-1] if scan.tokens else None
        end = int(last.end_pos or 0) if last is not None else 0
        finish = scan.span(end, end)
        self.tokens = [
            *scan.tokens,
            Token(END, "", end, finish.line, finish.column, finish.line, finish.column, end),
        ]
        self.doubtful = set(scan.doubtful)
        self._attempts: Counter[int] = Counter()
        self.at = 0
        self.fed: list[Token] = []
        self.brackets: list[Token] = []
        self.keyword: Token | None = None
        self.model: Token | None = None
        # Inside a model whose opening brace was never seen.
        self.implied = False
        # Braces of foreign blocks that were stepped over, whose ends are still to come.
        self._strange_braces = 0
        self._automaton = Automaton(tables())

    def refused(self) -> Token | None:
        """Feed tokens up to one that the parser refuses; None when there is no more to find."""
        while self.at < len(self.tokens) and len(self.diagnostics) < _MOST:
            token = self.tokens[self.at]
            if token.type == "RBRACE" and self._strange_braces:
                self._strange_braces -= 1
                self.at += 1
                continue
            if token.type == "$END" and self.implied and not self.brackets:
                if "RBRACE" in self.accepts():
                    return None
            if self.feed(token):
                self.at += 1
                continue
            self.replay()
            if self._attempts[self.at] < _ATTEMPTS:
                self._attempts[self.at] += 1
                return token
            self.skip(self.at + 1)
        return None

    def feed(self, token: Token) -> bool:
        """Give the parser one token; False where it refuses."""
        if not self._automaton.feed(token):
            return False
        self.fed.append(token)
        if token.type in STATEMENTS or token.type in ITEMS:
            self.keyword = token
        if token.type in ("LPAR", "LSQB"):
            self.brackets.append(token)
        elif token.type in ("RPAR", "RSQB"):
            self.brackets.pop()
        elif token.type == "LBRACE":
            self.model = token
        elif token.type == "RBRACE":
            self.model = None
            self.implied = False
        return True

    def replay(self) -> None:
        """Bring the parser back to before the token it refused, which has disturbed its stack."""
        self._automaton = Automaton(tables())
        for token in self.fed:
            self._automaton.feed(token)

    def restart(self, index: int) -> None:
        """Go on at a token as at the start of a statement or item."""
        self.fed = []
        self.brackets = []
        self.keyword = None
        if self.model is not None or self.implied:
            for kind in ("MODEL", "NAME", "LPAR", "RPAR", "LBRACE"):
                self.fed.append(Token(kind, kind.lower()))
        self.replay()
        self.at = index

    def skip(self, index: int) -> None:
        """Go on at the next statement or item, from `index` on."""
        columns = self._columns()
        while index < len(self.tokens) - 1 and not (
            self.begins(index) or self._is_aligned(index, columns)
        ):
            token = self.tokens[index]
            index += 1
            if token.type == "SEMICOLON":
                break
            if token.type == "LBRACE":
                if self.model is None and not self.implied:
                    self.model = token
                    break
                self._strange_braces += 1
        self.restart(index)

    def _columns(self) -> set[int]:
        """The columns at which the rows around the walk's place start."""
        columns: set[int] = set()
        for index in (self.at - 1, self.at):
            if 0 <= index < len(self.tokens):
                while index and self.tokens[index - 1].line == self.tokens[index].line:
                    index -= 1
                columns.add(int(self.tokens[index].column or 0))
        return columns

    def _is_aligned(self, index: int, columns: set[int]) -> bool:
        """Whether a name stands where, by its column, a statement begins."""
        token = self.tokens[index]
        before = self.tokens[index - 1] if index else None
        return (
            token.type == "NAME"
            and token.column in columns
            and before is not None
            and before.end_line != token.line
            and before.type in ENDS
        )

    def begins(self, index: int) -> bool:
        """Whether the token surely begins a statement or item, or ends them all."""
        token = self.tokens[index]
        before = self.tokens[index - 1] if index else None
        if token.type in ("$END", "RBRACE"):
            return True
        following = self.tokens[index + 1]
        if token.type in STATEMENTS or token.type in ITEMS:
            is_extern = before is not None and before.type == "EXTERN"
            return not is_extern and following.type not in ("EQUALS", "COLON")
        if token.type != "NAME":
            return False
        if following.type == "TILDE":
            return before is None or before.type != "OBSERVE"
        is_first = before is None or before.end_line != token.line
        # A word like a keyword at the start of a line begins a statement, too.
        return (
            is_first and following.type in ("NAME", *STRINGS) and keyword_meant(token) is not None
        )

    def accepts(self) -> set[str]:
        return self._automaton.accepts()

    def would_take(self, *tokens: Token) -> bool:
        """Whether the parser would take these tokens."""
        return self._automaton.would_take(*(token.type for token in tokens))

    def span(self, token: Token) -> Span:
        return Span(
            self.scan.path,
            token.start_pos or 0,
            token.end_pos or 0,
            token.line or 1,
            token.column or 1,
            token.end_line or 1,
            token.end_column or 1,
        )

    def after(self, token: Token | None) -> Span:
        """The empty span right after a token."""
        end = int(token.end_pos or 0) if token is not None else 0
        return self.scan.span(end, end)

    def report(
        self,
        code: str,
        span: Span,
        message: str,
        remark: str = "",
        help: str | None = None,
        labels: tuple[Label, ...] = (),
    ) -> None:
        own = (Label(span, remark),) if remark else ()
        self.diagnostics.append(Diagnostic(code, "error", message, span, (*own, *labels), (), help))

    def fed_since_restart(self) -> bool:
        return bool(self.fed) and self.fed[-1].start_pos is not None

    def back_up(self) -> None:
        """Take back the last token that was fed, so that its replacement is read."""
        self.fed.pop()
        self.replay()
        self.at -= 1

    def is_in(self, kind: str) -> bool:
        return self.keyword is not None and self.keyword.type == kind

    def step_over_braces(self) -> None:
        """Take a balanced pair of braces for one value."""
        index = self.at
        depth = 0
        while index < len(self.tokens) - 1:
            kind = self.tokens[index].type
            depth += (kind == "LBRACE") - (kind == "RBRACE")
            if kind in STATEMENTS or kind in ITEMS:
                break
            index += 1
            if depth == 0:
                self.feed(virtual("NAME"))
                self.at = index
                return
        self.skip(self.at + 1)

    def close_brackets(self, token: Token) -> bool:
        """Feed the brackets that are missing before a token that begins something else."""
        if not self.brackets or not self.begins(self.at):
            return False
        while self.brackets and self.feed(virtual(CLOSERS[self.brackets[-1].type])):
            pass
        self.replay()
        return not self.brackets
