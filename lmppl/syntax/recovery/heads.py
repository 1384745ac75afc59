"""The head of a model: its parameter list and its opening brace."""

from __future__ import annotations

from lmppl.errors import Label
from lmppl.syntax.recovery.walk import Walk
from lmppl.syntax.recovery.words import virtual
from lmppl.syntax.tokens import Token


def mend_model_head(walk: Walk, token: Token, before: Token | None, accepted: set[str]) -> bool:
    """The parameter list, its end or the opening brace is missing."""
    if before is None:
        return False
    if token.type == "LBRACE" and walk.is_in("MODEL") and "RPAR" in accepted:
        walk.report(
            "LMP002",
            walk.after(before),
            f"this `{walk.brackets[-1]}` is never closed",
            "missing `)`",
            None,
            (Label(walk.span(walk.brackets[-1]), "opened here"),),
        )
        return walk.feed(virtual("RPAR"))
    if accepted == {"LBRACE"}:
        walk.report(
            "LMP011",
            walk.after(before),
            "the body of a model stands between braces",
            "missing `{`",
            "write `model name(parameters) { … }`",
        )
        if token.type == "EQUALS" or token.type == "COLON":
            walk.at += 1
        opening = walk.feed(virtual("LBRACE"))
        # Whoever forgets the first brace often forgets the second.
        walk.implied = opening
        walk.model = None
        return True
    if accepted != {"LPAR"} or before.type != "NAME":
        return False
    kind = str(walk.keyword) if walk.keyword is not None else "model"
    walk.report(
        "LMP011",
        walk.after(before),
        f"a parameter list is missing after `{before}`",
        "missing `()`",
        f"write `{before}()` when there is nothing to give to the {kind}",
    )
    walk.feed(virtual("LPAR"))
    walk.feed(virtual("RPAR"))
    return True
