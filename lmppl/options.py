"""Which method runs and with which settings: what was asked for, and what the file says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from lmppl.checker import without_scalars
from lmppl.errors import Diagnostic, LmpError
from lmppl.inference import (
    Settings,
    check_method,
    default_method,
    method_named,
    settings_from_options,
)
from lmppl.inference.methods import method_meant
from lmppl.ir.model import InferSpec, Model


def settings_for(
    model: Model, method: str | None, infer: str | None, options: Mapping[str, object]
) -> Settings:
    """The settings of a run: Python keyword, then the file's `infer`, then the method's defaults.

    Raises:
        LmpError: 401 to 404, there is no such method, option or `infer` line.
    """
    spec = _spec(model, method, infer)
    name = method or (spec.method if spec else None)
    if name is None:
        name = default_method(model).name
    if not isinstance(name, str):
        raise TypeError(f"method must be the name of a method, not {name!r}")
    options = {name: without_scalars(value) for name, value in options.items()}
    unknown = check_method(name)
    if unknown is not None:
        # The options are those of the method that was probably meant.
        meant = method_meant(name)
        problems = () if meant is None else settings_from_options(meant, options)[1]
        raise LmpError([unknown, *problems])
    kind = method_named(name)
    assert kind is not None
    values = {**_carried(spec, kind, options), **options}
    settings, problems = settings_from_options(kind, values)
    if problems:
        raise LmpError(problems)
    assert settings is not None
    return settings


def _spec(model: Model, method: str | None, infer: str | None) -> InferSpec | None:
    """The infer line that is asked for, or the file's default one."""
    if infer is not None:
        for spec in model.infers:
            if infer in (spec.name, spec.method if spec.name is None else None):
                return spec
        names = [spec.name or spec.method for spec in model.infers]
        raise LmpError(
            [
                Diagnostic(
                    "LMP404",
                    "error",
                    f"the file has no infer named {infer!r}",
                    help=f"it has {', '.join(names) or 'none'}",
                )
            ]
        )
    default = next((spec for spec in model.infers if spec.name is None), None)
    default = default or next(iter(model.infers), None)
    if method is not None:
        # The same method's own line beats the default of another method.
        mine = [spec for spec in model.infers if spec.method == method]
        unnamed = [spec for spec in mine if spec.name is None]
        return next(iter(unnamed or mine), default)
    return default


def _carried(
    spec: InferSpec | None, kind: type[Settings], options: Mapping[str, object]
) -> dict[str, object]:
    """The file's options for a method; of another method only the seed and the number of draws."""
    if spec is None:
        return {}
    if spec.method == kind.name:
        return dict(spec.options)
    carried: dict[str, object] = {}
    other = method_named(spec.method)
    if "seed" in spec.options:
        carried["seed"] = spec.options["seed"]
    draws = spec.options.get(other.num_draws_option) if other else None
    if draws is not None and kind.num_draws_option in {f.name for f in fields(kind)}:
        assert other is not None and isinstance(draws, int)
        total = draws * other.draws_per_option(spec.options)
        carried[kind.num_draws_option] = kind.option_for_draws(total, options)
    return carried
