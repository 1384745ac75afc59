"""Inside an expression: an operand or an operator is missing, comparisons chain."""

from __future__ import annotations

from lmppl.syntax.recovery.walk import Walk
from lmppl.syntax.recovery.words import (
    ATOMS,
    COMPARATORS,
    ENDS,
    LABELLED,
    OPERATORS,
    STARTS,
    STRINGS,
    short,
    virtual,
)
from lmppl.syntax.tokens import Token


def mend_operand(walk: Walk, token: Token, before: Token | None, accepted: set[str]) -> bool:
    """An expression is due, and something else stands there."""
    if "INT" not in accepted:
        return False
    span = walk.span(token)
    if token.type == "PLUS":
        walk.report("LMP021", span, "a number has no sign `+`", "", "leave the `+` out")
        walk.at += 1
        return True
    if token.type in ("NOT", "IF"):
        walk.report(
            "LMP001",
            span,
            f"`{token}` cannot stand inside an operation without parentheses",
            "",
            "write `(not p)`" if token.type == "NOT" else "write `(if c then a else b)`",
        )
        if token.type == "NOT":
            walk.at += 1
        else:
            walk.skip(walk.at + 1)
        return True
    if token.type == "LBRACE":
        walk.report(
            "LMP001",
            span,
            "there are no values in braces",
            "",
            'a list is written `[a, b]`; a JSON schema is read with `file("schema.json")`',
        )
        walk.step_over_braces()
        return True
    if token.type in (*OPERATORS, "COMMA", "THEN", "ELSE", "WHEN", "TILDE", "EQUALS"):
        walk.report(
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
            walk.at += 1
        else:
            walk.feed(virtual("NAME"))
        return True
    return False


def mend_operator(walk: Walk, token: Token, before: Token | None, accepted: set[str]) -> bool:
    """An expression is complete, and another one follows; or comparisons chain."""
    span = walk.span(token)
    if token.type in COMPARATORS and "AND" in accepted and "LESS" not in accepted:
        walk.report(
            "LMP022",
            span,
            "comparisons do not chain",
            "",
            "write `a < b and b < c`",
        )
        walk.feed(virtual("AND"))
        walk.feed(virtual("NAME"))
        return True
    if token.type == "WHEN":
        walk.report(
            "LMP001",
            span,
            "only `require` takes `when`",
            "",
            "write `(if c then a else b)` for a value that depends on a condition",
        )
        walk.skip(walk.at + 1)
        return True
    if token.type not in (*STARTS, "NOT", "IF") or before is None:
        return False
    if not {"PLUS", "STAR"} & accepted or before.type not in ENDS:
        return False
    if {"THEN", "ELSE"} & accepted and not walk.brackets:
        return False
    if before.type in STRINGS and before.end_pos == token.start_pos:
        walk.report(
            "LMP005",
            walk.span(before),
            "a quotation sign is missing on this line",
            "this string ends where another one seems to begin",
        )
        walk.skip(walk.at + 1)
        return True
    if walk.brackets and "COMMA" in accepted:
        if before.type == "NAME" and len(before) <= 2 and before.end_pos == token.start_pos:
            _report_prefix(walk, before, token)
        else:
            walk.report(
                "LMP020",
                walk.after(before),
                f"a `,` or an operator is missing before `{short(token)}`",
                "missing `,`",
            )
        walk.feed(virtual("COMMA"))
        return True
    if before.type == "NAME" and len(before) <= 2 and before.end_pos == token.start_pos:
        _report_prefix(walk, before, token)
    elif before.type in STRINGS and token.type in STRINGS:
        walk.report(
            "LMP009",
            span,
            "an operator is missing between two strings",
            "",
            'strings are joined inside an f-string: `f"{a}{b}"`',
        )
    else:
        walk.report(
            "LMP009",
            walk.span(before).to(walk.span(token)) if before.type in ATOMS else walk.span(token),
            f"an operator is missing between `{short(before)}` and `{short(token)}`"
            if before.type in ATOMS
            else f"an operator is missing before `{short(token)}`",
            "two values in a row",
        )
    walk.feed(virtual("STAR"))
    return True


def _report_prefix(walk: Walk, prefix: Token, token: Token) -> None:
    walk.report(
        "LMP009",
        walk.span(prefix),
        f"`{prefix}` is not a prefix of strings",
        "",
        'a raw string is written `r"…"`, one that interpolates names `f"…"`',
    )


def report_missing_operator(walk: Walk, left: Token, right: Token, follows: Token) -> None:
    source = walk.scan.source
    stop = int(right.end_pos or 0)
    if follows.type == "LPAR" and follows.start_pos == stop:
        close = source.find(")", stop, stop + 40)
        stop = close + 1 if close >= 0 and "\n" not in source[stop:close] else stop
    rest = source[int(right.start_pos or 0) : stop]
    remedy = None
    if left.type in ("NAME", "INT", "FLOAT"):
        remedy = f"a product is written `{left} * {rest}`"
        labelled = len(walk.fed) > 2 and walk.fed[-3].type in LABELLED
        if labelled and left.type == "NAME":
            remedy += f"; if `{left}` is a label, write `{left}: {rest}`"
    if left.type in ATOMS:
        where = walk.span(left).to(walk.span(right))
        message = f"an operator is missing between `{short(left)}` and `{right}`"
    else:
        where = walk.span(right)
        message = f"an operator is missing before `{right}`"
    walk.report("LMP009", where, message, "two values in a row", remedy)
