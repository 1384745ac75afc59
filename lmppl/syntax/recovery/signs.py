"""A sign is taken for another, or left out."""

from __future__ import annotations

from lmppl.syntax.recovery.walk import Walk
from lmppl.syntax.recovery.words import INSERTABLE, SIGNS, short, virtual
from lmppl.syntax.tokens import Token


def mend_equals(walk: Walk, token: Token, before: Token | None, accepted: set[str]) -> bool:
    """`=`, `==` and `~`, one taken for another."""
    span = walk.span(token)
    if token.type == "EQUALS":
        earlier = walk.fed[-2].type if len(walk.fed) > 1 else ""
        if "COLON" in accepted and earlier in ("FACTOR", "MOMENT") and not walk.brackets:
            walk.report(
                "LMP007",
                span,
                "a label is followed by `:`",
                "did you mean `:`?",
                f"write `{walk.keyword} {before}: …`",
            )
            walk.feed(virtual("COLON"))
        elif (
            "EQUAL" in accepted
            and walk.tokens[walk.at + 1].start_pos == token.end_pos
            and (walk.tokens[walk.at + 1].type == "TILDE")
        ):
            text = before if before is not None and before.type == "NAME" else "text"
            walk.report(
                "LMP013",
                span.to(walk.span(walk.tokens[walk.at + 1])),
                "`=~` is not an operator of this language",
                "",
                f'write `matches({text}, r"…")`, with a pattern for the whole text',
            )
            walk.feed(virtual("EQUAL"))
            walk.at += 1
        elif "EQUAL" in accepted:
            walk.report(
                "LMP007",
                span,
                "a comparison is written `==`",
                "did you mean `==`?",
            )
            walk.feed(virtual("EQUAL"))
        else:
            return False
    elif token.type == "EQUAL" and "EQUALS" in accepted:
        walk.report("LMP007", span, "a single `=` names a value", "did you mean `=`?")
        walk.feed(virtual("EQUALS"))
    elif token.type == "TILDE" and "EQUALS" in accepted and not walk.is_in("MOMENT"):
        name = before or "x"
        walk.report(
            "LMP007",
            span,
            "`let` names a fixed value, `~` draws a choice",
            "did you mean `=`?",
            f"write `{name} ~ …` without `let` to draw",
        )
        walk.feed(virtual("EQUALS"))
    elif token.type == "TILDE" and "PLUS" in accepted:
        walk.report(
            "LMP007",
            span,
            "only a name can be drawn with `~`",
            "",
            "write `x ~ D` to draw, or `observe v ~ D` for a value that is known",
        )
        walk.skip(walk.at + 1)
        return True
    else:
        return False
    walk.at += 1
    return True


def mend_type(walk: Walk, token: Token, before: Token | None, accepted: set[str]) -> bool:
    """What is written otherwise in the types of other languages."""
    following = walk.tokens[min(walk.at + 1, len(walk.tokens) - 1)]
    adjacent = following.start_pos == token.end_pos
    if token.type == "MINUS" and following.type == "GREATER" and adjacent and ("COLON" in accepted):
        walk.report(
            "LMP013",
            walk.span(token).to(walk.span(following)),
            "the type of a result follows a colon",
            "",
            "write `: real` instead of `-> real`",
        )
        walk.feed(virtual("COLON"))
        walk.at += 2
        return True
    if token.type == "GREATER_EQUAL" and {"GREATER", "COMMA"} <= accepted:
        walk.report(
            "LMP013",
            walk.span(token),
            "`>=` is read as one operator here",
            "",
            "put a space between the two: `> =`",
        )
        walk.feed(virtual("GREATER"))
        if walk.feed(virtual("EQUALS")):
            walk.at += 1
        return True
    return False


def mend_missing(walk: Walk, token: Token, before: Token | None, accepted: set[str]) -> bool:
    """One token is missing, and with it everything goes on."""
    if before is None:
        return False
    if accepted == {"COLON"} and token.type in ("COMMA", "RPAR", "EQUALS", "LBRACE"):
        walk.report(
            "LMP020",
            walk.after(before),
            f"the parameter `{before}` has no type",
            "missing type",
            f"write `{before}: string`",
        )
        walk.feed(virtual("COLON"))
        walk.feed(virtual("NAME"))
        return True
    for kind in INSERTABLE:
        if kind not in accepted or not walk.would_take(virtual(kind), token):
            continue
        sign = SIGNS.get(kind, kind.lower())
        walk.report(
            "LMP020",
            walk.after(before),
            f"a `{sign}` is missing between `{short(before)}` and `{short(token)}`",
            f"missing `{sign}`",
        )
        walk.feed(virtual(kind))
        return True
    return False
