"""Text to tokens and comments, with a diagnostic for everything that is not a token.

The terminals are those of the grammar. The scanner goes on after a mistake with the token that was
probably meant, so that one typing error does not hide the next.
"""

from __future__ import annotations

import re
from dataclasses import field

from lmppl.errors import Diagnostic, Label, LmpError, Span
from lmppl.records import dataclass
from lmppl.syntax.grammar import AFTER_EXTERN, KEYWORD, keywords, terminals
from lmppl.syntax.tokens import Token

# What other languages write, and the token that takes its place; longer signs come first.
_FOREIGN = {
    "&&": ("AND", "and"),
    "&": ("AND", "and"),
    "||": ("OR", "or"),
    "|": ("OR", "or"),
    "!": ("NOT", "not"),
    "≤": ("LESS_EQUAL", "<="),
    "≥": ("GREATER_EQUAL", ">="),
    "≠": ("UNEQUAL", "!="),
    "×": ("STAR", "*"),
    "·": ("STAR", "*"),
    "÷": ("SLASH", "/"),
    "−": ("MINUS", "-"),
    "∼": ("TILDE", "~"),
    "～": ("TILDE", "~"),
}
_QUOTES = {"'": "'", "‘": "’", "“": "”", "”": "”", "„": "“", "«": "»", "`": "`"}
# Terminals that may be half of something else.
_WATCHED = frozenset(("SLASH", "STAR", "DOT", "INT", "FLOAT", "STRING", "F_STRING", "RAW_STRING"))
_NUMBER_LIKE = re.compile(r"[0-9](?:[eE][+-]|[A-Za-z0-9_]|\.(?=[0-9]))*\.?")
_HALF = re.compile("[\ud800-\udfff]")
_WORD = re.compile(r"\w+")
_ALLOW = re.compile(r"#\s*lmp:\s*allow\s+(LMP[0-9]+(?:[\s,]+LMP[0-9]+)*)[\s,]*")
_PRAGMA = re.compile(r"#\s*lmp\s*:")


@dataclass(slots=True)
class Scan:
    """The tokens of a text, its comments, and what could not be read.

    `doubtful` holds the end offsets of tokens that were guessed: a syntax error right after one is
    a consequence, not a second mistake.
    """

    source: str
    path: str | None
    tokens: list[Token] = field(default_factory=list)
    comments: list[Token] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    doubtful: set[int] = field(default_factory=set)

    def span(self, start: int, end: int) -> Span:
        """The span of a stretch of the source."""
        return Span.of(self.source, start, end, self.path)

    def report(
        self, code: str, start: int, end: int, message: str, help: str | None = None
    ) -> None:
        """Record an error at a stretch of the source."""
        span = self.span(start, end)
        self.diagnostics.append(Diagnostic(code, "error", message, span, (), (), help))


