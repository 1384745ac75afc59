"""One layout for every program: four spaces, about a hundred columns, all comments kept.

The layout works from the tokens and comments, guided by the tree where a sign has two uses. It
checks itself: the result must be the same program with the same comments, and formatting it again
must change nothing.
"""

from __future__ import annotations

from typing import Literal

from lmppl.errors import InternalError, LmpError
from lmppl.records import dataclass
from lmppl.syntax import ast
from lmppl.syntax.grammar import keywords
from lmppl.syntax.parser import build
from lmppl.syntax.scanner import Scan, normalize, scan
from lmppl.syntax.tokens import Token
from lmppl.syntax.trees import are_alike, walk

WIDTH = 100
INDENT = 4
# A bracket this far to the right of its line leaves too little room to align with it.
_DEEPEST_ALIGNMENT = 50

# Comments after longer rows are not aligned with those of the rows around them.
_LAST_ALIGNED = 72

_OPENERS = ("LPAR", "LSQB")
_CLOSERS = ("RPAR", "RSQB")


def format_source(source: str | bytes, path: str | None = None) -> str:
    """The program in its standard layout: the same tree, the same comments in the same order.

        >>> format_source("let  x=1  # one")
        'let x = 1  # one\\n'

    Raises:
        LmpError: the text is not a program.
    """
    text = normalize(source, path)
    formatted = _format_once(text, path)
    _check(text, formatted)
    return formatted


def _parsed(text: str, path: str | None) -> tuple[Scan, ast.Program]:
    scanned = scan(text, path)
    program, diagnostics = build(scanned)
    if program is None:
        raise LmpError(diagnostics, {path: text})
    return scanned, program


def _check(before: str, after: str) -> None:
    """Refuse to hand out a layout that is not the same program."""
    old_scan, old = _parsed(before, None)
    try:
        new_scan, new = _parsed(after, None)
    except LmpError as error:
        raise InternalError(f"the formatter broke the program:\n{error}") from error
    if not are_alike(old, new):
        raise InternalError("the formatter changed the program")
    if _comment_texts(old_scan) != _comment_texts(new_scan):
        raise InternalError("the formatter changed the comments")
    if _format_once(after, None) != after:
        raise InternalError("the formatter does not settle: formatting twice differs from once")


def _comment_texts(scanned: Scan) -> list[str]:
    return [comment.rstrip() for comment in scanned.comments]


# ---------------------------------------------------------------------------------------------
# Lines


@dataclass(slots=True)
class _Line:
    """One statement, brace or comment with its layout; `comment` trails its last line."""

    rows: list[str]
    comment: str | None = None
    is_sample: bool = False
    blank_before: bool = False


def _format_once(text: str, path: str | None) -> str:
    scanned, program = _parsed(text, path)
    lines = _Writer(scanned, program).write()
    _align_samples(lines)
    rows: list[str] = []
    for line in lines:
        if line.blank_before and rows:
            rows.append("")
        rows.extend(line.rows)
    rows = _with_comments(lines, rows)
    return "\n".join(rows) + "\n" if rows else ""


def _align_samples(lines: list[_Line]) -> None:
    """Put the `~` of neighbouring one-line draws under each other."""
    start = 0
    while start < len(lines):
        stop = start + 1
        if _alignable(lines[start]):
            while stop < len(lines) and _alignable(lines[stop]) and not lines[stop].blank_before:
                stop += 1
        run = lines[start:stop]
        if len(run) > 1:
            column = max(line.rows[0].index("~") for line in run)
            padded = [_padded(line.rows[0], column) for line in run]
            if max(map(len, padded)) <= WIDTH:
                for line, row in zip(run, padded, strict=True):
                    line.rows = [row]
        start = stop


def _alignable(line: _Line) -> bool:
    return line.is_sample and len(line.rows) == 1


def _padded(row: str, column: int) -> str:
    at = row.index("~")
    return row[:at] + " " * (column - at) + row[at:]


