"""A checked model as plain data, for `lmppl info --json`."""

from __future__ import annotations

import math
from typing import Any

from lmppl.ir.expr import Constant, Expr
from lmppl.ir.model import Distribution, Model, Parameter, Potential, RewardSource
from lmppl.ir.types import Interval


def describe(model: Model) -> dict[str, Any]:
    """What a program denotes as dictionaries, lists, strings and numbers, ready for JSON.

    Bounds that do not exist are null.
    """
    return {
        "name": model.name,
        "path": model.path,
        "digest": model.digest,
        "parameters": [_parameter(each, model) for each in model.parameters],
        "sites": [
            {
                "name": site.name,
                "type": str(site.type),
                "distribution": _distribution(site.distribution, model),
            }
            for site in model.sites
        ],
        "lets": [
            {
                "name": let.name,
                "type": str(let.expr.type),
                "expression": _text(let.expr, model),
                "stage": _stage(model, let.stage),
            }
            for let in model.lets
        ],
        "potentials": [_potential(each, model) for each in model.potentials],
        "rewards": [
            {
                "name": reward.name,
                "parameters": [_parameter(each, model) for each in reward.parameters],
                "type": str(reward.type),
                "inputs": reward.inputs,
                "noise": reward.noise,
                "source": _source(reward.source),
            }
            for reward in model.rewards.values()
        ],
        "externs": [
            {
                "name": extern.name,
                "kind": extern.kind,
                "parameters": [_parameter(each, model) for each in extern.parameters],
                "type": None if extern.type is None else str(extern.type),
            }
            for extern in model.externs.values()
        ],
        "outputs": [{"name": each.name, "type": str(each.expr.type)} for each in model.outputs],
        "expectations": [
            {"label": each.label, "claim": each.source, "statistic": each.statistic}
            for each in model.expectations
        ],
        "infer": [
            {"method": each.method, "name": each.name, "options": _plain(dict(each.options))}
            for each in model.infers
        ],
    }


def _parameter(parameter: Parameter, model: Model) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": parameter.name,
        "type": str(parameter.type),
        "required": parameter.default is None,
    }
    if parameter.default is not None:
        described["default"] = _value(parameter.default, model)
    return described


def _distribution(distribution: Distribution, model: Model) -> dict[str, Any]:
    described: dict[str, Any] = {
        "kind": distribution.kind,
        "arguments": {name: _value(value, model) for name, value in distribution.arguments.items()},
    }
    if distribution.extern is not None:
        described["extern"] = distribution.extern
    return described


def _potential(potential: Potential, model: Model) -> dict[str, Any]:
    facts = potential.facts
    return {
        "label": potential.label,
        "kind": potential.kind,
        "source": potential.source,
        "stage": _stage(model, potential.stage),
        "conditional": potential.when is not None,
        "facts": {
            "range": _range(facts.range),
            "decidable": facts.decidable,
            "noise": facts.noise,
            "cost": facts.cost,
        },
    }


def _source(source: RewardSource) -> dict[str, Any]:
    described: dict[str, Any] = {"kind": source.kind, "arguments": _plain(dict(source.arguments))}
    if source.members:
        described["members"] = [_source(each) for each in source.members]
    return described


def _stage(model: Model, index: int) -> str | None:
    """The name of the choice after which something is known; None before the first."""
    return model.sites[index].name if index >= 0 else None


def _range(range: Interval) -> list[float | None]:
    return [bound if math.isfinite(bound) else None for bound in (range.lower, range.upper)]


def _value(expr: Expr, model: Model) -> Any:
    """A constant as itself, anything else as the user wrote it."""
    if isinstance(expr, Constant):
        return _plain(expr.value)
    return {"expression": _text(expr, model)}


def _text(expr: Expr, model: Model) -> str:
    if expr.span.path != model.path:
        return ""
    return " ".join(model.source[expr.span.start : expr.span.end].split())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