def normalize(source: str | bytes, path: str | None = None) -> str:
    """The text that spans index: decoded, without a byte order mark, with LF line ends.

    Raises:
        LmpError: the bytes are not UTF-8.
    """
    if isinstance(source, bytes):
        try:
            text = source.decode("utf-8")
        except UnicodeDecodeError as error:
            shown = normalize(source.decode("utf-8", errors="replace"))
            before = normalize(source[: error.start].decode("utf-8"))
            # A lone CR at the cut would be counted as a line end of its own.
            start = len(before)
            span = Span.of(shown, start, start + 1, path)
            byte = source[error.start]
            raise LmpError(
                [
                    Diagnostic(
                        "LMP023",
                        "error",
                        "this file is not UTF-8 text",
                        span,
                        (Label(span, f"the byte 0x{byte:02x} does not belong here"),),
                        (),
                        "save the file with the encoding UTF-8",
                    )
                ],
                {path: shown},
            ) from None
    else:
        text = source
    text = text.removeprefix("\ufeff")
    half = _HALF.search(text)
    if half is not None:
        shown = _HALF.sub("\ufffd", text)
        span = Span.of(shown, half.start(), half.end(), path)
        raise LmpError(
            [
                Diagnostic(
                    "LMP023",
                    "error",
                    "half a character (a lone surrogate) stands in this program",
                    span,
                    help="text of this kind comes from a wrong decoding: read it as UTF-8",
                )
            ],
            {path: shown},
        )
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def scan(source: str, path: str | None = None) -> Scan:
    """All tokens and comments of a normalised text."""
    result = Scan(source, path)
    match = terminals().match
    words = keywords()
    tokens = result.tokens
    position = 0
    line = 1
    line_start = 0
    while position < len(source):
        matched = match(source, position)
        kind = matched.lastgroup if matched else None
        if (
            matched is None
            or kind is None
            or (kind in _WATCHED and _is_suspicious(source, position, matched.end(), kind))
        ):
            end = _mistake(result, position)
        else:
            end = matched.end()
            if kind == "BLANK":
                pass
            elif kind == "COMMENT":
                result.comments.append(
                    _token("COMMENT", source, position, end, line, position - line_start + 1)
                )
            else:
                if kind == KEYWORD:
                    kind = words[matched.group()]
                elif kind == "NAME" and tokens and tokens[-1].type == "EXTERN":
                    kind = AFTER_EXTERN.get(matched.group(), kind)
                tokens.append(_token(kind, source, position, end, line, position - line_start + 1))
        newlines = source.count("\n", position, end)
        if newlines:
            line += newlines
            line_start = source.rfind("\n", position, end) + 1
        position = end
    return result


def allowances(result: Scan) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """The lines on which `# lmp: allow …` silences codes; an unreadable one is reported."""
    found: list[tuple[int, tuple[str, ...]]] = []
    for comment in result.comments:
        if not _PRAGMA.match(comment):
            continue
        matched = _ALLOW.fullmatch(comment)
        start = int(comment.start_pos or 0)
        if matched is None:
            result.report(
                "LMP026",
                start,
                start + len(comment.rstrip()),
                "this comment speaks to lmppl, but cannot be understood",
                help="write `# lmp: allow LMP202`; several codes are separated by commas",
            )
            continue
        line = int(comment.line or 1)
        line_start = result.source.rfind("\n", 0, start) + 1
        if not result.source[line_start:start].strip():
            # Alone on its line: it is about what comes next.
            line = next(
                (int(each.line or 1) for each in result.tokens if int(each.start_pos or 0) > start),
                line,
            )
        found.append((line, tuple(re.findall(r"LMP[0-9]+", matched.group(1)))))
    return tuple(found)


def _token(kind: str, source: str, start: int, end: int, line: int, column: int) -> Token:
    text = source[start:end]
    newlines = text.count("\n")
    end_column = len(text) - text.rfind("\n") if newlines else column + len(text)
    return Token(kind, text, start, line, column, line + newlines, end_column, end)


def _is_suspicious(source: str, position: int, end: int, kind: str) -> bool:
    """Whether a token that the grammar knows cannot be meant as such at this place."""
    following = source[position + 1 : position + 2]
    if kind == "SLASH":
        return following in ("/", "*") and following != ""
    if kind == "STAR":
        return following == "*"
    if kind == "DOT":
        before = source[position - 1 : position]
        return following.isdigit() and not (before.isalnum() or before in ("_", ")", "]"))
    if kind in ("INT", "FLOAT"):
        longer = _NUMBER_LIKE.match(source, position)
        if longer is None or longer.end() == end:
            return False
        # `1.x` is a number, a point and a name, whatever that may mean.
        return longer.end() > end + 1 or not source[end + 1 : end + 2].isalpha()
    if kind in ("STRING", "F_STRING", "RAW_STRING"):
        # Two quotation signs and a third one: a long string that does not end.
        return source.startswith('"""', end - 2) and end - position <= 3
    return False


