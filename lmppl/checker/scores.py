"""Declared rewards, and what the host program gives: its rewards, functions and models."""

from __future__ import annotations

import math
from typing import Any

from lmppl.checker.expressions import ExpressionChecker
from lmppl.checker.files import FileReader
from lmppl.checker.report import did_you_mean
from lmppl.checker.scope import KIND_OF_EXTERN, Symbol
from lmppl.checker.sources import SourceChecker
from lmppl.checker.types import TypeChecker
from lmppl.checker.typing_rules import in_words
from lmppl.errors import Label
from lmppl.ir import expr as ir
from lmppl.ir.model import EXTERN, Extern, Reward, RewardSource
from lmppl.ir.types import UNKNOWN, Interval, Type
from lmppl.records import replace
from lmppl.syntax import ast

# What an extern reward may say of itself beside its parameters and type.
_REWARD_OPTIONS = {"inputs": ("text", "tokens"), "noise": ("none", "unbiased")}


class ScoreChecker:
    """Declares the rewards and externs of one file; problems go to the report."""

    def __init__(
        self, expressions: ExpressionChecker, types: TypeChecker, reader: FileReader
    ) -> None:
        self.expressions = expressions
        self.types = types
        self.report = expressions.report
        self.names = expressions.names
        self.sources = SourceChecker(expressions, reader, expressions.report)
        self.rewards: dict[str, Reward] = {}
        self.externs: dict[str, Extern] = {}

    def reward(self, node: ast.Reward) -> None:
        """Declares a reward."""
        parameters = self.types.parameters(node.parameters, may_default=False, owner=node.name)
        declared = None if node.type is None else self._check_reward_type(node.type)
        checked = self.sources.check(node.source, parameters, node)
        symbol = Symbol(node.name, "reward", node.name_span, parameters=parameters)
        if checked is not None:
            source, found = checked
            type = self._reward_type(node, declared, found)
            if type is not None and all(each.type.kind != "unknown" for each in parameters):
                symbol.type = type
                symbol.reward = Reward(node.name, parameters, type, source, node.name_span)
            elif declared is not None and declared.kind == found.kind:
                # Only the range was wrong, so calls are still checked.
                symbol.type = declared
        elif declared is not None and declared.kind != "unknown":
            # The source was reported; calls are still checked against what was declared.
            symbol.type = declared
        if self.names.declare(node.name, symbol, callable=True) and symbol.reward is not None:
            self.rewards[node.name] = symbol.reward

    def _check_reward_type(self, node: ast.TypeExpr) -> Type:
        type = self.types.check(node)
        if type.kind in ("int", "real", "uncertain") and not type.is_array:
            return type
        if type.kind != "unknown":
            self.report.error(
                "LMP218",
                node.span,
                f"a reward is a number, or uncertain, and not {in_words(type)}",
            )
        return UNKNOWN

    def _reward_type(self, node: ast.Reward, declared: Type | None, found: Type) -> Type | None:
        """The type of a reward from what was declared and what its source gives."""
        if declared is None:
            return found
        if declared.kind == "unknown":
            return None
        assert node.type is not None
        if (declared.kind == "uncertain") != (found.kind == "uncertain"):
            gives = "an uncertain reward" if found.kind == "uncertain" else "a certain number"
            self.report.error(
                "LMP218",
                node.type.span,
                f"`{node.name}` is declared {declared.kind}, but its source gives {gives}",
                labels=[Label(node.source.span, gives)],
                help="declare it `uncertain`, and name a risk rule where it is used"
                if found.kind == "uncertain"
                else "declare it `real`, or make it an `ensemble([…])`",
            )
            return None
        if declared.kind == "int" and found.kind == "real":
            self.report.error(
                "LMP218",
                node.type.span,
                f"`{node.name}` is declared int, but its source gives real numbers",
                labels=[Label(node.source.span, "real numbers")],
            )
            return None
        too_narrow = (
            math.isfinite(found.range.lower) and declared.range.lower > found.range.lower
        ) or (math.isfinite(found.range.upper) and declared.range.upper < found.range.upper)
        if too_narrow:
            self.report.error(
                "LMP217",
                node.type.span,
                f"`{node.name}` is declared {declared.range.in_words()}, but its source"
                f" gives values {found.range.in_words()}",
                labels=[Label(node.source.span, found.range.in_words())],
                notes=["a declared range is a promise that rejection and exact inference rely on"],
                help="declare the wider range, and use `clamp(…)` where the reward is used",
            )
            return None
        lower = max(declared.range.lower, found.range.lower)
        upper = min(declared.range.upper, found.range.upper)
        return replace(declared, range=Interval(lower, upper))

    def extern(self, node: ast.Extern) -> None:
        """Declares what the host program gives."""
        parameters = self.types.parameters(node.parameters, may_default=False, owner=node.name)
        options = self._check_options(node)
        known = all(each.type.kind != "unknown" for each in parameters)
        symbol = Symbol(node.name, KIND_OF_EXTERN[node.kind], node.name_span, parameters=parameters)
        if node.kind == "reward":
            type = Type("real") if node.type is None else self._check_reward_type(node.type)
            if type.kind != "unknown" and known:
                symbol.type = type
                source = RewardSource(EXTERN, {}, (), node.span)
                symbol.reward = Reward(
                    node.name, parameters, type, source, node.name_span, **options
                )
        elif node.kind == "function":
            assert node.type is not None
            type = self.types.check(node.type)
            if type.kind == "uncertain":
                self.report.error(
                    "LMP218",
                    node.type.span,
                    "only a reward is uncertain",
                    help=f"declare it as `extern reward {node.name}(…): uncertain`",
                )
            elif type.kind != "unknown" and known:
                symbol.type = type
                symbol.extern = Extern(node.name, "function", parameters, type, node.name_span)
        else:
            symbol.extern = Extern(node.name, node.kind, (), None, node.name_span)
        if self.names.declare(node.name, symbol, callable=True):
            if symbol.reward is not None:
                self.rewards[node.name] = symbol.reward
            if symbol.extern is not None:
                self.externs[node.name] = symbol.extern

    def _check_options(self, node: ast.Extern) -> dict[str, Any]:
        """The options that follow the parameters, where they are words that they may be."""
        known = _REWARD_OPTIONS if node.kind == "reward" else {}
        found: dict[str, Any] = {}
        for option in node.options:
            assert option.name is not None and option.name_span is not None
            value = self.expressions.check(option.value)
            if option.name not in known:
                self.report.error(
                    "LMP109",
                    option.name_span,
                    f"an extern {node.kind} has no option `{option.name}`",
                    help=did_you_mean(option.name, tuple(known)),
                )
                continue
            words = known[option.name]
            if not isinstance(value, ir.Constant) or value.value not in words:
                listed = " or ".join(f'"{word}"' for word in words)
                self.report.error("LMP115", option.value.span, f"`{option.name}` is {listed}")
            else:
                found[option.name] = value.value
        return found
