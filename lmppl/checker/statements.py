"""The body of a model: choices, values and what is returned; the rest has rooms of its own."""

from __future__ import annotations

from lmppl.builtins import distribution_of, named
from lmppl.checker.body import Body
from lmppl.checker.claims import ClaimChecker
from lmppl.checker.declarations import FileChecker
from lmppl.checker.distributions import DistributionChecker, called_name
from lmppl.checker.operands import report_uncertain
from lmppl.checker.potentials import PotentialChecker
from lmppl.checker.scope import Symbol
from lmppl.checker.typing_rules import in_words
from lmppl.errors import Label, Span
from lmppl.ir import expr as ir
from lmppl.ir.model import Distribution, Let, Output, Site
from lmppl.ir.types import CHAT, UNKNOWN, Type
from lmppl.records import replace
from lmppl.syntax import ast

_DISTRIBUTIONS = named("distribution")


class ModelChecker:
    """Checks the one model of a file against the file's declarations."""

    def __init__(self, node: ast.Model, file: FileChecker) -> None:
        self.node = node
        self.file = file
        self.report = file.report
        self.scope = file.scope
        self.names = file.names
        self.expressions = file.expressions
        self.body = Body()
        self._distributions = DistributionChecker(file)
        self._potentials = PotentialChecker(file, self.body)
        self._claims = ClaimChecker(file)
        self._return: ast.Return | None = None
        self._drawn: dict[str, Span] = {}

    def check(self) -> Body:
        """The checked body; problems are in the report."""
        node = self.node
        self.body.parameters = self.file.types.parameters(
            node.parameters, may_default=True, owner=node.name
        )
        for parameter in self.body.parameters:
            symbol = Symbol(
                parameter.name,
                "unknown" if parameter.type.kind == "unknown" else "parameter",
                parameter.span,
                parameter.type,
            )
            self.names.declare(parameter.name, symbol)
        for statement in node.statements:
            if isinstance(statement, (ast.Sample, ast.Let)):
                if self.scope.find(statement.name) is None:
                    self.scope.later.setdefault(statement.name, statement.name_span)
        for statement in node.statements:
            self._check_statement(statement)
        if not self.body.sites and not any(
            isinstance(each, ast.Sample) for each in node.statements
        ):
            self.report.error(
                "LMP223",
                node.name_span,
                f"the model `{node.name}` draws nothing",
                help='draw something: `text ~ lm("builtin:stories", prompt="…", max_tokens=40)`',
            )
        if self._return is None:
            self._return_everything()
        return self.body

    def _return_everything(self) -> None:
        for site in self.body.sites:
            symbol = self.scope.use(site.name)
            assert symbol is not None
            reference = self.names.reference(symbol, site.span)
            self.body.outputs.append(Output(site.name, reference))

    def _check_statement(self, statement: ast.Statement) -> None:
        match statement:
            case ast.Sample():
                self._check_sample(statement)
            case ast.Let():
                self._check_let(statement)
            case ast.Factor():
                self._potentials.factor(statement)
            case ast.Require():
                self._potentials.require(statement)
            case ast.Expect():
                claim = self._claims.check(statement)
                if claim is not None:
                    self.body.expectations.append(claim)
            case ast.Return():
                self._check_return(statement)
            case ast.Observe():
                self._refuse_observe(statement)
            case ast.Moment():
                self._refuse(statement, "`moment`", len("moment"))

    def _refuse(self, statement: ast.Statement, what: str, length: int) -> None:
        """Refuses a statement at its keyword; the names in it count as used."""
        span = statement.span
        keyword = replace(
            span, end=span.start + length, end_line=span.line, end_column=span.column + length
        )
        self.names.refuse(keyword, what)
        self.names.use_all(statement)

    def _refuse_observe(self, statement: ast.Observe) -> None:
        value = statement.value
        if isinstance(value, ast.Name):
            symbol = self.scope.use(value.name)
            if symbol is not None and symbol.kind == "site":
                self.report.error(
                    "LMP214",
                    value.span,
                    f"`{value.name}` is drawn by the model, so it cannot also be observed",
                    labels=[Label(symbol.span, "drawn here")],
                    help="observe a parameter or a constant; to weight a choice, use `factor`",
                )
                self.names.use_all(statement)
                return
        self._refuse(statement, "`observe`", len("observe"))

    def _check_sample(self, node: ast.Sample) -> None:
        distribution = self._distributions.check(node.distribution)
        earlier = self.scope.find(node.name)
        if earlier is not None and node.name in self._drawn:
            self.report.error(
                "LMP104",
                node.name_span,
                f"`{node.name}` is drawn twice",
                labels=[Label(self._drawn[node.name], "first drawn here")],
                help="the name of a choice is its address: give the second one another name",
            )
            return
        self._drawn[node.name] = node.name_span
        symbol = Symbol(node.name, "site", node.name_span)
        if distribution is None:
            symbol.kind = "unknown"
            self.names.declare(node.name, symbol)
            return
        symbol.is_text = distribution.is_text
        budget = distribution.argument("max_tokens")
        if budget is not None:
            symbol.most_tokens = budget.type.range.upper
        symbol.type = self._site_type(distribution)
        if symbol.type.kind == "unknown":
            symbol.kind = "unknown"
        values = distribution.argument("values")
        support = None if values is None else self.scope.resolve(values)
        if isinstance(support, ir.Constant) and isinstance(support.value, tuple):
            symbol.values = support.value
        if self.names.declare(node.name, symbol):
            self.body.sites.append(Site(node.name, distribution, symbol.type, node.name_span))

    def _site_type(self, distribution: Distribution) -> Type:
        types = {name: value.type for name, value in distribution.arguments.items()}
        return distribution_of(distribution).type_of(types)

    def _check_let(self, node: ast.Let) -> None:
        symbol = Symbol(node.name, "let", node.name_span)
        value = self._let_value(node)
        type = value.type
        if node.type is not None:
            declared = self.file.types.check(node.type)
            if not self.file.types.require(value, declared, f"`{node.name}`", node.type.span):
                type = UNKNOWN
            elif type.kind == "unknown":
                type = declared
        if type.kind == "unknown" and not type.is_array:
            symbol.kind = "unknown"
            self.names.declare(node.name, symbol)
            return
        symbol.type, symbol.expr = type, value
        symbol.sites = self.scope.sites_of(value)
        if self.names.declare(node.name, symbol):
            stage = self.body.stage(symbol.sites)
            self.body.lets.append(Let(node.name, value, stage, node.name_span))

    def _let_value(self, node: ast.Let) -> ir.Expr:
        call = node.value
        name = called_name(call)
        if isinstance(call, ast.Call) and name is not None:
            if self.scope.find(name) is None and name in _DISTRIBUTIONS:
                self.report.error(
                    "LMP112",
                    call.function.span,
                    f"`{name}` is a distribution, which is drawn with `~`",
                    help=f"write `{node.name} ~ {name}(…)`",
                )
                return self.expressions.calls.check_anyway(call)
        return self.expressions.check(node.value)

    def _check_return(self, node: ast.Return) -> None:
        if self._return is not None:
            self.report.error(
                "LMP224",
                node.span,
                "a model returns once",
                labels=[Label(self._return.span, "the first `return`")],
            )
            return
        self._return = node
        taken: dict[str, Span] = {}
        for each in node.values:
            value = self.expressions.check(each)
            name = self.report.text(each.span)
            if name in taken:
                self.report.error(
                    "LMP103",
                    each.span,
                    f"`{name}` is returned twice",
                    labels=[Label(taken[name], "the first time")],
                )
                continue
            taken[name] = each.span
            if value.type.kind == "unknown":
                continue
            if value.type.kind == "uncertain":
                report_uncertain(self.report, value, "`return`")
                continue
            if value.type.is_array or value.type.kind == CHAT.kind:
                self.report.error(
                    "LMP105",
                    each.span,
                    f"a draw reports strings, numbers and conditions, not {in_words(value.type)}",
                )
                continue
            self.body.outputs.append(Output(name, value))
