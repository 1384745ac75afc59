"""A reserved word stands where a name belongs."""

from __future__ import annotations

from lmppl.syntax.grammar import keywords
from lmppl.syntax.recovery.walk import Walk
from lmppl.syntax.recovery.words import ITEMS, LABELLED, STATEMENTS, retyped
from lmppl.syntax.tokens import Token


def mend_reserved(walk: Walk, token: Token, before: Token | None, accepted: set[str]) -> bool:
    """A reserved word stands where a name belongs."""
    at = walk.at
    if token.type in ("TILDE", "EQUALS") and before is not None and before in keywords():
        if walk.fed and walk.fed[-1] is before and before.type in (*STATEMENTS, *ITEMS):
            _report_reserved(walk, before, "cannot be a name")
            walk.tokens[at - 1] = retyped(before, "NAME")
            if walk.model is not None or walk.implied:
                # `=` after it would be a second complaint about the same two tokens.
                if token.type == "EQUALS":
                    walk.tokens[at] = retyped(token, "TILDE")
                walk.back_up()
            else:
                walk.skip(at + 1)
            return True
    if str(token) not in keywords() or "NAME" not in accepted:
        return False
    following = walk.tokens[at + 1]
    names = ("LET", "MODEL", "REWARD", "INFER", "AS", "DOT", "LM", "FUNCTION")
    if following.type == "COLON" and before is not None and before.type in LABELLED:
        _report_reserved(walk, token, "cannot be a label")
    elif following.type == "EQUALS" and walk.brackets:
        _report_reserved(walk, token, "cannot be the name of an argument")
    elif following.type == "COLON" and walk.brackets:
        _report_reserved(walk, token, "cannot be the name of a parameter")
    elif following.type == "TILDE" or (
        before is not None and before.type in names and before.end_line == token.line
    ):
        _report_reserved(walk, token, "cannot be a name")
    elif walk.brackets and following.type in ("COMMA", "RPAR", "RSQB"):
        _report_reserved(walk, token, "cannot be a name")
    else:
        return False
    walk.tokens[at] = retyped(token, "NAME")
    return True


def _report_reserved(walk: Walk, token: Token, verdict: str) -> None:
    walk.report(
        "LMP010",
        walk.span(token),
        f"`{token}` is a reserved word, so it {verdict}",
        "",
        f"choose another word, for example `{token}_`",
    )
