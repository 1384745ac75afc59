"""Calls: which argument is which, and what each may be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lmppl.builtins import PLANNED, Argument, Builtin, named
from lmppl.builtins.risk_ranges import rule_range
from lmppl.builtins.signature import ACCEPTED_IN_WORDS, Accepts
from lmppl.checker.report import did_you_mean
from lmppl.checker.scope import KIND_IN_WORDS, Symbol
from lmppl.checker.typing_rules import fits, in_words, is_inside, literal
from lmppl.errors import Label, Span, closest
from lmppl.evaluation.constants import MOST_CHARACTERS, arithmetic
from lmppl.ir import expr as ir
from lmppl.ir.model import Parameter
from lmppl.ir.types import INT, UNKNOWN, Interval, Type
from lmppl.syntax import ast

if TYPE_CHECKING:
    from lmppl.checker.expressions import ExpressionChecker

_FUNCTIONS = named("predicate", "function", "risk")
_STATISTICS = named("statistic")
_DISTRIBUTIONS = named("distribution")
_SOURCES = named("source")
# Built-ins of two numbers that may be given more.
_VARIADIC = frozenset({"min", "max"})


@dataclass(frozen=True, slots=True)
class Formal:
    """An argument that a call can have, whatever is called."""

    name: str
    required: bool = True
    named_only: bool = False


def formals_of(builtin: Builtin) -> tuple[Formal, ...]:
    """What a call of the built-in can have."""
    return tuple(Formal(a.name, a.required, a.named_only) for a in builtin.arguments)


class CallChecker:
    """The part of the expression checker that knows calls."""

    def __init__(self, expressions: ExpressionChecker) -> None:
        self.expressions = expressions
        self.report = expressions.report

    def check(self, node: ast.Call) -> ir.Expr:
        """The typed call of a built-in, a reward or an extern function."""
        function = node.function
        if isinstance(function, ast.Attribute):
            symbol = self.expressions.member(function)
            return self._failed(node) if symbol is None else self._call_symbol(symbol, node)
        if not isinstance(function, ast.Name):
            self.report.error("LMP111", function.span, "this is not a function")
            return self._failed(node)
        name = function.name
        declared = self.expressions.scope.find(name)
        if declared is not None and (declared.is_callable or declared.kind in ("lm", "import")):
            declared.used = True
            return self._call_symbol(declared, node)
        if name == "file":
            return self.expressions.read_file(node, self.expressions)
        builtin = _FUNCTIONS.get(name)
        if builtin is not None:
            return self._call_builtin(builtin, node)
        if self._report_not_callable(name, function.span, declared):
            return self.check_anyway(node)
        return self._failed(node)

    def _failed(self, node: ast.Call) -> ir.Expr:
        """A call that was reported; what it mentions counts as used."""
        self.use_names(node)
        return ir.Constant(UNKNOWN, node.span, None)

    def check_anyway(self, node: ast.Call) -> ir.Expr:
        """A call that was reported before its arguments were looked at: what is wrong with them."""
        for argument in node.arguments:
            self.expressions.check(argument.value)
        return ir.Constant(UNKNOWN, node.span, None)

    def use_names(self, node: ast.Node) -> None:
        """Counts every name below a refused part of the program as used."""
        for each in ast.walk(node):
            if isinstance(each, (ast.Name, ast.Interpolation)):
                self.expressions.scope.use(each.name)
            elif isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name):
                owner = self.expressions.scope.use(each.value.name)
                if owner is not None and each.name in owner.module:
                    owner.module[each.name].used = True

    def _report_not_callable(self, name: str, span: Span, declared: Symbol | None) -> bool:
        """Says why a name cannot be called; true where the name is simply unknown."""
        if declared is not None and declared.kind == "unknown":
            declared.used = True
            return False
        if declared is not None:
            declared.used = True
            self.report.error(
                "LMP111",
                span,
                f"`{name}` is {KIND_IN_WORDS[declared.kind]}, not a function",
                labels=[Label(declared.span, "declared here")],
            )
        elif name in PLANNED:
            self.refuse(span, f"`{name}`")
        elif name in _STATISTICS:
            self.report.error(
                "LMP216",
                span,
                f"`{name}` asks about the posterior, which only `expect` can do",
                help="here, before the posterior is known, a draw has no such value",
            )
        elif name in _DISTRIBUTIONS:
            self.report.error(
                "LMP112",
                span,
                f"`{name}` is a distribution, which has no value until it is drawn from",
                help=f"draw first: `x ~ {name}(…)`, then use `x`",
            )
        elif name in _SOURCES:
            self.report.error(
                "LMP111",
                span,
                f"`{name}` is where a reward comes from, not a function",
                help=f"declare it: `reward r(t: string): real = {name}(…)`, then call `r(text)`",
            )
        else:
            scope = self.expressions.scope
            candidates = [*_FUNCTIONS, *scope.names("reward", "function"), "file"]
            near = closest(name, candidates)
            if near is not None:
                scope.use(near)
            self.report.error(
                "LMP101",
                span,
                f"no function or reward is called `{name}`",
                help=f"did you mean `{near}`?"
                if near is not None
                else f"declare a score, as in `reward {name}(t: string): real = vader()`, or a"
                f" function of the host, `extern function {name}(t: string): real`",
            )
            return True
        return False

    def refuse(self, span: Span, what: str) -> None:
        """Refuses what the language has but this version cannot do."""
        self.report.error(
            "LMP230",
            span,
            f"{what} has no meaning yet in this version",
            notes=["it is refused, because ignoring it would change the posterior"],
        )

    # -- arguments -----------------------------------------------------------------------------

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

    def check_arguments(
        self, builtin: Builtin, name: str, bound: Mapping[str, ast.Argument]
    ) -> tuple[dict[str, ir.Expr], bool]:
        """The typed arguments of a built-in that fit, and whether all did."""
        checked: dict[str, ir.Expr] = {}
        good = True
        for argument in builtin.arguments:
            if argument.name not in bound:
                continue
            value = self.expressions.check(bound[argument.name].value)
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
        scope = self.expressions.scope
        what = f"`{argument.name}` of `{owner}`"
        if not _has_accepted_type(argument.accepts, value.type):
            self._report_type(argument, value, owner)
            return None
        if argument.accepts == "generated" and not scope.is_text_site(value):
            self.report_not_generated(value, owner)
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

    def _report_type(self, argument: Argument, value: ir.Expr, owner: str) -> None:
        wanted = ACCEPTED_IN_WORDS[argument.accepts]
        text = self.report.text(value.span)
        if value.type.kind == "uncertain" and argument.accepts == "number":
            self.expressions.report_uncertain(value, f"`{owner}`")
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
        elif argument.accepts in ("text", "string") and value.type.is_number:
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

    # -- what can be called --------------------------------------------------------------------

    def _call_builtin(self, builtin: Builtin, node: ast.Call) -> ir.Expr:
        name = builtin.name
        if name in _VARIADIC and len(node.arguments) > 2:
            return self._call_variadic(builtin, node)
        bound, complete = self.bind(name, formals_of(builtin), node.arguments, node.function.span)
        checked, good = self.check_arguments(builtin, name, bound)
        if not (complete and good):
            return self._failed(node)
        if name == "length" and not self._check_unit(checked):
            return self._failed(node)
        return self.builtin_call(builtin, checked, node.span)

    def _call_variadic(self, builtin: Builtin, node: ast.Call) -> ir.Expr:
        values: list[ir.Expr] = []
        for argument in node.arguments:
            value = self.expressions.check(argument.value)
            accepted = self.accept(builtin.arguments[0], value, builtin.name)
            if argument.name is not None:
                self.report.error(
                    "LMP109", argument.span, f"the numbers of `{builtin.name}` have no names"
                )
                return self._failed(node)
            if accepted is None:
                return self._failed(node)
            values.append(accepted)
        found = values[0]
        for value in values[1:]:
            found = self.builtin_call(builtin, {"a": found, "b": value}, node.span)
        return found

    def _check_unit(self, checked: Mapping[str, ir.Expr]) -> bool:
        unit = checked.get("unit")
        in_tokens = unit is None or (isinstance(unit, ir.Constant) and unit.value == "tokens")
        if in_tokens and not self.expressions.scope.is_text_site(checked["text"]):
            self.report.error(
                "LMP226",
                checked["text"].span,
                "only the text of a choice has a length in tokens",
                help='say what to count: `unit="characters"` or `unit="words"`',
            )
            return False
        return True

    def builtin_call(
        self, builtin: Builtin, arguments: Mapping[str, ir.Expr], span: Span
    ) -> ir.Expr:
        """The call with its range, folded where all is known."""
        ranges = {
            name: value.type.range
            for name, value in arguments.items()
            if value.type.is_number or value.type.kind == "uncertain"
        }
        for argument in builtin.arguments:
            default = argument.default
            if argument.name not in ranges and isinstance(default, (int, float)):
                ranges[argument.name] = Interval(float(default), float(default))
        if builtin.kind == "risk" and self._is_ensemble(arguments["r"]):
            # Values of an ensemble never leave the range of its members.
            range = rule_range(builtin.name, ranges["r"], ranges, may_be_gaussian=False)
        else:
            range = builtin.result_range(ranges)
        type = replace(builtin.result, range=range)
        if builtin.name == "length":
            type = replace(type, range=self._length_range(arguments))
        numbers_only = builtin.name in ("abs", "min", "max", "clamp")
        if numbers_only and all(value.type.kind == "int" for value in arguments.values()):
            type = replace(INT, range=type.range)
        if builtin.name in ("log", "sqrt") and not self._check_domain(builtin, arguments["x"]):
            return ir.Constant(UNKNOWN, span, None)
        function = arithmetic(builtin.name)
        if function is not None and arguments:
            constants = [v.value for v in arguments.values() if isinstance(v, ir.Constant)]
            if len(constants) == len(arguments):
                try:
                    value = function(*constants)
                except (ArithmeticError, ValueError):
                    value = math.nan
                if isinstance(value, (int, float)) and math.isfinite(value):
                    point = Interval(float(value), float(value))
                    kind = INT if isinstance(value, int) else type
                    return ir.Constant(replace(kind, range=point), span, value)
                self.report.error("LMP205", span, "this has no finite value")
                return ir.Constant(UNKNOWN, span, None)
        ordered = tuple(
            (a.name, arguments[a.name]) for a in builtin.arguments if a.name in arguments
        )
        return ir.Call(type, span, builtin.name, ordered)

    def _is_ensemble(self, expr: ir.Expr) -> bool:
        found = self.expressions.scope.resolve(expr)
        if not isinstance(found, ir.RewardCall):
            return False
        # A reward of an imported file is found under the name of the import.
        owner, _, name = found.reward.rpartition(".")
        scope = self.expressions.scope
        symbol = scope.find(name)
        if owner:
            imported = scope.find(owner)
            symbol = None if imported is None else imported.module.get(name)
        reward = None if symbol is None else symbol.reward
        return reward is not None and reward.source.kind == "ensemble"

    def _length_range(self, arguments: Mapping[str, ir.Expr]) -> Interval:
        """From 0 to the budget of the text where tokens are counted, else to no bound."""
        unit = arguments.get("unit")
        in_tokens = unit is None or (isinstance(unit, ir.Constant) and unit.value == "tokens")
        site = self.expressions.scope.text_site(arguments["text"])
        return Interval(0.0, site.most_tokens if in_tokens and site is not None else math.inf)

    def _check_domain(self, builtin: Builtin, x: ir.Expr) -> bool:
        if x.type.range.upper >= 0.0:
            return True
        self.report.error(
            "LMP205",
            x.span,
            f"`{builtin.name}` of a number that is always below 0",
            label=f"this is {x.type.range.in_words()}",
        )
        return False

    def _call_symbol(self, symbol: Symbol, node: ast.Call) -> ir.Expr:
        if symbol.kind == "unknown":
            return self._failed(node)
        if not symbol.is_callable:
            message = f"`{symbol.name}` is {KIND_IN_WORDS[symbol.kind]}, not a function"
            help = None
            if symbol.kind == "lm":
                help = f"draw from it: `x ~ {symbol.name}(…)`"
            self.report.error("LMP112", node.function.span, message, help=help)
            return self._failed(node)
        formals = [Formal(each.name, each.default is None) for each in symbol.parameters]
        bound, good = self.bind(symbol.name, formals, node.arguments, node.function.span)
        values: list[ir.Expr] = []
        for parameter in symbol.parameters:
            if parameter.name not in bound:
                continue
            value = self.expressions.check(bound[parameter.name].value)
            good = self._check_given(parameter, value, symbol) and good
            values.append(value)
        if not good or symbol.type is None:
            return self._failed(node)
        if symbol.kind == "reward":
            return ir.RewardCall(symbol.type, node.span, symbol.name, tuple(values))
        return ir.ExternCall(symbol.type, node.span, symbol.name, tuple(values))

    def _check_given(self, parameter: Parameter, value: ir.Expr, owner: Symbol) -> bool:
        """Whether a value may be given for a parameter of a reward or an extern function."""
        if value.type.kind == "unknown" or parameter.type.kind == "unknown":
            return False
        what = f"`{parameter.name}` of `{owner.name}`"
        declared = [Label(parameter.span, "declared here")]
        if not fits(value.type, parameter.type):
            if value.type.kind == "uncertain":
                self.expressions.report_uncertain(value, what)
            else:
                self.report.error(
                    "LMP105",
                    value.span,
                    f"{what} is {in_words(parameter.type)}, but this is {in_words(value.type)}",
                    labels=declared,
                )
            return False
        if parameter.type.kind in ("int", "real") and not is_inside(
            value.type.range, parameter.type.range
        ):
            self.report.error(
                "LMP106",
                value.span,
                f"{what} must be {parameter.type.range.in_words()}",
                label=f"this is {value.type.range.in_words()}",
                labels=declared,
                help="bound it: `clamp(…, lower=…, upper=…)`",
            )
            return False
        reads_tokens = owner.reward is not None and owner.reward.inputs == "tokens"
        if reads_tokens and parameter.type.kind == "string":
            if not self.expressions.scope.is_text_site(value):
                self.report_not_generated(value, owner.name)
                return False
        return True


def _has_accepted_type(accepts: Accepts, type: Type) -> bool:
    scalar = type.dimensions == 0
    flat = type.dimensions == 1
    match accepts:
        case "text" | "generated" | "string" | "regex":
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
            return scalar and type.kind in ("string", "chat")
        case "label":
            return scalar and type.kind in ("string", "int")
        case "sources":
            return False
