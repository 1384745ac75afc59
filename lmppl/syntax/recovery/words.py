"""Kinds of tokens, as the menders tell them apart, and their words for a sentence."""

from __future__ import annotations

from lmppl.errors import closest
from lmppl.syntax.tokens import Token

STATEMENTS = {
    "FACTOR": "factor",
    "REQUIRE": "require",
    "OBSERVE": "observe",
    "MOMENT": "moment",
    "EXPECT": "expect",
    "LET": "let",
    "RETURN": "return",
}
ITEMS = {
    "IMPORT": "import",
    "REWARD": "reward",
    "EXTERN": "extern",
    "MODEL": "model",
    "INFER": "infer",
}
LABELLED = ("FACTOR", "REQUIRE", "MOMENT", "EXPECT")
CLOSERS = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}
SIGNS = {
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
COMPARATORS = ("EQUAL", "UNEQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "IN")
OPERATORS = (*COMPARATORS, "PLUS", "STAR", "SLASH", "CARET", "AND", "OR", "MINUS")
STRINGS = ("STRING", "RAW_STRING", "LONG_STRING", "F_STRING", "LONG_F_STRING")
ATOMS = ("INT", "FLOAT", "TRUE", "FALSE", "NAME", *STRINGS)
STARTS = (*ATOMS, "LPAR", "LSQB")
ENDS = (*ATOMS, "RPAR", "RSQB")
INSERTABLE = ("COLON", "COMMA", "EQUALS", "TILDE", "AS", "THEN", "ELSE")


def virtual(kind: str) -> Token:
    """A token that the source lacks."""
    return Token(kind, SIGNS.get(kind, kind.lower()))


def retyped(token: Token, kind: str, text: str | None = None) -> Token:
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


def keyword_meant(token: Token) -> str | None:
    """The keyword of a statement or item that the word was probably meant to be."""
    if len(token) < 3:
        return None
    return closest(str(token), [*STATEMENTS.values(), *ITEMS.values()])


def short(token: Token) -> str:
    """The text of a token, short enough for a sentence."""
    text = str(token).split("\n")[0]
    return text if len(text) <= 24 and text == str(token) else text[:20] + "…"


def what_may_stand(accepted: set[str]) -> str:
    """A phrase that says what could stand here."""
    kinds = accepted - {"SEMICOLON"}
    phrases: list[str] = []
    if {"FACTOR", "RBRACE"} <= kinds:
        phrases.append("a statement")
        kinds -= {*STATEMENTS, "NAME"}
    elif {"MODEL", "INFER"} <= kinds:
        phrases.extend(("`model`", "`infer`", "a declaration"))
        kinds -= {*ITEMS, "LET"}
    if {"INT", "NAME"} <= kinds:
        phrases.append("an expression")
        kinds -= {*STARTS, "MINUS", "NOT", "IF"}
    if {"PLUS", "STAR"} <= kinds:
        phrases.append("an operator")
        kinds -= {*OPERATORS, "NOT", "DOT", "LPAR", "LSQB"}
    if "NAME" in kinds:
        phrases.append("a name")
    if "STRING" in kinds:
        phrases.append("a string")
    kinds -= {"NAME", *STRINGS}
    phrases.extend(
        "the end of the file" if kind == "$END" else f"`{SIGNS.get(kind, kind.lower())}`"
        for kind in sorted(kinds)
    )
    if len(phrases) > 5:
        phrases = [*phrases[:4], "something else"]
    if len(phrases) > 1:
        return f"expected {', '.join(phrases[:-1])} or {phrases[-1]}"
    return f"expected {phrases[0]}" if phrases else ""
