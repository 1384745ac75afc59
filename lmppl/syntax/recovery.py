"""Going on after a syntax error, so that one look at a file finds all of them.

The parser is fed token by token. Where it refuses a token, `_mend` says what is wrong and either
repairs the input (feeds what is missing, replaces what was meant otherwise) or skips to the next
statement. Every repair uses up one of a few attempts at its token and every skip leaves tokens
behind, so that the rest always shrinks.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from lark import Token
from lark.exceptions import UnexpectedToken

from lmppl.errors import Diagnostic, Label, Span, closest
from lmppl.syntax.grammar import keywords, parser
from lmppl.syntax.scanner import Scan

# More than this and the rest is noise: the file is probably not a program at all.
_MOST = 25
_ATTEMPTS = 4

_STATEMENTS = {
    "FACTOR": "factor",
    "REQUIRE": "require",
    "OBSERVE": "observe",
    "MOMENT": "moment",
    "EXPECT": "expect",
    "LET": "let",
    "RETURN": "return",
}
_ITEMS = {
    "IMPORT": "import",
    "REWARD": "reward",
    "EXTERN": "extern",
    "MODEL": "model",
    "INFER": "infer",
}
_LABELLED = ("FACTOR", "REQUIRE", "MOMENT", "EXPECT")
_CLOSERS = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}
_SIGNS = {
    "LPAR": "(",
    "RPAR": ")",
    "LSQB": "[",
    "RSQB": "]",
    "LBRACE": "{",
    "RBRACE": "}",
    "COMMA": ",",
    "COLON": ":",
    "SEMICOLON": ";",
    "DOT": ".",
    "TILDE": "~",
    "EQUALS": "=",
    "EQUAL": "==",
    "UNEQUAL": "!=",
    "LESS": "<",
    "LESS_EQUAL": "<=",
    "GREATER": ">",
    "GREATER_EQUAL": ">=",
    "PLUS": "+",
    "MINUS": "-",
    "STAR": "*",
    "SLASH": "/",
    "CARET": "^",
}
_COMPARATORS = ("EQUAL", "UNEQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "IN")
_OPERATORS = (*_COMPARATORS, "PLUS", "STAR", "SLASH", "CARET", "AND", "OR", "MINUS")
_STRINGS = ("STRING", "RAW_STRING", "LONG_STRING", "F_STRING", "LONG_F_STRING")
_ATOMS = ("INT", "FLOAT", "TRUE", "FALSE", "NAME", *_STRINGS)
_STARTS = (*_ATOMS, "LPAR", "LSQB")
_ENDS = (*_ATOMS, "RPAR", "RSQB")
# One token whose absence is told by what stands around it.
_INSERTABLE = ("COLON", "COMMA", "EQUALS", "TILDE", "AS", "THEN", "ELSE")

_LOOP = (
    "there are no loops",
    "every program has a fixed set of choices: write each draw out under a name of its own",
)
_BRANCH = (
    "there are no conditional statements",
    "write `if c then a else b` inside an expression, or `require p when c`",
)
_ROUTINE = (
    "a file cannot define functions",
    "declare `extern function f(x: string): real` and give it from the host program, or "
    "name a score with `reward`",
)
_FOREIGN = {
    **dict.fromkeys(("for", "foreach", "while", "loop", "repeat", "plate", "do"), _LOOP),
    **dict.fromkeys(("elif", "elseif", "switch", "case", "unless"), _BRANCH),
    **dict.fromkeys(("def", "fun", "fn", "func", "lambda", "class", "function"), _ROUTINE),
    **dict.fromkeys(
        ("var", "val", "const", "auto", "real", "int", "string", "bool", "float"),
        ("a value is named with `let`", "write `let x = …`, or `let x: real = …` with its type"),
    ),
    "assert": ("a condition is stated with `require`", "write `require p`"),
    "condition": ("a condition is stated with `require`", "write `require p`"),
    "target": ("the density is changed with `factor`", "write `factor e`, with e in nats"),
    "sample": ("a choice is drawn with `~`", "write `x ~ D`"),
    "draw": ("a choice is drawn with `~`", "write `x ~ D`"),
    "print": ("a program prints nothing", "`return` says what the draws report"),
}


def find_errors(scan: Scan) -> list[Diagnostic]:
    """All syntax errors of the tokens, in no particular order; empty when they are a program."""
    recovery = _Recovery(scan)
    recovery.run()
    return recovery.diagnostics


class _Recovery:
    """The walk over the tokens of one file."""

    def __init__(self, scan: Scan) -> None:
        self.diagnostics: list[Diagnostic] = []
        self._scan = scan
        last = scan.tokens[-1] if scan.tokens else None
        end = int(last.end_pos or 0) if last is not None else 0
        finish = scan.span(end, end)
        self._tokens = [
            *scan.tokens,
            Token("$END", "", end, finish.line, finish.column, finish.line, finish.column, end),
        ]
        self._doubtful = set(scan.doubtful)
        self._attempts: Counter[int] = Counter()
        self._at = 0
        self._fed: list[Token] = []
        self._brackets: list[Token] = []
        self._keyword: Token | None = None
        self._model: Token | None = None
        # Inside a model whose opening brace was never seen.
        self._implied = False
        # Braces of foreign blocks that were stepped over, whose ends are still to come.
        self._strange_braces = 0
        # Lark's interactive parser has no annotations.
        self._parser: Any = parser().parse_interactive()

    # ---- the walk ----

    def run(self) -> None:
        while self._at < len(self._tokens) and len(self.diagnostics) < _MOST:
            token = self._tokens[self._at]
            if token.type == "RBRACE" and self._strange_braces:
                self._strange_braces -= 1
                self._at += 1
                continue
            if token.type == "$END" and self._implied and not self._brackets:
                if "RBRACE" in self._accepts():
                    return
            if self._feed(token):
                self._at += 1
                continue
            self._replay()
            if self._attempts[self._at] >= _ATTEMPTS:
                self._skip(self._at + 1)
                continue
            self._attempts[self._at] += 1
            self._mend(token)

    def _feed(self, token: Token) -> bool:
        """Give the parser one token; False where it refuses."""
        try:
            self._parser.feed_token(token)
        except UnexpectedToken:
            return False
        self._fed.append(token)
        if token.type in _STATEMENTS or token.type in _ITEMS:
            self._keyword = token
        if token.type in ("LPAR", "LSQB"):
            self._brackets.append(token)
        elif token.type in ("RPAR", "RSQB"):
            self._brackets.pop()
        elif token.type == "LBRACE":
            self._model = token
        elif token.type == "RBRACE":
            self._model = None
            self._implied = False
        return True

    def _replay(self) -> None:
        """Bring the parser back to before the token it refused, which has disturbed its stack."""
        self._parser = parser().parse_interactive()
        for token in self._fed:
            self._parser.feed_token(token)

    def _restart(self, index: int) -> None:
        """Go on at a token as at the start of a statement or item."""
        self._fed = []
        self._brackets = []
        self._keyword = None
        if self._model is not None or self._implied:
            for kind in ("MODEL", "NAME", "LPAR", "RPAR", "LBRACE"):
                self._fed.append(Token(kind, kind.lower()))
        self._replay()
        self._at = index

    def _skip(self, index: int) -> None:
        """Go on at the next statement or item, from `index` on."""
        columns = self._columns()
        while index < len(self._tokens) - 1 and not (
            self._begins(index) or self._is_aligned(index, columns)
        ):
            token = self._tokens[index]
            index += 1
            if token.type == "SEMICOLON":
                break
            if token.type == "LBRACE":
                if self._model is None and not self._implied:
                    self._model = token
                    break
                self._strange_braces += 1
        self._restart(index)

    def _columns(self) -> set[int]:
        """The columns at which the rows around the walk's place start."""
        columns: set[int] = set()
        for index in (self._at - 1, self._at):
            if 0 <= index < len(self._tokens):
                while index and self._tokens[index - 1].line == self._tokens[index].line:
                    index -= 1
                columns.add(int(self._tokens[index].column or 0))
        return columns

    def _is_aligned(self, index: int, columns: set[int]) -> bool:
        """Whether a name stands where, by its column, a statement begins."""
        token = self._tokens[index]
        before = self._tokens[index - 1] if index else None
        return (
            token.type == "NAME"
            and token.column in columns
            and before is not None
            and before.end_line != token.line
            and before.type in _ENDS
        )

    def _begins(self, index: int) -> bool:
        """Whether the token surely begins a statement or item, or ends them all."""
        token = self._tokens[index]
        before = self._tokens[index - 1] if index else None
        if token.type in ("$END", "RBRACE"):
            return True
        following = self._tokens[index + 1]
        if token.type in _STATEMENTS or token.type in _ITEMS:
            is_extern = before is not None and before.type == "EXTERN"
            return not is_extern and following.type not in ("EQUALS", "COLON")
        if token.type != "NAME":
            return False
        if following.type == "TILDE":
            return before is None or before.type != "OBSERVE"
        is_first = before is None or before.end_line != token.line
        # A word like a keyword at the start of a line begins a statement, too.
        return is_first and following.type in ("NAME", *_STRINGS) and _meant(token) is not None

    def _accepts(self) -> set[str]:
        return set(self._parser.accepts())

    def _try(self, *tokens: Token) -> bool:
        """Whether the parser would take these tokens."""
        taken = self._parser.copy(deepcopy_values=False)
        try:
            for token in tokens:
                taken.feed_token(token)
        except UnexpectedToken:
            return False
        return True

    # ---- reporting ----

    def _span(self, token: Token) -> Span:
        return Span(
            self._scan.path,
            token.start_pos or 0,
            token.end_pos or 0,
            token.line or 1,
            token.column or 1,
            token.end_line or 1,
            token.end_column or 1,
        )

    def _after(self, token: Token | None) -> Span:
        """The empty span right after a token."""
        end = int(token.end_pos or 0) if token is not None else 0
        return self._scan.span(end, end)

    def _report(
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

    # ---- mending ----

    def _mend(self, token: Token) -> None:
        """Report why `token` is refused, and change something so that the walk can go on."""
        at = self._at
        before = self._tokens[at - 1] if at else None
        accepted = self._accepts()
        ends = {int(each.end_pos or 0) for each in (before, token) if each is not None}
        earlier = self._tokens[at - 2] if at > 1 else None
        if (
            accepted == {"TILDE"}
            and before is not None
            and earlier is not None
            and earlier.end_line == before.line
        ):
            ends.add(int(earlier.end_pos or 0))
        if ends & self._doubtful:
            # A consequence of what the scanner or an earlier repair has already reported.
            if not self._close_brackets(token):
                self._skip(max(at, 1) if self._fed_since_restart() else at + 1)
            return
        for mend in (
            self._mend_sample,
            self._mend_reserved,
            self._mend_foreign,
            self._mend_place,
            self._mend_model_head,
            self._mend_end,
            self._mend_closer,
            self._mend_equals,
            self._mend_type,
            self._mend_operand,
            self._mend_operator,
            self._mend_missing,
        ):
            if mend(token, before, accepted):
                return
        self._mend_otherwise(token, before, accepted)

    def _fed_since_restart(self) -> bool:
        return bool(self._fed) and self._fed[-1].start_pos is not None

    def _mend_sample(self, token: Token, before: Token | None, accepted: set[str]) -> bool:
        """A name begins a statement, but no `~` follows it."""
        if accepted != {"TILDE"} or before is None or before.type != "NAME":
            return False
        at = self._at
        name = self._span(before)
        earlier = self._tokens[at - 2] if at > 1 else None
        following = self._tokens[at + 1] if at + 1 < len(self._tokens) else None
        meant = _meant(before)
        # An expression that ends on this very line goes on with the name.
        same_line = (
            earlier is not None and earlier.type in _ENDS and earlier.end_line == before.line
        )
        if token.type == "EQUALS" and not same_line:
            self._report(
                "LMP007",
                self._span(token),
                f"`{before} =` neither draws nor names anything",
                "did you mean `~`?",
                f"write `{before} ~ …` to draw a choice, or `let {before} = …` to name a value",
            )
            self._feed(_virtual("TILDE"))
            self._at += 1
        elif (
            token.type in ("COLON", "LESS")
            and following is not None
            and following.type in ("EQUALS", "MINUS")
            and following.start_pos == token.end_pos
        ):
            arrow = f"{token}{following}"
            self._report(
                "LMP007",
                self._span(token).to(self._span(following)),
                f"`{arrow}` neither draws nor names anything",
                "did you mean `~`?",
                f"write `{before} ~ …` to draw a choice, or `let {before} = …` to name a value",
            )
            self._feed(_virtual("TILDE"))
            self._at += 2
        elif before in _FOREIGN and not same_line:
            message, remedy = _FOREIGN[str(before)]
            self._report("LMP014", name, message, "", remedy)
            self._skip(at)
        elif earlier is not None and same_line:
            self._report_missing_operator(earlier, before, token)
            self._skip(at)
        elif meant is not None and token.type not in ("EQUALS", "COLON"):
            self._report(
                "LMP008",
                name,
                f"unknown keyword `{before}`",
                f"did you mean `{meant}`?",
            )
            self._tokens[at - 1] = _retyped(before, keywords()[meant], meant)
            self._back_up()
        elif token.type == "COLON":
            self._report(
                "LMP001",
                name,
                "a label needs a keyword before it",
                "",
                f"write `factor {before}: …` or `require {before}: …`; "
                f"a named value is written `let {before}: real = …`",
            )
            self._skip(at)
        elif token.type in ("LPAR", "DOT", "LSQB"):
            self._report(
                "LMP001",
                name,
                "an expression alone is not a statement",
                "what should happen with this value?",
                "write `factor` before a score, `require` before a condition, or `let x =` to "
                "name it",
            )
            self._skip(at)
        else:
            self._report(
                "LMP001",
                self._after(before),
                f"expected `~` after `{before}`",
                "",
                f"a choice is drawn with `{before} ~ D`",
            )
            self._skip(at)
        return True

    def _back_up(self) -> None:
        """Take back the last token that was fed, so that its replacement is read."""
        self._fed.pop()
        self._replay()
        self._at -= 1

    def _report_missing_operator(self, left: Token, right: Token, follows: Token) -> None:
        source = self._scan.source
        stop = int(right.end_pos or 0)
        if follows.type == "LPAR" and follows.start_pos == stop:
            close = source.find(")", stop, stop + 40)
            stop = close + 1 if close >= 0 and "\n" not in source[stop:close] else stop
        rest = source[int(right.start_pos or 0) : stop]
        remedy = None
        if left.type in ("NAME", "INT", "FLOAT"):
            remedy = f"a product is written `{left} * {rest}`"
            labelled = len(self._fed) > 2 and self._fed[-3].type in _LABELLED
            if labelled and left.type == "NAME":
                remedy += f"; if `{left}` is a label, write `{left}: {rest}`"
        if left.type in _ATOMS:
            where = self._span(left).to(self._span(right))
            message = f"an operator is missing between `{_shown(left)}` and `{right}`"
        else:
            where = self._span(right)
            message = f"an operator is missing before `{right}`"
        self._report("LMP009", where, message, "two values in a row", remedy)

    def _mend_reserved(self, token: Token, before: Token | None, accepted: set[str]) -> bool:
        """A reserved word stands where a name belongs."""
        at = self._at
        if token.type in ("TILDE", "EQUALS") and before is not None and before in keywords():
            if self._fed and self._fed[-1] is before and before.type in (*_STATEMENTS, *_ITEMS):
                self._report_reserved(before, "cannot be a name")
                self._tokens[at - 1] = _retyped(before, "NAME")
                if self._model is not None or self._implied:
                    # `=` after it would be a second complaint about the same two tokens.
                    if token.type == "EQUALS":
                        self._tokens[at] = _retyped(token, "TILDE")
                    self._back_up()
                else:
                    self._skip(at + 1)
                return True
        if str(token) not in keywords() or "NAME" not in accepted:
            return False
        following = self._tokens[at + 1]
        names = ("LET", "MODEL", "REWARD", "INFER", "AS", "DOT", "LM", "FUNCTION")
        if following.type == "COLON" and before is not None and before.type in _LABELLED:
            self._report_reserved(token, "cannot be a label")
        elif following.type == "EQUALS" and self._brackets:
            self._report_reserved(token, "cannot be the name of an argument")
        elif following.type == "COLON" and self._brackets:
            self._report_reserved(token, "cannot be the name of a parameter")
        elif following.type == "TILDE" or (
            before is not None and before.type in names and before.end_line == token.line
        ):
            self._report_reserved(token, "cannot be a name")
        elif self._brackets and following.type in ("COMMA", "RPAR", "RSQB"):
            self._report_reserved(token, "cannot be a name")
        else:
            return False
        self._tokens[at] = _retyped(token, "NAME")
        return True

    def _report_reserved(self, token: Token, verdict: str) -> None:
        self._report(
            "LMP010",
            self._span(token),
            f"`{token}` is a reserved word, so it {verdict}",
            "",
            f"choose another word, for example `{token}_`",
        )

    def _mend_foreign(self, token: Token, before: Token | None, accepted: set[str]) -> bool:
        """A word from another language, or a misspelt keyword, where a statement or item begins."""
        at_statement = "FACTOR" in accepted
        at_item = "MODEL" in accepted
        if not (at_statement or at_item):
            return False
        if token.type in ("IF", "ELSE", "THEN"):
            self._report("LMP014", self._span(token), _BRANCH[0], "", _BRANCH[1])
            self._skip(self._at + 1)
            return True
        if token.type != "NAME":
            return False
        following = self._tokens[self._at + 1]
        meant = _meant(token)
        if following.type == "TILDE":
            return False
        if token in _FOREIGN:
            message, remedy = _FOREIGN[str(token)]
            self._report("LMP014", self._span(token), message, "", remedy)
            self._skip(self._at + 1)
        elif meant is not None and following.type not in ("EQUALS", "COLON", "DOT"):
            self._report(
                "LMP008",
                self._span(token),
                f"unknown keyword `{token}`",
                f"did you mean `{meant}`?",
            )
            self._tokens[self._at] = _retyped(token, keywords()[meant], meant)
        elif following.type == "EQUALS":
            self._report(
                "LMP007",
                self._span(token),
                f"`{token} =` names nothing",
                "",
                f"write `let {token} = …`",
            )
            self._skip(self._at + 2)
        elif before is not None and before.type in _ENDS and before.end_line == token.line:
            self._report_missing_operator(before, token, following)
            self._skip(self._at + 1)
        else:
            self._report(
                "LMP001",
                self._span(token),
                f"unexpected `{token}` outside a model",
                "",
                "a file holds `import`, `let`, `reward`, `extern`, `model` and `infer`",
            )
            self._skip(self._at + 1)
        return True

    def _mend_place(self, token: Token, before: Token | None, accepted: set[str]) -> bool:
        """A statement outside a model, or an item inside one."""
        at = self._at
        is_sample = token.type == "NAME" and self._tokens[min(at + 1, len(self._tokens) - 1)].type
        if "MODEL" in accepted and (token.type in _STATEMENTS or is_sample == "TILDE"):
            shown = f"`{token} ~ …`" if token.type == "NAME" else f"`{token}`"
            self._report(
                "LMP019",
                self._span(token),
                f"{shown} belongs inside a model",
                "",
                "put it between the braces of `model name(parameters) { … }`",
            )
            self._implied = True
            self._restart(at)
            return True
        if "FACTOR" not in accepted or token.type not in _ITEMS:
            return False
        brace = next(
            (each for each in self._tokens[at:] if each.type in ("LBRACE", "RBRACE")), None
        )
        if brace is None or brace.type == "LBRACE" or self._model is None:
            return False
        self._report(
            "LMP019",
            self._span(token),
            f"`{token}` belongs outside the model",
            "",
            "move it after the closing `}`"
            if token.type == "INFER"
            else "move it before the model",
            (Label(self._span(self._model), "the model's braces open here"),),
        )
        self._skip(at + 2 if token.type == "EXTERN" else at + 1)
        return True

    def _mend_model_head(self, token: Token, before: Token | None, accepted: set[str]) -> bool:
        """The parameter list, its end or the opening brace is missing."""
        if before is None:
            return False
        if token.type == "LBRACE" and self._is("MODEL") and "RPAR" in accepted:
            self._report(
                "LMP002",
                self._after(before),
                f"this `{self._brackets[-1]}` is never closed",
                "missing `)`",
                None,
                (Label(self._span(self._brackets[-1]), "opened here"),),
            )
            return self._feed(_virtual("RPAR"))
        if accepted == {"LBRACE"}:
            self._report(
                "LMP011",
                self._after(before),
                "the body of a model stands between braces",
                "missing `{`",
                "write `model name(parameters) { … }`",
            )
            if token.type == "EQUALS" or token.type == "COLON":
                self._at += 1
            opening = self._feed(_virtual("LBRACE"))
            # Whoever forgets the first brace often forgets the second.
            self._implied = opening
            self._model = None
            return True
        if accepted != {"LPAR"} or before.type != "NAME":
            return False
        kind = str(self._keyword) if self._keyword is not None else "model"
        self._report(
            "LMP011",
            self._after(before),
            f"a parameter list is missing after `{before}`",
            "missing `()`",
            f"write `{before}()` when there is nothing to give to the {kind}",
        )
        self._feed(_virtual("LPAR"))
        self._feed(_virtual("RPAR"))
        return True

    def _close_brackets(self, token: Token) -> bool:
        """Feed the brackets that are missing before a token that begins something else."""
        if not self._brackets or not self._begins(self._at):
            return False
        while self._brackets and self._feed(_virtual(_CLOSERS[self._brackets[-1].type])):
            pass
        self._replay()
        return not self._brackets

    def _mend_end(self, token: Token, before: Token | None, accepted: set[str]) -> bool:
        """A statement, a model or the file ends too early."""
        if before is None or not self._begins(self._at):
            return False
        if self._brackets:
            opening = self._brackets[-1]
            closer = _CLOSERS[opening.type]
            if closer in accepted:
                self._report(
                    "LMP002",
                    self._after(before),
                    f"this `{opening}` is never closed"
                    if opening.line == before.end_line
                    else f"a `{_SIGNS[closer]}` is missing",
                    f"missing `{_SIGNS[closer]}`",
                    None,
                    (Label(self._span(opening), "opened here"),),
                )
            else:
                self._report_unfinished(before, accepted)
            if not self._close_brackets(token):
                self._restart(self._at)
            return True
        if "RBRACE" in accepted and (token.type == "$END" or token.type in _ITEMS):
            if self._model is not None and self._model.start_pos is not None:
                self._report(
                    "LMP002",
                    self._after(before),
                    "this model is never closed",
                    "missing `}`",
                    None,
                    (Label(self._span(self._model), "opened here"),),
                )
            self._feed(_virtual("RBRACE"))
            return True
        if token.type == "RBRACE" and "MODEL" in accepted:
            return False
        self._report_unfinished(before, accepted)
        if "ELSE" in accepted and self._feed(_virtual("ELSE")) and self._feed(_virtual("NAME")):
            return True
        self._restart(self._at)
        return True

    def _report_unfinished(self, before: Token, accepted: set[str]) -> None:
        span = self._after(before)
        statement = self._keyword
        if "NAME" in accepted and "INT" in accepted:
            self._report(
                "LMP021", span, f"an expression is missing after `{before}`", "missing expression"
            )
        elif "ELSE" in accepted:
            self._report(
                "LMP021",
                span,
                "a conditional expression needs an `else`",
                "missing `else`",
                "write `if c then a else b`",
            )
        elif "THEN" in accepted:
            self._report(
                "LMP021",
                span,
                "a conditional expression needs a `then`",
                "missing `then`",
                "write `if c then a else b`",
            )
        elif statement is not None and statement.type == "MOMENT" and "EQUALS" in accepted:
            self._report(
                "LMP021",
                span,
                "a moment needs the value that the mean shall have",
                "missing `= value`",
                "write `moment mean(e) = v`",
            )
        elif statement is not None and statement.type == "OBSERVE" and "TILDE" in accepted:
            self._report(
                "LMP021",
                span,
                "an observation needs a distribution",
                "missing `~ D`",
                "write `observe v ~ D`",
            )
        elif accepted == {"AS"}:
            self._report(
                "LMP021",
                span,
                "an import needs a name of its own",
                "missing `as name`",
                'write `import "x.lmp" as x`',
            )
        else:
            self._report(
                "LMP001", span, f"something is missing after `{before}`", _expected(accepted)
            )

    def _mend_closer(self, token: Token, before: Token | None, accepted: set[str]) -> bool:
        """A closing bracket that closes nothing, or something else, or comes too early."""
        if token.type not in ("RPAR", "RSQB", "RBRACE"):
            return False
        if not self._brackets:
            self._report(
                "LMP003", self._span(token), f"this `{token}` closes nothing", "", "remove it"
            )
            if "INT" in accepted:
                self._feed(_virtual("NAME"))
            self._at += 1
            return True
        opening = self._brackets[-1]
        closer = _CLOSERS[opening.type]
        if closer != token.type:
            self._report(
                "LMP003",
                self._span(token),
                f"`{opening}` is closed with `{token}`",
                f"expected `{_SIGNS[closer]}`",
                None,
                (Label(self._span(opening), "opened here"),),
            )
            if self._feed(_virtual(closer)):
                self._at += 1
            else:
                self._skip(self._at + 1)
            return True
        if "INT" not in accepted:
            return False
        self._report(
            "LMP021",
            self._span(token),
            f"an expression is missing before `{token}`",
            "missing expression",
        )
        self._feed(_virtual("NAME"))
        return True

    def _mend_equals(self, token: Token, before: Token | None, accepted: set[str]) -> bool:
        """`=`, `==` and `~`, one taken for another."""
        span = self._span(token)
        if token.type == "EQUALS":
            earlier = self._fed[-2].type if len(self._fed) > 1 else ""
            if "COLON" in accepted and earlier in ("FACTOR", "MOMENT") and not self._brackets:
                self._report(
                    "LMP007",
                    span,
                    "a label is followed by `:`",
                    "did you mean `:`?",
                    f"write `{self._keyword} {before}: …`",
                )
                self._feed(_virtual("COLON"))
            elif (
                "EQUAL" in accepted
                and self._tokens[self._at + 1].start_pos == token.end_pos
                and (self._tokens[self._at + 1].type == "TILDE")
            ):
                text = before if before is not None and before.type == "NAME" else "text"
                self._report(
                    "LMP013",
                    span.to(self._span(self._tokens[self._at + 1])),
                    "`=~` is not an operator of this language",
                    "",
                    f'write `matches({text}, r"…")`, with a pattern for the whole text',
                )
                self._feed(_virtual("EQUAL"))
                self._at += 1
            elif "EQUAL" in accepted:
                self._report(
                    "LMP007",
                    span,
                    "a comparison is written `==`",
                    "did you mean `==`?",
                )
                self._feed(_virtual("EQUAL"))
            else:
                return False
        elif token.type == "EQUAL" and "EQUALS" in accepted:
            self._report("LMP007", span, "a single `=` names a value", "did you mean `=`?")
            self._feed(_virtual("EQUALS"))
        elif token.type == "TILDE" and "EQUALS" in accepted and not self._is("MOMENT"):
            name = before or "x"
            self._report(
                "LMP007",
                span,
                "`let` names a fixed value, `~` draws a choice",
                "did you mean `=`?",
                f"write `{name} ~ …` without `let` to draw",
            )
            self._feed(_virtual("EQUALS"))
        elif token.type == "TILDE" and "PLUS" in accepted:
            self._report(
                "LMP007",
                span,
                "only a name can be drawn with `~`",
                "",
                "write `x ~ D` to draw, or `observe v ~ D` for a value that is known",
            )
            self._skip(self._at + 1)
            return True
        else:
            return False
        self._at += 1
        return True

    def _is(self, kind: str) -> bool:
        return self._keyword is not None and self._keyword.type == kind

    def _mend_type(self, token: Token, before: Token | None, accepted: set[str]) -> bool:
        """What is written otherwise in the types of other languages."""
        following = self._tokens[min(self._at + 1, len(self._tokens) - 1)]
        adjacent = following.start_pos == token.end_pos
        if (
            token.type == "MINUS"
            and following.type == "GREATER"
            and adjacent
            and ("COLON" in accepted)
        ):
            self._report(
                "LMP013",
                self._span(token).to(self._span(following)),
                "the type of a result follows a colon",
                "",
                "write `: real` instead of `-> real`",
            )
            self._feed(_virtual("COLON"))
            self._at += 2
            return True
        if token.type == "GREATER_EQUAL" and {"GREATER", "COMMA"} <= accepted:
            self._report(
                "LMP013",
                self._span(token),
                "`>=` is read as one operator here",
                "",
                "put a space between the two: `> =`",
            )
            self._feed(_virtual("GREATER"))
            if self._feed(_virtual("EQUALS")):
                self._at += 1
            return True
        return False

    def _mend_operand(self, token: Token, before: Token | None, accepted: set[str]) -> bool:
        """An expression is due, and something else stands there."""
        if "INT" not in accepted:
            return False
        span = self._span(token)
        if token.type == "PLUS":
            self._report("LMP021", span, "a number has no sign `+`", "", "leave the `+` out")
            self._at += 1
            return True
        if token.type in ("NOT", "IF"):
            self._report(
                "LMP001",
                span,
                f"`{token}` cannot stand inside an operation without parentheses",
                "",
                "write `(not p)`" if token.type == "NOT" else "write `(if c then a else b)`",
            )
            if token.type == "NOT":
                self._at += 1
            else:
                self._skip(self._at + 1)
            return True
        if token.type == "LBRACE":
            self._report(
                "LMP001",
                span,
                "there are no values in braces",
                "",
                'a list is written `[a, b]`; a JSON schema is read with `file("schema.json")`',
            )
            self._step_over_braces()
            return True
        if token.type in (*_OPERATORS, "COMMA", "THEN", "ELSE", "WHEN", "TILDE", "EQUALS"):
            self._report(
                "LMP021",
                span,
                f"an expression is missing before `{token}`",
                "missing expression",
            )
            if (
                token.type == "COMMA"
                and before is not None
                and before.type
                in (
                    "COMMA",
                    "LPAR",
                    "LSQB",
                )
            ):
                self._at += 1
            else:
                self._feed(_virtual("NAME"))
            return True
        return False

    def _step_over_braces(self) -> None:
        """Take a balanced pair of braces for one value."""
        index = self._at
        depth = 0
        while index < len(self._tokens) - 1:
            kind = self._tokens[index].type
            depth += (kind == "LBRACE") - (kind == "RBRACE")
            if kind in _STATEMENTS or kind in _ITEMS:
                break
            index += 1
            if depth == 0:
                self._feed(_virtual("NAME"))
                self._at = index
                return
        self._skip(self._at + 1)

    def _mend_operator(self, token: Token, before: Token | None, accepted: set[str]) -> bool:
        """An expression is complete, and another one follows; or comparisons chain."""
        span = self._span(token)
        if token.type in _COMPARATORS and "AND" in accepted and "LESS" not in accepted:
            self._report(
                "LMP022",
                span,
                "comparisons do not chain",
                "",
                "write `a < b and b < c`",
            )
            self._feed(_virtual("AND"))
            self._feed(_virtual("NAME"))
            return True
        if token.type == "WHEN":
            self._report(
                "LMP001",
                span,
                "only `require` takes `when`",
                "",
                "write `(if c then a else b)` for a value that depends on a condition",
            )
            self._skip(self._at + 1)
            return True
        if token.type not in (*_STARTS, "NOT", "IF") or before is None:
            return False
        if not {"PLUS", "STAR"} & accepted or before.type not in _ENDS:
            return False
        if {"THEN", "ELSE"} & accepted and not self._brackets:
            return False
        if before.type in _STRINGS and before.end_pos == token.start_pos:
            self._report(
                "LMP005",
                self._span(before),
                "a quotation sign is missing on this line",
                "this string ends where another one seems to begin",
            )
            self._skip(self._at + 1)
            return True
        if self._brackets and "COMMA" in accepted:
            if before.type == "NAME" and len(before) <= 2 and before.end_pos == token.start_pos:
                self._report_prefix(before, token)
            else:
                self._report(
                    "LMP020",
                    self._after(before),
                    f"a `,` or an operator is missing before `{_shown(token)}`",
                    "missing `,`",
                )
            self._feed(_virtual("COMMA"))
            return True
        if before.type == "NAME" and len(before) <= 2 and before.end_pos == token.start_pos:
            self._report_prefix(before, token)
        elif before.type in _STRINGS and token.type in _STRINGS:
            self._report(
                "LMP009",
                span,
                "an operator is missing between two strings",
                "",
                'strings are joined inside an f-string: `f"{a}{b}"`',
            )
        else:
            self._report(
                "LMP009",
                self._span(before).to(self._span(token))
                if before.type in _ATOMS
                else self._span(token),
                f"an operator is missing between `{_shown(before)}` and `{_shown(token)}`"
                if before.type in _ATOMS
                else f"an operator is missing before `{_shown(token)}`",
                "two values in a row",
            )
        self._feed(_virtual("STAR"))
        return True

    def _report_prefix(self, prefix: Token, token: Token) -> None:
        self._report(
            "LMP009",
            self._span(prefix),
            f"`{prefix}` is not a prefix of strings",
            "",
            'a raw string is written `r"…"`, one that interpolates names `f"…"`',
        )

    def _mend_missing(self, token: Token, before: Token | None, accepted: set[str]) -> bool:
        """One token is missing, and with it everything goes on."""
        if before is None:
            return False
        if accepted == {"COLON"} and token.type in ("COMMA", "RPAR", "EQUALS", "LBRACE"):
            self._report(
                "LMP020",
                self._after(before),
                f"the parameter `{before}` has no type",
                "missing type",
                f"write `{before}: string`",
            )
            self._feed(_virtual("COLON"))
            self._feed(_virtual("NAME"))
            return True
        for kind in _INSERTABLE:
            if kind not in accepted or not self._try(_virtual(kind), token):
                continue
            sign = _SIGNS.get(kind, kind.lower())
            self._report(
                "LMP020",
                self._after(before),
                f"a `{sign}` is missing between `{_shown(before)}` and `{_shown(token)}`",
                f"missing `{sign}`",
            )
            self._feed(_virtual(kind))
            return True
        return False

    def _mend_otherwise(self, token: Token, before: Token | None, accepted: set[str]) -> None:
        at = self._at
        if token.type == "$END":
            self._report(
                "LMP001", self._after(before), "the program stops too early", _expected(accepted)
            )
        else:
            self._report(
                "LMP001",
                self._span(token),
                f"unexpected `{_shown(token)}`",
                _expected(accepted),
            )
        self._skip(at if self._fed_since_restart() and self._begins(at) else at + 1)


def _virtual(kind: str) -> Token:
    """A token that the source lacks."""
    return Token(kind, _SIGNS.get(kind, kind.lower()))


def _retyped(token: Token, kind: str, text: str | None = None) -> Token:
    """The same place read as another terminal."""
    return Token(
        kind,
        str(token) if text is None else text,
        token.start_pos,
        token.line,
        token.column,
        token.end_line,
        token.end_column,
        token.end_pos,
    )


def _meant(token: Token) -> str | None:
    """The keyword of a statement or item that the word was probably meant to be."""
    if len(token) < 3:
        return None
    return closest(str(token), [*_STATEMENTS.values(), *_ITEMS.values()])


def _shown(token: Token) -> str:
    """The text of a token, short enough for a sentence."""
    text = str(token).split("\n")[0]
    return text if len(text) <= 24 and text == str(token) else text[:20] + "…"


def _expected(accepted: set[str]) -> str:
    """A phrase that says what could stand here."""
    kinds = accepted - {"SEMICOLON"}
    phrases: list[str] = []
    if {"FACTOR", "RBRACE"} <= kinds:
        phrases.append("a statement")
        kinds -= {*_STATEMENTS, "NAME"}
    elif {"MODEL", "INFER"} <= kinds:
        phrases.extend(("`model`", "`infer`", "a declaration"))
        kinds -= {*_ITEMS, "LET"}
    if {"INT", "NAME"} <= kinds:
        phrases.append("an expression")
        kinds -= {*_STARTS, "MINUS", "NOT", "IF"}
    if {"PLUS", "STAR"} <= kinds:
        phrases.append("an operator")
        kinds -= {*_OPERATORS, "NOT", "DOT", "LPAR", "LSQB"}
    if "NAME" in kinds:
        phrases.append("a name")
    if "STRING" in kinds:
        phrases.append("a string")
    kinds -= {"NAME", *_STRINGS}
    phrases.extend(
        "the end of the file" if kind == "$END" else f"`{_SIGNS.get(kind, kind.lower())}`"
        for kind in sorted(kinds)
    )
    if len(phrases) > 5:
        phrases = [*phrases[:4], "something else"]
    if len(phrases) > 1:
        return f"expected {', '.join(phrases[:-1])} or {phrases[-1]}"
    return f"expected {phrases[0]}" if phrases else ""
