"""Arguments: which is which, and what each may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lmppl.builtins import Argument, Builtin
from lmppl.builtins.signature import ACCEPTED_IN_WORDS, Accepts
from lmppl.checker.operands import report_uncertain
from lmppl.checker.report import Report, did_you_mean
from lmppl.checker.scope import Scope
from lmppl.checker.typing_rules import in_words, literal
from lmppl.errors import Label, Span, closest
from lmppl.evaluation.constants import MOST_CHARACTERS
from lmppl.ir import expr as ir
from lmppl.ir.types import CHAT, STRING, UNKNOWN, Interval, Type
from lmppl.records import dataclass
from lmppl.syntax import ast

# What gives an expression its type. Calls are within expressions and expressions within calls:
# whoever checks the outer is handed the checker of the inner.
Check = Callable[[ast.Expr], ir.Expr]


@dataclass(frozen=True, slots=True)
class Formal:
    """An argument that a call can have, whatever is called."""

    name: str
    required: bool = True
    named_only: bool = False


def formals_of(builtin: Builtin) -> tuple[Formal, ...]:
    """What a call of the built-in can have."""
    return tuple(Formal(a.name, a.required, a.named_only) for a in builtin.arguments)


class ArgumentChecker:
    """Binds what is written in a call to what is called; problems go to the report."""

    def __init__(self, check: Check, scope: Scope, report: Report) -> None:
        self._check = check
        self.scope = scope
        self.report = report

    def bind(
        self,
        name: str,
        formals: Sequence[Formal],
        arguments: Sequence[ast.Argument],
        name_span: Span,
        help: Mapping[str, str] | None = None,
    ) -> tuple[dict[str, ast.Argument], bool]:
        """Arguments by the name of what they are given for, and whether nothing is wrong.

        What is wrong was reported; a misspelt argument is bound to what was probably meant.
        """
        bound: dict[str, ast.Argument] = {}
        known = {formal.name: formal for formal in formals}
        places = [formal for formal in formals if not formal.named_only]
        complete = True
        for number, argument in enumerate(arguments):
            if argument.name is None:
                if number < len(places):
                    bound[places[number].name] = argument
                    continue
                self._report_extra(name, argument, formals, len(places))
                complete = False
            elif argument.name not in known:
                assert argument.name_span is not None
                near = closest(argument.name, known)
                self.report.error(
                    "LMP109",
                    argument.name_span,
                    f"`{name}` has no argument `{argument.name}`",
                    help=f"did you mean `{near}`?"
                    if near
                    else (f"it has {', '.join(known)}" if known else "it has none"),
                )
                # A misspelt argument is not also a missing one.
                complete = False
                if near is not None:
                    bound.setdefault(near, argument)
            elif argument.name in bound:
                assert argument.name_span is not None
                self.report.error(
                    "LMP110",
                    argument.name_span,
                    f"`{argument.name}` is given twice",
                    labels=[Label(bound[argument.name].span, "here it is given by its place")],
                )
            else:
                bound[argument.name] = argument
        missing = [f.name for f in formals if f.required and f.name not in bound]
        if missing:
            self._report_missing(name, missing, name_span, help or {})
        return bound, complete and not missing

    def _report_extra(
        self, name: str, argument: ast.Argument, formals: Sequence[Formal], places: int
    ) -> None:
        named_only = [formal.name for formal in formals if formal.named_only]
        takes = {0: "no arguments", 1: "one argument"}.get(places, f"{places} arguments")
        if named_only:
            message = f"`{name}` takes {takes} by place; the others are named"
            help = f"write the name before it, one of {', '.join(named_only)}"
            if any(formal.name in ("words", "values") for formal in formals):
                help += '; several words are one list, `["…", "…"]`'
        else:
            message = f"`{name}` takes {takes}"
            help = None
        self.report.error("LMP108", argument.span, message, help=help)

    def _report_missing(
        self,
        name: str,
        missing: Sequence[str],
        name_span: Span,
        help: Mapping[str, str],
    ) -> None:
        words = " and ".join(f"`{each}`" for each in missing)
        advice = [help[each] for each in missing if each in help]
        self.report.error(
            "LMP107",
            name_span,
            f"`{name}` needs {words}",
            label="missing " + words,
            help="; ".join(advice) or None,
        )

    def check(
        self, builtin: Builtin, name: str, bound: Mapping[str, ast.Argument]
    ) -> tuple[dict[str, ir.Expr], bool]:
        """The typed arguments of a built-in that fit, and whether all did."""
        checked: dict[str, ir.Expr] = {}
        good = True
        for argument in builtin.arguments:
            if argument.name not in bound:
                continue
            value = self._check(bound[argument.name].value)
            accepted = self.accept(argument, value, name)
            if accepted is None:
                good = False
            else:
                checked[argument.name] = accepted
        return checked, good

    def accept(self, argument: Argument, value: ir.Expr, owner: str) -> ir.Expr | None:
        """The value as the argument takes it; None, and reported, when it does not."""
        if value.type == UNKNOWN:
            return None
        scope = self.scope
        what = f"`{argument.name}` of `{owner}`"
        if not _has_accepted_type(argument.accepts, value.type):
            self._report_type(argument, value, owner)
            return None
        if argument.accepts == "generated" and not scope.is_text_site(value):
            self.report_not_generated(value, owner)
            return None
        if argument.accepts == "site" and not scope.is_site(value):
            self._report_no_site(value, owner)
            return None
        if argument.known == "file" and not isinstance(value, ir.Constant):
            self.report.error(
                "LMP114",
                value.span,
                f"{what} must be known in the file, and this is not a constant",
            )
            return None
        if argument.known == "bind" and (sites := scope.sites_of(value)):
            choice = sorted(sites)[0]
            symbol = scope.find(choice)
            self.report.error(
                "LMP219",
                value.span,
                f"{what} cannot depend on the choice `{choice}`",
                labels=[] if symbol is None else [Label(symbol.span, "drawn here")],
                notes=["it must be known before anything is drawn"],
                help=f"the text comes first: `{owner}({choice}, …)`"
                if argument.name in ("words", "pattern")
                else None,
            )
            return None
        return value if self._check_value(argument, value, what) else None

    def report_not_generated(self, value: ir.Expr, owner: str) -> None:
        """Refuses a string where the text of a site is wanted."""
        self.report.error(
            "LMP226",
            value.span,
            f"`{owner}` asks how a text was generated, and this is not the text of a choice",
            help="give it the name of a text that is drawn with `~`",
        )

    def _report_no_site(self, value: ir.Expr, owner: str) -> None:
        sites = sorted(self.scope.sites_of(value))
        text = self.report.text(value.span)
        self.report.error(
            "LMP227",
            value.span,
            f"`{owner}` asks how likely a choice was, and `{text}` is not one",
            label=f"computed from `{sites[0]}`" if sites else "not drawn",
            help=f"ask about what is drawn: `{owner}({sites[0]})`"
            if sites
            else "give it the name of what is drawn with `~`",
        )

    def _report_type(self, argument: Argument, value: ir.Expr, owner: str) -> None:
        wanted = ACCEPTED_IN_WORDS[argument.accepts]
        text = self.report.text(value.span)
        if value.type.kind == "uncertain" and argument.accepts == "number":
            report_uncertain(self.report, value, f"`{owner}`")
            return
        if argument.accepts == "uncertain" and value.type.is_number:
            self.report.error(
                "LMP215",
                value.span,
                f"`{owner}` is a rule for an uncertain reward, and `{text}` is certain",
                label="a number already",
                help=f"use it as it is: `{text}`",
            )
            return
        help = None
        if argument.accepts == "words" and value.type.kind == "string":
            help = "a flat array of strings is wanted"
        elif argument.accepts in ("text", "string", "path", "model") and value.type.is_number:
            help = 'a string is written in quotes, or as f"{name}"'
        self.report.error(
            "LMP105",
            value.span,
            f"`{argument.name}` of `{owner}` is {wanted}, but this is {in_words(value.type)}",
            help=help,
        )

    def _check_value(self, argument: Argument, value: ir.Expr, what: str) -> bool:
        if argument.accepts == "words" and isinstance(value, ir.Constant):
            words = (value.value,) if isinstance(value.value, str) else value.value
            size = sum(len(each) for each in words) if isinstance(words, tuple) else 0
            if size > MOST_CHARACTERS:
                self.report.error(
                    "LMP028",
                    value.span,
                    f"{what} has {size:,} characters",
                    notes=[f"words have at most {MOST_CHARACTERS:,} together"],
                )
                return False
        if argument.choices and isinstance(value, ir.Constant):
            if value.value not in argument.choices:
                allowed = ", ".join(literal(each) for each in argument.choices)
                near = did_you_mean(str(value.value), argument.choices)
                self.report.error(
                    "LMP115",
                    value.span,
                    f"{what} cannot be {literal(value.value)}",
                    help=f"{near} (it is one of {allowed})" if near else f"it is one of {allowed}",
                )
                return False
        if argument.accepts in ("number", "int") and argument.range != Interval():
            range = value.type.range
            if isinstance(value, ir.Constant) and isinstance(value.value, (int, float)):
                outside = not argument.allows(value.value)
            else:
                outside = range.upper < argument.range.lower or range.lower > argument.range.upper
            if outside:
                self.report.error(
                    "LMP106",
                    value.span,
                    f"{what} must be {argument.domain}",
                    label=f"this is {literal(value.value)}"
                    if isinstance(value, ir.Constant)
                    else f"this is {range.in_words()}",
                )
                return False
        return True


def _has_accepted_type(accepts: Accepts, type: Type) -> bool:
    scalar = type.dimensions == 0
    flat = type.dimensions == 1
    match accepts:
        case "text" | "generated" | "string" | "regex" | "path" | "model":
            return type.kind == "string" and scalar
        case "words":
            return type.kind in ("string", "unknown") and type.dimensions <= 1
        case "number":
            return type.is_number
        case "int":
            return type.kind == "int" and scalar
        case "bool":
            return type.kind == "bool" and scalar
        case "uncertain":
            return type.kind == "uncertain" and scalar
        case "values":
            return flat and type.kind in ("string", "int", "real", "bool", "unknown")
        case "numbers":
            return flat and type.kind in ("int", "real", "unknown")
        case "prompt":
            return scalar and type.kind in (STRING.kind, CHAT.kind)
        case "label":
            return scalar and type.kind in ("string", "int")
        case "site":
            return True
        case "sources":
            return False
