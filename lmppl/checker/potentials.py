"""Factors and requirements."""

from __future__ import annotations

from typing import Literal

from lmppl.checker.body import Body
from lmppl.checker.declarations import FileChecker
from lmppl.checker.operands import report_uncertain, require_condition, require_number
from lmppl.errors import Label, Span
from lmppl.ir import expr as ir
from lmppl.ir.model import Facts, Potential
from lmppl.ir.types import Interval
from lmppl.syntax import ast

# Facts are found once the whole model is known.
_PLACEHOLDER = Facts(Interval(), "end")


class PotentialChecker:
    """Adds factors and requirements to the body of a model; problems go to the report."""

    def __init__(self, file: FileChecker, body: Body) -> None:
        self.report = file.report
        self.scope = file.scope
        self.expressions = file.expressions
        self.body = body
        self._labels: dict[str, Span] = {}
        self._counts = {"factor": 0, "require": 0}

    def _label(self, kind: str, label: ast.TermLabel | None) -> str:
        if label is None:
            self._counts[kind] += 1
            return f"{kind}_{self._counts[kind]}"
        if label.name in self._labels:
            self.report.error(
                "LMP231",
                label.span,
                f"two terms are called `{label.name}`",
                labels=[Label(self._labels[label.name], "the first one")],
            )
        else:
            self._labels[label.name] = label.span
        return label.name

    def factor(self, node: ast.Factor) -> None:
        """Adds a factor, which is a number that hangs on what is drawn."""
        value = self.expressions.check(node.value)
        label = self._label("factor", node.label)
        if value.type.kind == "unknown":
            return
        text = self.report.text(node.value.span)
        if value.type.kind == "uncertain":
            report_uncertain(self.report, value, "`factor`")
            return
        if value.type.kind == "bool" and not value.type.is_array:
            self.report.error(
                "LMP211",
                node.value.span,
                "`factor` takes a number, and this is a condition",
                help=f"to demand it, write `require {text}`; to favour it by two nats,"
                f" `factor if {text} then 2 else 0`",
            )
            return
        if not require_number(self.report, value, "`factor`"):
            return
        if not self.scope.sites_of(value):
            self.report.warning(
                "LMP209",
                node.value.span,
                "this factor is the same for every draw",
                label="no choice in it",
                notes=["it changes the evidence by a constant, and no draw"],
            )
        self._check_latent_index(value)
        self._add("factor", label, node, value, None, node.value.span)

    def require(self, node: ast.Require) -> None:
        """Adds a requirement, which is a condition."""
        condition = self.expressions.check(node.condition)
        guard = None if node.guard is None else self.expressions.check(node.guard)
        label = self._label("require", node.label)
        bad = condition.type.kind == "unknown"
        if not bad and not self._is_condition(condition):
            bad = True
        if guard is not None:
            if guard.type.kind == "unknown":
                bad = True
            elif not require_condition(self.report, guard, "`when`"):
                bad = True
        if bad:
            return
        applies = None if guard is None else self.scope.resolve(guard)
        if isinstance(applies, ir.Constant) and applies.value:
            guard = None
        asked = self.scope.resolve(condition)
        if isinstance(asked, ir.Constant) and guard is None:
            self._report_constant_requirement(asked, node)
        self._add("require", label, node, condition, guard, node.condition.span)

    def _is_condition(self, condition: ir.Expr) -> bool:
        if condition.type.kind == "bool" and not condition.type.is_array:
            return True
        text = self.report.text(condition.span)
        if condition.type.is_number:
            self.report.error(
                "LMP212",
                condition.span,
                "`require` takes a condition, and this is a number",
                help=f"compare it, as in `require {text} >= 0`; to favour large values,"
                f" `factor {text}`",
            )
            return False
        return require_condition(self.report, condition, "`require`")

    def _report_constant_requirement(self, condition: ir.Constant, node: ast.Require) -> None:
        if condition.value:
            self.report.warning(
                "LMP304", node.condition.span, "this always holds, so it requires nothing"
            )
        else:
            self.report.error(
                "LMP302",
                node.condition.span,
                "this never holds, whatever is drawn",
                notes=["the posterior would have zero mass"],
            )

    def _add(
        self,
        kind: Literal["factor", "require"],
        label: str,
        node: ast.Factor | ast.Require,
        value: ir.Expr,
        guard: ir.Expr | None,
        span: Span,
    ) -> None:
        names = self.scope.sites_of(value)
        if guard is not None:
            names |= self.scope.sites_of(guard)
        self.body.potentials.append(
            Potential(
                label,
                kind,
                value,
                _PLACEHOLDER,
                self.body.stage(names),
                span,
                guard,
                self.report.text(node.span),
            )
        )

    def _check_latent_index(self, value: ir.Expr) -> None:
        """An ensemble's member chosen by a latent: weights favour the most optimistic member."""
        for node in self.scope.nodes(value):
            chosen: ir.Expr | None = None
            if isinstance(node, ir.Index) and self._calls_reward(node.array):
                chosen = node.index
            elif isinstance(node, ir.Conditional) and self._picks_reward(node):
                chosen = node.condition
            if chosen is None:
                continue
            for name in sorted(self.scope.sites_of(chosen)):
                symbol = self.scope.find(name)
                if symbol is None or symbol.is_text or self._feeds_a_choice(name):
                    continue
                self.report.error(
                    "LMP213",
                    chosen.span,
                    f"the choice `{name}` picks which reward counts",
                    labels=[Label(symbol.span, "drawn here")],
                    notes=[
                        "the factor weights this choice too, so the posterior favours whichever"
                        " reward is the most optimistic about each text"
                    ],
                    help="make them members of one `ensemble([…])` and name a risk rule",
                )
                return

    def _calls_reward(self, expr: ir.Expr) -> bool:
        return any(isinstance(node, ir.RewardCall) for node in self.scope.nodes(expr))

    def _picks_reward(self, node: ir.Conditional) -> bool:
        """Whether a conditional chooses between two rewards."""
        branches = (self.scope.resolve(each) for each in (node.consequent, node.alternative))
        rewards = [each.reward for each in branches if isinstance(each, ir.RewardCall)]
        return len(rewards) == 2 and rewards[0] != rewards[1]

    def _feeds_a_choice(self, name: str) -> bool:
        return any(
            name in self.scope.sites_of(argument)
            for site in self.body.sites
            for argument in site.distribution.arguments.values()
        )