def _mistake(result: Scan, position: int) -> int:
    """Report what stands at `position`, add the token that was meant, and return where it ends."""
    source = result.source
    character = source[position]
    if source.startswith("//", position):
        end = _line_end(source, position)
        if _divides(result, position, end):
            result.report(
                "LMP006",
                position,
                position + 2,
                "there is no operator `//`",
                help="to divide, write `/`; a comment starts with `#`",
            )
            return _guess(result, "SLASH", position, position + 2)
        result.report(
            "LMP006",
            position,
            end,
            "comments start with `#`",
            help="write `#` instead of `//`",
        )
        return end
    if source.startswith("/*", position):
        close = source.find("*/", position)
        end = close + 2 if close >= 0 else len(source)
        result.report(
            "LMP006",
            position,
            position + 2,
            "comments start with `#`",
            help="there are no block comments: put `#` before each line",
        )
        return end
    if source.startswith("**", position):
        result.report(
            "LMP013", position, position + 2, "a power is written `^`", help="write `x ^ 2`"
        )
        return _guess(result, "CARET", position, position + 2)
    if character == '"':
        return _open_string(result, position)
    if source.startswith('"""', position + 1):
        return _open_string(result, position + 1, position)
    if character in _QUOTES:
        return _foreign_quotes(result, position)
    if character.isdecimal() or character == ".":
        return _number(result, position)
    for sign, (kind, meant) in _FOREIGN.items():
        if source.startswith(sign, position):
            end = position + len(sign)
            result.report(
                "LMP013",
                position,
                end,
                f"`{sign}` is not an operator of this language",
                help=f"write `{meant}`",
            )
            return _guess(result, kind, position, end)
    if character.isalnum():
        return _foreign_name(result, position)
    end = position + 1
    while end < len(source) and source[end] == character:
        end += 1
    if "\ud800" <= character <= "\udfff":
        shown = "a lone surrogate, which is no character"
    elif character.isprintable() and not character.isspace():
        shown = f"`{character}`"
    else:
        shown = f"the invisible character U+{ord(character):04X}"
    remedies = {
        "%": "there is no remainder operator",
        "?": "a choice between two values is written `if condition then a else b`",
        "\\": "newlines never matter, so a line needs no mark to go on",
    }
    result.report(
        "LMP004",
        position,
        end,
        f"{shown} has no meaning here",
        help=remedies.get(character, "remove it"),
    )
    if result.tokens:
        result.doubtful.add(int(result.tokens[-1].end_pos or 0))
    return end


# One operand, or several with operators between: no prose.
_OPERAND = r"(?:[A-Za-z_]\w*+|[0-9][\w.]*+)(?:\([^()]*+\)|\[[^\[\]]*+\])?[\s)]*+"
_OPERANDS = re.compile(
    rf"[-\s(]*+{_OPERAND}(?:[-+*/^,<>=][-+*/^,<>=\s(]*+{_OPERAND})*+(?:#.*)?[,\s{{}}]*+"
)


def _divides(result: Scan, position: int, end: int) -> bool:
    """Whether `//` stands between a value and what reads as another one."""
    last = result.tokens[-1] if result.tokens else None
    if last is None or last.type not in ("NAME", "INT", "FLOAT", "RPAR", "RSQB"):
        return False
    if "\n" in result.source[int(last.end_pos or 0) : position]:
        return False
    return _OPERANDS.fullmatch(result.source, position + 2, end) is not None


def _guess(result: Scan, kind: str, start: int, end: int) -> int:
    """Add the token that stands for `source[start:end]`, marked as doubtful."""
    span = result.span(start, end)
    text = result.source[start:end]
    result.tokens.append(
        Token(kind, text, start, span.line, span.column, span.end_line, span.end_column, end)
    )
    result.doubtful.add(end)
    return end


def _line_end(source: str, position: int) -> int:
    end = source.find("\n", position)
    return len(source) if end < 0 else end


def _prefixed(result: Scan, position: int) -> int:
    """Where a string starts whose quote is at `position`, taking in a prefix such as `r`."""
    if result.tokens:
        last = result.tokens[-1]
        if last.type == "NAME" and last.end_pos == position and len(last) <= 2:
            result.tokens.pop()
            return int(last.start_pos or 0)
    return position


