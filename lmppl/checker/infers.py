"""The `infer` lines of a file: constant options, and names that differ."""

from __future__ import annotations

from lmppl.checker.arguments import Check
from lmppl.checker.report import Report
from lmppl.errors import Label, Span
from lmppl.inference.methods import method_named
from lmppl.inference.references import option_that_takes
from lmppl.ir import expr as ir
from lmppl.ir.model import InferSpec
from lmppl.ir.types import STRING, UNKNOWN
from lmppl.syntax import ast


def check_infers(program: ast.Program, check: Check, report: Report) -> tuple[InferSpec, ...]:
    """The `infer` lines with constant options and names that differ."""
    specs: list[InferSpec] = []
    by_name: dict[str | None, Span] = {}
    for node in program.infers:
        options: dict[str, object] = {}
        spans: dict[str, Span] = {}
        for argument in node.options:
            if _names_a_line(node, argument, program):
                assert isinstance(argument.value, ast.Name) and argument.name is not None
                value: ir.Expr = ir.Constant(STRING, argument.value.span, argument.value.name)
            else:
                value = check(argument.value)
            if argument.name is None or argument.name_span is None:
                report.error(
                    "LMP108",
                    argument.span,
                    "the options of a method are named",
                    help="write `num_particles=256`, not `256`",
                )
            elif value.type == UNKNOWN:
                continue
            elif not isinstance(value, ir.Constant):
                report.error("LMP114", argument.value.span, "an option of `infer` is a constant")
            elif argument.name in options:
                report.error("LMP110", argument.name_span, f"`{argument.name}` is given twice")
            else:
                options[argument.name] = value.value
                spans[argument.name] = argument.value.span
        if node.name in by_name:
            _report_same(report, node, by_name[node.name])
        else:
            by_name[node.name] = node.name_span or node.method_span
        specs.append(InferSpec(node.method, options, node.method_span, node.name, spans))
    return tuple(specs)


def _names_a_line(node: ast.Infer, argument: ast.Argument, program: ast.Program) -> bool:
    """Whether an option is a bare name that stands for another `infer` line."""
    if not isinstance(argument.value, ast.Name):
        return False
    if not option_that_takes(method_named(node.method), argument.name):
        return False
    name = argument.value.name
    return not any(isinstance(item, ast.Let) and item.name == name for item in program.items)


def _report_same(report: Report, node: ast.Infer, first: Span) -> None:
    if node.name is None:
        report.error(
            "LMP222",
            node.method_span,
            "only one `infer` may be without a name",
            labels=[Label(first, "the first one")],
            help=f"name it: `infer {node.method}(…) as my_{node.method}`",
        )
    else:
        report.error(
            "LMP222",
            node.name_span or node.span,
            f"two `infer` lines are called `{node.name}`",
            labels=[Label(first, "the first one")],
        )
