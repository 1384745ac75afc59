"""Arrays, their elements and f-strings."""

from __future__ import annotations

from collections.abc import Sequence

from lmppl.checker.names import NameChecker
from lmppl.checker.operands import unknown
from lmppl.checker.report import Report
from lmppl.checker.typing_rules import in_words, join, type_of_value
from lmppl.errors import Label
from lmppl.evaluation.constants import MOST_CHARACTERS, interpolate
from lmppl.ir import expr as ir
from lmppl.ir.types import STRING, UNKNOWN
from lmppl.records import replace
from lmppl.syntax import ast


def check_f_string(report: Report, names: NameChecker, node: ast.FString) -> ir.Expr:
    """The text that an f-string makes of its parts."""
    parts: list[str | ir.Expr] = []
    failed = False
    for part in node.parts:
        if isinstance(part, ast.Segment):
            parts.append(part.value)
            continue
        value = names.value(part.name, part.name_span)
        if value.type.kind == "unknown":
            failed = True
        elif value.type.is_array or value.type.kind not in ("string", "int", "real"):
            failed = True
            report.error(
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
            report.error(
                "LMP028",
                node.span,
                str(problem),
                notes=[f"an f-string makes at most {MOST_CHARACTERS:,}"],
            )
            return replace(unknown(node.span), type=STRING, value="")
        return ir.Constant(STRING, node.span, text)
    return ir.Interpolation(STRING, node.span, tuple(parts))


def check_list(report: Report, node: ast.List, items: Sequence[ir.Expr]) -> ir.Expr:
    """The array of checked elements, which have one type."""
    element = UNKNOWN
    for item in items:
        joined = join(element, item.type)
        if joined is None:
            report.error(
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


def check_index(report: Report, node: ast.Index, array: ir.Expr, index: ir.Expr) -> ir.Expr:
    """An element of a checked array."""
    if "unknown" in (array.type.kind, index.type.kind):
        return unknown(node.span)
    if not array.type.is_array:
        report.error(
            "LMP105",
            array.span,
            f"only an array has elements, but this is {in_words(array.type)}",
        )
        return unknown(node.span)
    if index.type.kind != "int" or index.type.is_array:
        report.error(
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
        report.error(
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