def _open_string(result: Scan, position: int, start: int | None = None) -> int:
    """A `"` at `position` that starts no complete string; its prefix, if read, is at `start`."""
    source = result.source
    if start is None:
        start = _prefixed(result, position)
    if source.startswith('"""', position):
        end = len(source)
        result.report(
            "LMP005",
            start,
            position + 3,
            "this long string is never closed",
            help='close it with `"""`',
        )
    else:
        end = _line_end(source, position)
        # A comment or a bracket that was meant to follow the string stays inside it: the line is
        # given up, because nothing tells where the string was to end.
        result.report(
            "LMP005",
            start,
            max(start + 1, start + len(source[start:end].rstrip())),
            "this string is not closed on its line",
            help='close it with `"`; a string over several lines is written between `"""`',
        )
    return _guess(result, "STRING", start, end)


def _foreign_quotes(result: Scan, position: int) -> int:
    source = result.source
    opening = source[position]
    line_end = _line_end(source, position)
    close = position + 1
    while close < line_end and source[close] != _QUOTES[opening]:
        close += 2 if source[close] == "\\" else 1
    if close >= line_end:
        result.report(
            "LMP012",
            position,
            position + 1,
            f"`{opening}` has no meaning here",
            help='strings are written between straight double quotes: `"…"`',
        )
        if result.tokens:
            result.doubtful.add(int(result.tokens[-1].end_pos or 0))
        return position + 1
    start = _prefixed(result, position)
    inside = source[position + 1 : close]
    prefix = source[start:position]
    result.report(
        "LMP012",
        start,
        close + 1,
        "strings are written between straight double quotes",
        help=f'write `{prefix}"{inside}"`' if '"' not in inside and len(inside) < 40 else None,
    )
    return _guess(result, "STRING", start, close + 1)


def _number(result: Scan, position: int) -> int:
    source = result.source
    if source[position] == ".":
        end = position + 1
        while end < len(source) and (source[end].isalnum() or source[end] in "._"):
            end += 1
        text = source[position:end]
        remedy = f"write `0{text}`"
        kind = "FLOAT"
    else:
        matched = _NUMBER_LIKE.match(source, position)
        # Digits of other scripts are decimal, too, and match nothing.
        end = matched.end() if matched else position + 1
        text = source[position:end]
        kind = "INT"
        base = text.rstrip(".")
        name = re.fullmatch(r"([0-9]+)([A-Za-z]\w*)", text)
        if text.endswith(".") and re.fullmatch(r"[0-9_.]+", text) and base.count(".") == 0:
            remedy = f"write `{base}.0`"
            kind = "FLOAT"
        elif re.match(r"0[xXbBoO]", text):
            remedy = "numbers are written in base ten"
        elif matched is None:
            remedy = "digits are 0 to 9"
        elif name:
            remedy = (
                f"a name starts with a letter; a product is written `{name.group(1)} * "
                f"{name.group(2)}`"
            )
        else:
            remedy = "write numbers as `3`, `20_000`, `0.5` or `1e-3`"
    result.report("LMP017", position, end, f"`{text}` is not a number", help=remedy)
    return _guess(result, kind, position, end)


def _foreign_name(result: Scan, position: int) -> int:
    """A letter outside A to Z: the whole word is taken as one name."""
    source = result.source
    start = position
    if result.tokens:
        last = result.tokens[-1]
        if last.end_pos == position and (last.type == "NAME" or last in keywords()):
            result.tokens.pop()
            start = int(last.start_pos or 0)
    matched = _WORD.match(source, position)
    end = matched.end() if matched else position + 1
    result.report(
        "LMP004",
        start,
        end,
        f"`{source[start:end]}` is not a name",
        help="names are made of the letters a to z and A to Z, digits and `_`; "
        "other letters belong in strings",
    )
    return _guess(result, "NAME", start, end)