def _with_comments(lines: list[_Line], rows: list[str]) -> list[str]:
    """The rows with trailing comments; those of neighbouring rows start in one column."""
    trailing: dict[int, str] = {}
    at = 0
    for line in lines:
        at += (1 if line.blank_before and at else 0) + len(line.rows)
        if line.comment is not None:
            trailing[at - 1] = line.comment
    finished = list(rows)
    index = 0
    while index < len(rows):
        if index not in trailing:
            index += 1
            continue
        stop = index
        while stop in trailing:
            stop += 1
        run = range(index, stop)
        # A long row would push the comments of its neighbours out of sight.
        lengths = [len(rows[each]) for each in run]
        column = max((each for each in lengths if each <= _LAST_ALIGNED), default=0)
        for each in run:
            finished[each] = f"{rows[each].ljust(column)}  {trailing[each]}"
        index = stop
    return finished


class _Writer:
    """Walks over items, statements and the comments between them."""

    def __init__(self, scanned: Scan, program: ast.Program) -> None:
        self._scan = scanned
        self._program = program
        self._tokens = scanned.tokens
        self._comments = scanned.comments
        self._spacing = _Spacing(program)
        self._token = 0
        self._comment = 0
        self._lines: list[_Line] = []
        # The source line on which the last thing written ended.
        self._last_line = 0

    def write(self) -> list[_Line]:
        after_model = False
        for item in self._program.items:
            separate = after_model or isinstance(item, ast.Model)
            self._leading(item.span.start, 0, separate)
            if isinstance(item, ast.Model):
                self._model(item)
            else:
                self._statement(item.span.start, item.span.end, 0)
            after_model = isinstance(item, ast.Model)
        self._leading(len(self._scan.source) + 1, 0, after_model)
        return self._lines

    def _model(self, model: ast.Model) -> None:
        body = model.statements
        brace = next(
            token
            for token in self._tokens[self._token :]
            if token.type == "LBRACE" and _start(token) >= model.head_span.end
        )
        self._statement(model.span.start, _end(brace), 0)
        is_first = True
        for statement in body:
            self._leading(statement.span.start, INDENT, False, is_first)
            self._statement(
                statement.span.start,
                statement.span.end,
                INDENT,
                isinstance(statement, ast.Sample),
            )
            is_first = False
        self._leading(model.span.end - 1, INDENT, False, is_first)
        self._statement(model.span.end - 1, model.span.end, 0)
        self._lines[-1].blank_before = False

    def _leading(self, until: int, indent: int, separate: bool, is_first: bool = False) -> None:
        """Write the comments before `until`; the next line is set off if `separate`."""
        # Semicolons between statements are left out.
        while self._token < len(self._tokens) and _start(self._tokens[self._token]) < until:
            if self._tokens[self._token].type == "SEMICOLON":
                self._last_line = max(self._last_line, self._tokens[self._token].line or 0)
            self._token += 1
        self._separate = separate
        self._block_start = is_first
        while self._comment < len(self._comments):
            comment = self._comments[self._comment]
            if _start(comment) >= until:
                break
            self._comment += 1
            text = comment.rstrip()
            if (
                comment.line == self._last_line
                and self._lines
                and (self._lines[-1].comment is None)
            ):
                self._lines[-1].comment = text
                continue
            self._append(_Line([" " * indent + text]), comment.line or 0)
            self._last_line = comment.line or 0

    def _append(self, line: _Line, source_line: int) -> None:
        gap = source_line > self._last_line + 1 and bool(self._lines)
        line.blank_before = (gap and not self._block_start) or (
            self._separate and bool(self._lines)
        )
        self._separate = False
        self._block_start = False
        self._lines.append(line)

    def _statement(self, start: int, end: int, indent: int, is_sample: bool = False) -> None:
        """Lay out the tokens and comments of `source[start:end]`."""
        while _start(self._tokens[self._token]) < start:
            self._token += 1
        first = self._tokens[self._token]
        pieces: list[Token] = []
        while self._token < len(self._tokens) and _end(self._tokens[self._token]) <= end:
            pieces.append(self._tokens[self._token])
            self._token += 1
        last_line = pieces[-1].end_line or 0
        while self._comment < len(self._comments) and _start(self._comments[self._comment]) < end:
            pieces.append(self._comments[self._comment])
            self._comment += 1
        pieces.sort(key=_start)
        rows = _Layout(pieces, self._spacing, indent).rows()
        self._append(_Line(rows, is_sample=is_sample), first.line or 0)
        self._last_line = last_line


