"""Where a statement or item begins: no `~`, a word of another language, the wrong place."""

from __future__ import annotations

from lmppl.errors import Label
from lmppl.syntax.grammar import keywords
from lmppl.syntax.recovery.expressions import report_missing_operator
from lmppl.syntax.recovery.walk import Walk
from lmppl.syntax.recovery.words import ENDS, ITEMS, STATEMENTS, keyword_meant, retyped, virtual
from lmppl.syntax.tokens import Token

_LOOP = (
    "there are no loops",
    "every program has a fixed set of choices: write each draw out under a name of its own",
)
_BRANCH = (
    "there are no conditional statements",
    "write `if c then a else b` inside an expression, or `require p when c`",
)
_ROUTINE = (
    "a file cannot define functions",
    "declare `extern function f(x: string): real` and give it from the host program, or "
    "name a score with `reward`",
)
_FOREIGN = {
    **dict.fromkeys(("for", "foreach", "while", "loop", "repeat", "plate", "do"), _LOOP),
    **dict.fromkeys(("elif", "elseif", "switch", "case", "unless"), _BRANCH),
    **dict.fromkeys(("def", "fun", "fn", "func", "lambda", "class", "function"), _ROUTINE),
    **dict.fromkeys(
        ("var", "val", "const", "auto", "real", "int", "string", "bool", "float"),
        ("a value is named with `let`", "write `let x = …`, or `let x: real = …` with its type"),
    ),
    "assert": ("a condition is stated with `require`", "write `require p`"),
    "condition": ("a condition is stated with `require`", "write `require p`"),
    "target": ("the density is changed with `factor`", "write `factor e`, with e in nats"),
    "sample": ("a choice is drawn with `~`", "write `x ~ D`"),
    "draw": ("a choice is drawn with `~`", "write `x ~ D`"),
    "print": ("a program prints nothing", "`return` says what the draws report"),
}


def mend_sample(walk: Walk, token: Token, before: Token | None, accepted: set[str]) -> bool:
    """A name begins a statement, but no `~` follows it."""
    if accepted != {"TILDE"} or before is None or before.type != "NAME":
        return False
    at = walk.at
    name = walk.span(before)
    earlier = walk.tokens[at - 2] if at > 1 else None
    following = walk.tokens[at + 1] if at + 1 < len(walk.tokens) else None
    meant = keyword_meant(before)
    # An expression that ends on this very line goes on with the name.
    same_line = earlier is not None and earlier.type in ENDS and earlier.end_line == before.line
    if token.type == "EQUALS" and not same_line:
        walk.report(
            "LMP007",
            walk.span(token),
            f"`{before} =` neither draws nor names anything",
            "did you mean `~`?",
            f"write `{before} ~ …` to draw a choice, or `let {before} = …` to name a value",
        )
        walk.feed(virtual("TILDE"))
        walk.at += 1
    elif (
        token.type in ("COLON", "LESS")
        and following is not None
        and following.type in ("EQUALS", "MINUS")
        and following.start_pos == token.end_pos
    ):
        arrow = f"{token}{following}"
        walk.report(
            "LMP007",
            walk.span(token).to(walk.span(following)),
            f"`{arrow}` neither draws nor names anything",
            "did you mean `~`?",
            f"write `{before} ~ …` to draw a choice, or `let {before} = …` to name a value",
        )
        walk.feed(virtual("TILDE"))
        walk.at += 2
    elif before in _FOREIGN and not same_line:
        message, remedy = _FOREIGN[str(before)]
        walk.report("LMP014", name, message, "", remedy)
        walk.skip(at)
    elif earlier is not None and same_line:
        report_missing_operator(walk, earlier, before, token)
        walk.skip(at)
    elif meant is not None and token.type not in ("EQUALS", "COLON"):
        walk.report(
            "LMP008",
            name,
            f"unknown keyword `{before}`",
            f"did you mean `{meant}`?",
        )
        walk.tokens[at - 1] = retyped(before, keywords()[meant], meant)
        walk.back_up()
    elif token.type == "COLON":
        walk.report(
            "LMP001",
            name,
            "a label needs a keyword before it",
            "",
            f"write `factor {before}: …` or `require {before}: …`; "
            f"a named value is written `let {before}: real = …`",
        )
        walk.skip(at)
    elif token.type in ("LPAR", "DOT", "LSQB"):
        walk.report(
            "LMP001",
            name,
            "an expression alone is not a statement",
            "what should happen with this value?",
            "write `factor` before a score, `require` before a condition, or `let x =` to name it",
        )
        walk.skip(at)
    else:
        walk.report(
            "LMP001",
            walk.after(before),
            f"expected `~` after `{before}`",
            "",
            f"a choice is drawn with `{before} ~ D`",
        )
        walk.skip(at)
    return True


