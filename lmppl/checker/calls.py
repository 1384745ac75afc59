"""Calls: what is called, and what a call comes to."""

from __future__ import annotations

from collections.abc import Mapping

from lmppl.builtins import PLANNED, Builtin, named
from lmppl.builtins.kinds import Function, Measure
from lmppl.checker.arguments import ArgumentChecker, Check, Formal, formals_of
from lmppl.checker.files import FileReader
from lmppl.checker.names import NameChecker
from lmppl.checker.operands import report_uncertain, unknown
from lmppl.checker.results import BuiltinTyper, counts_tokens
from lmppl.checker.scope import KIND_IN_WORDS, Symbol
from lmppl.checker.typing_rules import fits, in_words, is_inside
from lmppl.errors import Label, Span, closest
from lmppl.ir import expr as ir
from lmppl.ir.model import Parameter
from lmppl.ir.types import UNKNOWN
from lmppl.syntax import ast

_FUNCTIONS = named("predicate", "function", "risk")
_STATISTICS = named("statistic")
_DISTRIBUTIONS = named("distribution")
_SOURCES = named("source")
_FORMALS_OF_FILE = (Formal("path"), Formal("format", required=False))


class CallChecker:
    """Checks calls in the expressions of a file; problems go to the report."""

    def __init__(
        self, check: Check, names: NameChecker, arguments: ArgumentChecker, reader: FileReader
    ) -> None:
        self._check = check
        self.names = names
        self.arguments = arguments
        self.scope = names.scope
        self.report = names.report
        self._reader = reader
        self._typer = BuiltinTyper(self.scope, self.report)

    def check(self, node: ast.Call) -> ir.Expr:
        """The typed call of a built-in, a reward or an extern function."""
        function = node.function
        if isinstance(function, ast.Attribute):
            symbol = self.names.member(function)
            return self._failed(node) if symbol is None else self._call_symbol(symbol, node)
        if not isinstance(function, ast.Name):
            self.report.error("LMP111", function.span, "this is not a function")
            return self._failed(node)
        name = function.name
        declared = self.scope.find(name)
        kinds = ("reward", "function", "language model", "import")
        if declared is not None and declared.kind in kinds:
            self.names.mark(declared, function.span)
            return self._call_symbol(declared, node)
        if name == "file":
            return self._read_file(node)
        builtin = _FUNCTIONS.get(name)
        if builtin is not None:
            return self._call_builtin(builtin, node)
        if self._report_not_callable(name, function.span, declared):
            return self.check_anyway(node)
        return self._failed(node)

    def _failed(self, node: ast.Call) -> ir.Expr:
        """A call that was reported; what it mentions counts as used."""
        self.names.use_all(node)
        return ir.Constant(UNKNOWN, node.span, None)

    def check_anyway(self, node: ast.Call) -> ir.Expr:
        """A call that was reported before its arguments were looked at: what is wrong with them."""
        for argument in node.arguments:
            self._check(argument.value)
        return ir.Constant(UNKNOWN, node.span, None)

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
            self.names.refuse(span, f"`{name}`")
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
            candidates = [*_FUNCTIONS, *self.scope.names("reward", "function"), "file"]
            near = closest(name, candidates)
            if near is not None:
                self.scope.use(near)
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

    def _read_file(self, node: ast.Call) -> ir.Expr:
        """The constant that `file("x", format="lines")` reads."""
        bound, complete = self.arguments.bind(
            "file", _FORMALS_OF_FILE, node.arguments, node.function.span
        )
        given = {name: self._check(argument.value) for name, argument in bound.items()}
        return self._reader.constant(given, node.span) if complete else unknown(node.span)

    def _call_builtin(self, builtin: Builtin, node: ast.Call) -> ir.Expr:
        name = builtin.name
        if isinstance(builtin, Function) and builtin.variadic and len(node.arguments) > 2:
            return self._call_variadic(builtin, node)
        bound, complete = self.arguments.bind(
            name, formals_of(builtin), node.arguments, node.function.span
        )
        checked, good = self.arguments.check(builtin, name, bound)
        if not (complete and good):
            return self._failed(node)
        if isinstance(builtin, Measure) and not self._is_measurable(builtin, checked):
            return self._failed(node)
        return self._typer.typed(builtin, checked, node.span)

    def _call_variadic(self, builtin: Builtin, node: ast.Call) -> ir.Expr:
        values: list[ir.Expr] = []
        for argument in node.arguments:
            value = self._check(argument.value)
            accepted = self.arguments.accept(builtin.arguments[0], value, builtin.name)
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
            found = self._typer.typed(builtin, {"a": found, "b": value}, node.span)
        return found

    def _is_measurable(self, measure: Measure, checked: Mapping[str, ir.Expr]) -> bool:
        """Whether a string is measured by what it has: only generated texts have tokens."""
        text = checked[measure.arguments[0].name]
        if not counts_tokens(measure, checked) or self.scope.is_text_site(text):
            return True
        message, help = measure.not_generated
        self.report.error("LMP226", text.span, message, help=help)
        return False

    def _call_symbol(self, symbol: Symbol, node: ast.Call) -> ir.Expr:
        if symbol.kind == "unknown":
            return self._failed(node)
        if not symbol.is_callable:
            message = f"`{symbol.name}` is {KIND_IN_WORDS[symbol.kind]}, not a function"
            help = None
            if symbol.kind == "language model":
                help = f"draw from it: `x ~ {symbol.name}(…)`"
            self.report.error("LMP112", node.function.span, message, help=help)
            return self._failed(node)
        formals = [Formal(each.name, each.default is None) for each in symbol.parameters]
        bound, good = self.arguments.bind(symbol.name, formals, node.arguments, node.function.span)
        values: list[ir.Expr] = []
        for parameter in symbol.parameters:
            if parameter.name not in bound:
                continue
            value = self._check(bound[parameter.name].value)
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
                report_uncertain(self.report, value, what)
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
            if not self.scope.is_text_site(value):
                self.arguments.report_not_generated(value, owner.name)
                return False
        return True
