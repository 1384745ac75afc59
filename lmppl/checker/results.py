"""Calls of built-ins: their ranges, and their values where all is known."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lmppl.builtins import Builtin, source_of
from lmppl.builtins.kinds import Function, Measure, Rule
from lmppl.checker.report import Report
from lmppl.checker.scope import Scope
from lmppl.errors import Span
from lmppl.evaluation.constants import arithmetic
from lmppl.ir import expr as ir
from lmppl.ir.types import INT, UNKNOWN, Interval
from lmppl.records import replace


class BuiltinTyper:
    """Gives calls of built-ins their types; problems go to the report."""

    def __init__(self, scope: Scope, report: Report) -> None:
        self.scope = scope
        self.report = report

    def typed(self, builtin: Builtin, arguments: Mapping[str, ir.Expr], span: Span) -> ir.Expr:
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
        match builtin:
            case Rule():
                may_be_gaussian = not self._gives_members(next(iter(arguments.values())))
                range = builtin.range(ranges, may_be_gaussian=may_be_gaussian)
            case Measure():
                range = self._measured_range(builtin, arguments)
            case _:
                range = builtin.range(ranges)
        type = replace(builtin.result, range=range)
        if isinstance(builtin, Function):
            are_ints = all(value.type.kind == "int" for value in arguments.values())
            if builtin.keeps_ints and are_ints:
                type = replace(INT, range=type.range)
            if not all(self._is_in_domain(builtin, value) for value in arguments.values()):
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

    def _gives_members(self, expr: ir.Expr) -> bool:
        """Whether an uncertain reward never leaves the range of its members."""
        found = self.scope.resolve(expr)
        if not isinstance(found, ir.RewardCall):
            return False
        # A reward of an imported file is found under the name of the import.
        owner, _, name = found.reward.rpartition(".")
        scope = self.scope
        symbol = scope.find(name)
        if owner:
            imported = scope.find(owner)
            symbol = None if imported is None else imported.module.get(name)
        reward = None if symbol is None else symbol.reward
        return reward is not None and source_of(reward.source).gives_members

    def _measured_range(self, measure: Measure, arguments: Mapping[str, ir.Expr]) -> Interval:
        """From 0 to the budget of the text where tokens are counted, else to no bound."""
        site = self.scope.text_site(arguments[measure.arguments[0].name])
        if site is None or not counts_tokens(measure, arguments):
            return measure.range({})
        return Interval(0.0, site.most_tokens)

    def _is_in_domain(self, function: Function, x: ir.Expr) -> bool:
        if x.type.range.upper >= function.domain.lower:
            return True
        self.report.error(
            "LMP205",
            x.span,
            f"`{function.name}` of a number that is always below {function.domain.lower:g}",
            label=f"this is {x.type.range.in_words()}",
        )
        return False


def counts_tokens(measure: Measure, arguments: Mapping[str, ir.Expr]) -> bool:
    """Whether a measure with these arguments needs the tokens of a text."""
    known = {n: each.value for n, each in arguments.items() if isinstance(each, ir.Constant)}
    return measure.countable.reads(**measure.complete(known)) == "tokens"