def _start(token: Token) -> int:
    return int(token.start_pos or 0)


def _end(token: Token) -> int:
    return int(token.end_pos or 0)


# ---------------------------------------------------------------------------------------------
# Spaces between tokens


class _Spacing:
    """Which neighbours are written with a space between them."""

    def __init__(self, program: ast.Program) -> None:
        # Offsets of names whose `=` is written tight, of signs of one operand, and the stretches
        # of types, where `<` and `>` are brackets.
        self._named: set[int] = set()
        self._signs: set[int] = set()
        self._types: list[tuple[int, int]] = []
        for node in walk(program):
            match node:
                case ast.Argument(name_span=span) if span is not None:
                    self._named.add(span.end)
                case ast.Bound(name_span=span):
                    self._named.add(span.end)
                case ast.Unary(operator="-", span=span):
                    self._signs.add(span.start)
                case ast.TypeExpr(span=span):
                    self._types.append((span.start, span.end))

    def is_tight_equals(self, token: Token, before: Token | None) -> bool:
        """Whether this `=` gives a named argument or a bound."""
        return token.type == "EQUALS" and before is not None and _end(before) in self._named

    def is_sign(self, token: Token) -> bool:
        """Whether this `-` has one operand."""
        return token.type == "MINUS" and _start(token) in self._signs

    def is_angle(self, token: Token) -> bool:
        """Whether this `<` or `>` is a bracket of a type."""
        return token.type in ("LESS", "GREATER") and any(
            start <= _start(token) < end for start, end in self._types
        )

    def between(self, before: Token, token: Token, tight_equals: bool) -> bool:
        """Whether a space stands between two tokens; `tight_equals` is about `before`."""
        kind, last = token.type, before.type
        if kind in ("COMMA", "COLON", "SEMICOLON", "DOT", *_CLOSERS):
            return False
        if last in (*_OPENERS, "DOT", "CARET") or kind == "CARET":
            return False
        if last == "EQUALS" and tight_equals:
            return False
        if self.is_sign(before) or self.is_angle(token):
            return False
        if last == "LESS" and self.is_angle(before):
            return False
        if kind in _OPENERS:
            # A bracket right after a value calls or indexes it; after a type it makes an array.
            return not (
                last in ("NAME", *_CLOSERS)
                or (last == "GREATER" and self.is_angle(before))
                or (last not in keywords().values() and before[-1:] in ('"', "'"))
                or last in ("INT", "FLOAT", "TRUE", "FALSE")
            )
        return True


# ---------------------------------------------------------------------------------------------
# Breaking a statement into rows


@dataclass(slots=True)
class _Part:
    """A token or comment in a statement, with what may happen before it.

    `depth` counts the brackets around it. `breakable` says whether a row may start here, `forced`
    that one must.
    """

    text: str
    depth: int
    space: bool
    breakable: bool = False
    forced: bool = False
    kind: Literal["token", "opener", "closer", "comment"] = "token"


