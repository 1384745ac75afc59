"""What is left of a program when the statements with syntax errors are mended or taken out.

So that the mistakes in the meaning of all other statements can be reported in the same go. Mended
is what has one remedy (`=` for `~` or `==`, foreign quotes and operators, the head of a model).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Sequence, Set
from dataclasses import field

from lmppl.errors import Diagnostic
from lmppl.records import dataclass
from lmppl.syntax.scanner import Scan
from lmppl.syntax.tokens import Token, Tree

_STATEMENTS = frozenset(("FACTOR", "REQUIRE", "OBSERVE", "MOMENT", "EXPECT", "LET", "RETURN"))
_ITEMS = frozenset(("IMPORT", "REWARD", "EXTERN", "MODEL", "INFER"))
_DECLARE_NOTHING = (_STATEMENTS - {"LET"}) | {"INFER", "RBRACE"}
_OPENING = frozenset(("LPAR", "LSQB"))
_CLOSING = frozenset(("RPAR", "RSQB"))
# Errors after which the tokens still say what was meant.
_MENDABLE = frozenset(("LMP007", "LMP012", "LMP013"))
_CLAIMS = frozenset(("FACTOR", "REQUIRE", "EXPECT"))
_OPERANDS = frozenset(
    ("NAME", "STRING", "F_STRING", "RAW_STRING", "INT", "FLOAT", "TRUE", "FALSE", "RPAR", "RSQB")
)
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# A file that needs more attempts, or more tokens read again, is not worth them.
_MOST_ATTEMPTS = 40
_MOST_TOKENS = 200_000


@dataclass(slots=True)
class _Segment:
    """The tokens of one statement, one item, or the head or the end of a model."""

    tokens: list[Token] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return str(self.tokens[0].type)

    @property
    def may_declare(self) -> bool:
        draws = self.kind != "OBSERVE" and any(each.type == "TILDE" for each in self.tokens)
        return draws or self.kind not in _DECLARE_NOTHING

    @property
    def start(self) -> int:
        return int(self.tokens[0].start_pos or 0)

    @property
    def end(self) -> int:
        return int(self.tokens[-1].end_pos or 0)


@dataclass(frozen=True, slots=True)
class Remains:
    """A tree of the statements that are left, and every word of those that are not.

    A word among `lost` may have been declared by what was taken out. `declares`: something surely
    was, and perhaps under a name that cannot be read.
    """

    tree: Tree
    lost: frozenset[str]
    declares: bool


def remains(
    scanned: Scan,
    diagnostics: Sequence[Diagnostic],
    parse: Callable[[list[Token]], Tree | int],
    distributions: Container[str] = (),
) -> Remains | None:
    """What is left without the statements that the errors are in; None where nothing fits together.

    `parse` gives the tree of tokens, or the index of the one that it refuses. With the names of
    `distributions`, statements of which it is plain what was meant are mended and kept.
    """
    segments = list(_segments(scanned.tokens))
    written = [(segment.start, segment.end) for segment in segments]
    places = [(d.code, d.span.start, d.span.end) for d in diagnostics if d.span is not None]
    broken, headless = set(), set()
    for index, segment in enumerate(segments):
        codes = {code for code, start, end in places if _meets(segment, start, end)}
        if not codes:
            continue
        mended = _mended(segment, codes, distributions) if distributions else None
        if mended is None:
            broken.add(index)
            continue
        segments[index] = mended
        if mended.kind == "MODEL":
            headless.add(index)
    for _ in range(min(_MOST_ATTEMPTS, _MOST_TOKENS // (len(scanned.tokens) + 1))):
        kept = [i for i in range(len(segments)) if i not in broken]
        tokens, origin = _joined(segments, kept)
        found = parse(tokens)
        if isinstance(found, Tree):
            gone = sorted(broken | headless)
            lost = "\n".join(scanned.source[slice(*written[i])] for i in gone)
            declares = any(segments[i].may_declare for i in gone)
            return Remains(found, frozenset(_WORD.findall(lost)), declares)
        culprit = origin[min(found, len(origin) - 1)] if origin else None
        if culprit is None:
            return None
        is_first = found < len(tokens) and tokens[found] is segments[culprit].tokens[0]
        before = [i for i in kept if i < culprit]
        if is_first and before and segments[before[-1]].kind not in ("MODEL", "RBRACE"):
            culprit = before[-1]
        broken.add(culprit)
    return None


def _meets(segment: _Segment, start: int, end: int) -> bool:
    return start <= segment.end and segment.start <= end


def _mended(segment: _Segment, codes: Set[str], distributions: Container[str]) -> _Segment | None:
    """The segment as it was surely meant; None where that is not plain."""
    tokens = segment.tokens
    kinds = [each.type for each in tokens]
    if segment.kind == "MODEL":
        if kinds[1:2] != ["NAME"]:
            return None
        # The parameters are not known, and what they are called may be said in what was lost.
        last = tokens[-1]
        rest = [_instead(last, kind, text) for kind, text in (("LPAR", "("), ("RPAR", ")"))]
        return _Segment([*tokens[:2], *rest, _instead(last, "LBRACE", "{")])
    if not codes <= _MENDABLE:
        return None
    if kinds[:3] == ["NAME", "LESS", "MINUS"]:
        tokens = [tokens[0], _instead(tokens[1], "EQUALS", "="), *tokens[3:]]
        kinds = [each.type for each in tokens]
    if kinds[:2] == ["NAME", "EQUALS"]:
        is_call = kinds[2:4] == ["NAME", "LPAR"]
        if is_call and tokens[2] in distributions:
            tokens = [tokens[0], _instead(tokens[1], "TILDE", "~"), *tokens[2:]]
        elif not is_call:
            tokens = [_instead(tokens[0], "LET", "let"), *tokens]
        else:
            return None
    elif kinds[:1] == ["LET"] and kinds[2:3] == ["TILDE"]:
        tokens = tokens[1:]
    mended, depth = [], 0
    for token in tokens:
        depth += (token.type in _OPENING) - (token.type in _CLOSING)
        if token.type == "STRING" and not token.endswith('"'):
            token = _instead(token, "STRING", '"' + token[token.index(token[-1]) + 1 : -1] + '"')
        elif token.type == "EQUALS" and depth == 0 and segment.kind in _CLAIMS:
            token = _instead(token, "EQUAL", "==")
        mended.append(token)
    return _Segment(mended)


def _instead(token: Token, kind: str, text: str) -> Token:
    """A token of another kind at the place of this one."""
    return token.as_if(kind, text)


def _segments(tokens: Sequence[Token]) -> Iterator[_Segment]:
    """The tokens in pieces, each from where a statement or an item surely begins."""
    current = _Segment()
    depth = 0
    for index, token in enumerate(tokens):
        before = tokens[index - 1] if index else None
        following = tokens[index + 1] if index + 1 < len(tokens) else None
        if _begins(token, before, following, depth):
            if current.tokens:
                yield current
            current, depth = _Segment(), 0
        current.tokens.append(token)
        depth += (token.type in _OPENING) - (token.type in _CLOSING)
        if token.type in ("LBRACE", "RBRACE"):
            yield current
            current, depth = _Segment(), 0
    if current.tokens:
        yield current


def _begins(token: Token, before: Token | None, following: Token | None, depth: int) -> bool:
    after = "" if following is None else following.type
    if token.type == "RBRACE":
        return True
    if token.type in _STATEMENTS or token.type in _ITEMS:
        is_extern = before is not None and before.type == "EXTERN"
        return not is_extern and after not in ("EQUALS", "COLON")
    if token.type != "NAME" or depth > 0:
        return False
    if before is not None and before.type in _OPERANDS and before.end_line != token.line:
        # No expression goes on with a name after a value.
        return True
    if after == "EQUALS":
        # `x = …` for `x ~ …`, at the beginning of a line.
        return before is None or (before.type != "LET" and before.end_line != token.line)
    return after == "TILDE" and (before is None or before.type != "OBSERVE")


def _joined(segments: list[_Segment], kept: list[int]) -> tuple[list[Token], list[int]]:
    """The tokens of the segments that are kept, models closed, and the segment of each."""
    tokens: list[Token] = []
    origin: list[int] = []
    inside = False

    def close() -> None:
        last = tokens[-1]
        end = int(last.end_pos or 0)
        place = (last.end_line, last.end_column)
        tokens.append(Token("RBRACE", "}", end, *place, *place, end))
        origin.append(origin[-1])

    for index in kept:
        segment = segments[index]
        if segment.kind in _ITEMS and inside:
            close()
            inside = False
        if segment.kind == "RBRACE":
            if not inside:
                continue
            inside = False
        if segment.kind == "MODEL":
            inside = segment.tokens[-1].type == "LBRACE"
        tokens += segment.tokens
        origin += [index] * len(segment.tokens)
    if inside:
        close()
    return tokens, origin
