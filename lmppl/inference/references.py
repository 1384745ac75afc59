"""Options that name another `infer` line, for what its method leaves to others.

A fitted guide, for instance, can propose for other methods: `infer smc(proposal=tuned)`. An option
says by `takes` which kind of thing it wants, a method by `gives` what kind it leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from lmppl.errors import Diagnostic, Span, closest
from lmppl.inference.methods import METHODS, method_named
from lmppl.inference.settings import Settings
from lmppl.ir.model import InferSpec


def line_named(specs: Sequence[InferSpec], name: str) -> InferSpec | None:
    """The `infer` line that is called so: by its name or, where it has none, by its method."""
    return next((s for s in specs if name in (s.name, s.method if s.name is None else None)), None)


def option_that_takes(method: type[Settings] | None, name: str | None) -> str:
    """What an option of a method takes of other lines; "" for nothing."""
    found = () if method is None else fields(method)
    return next((kind_taken(each) for each in found if each.name == name), "")


def kind_taken(setting: Any) -> str:
    """What the value of a setting may name of other lines; "" for nothing."""
    kind: str = setting.metadata["takes"]
    return kind


def references(settings: Settings) -> Iterator[tuple[Any, str]]:
    """The settings that name something of another line, or something saved, with the name."""
    for setting in fields(settings):
        value = getattr(settings, setting.name)
        if kind_taken(setting) and value not in setting.metadata["choices"]:
            yield setting, value


def reference_mistake(setting: Any, value: object, specs: Sequence[InferSpec]) -> Diagnostic | None:
    """LMP407 where a value names no line that gives what the setting takes; None: it does."""
    kind = kind_taken(setting)
    choices = setting.metadata["choices"]
    if not kind or not isinstance(value, str) or value in choices:
        return None
    name = setting.name
    spec = line_named(specs, value)
    if spec is None and value and value == setting.metadata["fits"]:
        return None
    if spec is None:
        return _unknown(setting, value, specs)
    method = method_named(spec.method)
    if method is None or method.gives == kind:
        # A method that does not exist is reported at its own line.
        return None
    return Diagnostic(
        "LMP407",
        "error",
        f"{name} names `{value}`, and {spec.method} leaves no {kind}",
        help=f"name a line of {_givers(kind)}, as in `infer {_givers(kind)}(…) as {value}`",
    )


def _unknown(setting: Any, value: str, specs: Sequence[InferSpec]) -> Diagnostic:
    kind = kind_taken(setting)
    lines = [
        spec.name or spec.method
        for spec in specs
        if (method := method_named(spec.method)) is not None and method.gives == kind
    ]
    choices = [*setting.metadata["choices"], *filter(None, [setting.metadata["fits"]])]
    words = [f'"{choice}"' for choice in choices]
    if guess := closest(value, [*lines, *choices]):
        help_ = f"did you mean `{guess}`?" if guess in lines else f'did you mean `"{guess}"`?'
    else:
        given = (
            f"lines that leave one: {', '.join(lines)}"
            if lines
            else (f"add `infer {_givers(kind)}(…) as {value}`")
        )
        help_ = f"{given}; or write {' or '.join(words)}" if words else given
    return Diagnostic(
        "LMP407",
        "error",
        f"{setting.name} names `{value}`, and no `infer` line that leaves a {kind} is called so",
        help=help_,
    )


def line_implied(setting: Any, value: object, span: Span) -> InferSpec | None:
    """The line that a word of a setting stands for, though nobody wrote it; None: for none."""
    if not setting.metadata["fits"] or value != setting.metadata["fits"]:
        return None
    kind = kind_taken(setting)
    giver = next(method for method in METHODS if method.gives == kind)
    return InferSpec(giver.name, {}, span, str(value))


def _givers(kind: str) -> str:
    """The methods that leave something of this kind."""
    return " or ".join(method.name for method in METHODS if method.gives == kind)