class _Layout:
    """Fills rows with the parts of one statement, breaking outer brackets before inner ones."""

    def __init__(self, pieces: list[Token], spacing: _Spacing, indent: int) -> None:
        self._indent = indent
        self._parts = _parts(pieces, spacing)

    def rows(self) -> list[str]:
        """The rows of the statement, indented."""
        rows: list[str] = []
        row = " " * self._indent
        empty = True
        # The column at which the rows inside each open bracket start.
        columns = [self._indent + INDENT]
        for index, part in enumerate(self._parts):
            if part.kind == "closer" and len(columns) > 1:
                columns.pop()
            width = self._flat_width(index)
            fits = len(row) + (1 if part.space and not empty else 0) + width <= WIDTH
            if not empty and (part.forced or (part.breakable and not fits)):
                after_opener = index > 0 and self._parts[index - 1].kind == "opener"
                # What a comment has pushed off the end of its row stays with the statement.
                is_end = part.text == "{" or (part.kind == "closer" and len(columns) == 1)
                column = self._indent if is_end else columns[-1]
                if after_opener and not part.forced:
                    # Hanging gains room only where the bracket stands to the right of it.
                    hanging = self._row_indent(row) + INDENT
                    if hanging < columns[-1]:
                        columns[-1] = column = hanging
                        rows.append(row)
                        row = " " * column
                        empty = True
                else:
                    rows.append(row)
                    row = " " * column
                    empty = True
            if part.space and not empty:
                row += " "
            if part.kind == "comment" and not empty and not part.forced:
                row += "  "
            head, *tail = part.text.split("\n")
            row += head
            for line in tail:
                # The rows of a long string are its value: they are never touched.
                rows.append(row)
                row = line
            empty = False
            if part.kind == "opener":
                aligned = len(row)
                deep = aligned - self._indent > _DEEPEST_ALIGNMENT
                columns.append(self._row_indent(row) + INDENT if deep else aligned)
        rows.append(row)
        return rows

    def _row_indent(self, row: str) -> int:
        return len(row) - len(row.lstrip(" "))

    def _flat_width(self, index: int) -> int:
        """Columns from this part to the next place where a row may start, at its depth or above.

        What is wider than a row is only said to be wider.
        """
        depth = self._parts[index].depth
        width = 0
        for at in range(index, len(self._parts)):
            part = self._parts[at]
            if width > WIDTH:
                break
            if at > index and (part.forced or (part.breakable and part.depth <= depth)):
                break
            if part.kind == "comment":
                break
            head, newline, _ = part.text.partition("\n")
            width += len(head) + (1 if part.space and at > index else 0)
            if newline:
                break
        return width


def _next_token(pieces: list[Token], index: int) -> Token | None:
    """The first piece from here on that is no comment."""
    while index < len(pieces) and pieces[index].type == "COMMENT":
        index += 1
    return pieces[index] if index < len(pieces) else None


def _parts(pieces: list[Token], spacing: _Spacing) -> list[_Part]:
    """The parts of a statement, with a comma before a closing bracket left out."""
    parts: list[_Part] = []
    depth = 0
    before: Token | None = None
    tight_equals = False
    in_reward = pieces[0].type == "REWARD"
    after_comment = False
    for index, piece in enumerate(pieces):
        if piece.type == "COMMENT":
            previous = pieces[index - 1]
            own_line = previous.end_line != piece.line
            forced = own_line or after_comment
            parts.append(_Part(piece.rstrip(), depth, False, forced=forced, kind="comment"))
            after_comment = True
            continue
        following = _next_token(pieces, index + 1)
        if piece.type == "COMMA" and following is not None and following.type in _CLOSERS:
            continue
        if piece.type == "COMMA" and following is not None and spacing.is_angle(following):
            continue
        closes = piece.type in _CLOSERS or (piece.type == "GREATER" and spacing.is_angle(piece))
        opens = piece.type in _OPENERS or (piece.type == "LESS" and spacing.is_angle(piece))
        depth -= closes
        space = before is not None and spacing.between(before, piece, tight_equals)
        this_tight = spacing.is_tight_equals(piece, before)
        if this_tight:
            space = False
        breakable = before is not None and (
            before.type == "COMMA"
            or (before.type in _OPENERS and not closes)
            or (
                piece.type in ("AND", "OR", "THEN", "ELSE", "WHEN", "PLUS")
                or (piece.type == "MINUS" and not spacing.is_sign(piece))
            )
            or (in_reward and depth == 0 and piece.type == "EQUALS")
        )
        kind: Literal["token", "opener", "closer"] = (
            "opener" if opens else "closer" if closes else "token"
        )
        parts.append(_Part(str(piece), depth, space, breakable, after_comment, kind))
        after_comment = False
        depth += opens
        before = piece
        tight_equals = this_tight
    return parts
