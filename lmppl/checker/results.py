"""Calls of built-ins: their ranges, and their values where all is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from lmppl.builtins import Builtin
from lmppl.builtins.risk_ranges import rule_range
from lmppl.checker.report import Report
from lmppl.checker.scope import Scope
from lmppl.errors import Span
from lmppl.evaluation.constants import arithmetic
from lmppl.ir import expr as ir
from lmppl.ir.types import INT, UNKNOWN, Interval


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
        if builtin.name in ("log", "sqrt") and not self._is_in_domain(builtin, arguments["x"]):
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
        return reward is not None and reward.source.kind == "ensemble"

    def _length_range(self, arguments: Mapping[str, ir.Expr]) -> Interval:
        """From 0 to the budget of the text where tokens are counted, else to no bound."""
        unit = arguments.get("unit")
        in_tokens = unit is None or (isinstance(unit, ir.Constant) and unit.value == "tokens")
        site = self.scope.text_site(arguments["text"])
        return Interval(0.0, site.most_tokens if in_tokens and site is not None else math.inf)

    def _is_in_domain(self, builtin: Builtin, x: ir.Expr) -> bool:
        if x.type.range.upper >= 0.0:
            return True
        self.report.error(
            "LMP205",
            x.span,
            f"`{builtin.name}` of a number that is always below 0",
            label=f"this is {x.type.range.in_words()}",
        )
        return False