def mend_foreign(walk: Walk, token: Token, before: Token | None, accepted: set[str]) -> bool:
    """A word from another language, or a misspelt keyword, where a statement or item begins."""
    at_statement = "FACTOR" in accepted
    at_item = "MODEL" in accepted
    if not (at_statement or at_item):
        return False
    if token.type in ("IF", "ELSE", "THEN"):
        walk.report("LMP014", walk.span(token), _BRANCH[0], "", _BRANCH[1])
        walk.skip(walk.at + 1)
        return True
    if token.type != "NAME":
        return False
    following = walk.tokens[walk.at + 1]
    meant = keyword_meant(token)
    if following.type == "TILDE":
        return False
    if token in _FOREIGN:
        message, remedy = _FOREIGN[str(token)]
        walk.report("LMP014", walk.span(token), message, "", remedy)
        walk.skip(walk.at + 1)
    elif meant is not None and following.type not in ("EQUALS", "COLON", "DOT"):
        walk.report(
            "LMP008",
            walk.span(token),
            f"unknown keyword `{token}`",
            f"did you mean `{meant}`?",
        )
        walk.tokens[walk.at] = retyped(token, keywords()[meant], meant)
    elif following.type == "EQUALS":
        walk.report(
            "LMP007",
            walk.span(token),
            f"`{token} =` names nothing",
            "",
            f"write `let {token} = …`",
        )
        walk.skip(walk.at + 2)
    elif before is not None and before.type in ENDS and before.end_line == token.line:
        report_missing_operator(walk, before, token, following)
        walk.skip(walk.at + 1)
    else:
        walk.report(
            "LMP001",
            walk.span(token),
            f"unexpected `{token}` outside a model",
            "",
            "a file holds `import`, `let`, `reward`, `extern`, `model` and `infer`",
        )
        walk.skip(walk.at + 1)
    return True


def mend_place(walk: Walk, token: Token, before: Token | None, accepted: set[str]) -> bool:
    """A statement outside a model, or an item inside one."""
    at = walk.at
    is_sample = token.type == "NAME" and walk.tokens[min(at + 1, len(walk.tokens) - 1)].type
    if "MODEL" in accepted and (token.type in STATEMENTS or is_sample == "TILDE"):
        shown = f"`{token} ~ …`" if token.type == "NAME" else f"`{token}`"
        walk.report(
            "LMP019",
            walk.span(token),
            f"{shown} belongs inside a model",
            "",
            "put it between the braces of `model name(parameters) { … }`",
        )
        walk.implied = True
        walk.restart(at)
        return True
    if "FACTOR" not in accepted or token.type not in ITEMS:
        return False
    brace = next((each for each in walk.tokens[at:] if each.type in ("LBRACE", "RBRACE")), None)
    if brace is None or brace.type == "LBRACE" or walk.model is None:
        return False
    walk.report(
        "LMP019",
        walk.span(token),
        f"`{token}` belongs outside the model",
        "",
        "move it after the closing `}`" if token.type == "INFER" else "move it before the model",
        (Label(walk.span(walk.model), "the model's braces open here"),),
    )
    walk.skip(at + 2 if token.type == "EXTERN" else at + 1)
    return True
