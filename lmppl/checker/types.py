"""Types that are written, parameters, and whether a value has the type that was declared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lmppl.checker.arguments import Check
from lmppl.checker.report import Report, did_you_mean
from lmppl.checker.typing_rules import (
    BOUNDS_OF,
    FOREIGN_NAMES,
    KINDS,
    fits,
    in_words,
    is_inside,
    literal,
)
from lmppl.errors import Label, Span
from lmppl.ir import expr as ir
from lmppl.ir.model import Parameter
from lmppl.ir.types import UNKNOWN, Interval, Type
from lmppl.records import replace
from lmppl.syntax import ast


class TypeChecker:
    """Reads the types of one file; problems go to the report."""

    def __init__(self, check: Check, report: Report) -> None:
        self._value = check
        self.report = report

    def check(self, node: ast.TypeExpr) -> Type:
        """The type that was written; `unknown`, and reported, where it is none."""
        kind = next((each for each in KINDS if each == node.name), None)
        if kind is None:
            foreign = FOREIGN_NAMES.get(node.name)
            self.report.error(
                "LMP102",
                node.name_span,
                f"there is no type `{node.name}`",
                help=f"did you mean `{foreign}`?"
                if foreign
                else did_you_mean(node.name, KINDS) or f"the types are {', '.join(KINDS)}",
            )
            return UNKNOWN
        found: dict[str, Any] = {}
        spans: dict[str, Span] = {}
        for bound in node.bounds:
            value = self._check_bound(kind, bound)
            if bound.name in found:
                self.report.error("LMP110", bound.span, f"`{bound.name}` is given twice")
            elif value is not None:
                found[bound.name] = value
                spans[bound.name] = bound.span
        lower, upper = found.get("lower", -math.inf), found.get("upper", math.inf)
        shortest, longest = found.get("min_length", 0), found.get("max_length")
        if lower > upper or (longest is not None and shortest > longest):
            names = ("lower", "upper") if "upper" in spans else ("min_length", "max_length")
            self.report.error(
                "LMP113",
                spans[names[1]],
                "no value lies within these bounds",
                labels=[Label(spans[names[0]], "")],
                help=f"`{names[0]}` is at most `{names[1]}`",
            )
            lower, upper, shortest, longest = -math.inf, math.inf, 0, None
        range = Interval(float(lower), float(upper))
        return Type(kind, node.dimensions, range, shortest, longest)

    def _check_bound(self, kind: str, bound: ast.Bound) -> Any:
        allowed = BOUNDS_OF[kind]  # type: ignore[index]
        value = self._value(bound.value)
        if bound.name not in allowed:
            self.report.error(
                "LMP109",
                bound.name_span,
                f"`{kind}` has no bound `{bound.name}`",
                help=did_you_mean(bound.name, allowed)
                or (f"it has {' and '.join(allowed)}" if allowed else "it has none"),
            )
            return None
        if value.type.kind == "unknown":
            return None
        if not isinstance(value, ir.Constant) or not value.type.is_number:
            self.report.error("LMP113", bound.value.span, "a bound is a constant number")
            return None
        if bound.name.endswith("length") and value.type.kind != "int":
            self.report.error("LMP113", bound.value.span, "a length is an int")
            return None
        return value.value

    def parameters(
        self, nodes: Sequence[ast.Parameter], *, may_default: bool, owner: str
    ) -> tuple[Parameter, ...]:
        """The parameters with their types and defaults."""
        parameters: list[Parameter] = []
        seen: dict[str, Span] = {}
        for node in nodes:
            type = self.check(node.type)
            if type.kind == "uncertain":
                self.report.error(
                    "LMP105",
                    node.type.span,
                    "only a reward is uncertain, not a parameter",
                    help="give it the mean and the spread as two numbers",
                )
                type = UNKNOWN
            if node.name in seen:
                self.report.error(
                    "LMP103",
                    node.name_span,
                    f"`{owner}` has two parameters `{node.name}`",
                    labels=[Label(seen[node.name], "the first")],
                )
                continue
            seen[node.name] = node.name_span
            default = None
            if node.default is not None:
                default = self._check_default(node, type, {each.name for each in nodes})
                if not may_default:
                    self.report.error(
                        "LMP111", node.default.span, f"a parameter of `{owner}` has no default"
                    )
            parameters.append(Parameter(node.name, type, node.name_span, default))
        return tuple(parameters)

    def _check_default(self, node: ast.Parameter, type: Type, names: set[str]) -> ir.Expr | None:
        assert node.default is not None
        if isinstance(node.default, ast.Name) and node.default.name in names:
            self.report.error(
                "LMP114",
                node.default.span,
                "a default is a constant, and not another parameter",
            )
            return None
        value = self._value(node.default)
        if value.type == UNKNOWN:
            return None
        if not isinstance(value, ir.Constant):
            self.report.error("LMP114", node.default.span, "a default is a constant")
            return None
        if not self.require(value, type, f"`{node.name}`", node.type.span):
            return None
        kind = type.kind if type.kind != "unknown" else value.type.kind
        constant = _as_real(value.value) if kind == "real" else value.value
        return replace(value, value=constant, type=replace(value.type, kind=kind))

    def require(self, value: ir.Expr, type: Type, what: str, declared: Span) -> bool:
        """Whether a value has a declared type and lies within its bounds; reported if not."""
        if "unknown" in (value.type.kind, type.kind) and value.type.dimensions <= type.dimensions:
            return True
        labels = [Label(declared, "declared here")]
        if not fits(value.type, type):
            self.report.error(
                "LMP105",
                value.span,
                f"{what} is {in_words(type)}, but this is {in_words(value.type)}",
                labels=labels,
            )
            return False
        if type.kind in ("int", "real") and not is_inside(value.type.range, type.range):
            shown = (
                literal(value.value)
                if isinstance(value, ir.Constant)
                else value.type.range.in_words()
            )
            self.report.error(
                "LMP106",
                value.span,
                f"{what} must be {type.range.in_words()}",
                label=f"this is {shown}",
                labels=labels,
                help=None
                if isinstance(value, ir.Constant)
                else "bound it: `clamp(…, lower=…, upper=…)`",
            )
            return False
        if type.kind == "string" and isinstance(value, ir.Constant):
            problem = length_problem(value.value, type)
            if problem is not None:
                self.report.error("LMP106", value.span, f"{what} {problem}", labels=labels)
                return False
        return True


def length_problem(text: object, type: Type) -> str | None:
    """What is wrong with the length of a string, as the end of a sentence; None if nothing."""
    texts = text if isinstance(text, (list, tuple)) else (text,)
    for each in texts:
        if not isinstance(each, str):
            continue
        if len(each) < type.min_length:
            return f"must have at least {type.min_length} characters"
        if type.max_length is not None and len(each) > type.max_length:
            return f"must have at most {type.max_length} characters"
    return None


def _as_real(value: object) -> object:
    if isinstance(value, tuple):
        return tuple(_as_real(each) for each in value)
    return float(value) if isinstance(value, int) else value
