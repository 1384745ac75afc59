"""Claims about the posterior: `expect mean(…) >= 0.5`."""

from __future__ import annotations

from lmppl.builtins import every
from lmppl.builtins.kinds import Statistic
from lmppl.builtins.signature import Argument
from lmppl.checker.arguments import formals_of
from lmppl.checker.declarations import FileChecker
from lmppl.checker.distributions import called_name
from lmppl.checker.operands import require_number
from lmppl.errors import Label, Span
from lmppl.ir import expr as ir
from lmppl.ir.model import Expectation
from lmppl.syntax import ast

_STATISTICS = every(Statistic)
_FLIPPED = {"<=": ">=", "<": ">", ">=": "<=", ">": "<", "==": "=="}


class ClaimChecker:
    """Checks the claims of a model; problems go to the report."""

    def __init__(self, file: FileChecker) -> None:
        self.report = file.report
        self.scope = file.scope
        self.expressions = file.expressions
        self._labels: dict[str, Span] = {}

    def check(self, node: ast.Expect) -> Expectation | None:
        """The claim; None where it was reported."""
        claim = node.claim
        call, bound_node, operator = None, None, ""
        if isinstance(claim, ast.Compare) and claim.operator in _FLIPPED:
            if _is_statistic(claim.left):
                call, bound_node, operator = claim.left, claim.right, claim.operator
            elif _is_statistic(claim.right):
                call, bound_node = claim.right, claim.left
                operator = _FLIPPED[claim.operator]
        if call is None or bound_node is None:
            self._refuse(node)
            return None
        assert isinstance(call, ast.Call) and isinstance(call.function, ast.Name)
        builtin = _STATISTICS[call.function.name]
        arguments = self._arguments(builtin, call)
        bound = self.expressions.check(bound_node)
        if bound.type.kind == "unknown" or arguments is None:
            return None
        if not require_number(self.report, bound, "the bound of a claim"):
            return None
        if self.scope.sites_of(bound):
            self.report.error(
                "LMP216",
                bound_node.span,
                "the bound of a claim depends on a choice",
                help="compare the statistic with a constant or a parameter",
            )
            return None
        source = self.report.text(claim.span)
        label = source
        if node.label is not None:
            label = node.label.name
            if label in self._labels:
                self.report.error(
                    "LMP231",
                    node.label.span,
                    f"two claims are called `{label}`",
                    labels=[Label(self._labels[label], "the first one")],
                )
            self._labels.setdefault(label, node.label.span)
        value = arguments.get("e", arguments.get("p"))
        assert value is not None
        return Expectation(
            label,
            builtin.name,  # type: ignore[arg-type]
            value,
            operator,  # type: ignore[arg-type]
            bound,
            claim.span,
            source,
            arguments.get("q"),
        )

    def _arguments(self, builtin: Statistic, call: ast.Call) -> dict[str, ir.Expr] | None:
        """The arguments of a statistic of the posterior; None when one was reported."""
        bound, good = self.expressions.arguments.bind(
            builtin.name, formals_of(builtin), call.arguments, call.function.span
        )
        checked: dict[str, ir.Expr] = {}
        for argument in builtin.arguments:
            if argument.name not in bound:
                continue
            value = self.expressions.check(bound[argument.name].value)
            accepted = self._accepted(argument, value, builtin)
            if accepted is None:
                good = False
            else:
                checked[argument.name] = accepted
        return checked if good else None

    def _accepted(self, argument: Argument, value: ir.Expr, builtin: Statistic) -> ir.Expr | None:
        text = self.report.text(value.span)
        if value.type.kind == "uncertain":
            self.report.error(
                "LMP210",
                value.span,
                f"`{text}` is uncertain, and `{builtin.name}` of the posterior takes a number",
                notes=["averaging over the posterior and over the reward's spread are two things"],
                help=f"name a risk rule inside: `{builtin.name}(mean({text}))`",
            )
            return None
        if builtin.of_conditions is not None and value.type.kind == "bool":
            self.report.error(
                "LMP105",
                value.span,
                f"`{builtin.name}` takes a number, and this is a condition",
                help=f"write `{builtin.of_conditions}({text})`",
            )
            return None
        return self.expressions.arguments.accept(argument, value, builtin.name)

    def _refuse(self, node: ast.Expect) -> None:
        """Refuses a claim of another form, and finds what else is wrong with it."""
        claim = node.claim
        self.report.error(
            "LMP216",
            claim.span,
            "a claim compares one statistic of the posterior with a bound",
            help="write for instance `expect mean(sentiment(text)) >= 0.5` or"
            ' `expect probability(contains(text, "she")) >= 0.4`',
        )
        self.expressions.names.use_all(claim)


def _is_statistic(node: ast.Expr) -> bool:
    return called_name(node) in _STATISTICS
