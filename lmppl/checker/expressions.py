"""Expressions: names, types and ranges. One mistake gives one diagnostic.

An expression that was reported has the type `unknown`, which fits everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lmppl.builtins import FACTORS, PLANNED, named
from lmppl.checker.calls import CallChecker
from lmppl.checker.report import Report, did_you_mean
from lmppl.checker.scope import KIND_IN_WORDS, Scope, Symbol
from lmppl.checker.typing_rules import in_words, join, literal, type_of_value
from lmppl.errors import Label, Span, closest
from lmppl.evaluation.constants import MOST_CHARACTERS, apply_binary, apply_unary, interpolate
from lmppl.ir import expr as ir
from lmppl.ir.types import BOOL, INT, REAL, STRING, UNKNOWN, Interval, Type
from lmppl.syntax import ast

_CONDITIONS = ("true", "false")
_BUILTIN_NAMES = frozenset(each.name for each in FACTORS) | frozenset(PLANNED) | {"file"}
_DISTRIBUTION_NAMES = frozenset(named("distribution"))


def _no_method(node: ast.Attribute) -> str:
    """What to write for `text.startswith(…)`, which is how other languages say it."""
    near = closest(node.name, named("predicate", "function"))
    written = (
        f"write `{near}({node.value.name}, …)`" if isinstance(node.value, ast.Name) and near else ""
    )
    return written or "values have no methods: a dot follows the name of an imported file only"


def unknown(span: Span) -> ir.Constant:
    """What stands for an expression that was reported."""
    return ir.Constant(UNKNOWN, span, None)


class ExpressionChecker:
    """Checks expressions against a scope; calls are in `CallChecker`."""

    def __init__(
        self,
        scope: Scope,
        report: Report,
        read_file: Callable[[ast.Call, ExpressionChecker], ir.Expr],
    ) -> None:
        self.scope = scope
        self.report = report
        self.read_file = read_file
        self.calls = CallChecker(self)

    def check(self, node: ast.Expr) -> ir.Expr:
        """The typed expression."""
        match node:
            case ast.Int() | ast.Real() | ast.Bool() | ast.String():
                found = type_of_value(node.value)
                assert found is not None
                return ir.Constant(found, node.span, node.value)
            case ast.FString():
                return self._check_f_string(node)
            case ast.Name():
                return self._check_name(node.name, node.span)
            case ast.Attribute():
                return self._check_attribute(node)
            case ast.List():
                return self._check_list(node)
            case ast.Call():
                return self.calls.check(node)
            case ast.Index():
                return self._check_index(node)
            case ast.Unary():
                return self._check_unary(node)
            case ast.Binary():
                first, operators = ast.spine(node)
                left = self.check(first)
                for each in operators:
                    left = self._check_binary(each, left, self.check(each.right))
                return left
            case ast.Compare():
                return self._check_compare(node)
            case ast.Logical():
                return self._check_logical(node)
            case ast.Conditional():
                return self._check_conditional(node)

    # -- names ---------------------------------------------------------------------------------

    def _check_name(self, name: str, span: Span) -> ir.Expr:
        symbol = self.scope.use(name)
        if symbol is None:
            self.report_unknown(name, span)
            return unknown(span)
        return self.reference(symbol, span)

    def reference(self, symbol: Symbol, span: Span) -> ir.Expr:
        """The value that a symbol stands for."""
        match symbol.kind:
            case "constant":
                assert symbol.value is not None
                return replace(symbol.value, span=span)
            case "parameter" | "site" | "let":
                assert symbol.type is not None
                return ir.Reference(symbol.type, span, symbol.name, symbol.kind)
            case "unknown":
                return unknown(span)
        name = symbol.name
        if symbol.kind in ("reward", "function"):
            arguments = ", ".join(each.name for each in symbol.parameters)
            help = f"call it: `{name}({arguments})`"
        elif symbol.kind == "lm":
            help = f"draw from it: `text ~ {name}(max_tokens=40)`"
        else:
            help = f"name what you want of it: `{name}.…`"
        self.report.error(
            "LMP111",
            span,
            f"`{name}` is {KIND_IN_WORDS[symbol.kind]}, not a value",
            labels=[Label(symbol.span, "declared here")],
            help=help,
        )
        return unknown(span)

    def report_unknown(self, name: str, span: Span) -> None:
        """Says that a value of this name does not exist, and what may have been meant."""
        later = self.scope.later.get(name)
        if later is not None:
            self.report.error(
                "LMP116",
                span,
                f"`{name}` is used before it has a value",
                labels=[Label(later, "it gets its value here")],
                help=f"move this below the line that gives `{name}` its value",
            )
            return
        if name in _BUILTIN_NAMES:
            # Nobody calls a distribution where a number belongs: a name of one's own is missing.
            own = name in _DISTRIBUTION_NAMES or name in PLANNED
            self.report.error(
                "LMP111",
                span,
                f"`{name}` is a built-in, not a value",
                help=f"to have a value of that name, declare it, as in `model m({name}: real)`"
                if own
                else f"call it: `{name}(…)`",
            )
            return
        candidates = [
            *self.scope.names("constant", "parameter", "site", "let", "unknown"),
            *self.scope.later,
            *_CONDITIONS,
        ]
        near = closest(name, candidates)
        if near is not None:
            # A misspelt name is a use of what was meant, which is then not called unused.
            self.scope.use(near)
        self.report.error(
            "LMP101",
            span,
            f"nothing is called `{name}`",
            help=near and f"did you mean `{near}`?",
        )

    def _check_attribute(self, node: ast.Attribute) -> ir.Expr:
        symbol = self.member(node)
        return unknown(node.span) if symbol is None else self.reference(symbol, node.span)

    def member(self, node: ast.Attribute) -> Symbol | None:
        """What `q.name` stands for; reported, and None, where it is nothing."""
        if not isinstance(node.value, ast.Name):
            self.report.error(
                "LMP111",
                node.name_span,
                f"`{self.report.text(node.value.span)}` has no parts with names",
                help="a dot follows the name of an imported file only",
            )
            return None
        owner = self.scope.use(node.value.name)
        if owner is None or owner.kind != "import":
            imports = self.scope.names("import")
            self.report.error(
                "LMP111" if owner is not None else "LMP101",
                node.value.span,
                f"`{node.value.name}` is {KIND_IN_WORDS[owner.kind]}, not an imported file"
                if owner is not None
                else f"nothing is imported as `{node.value.name}`",
                help=_no_method(node)
                if owner is not None
                else did_you_mean(node.value.name, imports)
                or f'import a file first: `import "….lmp" as {node.value.name}`',
            )
            return None
        if "?" in owner.module:  # the imported file could not be read, which was reported
            return None
        found = owner.module.get(node.name)
        if found is None:
            self.report.error(
                "LMP101",
                node.name_span,
                f"`{node.value.name}` has nothing called `{node.name}`",
                help=did_you_mean(node.name, owner.module)
                or ("it has " + ", ".join(sorted(owner.module)) if owner.module else None),
            )
            return None
        found.used = True
        return found

    def _check_f_string(self, node: ast.FString) -> ir.Expr:
        parts: list[str | ir.Expr] = []
        failed = False
        for part in node.parts:
            if isinstance(part, ast.Segment):
                parts.append(part.value)
                continue
            value = self._check_name(part.name, part.name_span)
            if value.type.kind == "unknown":
                failed = True
            elif value.type.is_array or value.type.kind not in ("string", "int", "real"):
                failed = True
                self.report.error(
                    "LMP105",
                    part.name_span,
                    f"an f-string takes strings and numbers, but `{part.name}` is"
                    f" {in_words(value.type)}",
                    help=f'say what it reads as: `let words = if {part.name} then "…" else "…"`'
                    if value.type.kind == "bool"
                    else None,
                )
            parts.append(value)
        if failed:
            return replace(unknown(node.span), type=STRING, value="")
        if all(isinstance(part, (str, ir.Constant)) for part in parts):
            try:
                text = interpolate(
                    part.value if isinstance(part, ir.Constant) else part for part in parts
                )
            except ValueError as problem:
                self.report.error(
                    "LMP028",
                    node.span,
                    str(problem),
                    notes=[f"an f-string makes at most {MOST_CHARACTERS:,}"],
                )
                return replace(unknown(node.span), type=STRING, value="")
            return ir.Constant(STRING, node.span, text)
        return ir.Interpolation(STRING, node.span, tuple(parts))

    # -- arrays --------------------------------------------------------------------------------

    def _check_list(self, node: ast.List) -> ir.Expr:
        items = [self.check(item) for item in node.items]
        element = UNKNOWN
        for item in items:
            joined = join(element, item.type)
            if joined is None:
                self.report.error(
                    "LMP105",
                    item.span,
                    f"the elements of an array have one type, but this is {in_words(item.type)}",
                    labels=[Label(items[0].span, f"and this is {in_words(items[0].type)}")],
                )
                return unknown(node.span)
            element = joined
        if any(item.type.kind == "unknown" and not item.type.is_array for item in items):
            return unknown(node.span)
        if all(isinstance(item, ir.Constant) for item in items):
            values = tuple(item.value for item in items if isinstance(item, ir.Constant))
            return ir.Constant(element.array(), node.span, values)
        return ir.Array(element.array(), node.span, tuple(items))

    def _check_index(self, node: ast.Index) -> ir.Expr:
        array, index = self.check(node.value), self.check(node.index)
        if "unknown" in (array.type.kind, index.type.kind):
            return unknown(node.span)
        if not array.type.is_array:
            self.report.error(
                "LMP105",
                array.span,
                f"only an array has elements, but this is {in_words(array.type)}",
            )
            return unknown(node.span)
        if index.type.kind != "int" or index.type.is_array:
            self.report.error(
                "LMP105", index.span, f"an index is an int, but this is {in_words(index.type)}"
            )
            return unknown(node.span)
        length = None
        if isinstance(array, ir.Constant) and isinstance(array.value, tuple):
            length = len(array.value)
        elif isinstance(array, ir.Array):
            length = len(array.elements)
        range = index.type.range
        if range.upper < 0 or (length is not None and range.lower >= length):
            self.report.error(
                "LMP117",
                index.span,
                "this index is outside the array"
                + ("" if length is None else f", which has {length} elements"),
                help="the first element is number 0",
            )
            return unknown(node.span)
        if isinstance(index, ir.Constant) and isinstance(index.value, int):
            if isinstance(array, ir.Constant) and isinstance(array.value, tuple):
                value = array.value[index.value]
                return ir.Constant(type_of_value(value) or UNKNOWN, node.span, value)
            if isinstance(array, ir.Array):
                return replace(array.elements[index.value], span=node.span)
        return ir.Index(array.type.element(), node.span, array, index)

    # -- operators -----------------------------------------------------------------------------

    def _check_unary(self, node: ast.Unary) -> ir.Expr:
        operand = self.check(node.operand)
        if operand.type.kind == "unknown":
            return unknown(node.span)
        if node.operator == "not":
            if not self.require_condition(operand, "`not`"):
                return unknown(node.span)
            type = BOOL
        else:
            if not self.require_number(operand, "`-`"):
                return unknown(node.span)
            type = replace(operand.type, range=-operand.type.range)
        if isinstance(operand, ir.Constant):
            return ir.Constant(type, node.span, apply_unary(node.operator, operand.value))
        return ir.Unary(type, node.span, node.operator, operand)

    def _check_binary(self, node: ast.Binary, left: ir.Expr, right: ir.Expr) -> ir.Expr:
        if "unknown" in (left.type.kind, right.type.kind):
            return unknown(node.span)
        if node.operator == "+" and left.type == STRING and right.type == STRING:
            self.report.error(
                "LMP105",
                node.operator_span,
                "strings are not added",
                help='join them with an f-string: f"{a}{b}" (names only inside the braces)',
            )
            return unknown(node.span)
        wanted = f"`{node.operator}`"
        if not (self.require_number(left, wanted) & self.require_number(right, wanted)):
            return unknown(node.span)
        if node.operator == "/" and isinstance(right, ir.Constant) and right.value == 0:
            self.report.error(
                "LMP205",
                right.span,
                "division by zero",
                labels=[Label(left.span, "this is divided")],
            )
            return unknown(node.span)
        type = self._arithmetic_type(node.operator, left, right)
        if isinstance(left, ir.Constant) and isinstance(right, ir.Constant):
            return self._fold(node, left, right)
        return ir.Binary(type, node.span, node.operator, left, right)

    def _arithmetic_type(self, operator: str, left: ir.Expr, right: ir.Expr) -> Type:
        a, b = left.type.range, right.type.range
        both_int = left.type.kind == right.type.kind == "int"
        match operator:
            case "+":
                return replace(INT if both_int else REAL, range=a + b)
            case "-":
                return replace(INT if both_int else REAL, range=a - b)
            case "*":
                return replace(INT if both_int else REAL, range=a * b)
            case "/":
                return replace(REAL, range=a / b)
            case _:
                is_int = both_int and isinstance(right, ir.Constant) and b.lower >= 0
                return replace(INT if is_int else REAL, range=power_range(a, b))

    def _fold(self, node: ast.Binary, left: ir.Constant, right: ir.Constant) -> ir.Expr:
        try:
            value: Any = apply_binary(node.operator, left.value, right.value)
        except (ArithmeticError, ValueError) as problem:
            self.report.error(
                "LMP205", node.span, "this has no value", label=str(problem) or "not a number"
            )
            return unknown(node.span)
        found = type_of_value(value)
        if found is None or not math.isfinite(value):
            self.report.error("LMP205", node.span, "this is too large for a number")
            return unknown(node.span)
        return ir.Constant(found, node.span, value)

    def _check_compare(self, node: ast.Compare) -> ir.Expr:
        left, right = self.check(node.left), self.check(node.right)
        if "unknown" in (left.type.kind, right.type.kind):
            return unknown(node.span)
        if node.operator in ("in", "not in"):
            return self._check_membership(node, left, right)
        if node.operator in ("<", "<=", ">", ">="):
            wanted = f"`{node.operator}`"
            if not (self.require_number(left, wanted) & self.require_number(right, wanted)):
                return unknown(node.span)
        elif not self._comparable(node, left, right):
            return unknown(node.span)
        self._warn_impossible_value(node, left, right)
        if isinstance(left, ir.Constant) and isinstance(right, ir.Constant):
            value = apply_binary(node.operator, left.value, right.value)
            return ir.Constant(BOOL, node.span, value)
        return ir.Binary(BOOL, node.span, node.operator, left, right)

    def _comparable(self, node: ast.Compare, left: ir.Expr, right: ir.Expr) -> bool:
        if "uncertain" in (left.type.kind, right.type.kind):
            wanted = f"`{node.operator}`"
            return self.require_number(left, wanted) and self.require_number(right, wanted)
        if join(left.type, right.type) is None or left.type.is_array or left.type.kind == "chat":
            self.report.error(
                "LMP105",
                node.operator_span,
                f"{in_words(left.type)} and {in_words(right.type)} cannot be compared",
                labels=[
                    Label(left.span, in_words(left.type)),
                    Label(right.span, in_words(right.type)),
                ],
            )
            return False
        return True

    def _check_membership(self, node: ast.Compare, left: ir.Expr, right: ir.Expr) -> ir.Expr:
        if right.type == STRING or not right.type.is_array:
            self.report.error(
                "LMP105",
                right.span,
                f"`in` looks into an array, but this is {in_words(right.type)}",
                help=f"write `contains({self.report.text(right.span)},"
                f" {self.report.text(left.span)})`"
                if right.type.kind == "string"
                else None,
            )
            return unknown(node.span)
        if join(left.type, right.type.element()) is None:
            self.report.error(
                "LMP105",
                left.span,
                f"this is {in_words(left.type)}, which is never in {in_words(right.type)}",
            )
            return unknown(node.span)
        found: ir.Expr
        if isinstance(left, ir.Constant) and isinstance(right, ir.Constant):
            inside = apply_binary("in", left.value, right.value)
            return ir.Constant(BOOL, node.span, inside == (node.operator == "in"))
        found = ir.Binary(BOOL, node.span, "in", left, right)
        return found if node.operator == "in" else ir.Unary(BOOL, node.span, "not", found)

    def _warn_impossible_value(self, node: ast.Compare, left: ir.Expr, right: ir.Expr) -> None:
        """A choice that is compared with something it can never be."""
        for choice, other in ((left, right), (right, left)):
            found, known = self.scope.resolve(choice), self.scope.resolve(other)
            if not isinstance(found, ir.Reference) or not isinstance(known, ir.Constant):
                continue
            symbol = self.scope.find(found.name)
            if symbol is None or symbol.values is None or node.operator not in ("==", "!="):
                continue
            if known.value not in symbol.values:
                always = "never" if node.operator == "==" else "always"
                strings = [each for each in symbol.values if isinstance(each, str)]
                self.report.warning(
                    "LMP207",
                    other.span,
                    f"`{found.name}` is never {literal(known.value)}, so this is {always} true",
                    labels=[Label(symbol.span, f"it is one of {literal(symbol.values)}")],
                    help=did_you_mean(str(known.value), strings),
                )

    def _check_logical(self, node: ast.Logical) -> ir.Expr:
        operands = [self.check(operand) for operand in node.operands]
        bad = False
        for operand in operands:
            if operand.type.kind == "unknown":
                bad = True
            elif not self.require_condition(operand, f"`{node.operator}`"):
                bad = True
        if bad:
            return unknown(node.span)
        # A constant operand either decides the whole or adds nothing.
        deciding = node.operator == "or"
        kept: list[ir.Expr] = []
        for operand in operands:
            if isinstance(operand, ir.Constant):
                if operand.value == deciding:
                    return ir.Constant(BOOL, node.span, deciding)
                continue
            kept.append(operand)
        if not kept:
            return ir.Constant(BOOL, node.span, not deciding)
        found = kept[0]
        for operand in kept[1:]:
            span = found.span.to(operand.span)
            found = ir.Binary(BOOL, span, node.operator, found, operand)
        return found

    def _check_conditional(self, node: ast.Conditional) -> ir.Expr:
        condition = self.check(node.condition)
        consequent, alternative = self.check(node.positive), self.check(node.negative)
        if condition.type.kind == "unknown":
            return unknown(node.span)
        if not self.require_condition(condition, "`if`"):
            return unknown(node.span)
        if "unknown" in (consequent.type.kind, alternative.type.kind):
            return unknown(node.span)
        type = join(consequent.type, alternative.type)
        if type is None:
            self.report.error(
                "LMP105",
                alternative.span,
                "both branches have one type, but this is " + in_words(alternative.type),
                labels=[Label(consequent.span, f"and this is {in_words(consequent.type)}")],
            )
            return unknown(node.span)
        if type.kind == "uncertain":
            self.report_uncertain(consequent, "`if`")
            return unknown(node.span)
        if isinstance(condition, ir.Constant):
            chosen = consequent if condition.value else alternative
            return replace(chosen, span=node.span)
        return ir.Conditional(type, node.span, condition, consequent, alternative)

    # -- what an operand must be ---------------------------------------------------------------

    def require_number(self, expr: ir.Expr, wanted_by: str) -> bool:
        """Whether the expression is a number; reported where it is not."""
        if expr.type.is_number or expr.type.kind == "unknown":
            return True
        if expr.type.kind == "uncertain":
            self.report_uncertain(expr, wanted_by)
            return False
        help = None
        if expr.type.kind == "bool":
            help = f"write `if {self.report.text(expr.span)} then 1 else 0`"
        self.report.error(
            "LMP105",
            expr.span,
            f"{wanted_by} takes numbers, but this is {in_words(expr.type)}",
            help=help,
        )
        return False

    def report_uncertain(self, expr: ir.Expr, wanted_by: str, wanted: str = "a number") -> None:
        """Refuses a distribution where a number, or a condition on one, is wanted."""
        text = self.report.text(expr.span)
        self.report.error(
            "LMP210",
            expr.span,
            f"`{text}` is uncertain, and {wanted_by} takes {wanted}",
            label="a distribution, not a number",
            notes=["averaging is never silent: how to treat the uncertainty is for you to say"],
            help=f"name a risk rule: `mean({text})`, `lcb({text}, k=1)`, `worst({text})`, …",
        )

    def require_condition(self, expr: ir.Expr, wanted_by: str) -> bool:
        """Whether the expression is a condition; reported where it is not."""
        if expr.type.kind == "unknown" or (expr.type.kind == "bool" and not expr.type.is_array):
            return True
        if expr.type.kind == "uncertain":
            self.report_uncertain(expr, wanted_by, "a condition")
            return False
        text = self.report.text(expr.span)
        self.report.error(
            "LMP105",
            expr.span,
            f"{wanted_by} takes a condition, but this is {in_words(expr.type)}",
            help=f"compare it: `{text} > 0`" if expr.type.is_number else None,
        )
        return False


def power_range(base: Interval, exponent: Interval) -> Interval:
    """The range of `base ^ exponent`; unbounded where nothing simple is known."""
    point = exponent.lower if exponent.lower == exponent.upper else None
    if base.lower >= 0.0:
        corners = [
            _power(b, e)
            for b in (base.lower, base.upper)
            for e in (exponent.lower, exponent.upper)
            if not (b == 0.0 and e < 0.0)
        ]
        if base.lower == 0.0 and exponent.lower < 0.0:
            return Interval(0.0, math.inf)
        corners += [1.0] if base.lower <= 1.0 <= base.upper else []
        corners += [1.0] if exponent.lower <= 0.0 <= exponent.upper else []
        return Interval(min(corners), max(corners))
    if point is None or point < 0.0 or point != math.floor(point) or math.isinf(point):
        return Interval()
    low, high = _power(base.lower, point), _power(base.upper, point)
    if point % 2 == 1:
        return Interval(low, high)
    smallest = 0.0 if base.lower <= 0.0 <= base.upper else min(low, high)
    return Interval(smallest if point > 0 else 1.0, max(low, high))


def _power(base: float, exponent: float) -> float:
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return -math.inf if base < 0 and exponent % 2 == 1 else math.inf
