"""Going on after a syntax error, so that one look at a file finds all of them.

The parser is fed token by token. Where it refuses a token, one of the menders says what is wrong
and either repairs the input (feeds what is missing, replaces what was meant otherwise) or skips to
the next statement. Every repair uses up one of a few attempts at its token and every skip leaves
tokens behind, so that the rest always shrinks.
"""

from __future__ import annotations

from collections.abc import Callable

from lmppl.errors import Diagnostic
from lmppl.syntax.recovery.ends import mend_closer, mend_end
from lmppl.syntax.recovery.expressions import mend_operand, mend_operator
from lmppl.syntax.recovery.heads import mend_model_head
from lmppl.syntax.recovery.names import mend_reserved
from lmppl.syntax.recovery.signs import mend_equals, mend_missing, mend_type
from lmppl.syntax.recovery.statements import mend_foreign, mend_place, mend_sample
from lmppl.syntax.recovery.walk import Walk
from lmppl.syntax.recovery.words import short, what_may_stand
from lmppl.syntax.scanner import Scan
from lmppl.syntax.tokens import Token

# Reports a refused token (the walk, the token, the one before it, the kinds that the parser would
# take) and changes something so that the walk can go on; False where it is not its case.
Mender = Callable[[Walk, Token, Token | None, set[str]], bool]

# The first whose case it is mends: what is certain comes before what is likely.
_MENDERS: tuple[Mender, ...] = (
    mend_sample,
    mend_reserved,
    mend_foreign,
    mend_place,
    mend_model_head,
    mend_end,
    mend_closer,
    mend_equals,
    mend_type,
    mend_operand,
    mend_operator,
    mend_missing,
)


def find_errors(scan: Scan) -> list[Diagnostic]:
    """All syntax errors of the tokens, in no particular order; empty when they are a program."""
    walk = Walk(scan)
    while (token := walk.refused()) is not None:
        _mend(walk, token)
    return walk.diagnostics


def _mend(walk: Walk, token: Token) -> None:
    """Report why `token` is refused, and change something so that the walk can go on."""
    at = walk.at
    before = walk.tokens[at - 1] if at else None
    accepted = walk.accepts()
    ends = {int(each.end_pos or 0) for each in (before, token) if each is not None}
    earlier = walk.tokens[at - 2] if at > 1 else None
    if (
        accepted == {"TILDE"}
        and before is not None
        and earlier is not None
        and earlier.end_line == before.line
    ):
        ends.add(int(earlier.end_pos or 0))
    if ends & walk.doubtful:
        # A consequence of what the scanner or an earlier repair has already reported.
        if not walk.close_brackets(token):
            walk.skip(max(at, 1) if walk.fed_since_restart() else at + 1)
        return
    for mend in _MENDERS:
        if mend(walk, token, before, accepted):
            return
    _mend_otherwise(walk, token, before, accepted)


def _mend_otherwise(walk: Walk, token: Token, before: Token | None, accepted: set[str]) -> None:
    at = walk.at
    if token.type == "$END":
        walk.report(
            "LMP001", walk.after(before), "the program stops too early", what_may_stand(accepted)
        )
    else:
        walk.report(
            "LMP001",
            walk.span(token),
            f"unexpected `{short(token)}`",
            what_may_stand(accepted),
        )
    walk.skip(at if walk.fed_since_restart() and walk.begins(at) else at + 1)
