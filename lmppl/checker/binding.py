"""Values and host objects against the parameters and externs of a checked model."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping

from lmppl.builtins import distribution_of
from lmppl.builtins.signature import Argument
from lmppl.checker.divisors import divisor_problem, divisors
from lmppl.checker.report import did_you_mean
from lmppl.checker.types import length_problem
from lmppl.checker.typing_rules import fits, in_words, literal, type_of_value
from lmppl.errors import Diagnostic, Label
from lmppl.ir.expr import Constant, ExternCall, Reference, RewardCall
from lmppl.ir.model import Model, Parameter, Site
from lmppl.ir.types import Type
from lmppl.syntax.literals import LARGEST_INT

_LM_METHODS = ("start", "extend", "token_log_probs")


def check_binding(
    model: Model, values: Mapping[str, object], externs: Mapping[str, object]
) -> list[Diagnostic]:
    """Everything that is wrong with the values and host objects given to a model.

    `values` maps parameters to Python values, `externs` the extern rewards, functions and language
    models to what the host gives for them. Every problem is reported, none is raised.
    """
    problems = list(_check_names(model, values, externs))
    for parameter in model.parameters:
        problems += _check_parameter(model, parameter, values)
    problems += _check_externs(model, externs)
    if not problems:
        problems += _check_sites(model, values)
    return problems


def _check_names(
    model: Model, values: Mapping[str, object], externs: Mapping[str, object]
) -> Iterable[Diagnostic]:
    known = [parameter.name for parameter in model.parameters]
    hosts = _extern_names(model)
    for name in (*values, *externs):
        if name in (known if name in values else hosts):
            continue
        everything = [*known, *hosts]
        near = did_you_mean(name, everything)
        takes = ", ".join(everything) or "nothing"
        yield Diagnostic(
            "LMP131",
            "error",
            f"the model `{model.name}` has no parameter or extern `{name}`",
            help=near or f"it takes {takes}",
        )


def _extern_names(model: Model) -> list[str]:
    rewards = [name for name, each in model.rewards.items() if each.source.is_extern]
    return [*rewards, *model.externs]


def _check_parameter(
    model: Model, parameter: Parameter, values: Mapping[str, object]
) -> Iterable[Diagnostic]:
    name = parameter.name
    if name not in values:
        if parameter.default is None:
            yield Diagnostic(
                "LMP130",
                "error",
                f"the parameter `{name}` has no value",
                parameter.span,
                notes=("it has no default",),
                help=f"give it {in_words(parameter.type)}: `model({name}=…)` in Python,"
                f" `--param {name}=…` on the command line",
            )
        return
    problem = value_problem(values[name], parameter.type)
    if problem is not None:
        code, reason = problem
        yield Diagnostic(
            code,
            "error",
            f"`{name}` {reason}",
            parameter.span,
            (Label(parameter.span, "declared here"),),
            help="give its `.tolist()`" if hasattr(values[name], "tolist") else None,
        )
        return
    divisor = divisors(model).get(name)
    if divisor is not None and divisor.refuses(values[name]):
        code, message, why = divisor_problem(divisor, f"`{name}`")
        yield Diagnostic(
            code,
            "error",
            f"{message}; {literal(values[name])} was given",
            parameter.span,
            (Label(divisor.span, "divides here"),),
            why,
        )


def value_problem(value: object, type: Type) -> tuple[str, str] | None:
    """The code and the end of a sentence about a value that a type does not allow, or None."""
    if any(isinstance(number, int) and abs(number) > _largest(type) for number in _numbers(value)):
        return "LMP106", f"must be at most {_largest(type):,} in size"
    found = type_of_value(value)
    if found is None or not fits(found, type):
        given = "something else" if found is None else in_words(found)
        if found is None:
            given = _kind_of(value)
        return "LMP132", f"is {in_words(type)}, but {given} was given"
    numbers = list(_numbers(value))
    if any(math.isnan(number) or math.isinf(number) for number in numbers):
        return "LMP106", "must be finite"
    outside = next((number for number in numbers if number not in type.range), None)
    if outside is not None:
        return "LMP106", f"must be {type.range.in_words()}; {literal(outside)} was given"
    length = length_problem(value, type)
    return None if length is None else ("LMP106", length)


def _largest(type: Type) -> float:
    """The largest integer that a type holds: 64 bits, as in a file, or what is left of a real."""
    element = type.element() if type.is_array else type
    return sys.float_info.max if element.kind == "real" else LARGEST_INT


def _kind_of(value: object) -> str:
    if value is None:
        return "None"
    return "NaN" if isinstance(value, float) else f"a {type(value).__name__}"


def _numbers(value: object) -> Iterable[float]:
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def _check_externs(model: Model, externs: Mapping[str, object]) -> Iterable[Diagnostic]:
    used = _used_hosts(model)
    for name in _extern_names(model):
        span = model.rewards[name].span if name in model.rewards else model.externs[name].span
        extern = model.externs.get(name)
        is_lm = extern is not None and extern.is_language_model
        words = "reward" if extern is None else "language model" if is_lm else extern.kind
        if name not in externs:
            if name in used:
                yield Diagnostic(
                    "LMP133",
                    "error",
                    f"the extern {words} `{name}` was not given",
                    span,
                    notes=("the host program gives it by name; a file cannot hold host code",),
                    help=f"`model({name}=…)`"
                    if name.isidentifier()
                    else f"`model(**{{{name!r}: …}})`",
                )
            continue
        host = externs[name]
        if is_lm and not all(hasattr(host, method) for method in _LM_METHODS):
            yield Diagnostic(
                "LMP134",
                "error",
                f"what was given for the extern language model `{name}` is not one",
                span,
                notes=(f"its type is {type(host).__name__}",),
                help="give it anything that keeps the protocol of `lmppl.lm`, or"
                " `lmppl.FunctionLM(tokens=…, eos=…, next_log_probs=…)`",
            )
        elif not is_lm and not callable(host):
            yield Diagnostic(
                "LMP134",
                "error",
                f"what was given for the extern {words} `{name}` cannot be called",
                span,
                notes=(f"its type is {type(host).__name__}",),
                help="give it a function",
            )


def _used_hosts(model: Model) -> set[str]:
    """The externs that something in the model calls."""
    used = {
        site.distribution.extern for site in model.sites if site.distribution.extern is not None
    }
    for node in model.nodes(*model.expressions):
        if isinstance(node, RewardCall):
            used.add(node.reward)
        elif isinstance(node, ExternCall):
            used.add(node.function)
    return used


def _check_sites(model: Model, values: Mapping[str, object]) -> Iterable[Diagnostic]:
    """Parameters that stand directly for an argument of a distribution: its own range counts."""
    for site in model.sites:
        builtin = distribution_of(site.distribution)
        for name, written in site.distribution.arguments.items():
            argument, expr = builtin.argument(name), model.resolve(written)
            if argument is None or not isinstance(expr, Reference) or expr.role != "parameter":
                continue
            value = values.get(expr.name, _default(model, expr.name))
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                if not argument.allows(value):
                    yield _outside(site, argument, expr, value)


def _default(model: Model, name: str) -> object:
    parameter = next(each for each in model.parameters if each.name == name)
    return parameter.default.value if isinstance(parameter.default, Constant) else None


def _outside(site: Site, argument: Argument, expr: Reference, value: float) -> Diagnostic:
    return Diagnostic(
        "LMP106",
        "error",
        f"`{argument.name}` of `{site.distribution.kind}` must be {argument.domain};"
        f" {literal(value)} was given for `{expr.name}`",
        expr.span,
    )
