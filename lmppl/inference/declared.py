"""The `infer` lines of a file: their mistakes, and what they will be refused for when they run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from lmppl.errors import Diagnostic, Label
from lmppl.inference.methods import check_method, method_meant, method_named
from lmppl.inference.options import option_of_no_method, settings_from_options
from lmppl.inference.planning import plan_method
from lmppl.inference.references import reference_mistake
from lmppl.inference.settings import Settings
from lmppl.ir.expr import Expr, Reference
from lmppl.ir.model import InferSpec, Model
from lmppl.records import replace


def infer_mistakes(specs: Sequence[InferSpec]) -> list[Diagnostic]:
    """Unknown methods, options (401–403) and lines that options name (407), at their spans."""
    found: list[Diagnostic] = []
    for spec in specs:
        method = method_named(spec.method)
        if method is None:
            unknown = check_method(spec.method)
            assert unknown is not None
            found.append(replace(unknown, span=spec.span))
            # The options are those of the method that was probably meant.
            method = method_meant(spec.method)
        for name, value in spec.options.items():
            if method is not None:
                settings, problems = settings_from_options(method, {name: value})
                if settings is not None:
                    problems = _misnamed(settings, name, value, specs)
            else:
                problems = option_of_no_method(name)
            span = spec.option_spans.get(name, spec.span)
            found.extend(replace(problem, span=span) for problem in problems)
    return found


def _misnamed(
    settings: Settings, name: str, value: object, specs: Sequence[InferSpec]
) -> list[Diagnostic]:
    setting = next(each for each in fields(settings) if each.name == name)
    mistake = reference_mistake(setting, value, specs)
    return [] if mistake is None else [mistake]


def foreseen(model: Model) -> list[Diagnostic]:
    """What the file's own `infer` lines will be refused for, or warned of, at their spans.

    As warnings: the model may well be inferred by another method. What hangs on a parameter
    without a default is left until it has a value.
    """
    open_parameters = {p.name for p in model.parameters if p.default is None}
    found: list[Diagnostic] = []
    for spec in model.infers:
        method = method_named(spec.method)
        assert method is not None
        settings, _ = settings_from_options(method, spec.options)
        assert settings is not None
        plan = plan_method(model, settings, {})
        about: dict[str, list[Diagnostic]] = {}
        for each in (*plan.refusals, *plan.warnings):
            term = next((p for p in model.potentials if p.span == each.span), None)
            if term is None or not open_parameters & _parameters_of(model, term.expr):
                about.setdefault(each.code, []).append(each)
        for code, several in about.items():
            labels = [
                Label(each.span, "because of this" if each is several[0] else "and of this")
                for each in several
                if each.span is not None and each.severity == "error"
            ]
            first = several[0]
            found.append(
                Diagnostic(
                    code,
                    "warning",
                    first.message,
                    spec.span,
                    tuple(labels),
                    (f"`{spec.method}` refuses to run this model",)
                    if first.severity == "error"
                    else (),
                    first.help,
                )
            )
    return found


def _parameters_of(model: Model, expr: Expr) -> set[str]:
    nodes = model.nodes(expr)
    return {n.name for n in nodes if isinstance(n, Reference) and n.role == "parameter"}
