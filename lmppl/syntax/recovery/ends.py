"""A bracket, a statement, a model or the file ends too early, or what was never begun."""

from __future__ import annotations

from lmppl.errors import Label
from lmppl.syntax.recovery.walk import Walk
from lmppl.syntax.recovery.words import CLOSERS, ITEMS, SIGNS, virtual, what_may_stand
from lmppl.syntax.tokens import Token


def mend_end(walk: Walk, token: Token, before: Token | None, accepted: set[str]) -> bool:
    """A statement, a model or the file ends too early."""
    if before is None or not walk.begins(walk.at):
        return False
    if walk.brackets:
        opening = walk.brackets[-1]
        closer = CLOSERS[opening.type]
        if closer in accepted:
            walk.report(
                "LMP002",
                walk.after(before),
                f"this `{opening}` is never closed"
                if opening.line == before.end_line
                else f"a `{SIGNS[closer]}` is missing",
                f"missing `{SIGNS[closer]}`",
                None,
                (Label(walk.span(opening), "opened here"),),
            )
        else:
            _report_unfinished(walk, before, accepted)
        if not walk.close_brackets(token):
            walk.restart(walk.at)
        return True
    if "RBRACE" in accepted and (token.type == "$END" or token.type in ITEMS):
        if walk.model is not None and walk.model.start_pos is not None:
            walk.report(
                "LMP002",
                walk.after(before),
                "this model is never closed",
                "missing `}`",
                None,
                (Label(walk.span(walk.model), "opened here"),),
            )
        walk.feed(virtual("RBRACE"))
        return True
    if token.type == "RBRACE" and "MODEL" in accepted:
        return False
    _report_unfinished(walk, before, accepted)
    if "ELSE" in accepted and walk.feed(virtual("ELSE")) and walk.feed(virtual("NAME")):
        return True
    walk.restart(walk.at)
    return True


def _report_unfinished(walk: Walk, before: Token, accepted: set[str]) -> None:
    span = walk.after(before)
    statement = walk.keyword
    if "NAME" in accepted and "INT" in accepted:
        walk.report(
            "LMP021", span, f"an expression is missing after `{before}`", "missing expression"
        )
    elif "ELSE" in accepted:
        walk.report(
            "LMP021",
            span,
            "a conditional expression needs an `else`",
            "missing `else`",
            "write `if c then a else b`",
        )
    elif "THEN" in accepted:
        walk.report(
            "LMP021",
            span,
            "a conditional expression needs a `then`",
            "missing `then`",
            "write `if c then a else b`",
        )
    elif statement is not None and statement.type == "MOMENT" and "EQUALS" in accepted:
        walk.report(
            "LMP021",
            span,
            "a moment needs the value that the mean shall have",
            "missing `= value`",
            "write `moment mean(e) = v`",
        )
    elif statement is not None and statement.type == "OBSERVE" and "TILDE" in accepted:
        walk.report(
            "LMP021",
            span,
            "an observation needs a distribution",
            "missing `~ D`",
            "write `observe v ~ D`",
        )
    elif accepted == {"AS"}:
        walk.report(
            "LMP021",
            span,
            "an import needs a name of its own",
            "missing `as name`",
            'write `import "x.lmp" as x`',
        )
    else:
        walk.report(
            "LMP001", span, f"something is missing after `{before}`", what_may_stand(accepted)
        )


def mend_closer(walk: Walk, token: Token, before: Token | None, accepted: set[str]) -> bool:
    """A closing bracket that closes nothing, or something else, or comes too early."""
    if token.type not in ("RPAR", "RSQB", "RBRACE"):
        return False
    if not walk.brackets:
        walk.report("LMP003", walk.span(token), f"this `{token}` closes nothing", "", "remove it")
        if "INT" in accepted:
            walk.feed(virtual("NAME"))
        walk.at += 1
        return True
    opening = walk.brackets[-1]
    closer = CLOSERS[opening.type]
    if closer != token.type:
        walk.report(
            "LMP003",
            walk.span(token),
            f"`{opening}` is closed with `{token}`",
            f"expected `{SIGNS[closer]}`",
            None,
            (Label(walk.span(opening), "opened here"),),
        )
        if walk.feed(virtual(closer)):
            walk.at += 1
        else:
            walk.skip(walk.at + 1)
        return True
    if "INT" not in accepted:
        return False
    walk.report(
        "LMP021",
        walk.span(token),
        f"an expression is missing before `{token}`",
        "missing expression",
    )
    walk.feed(virtual("NAME"))
    return True
