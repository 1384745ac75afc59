"""What is known of a potential before anything is run: range, when decidable, noise, cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from lmppl.builtins import source_of
from lmppl.evaluation.constants import NotConstant, constant_value
from lmppl.evaluation.ranges import expr_range
from lmppl.ir.expr import ExternCall, RewardCall
from lmppl.ir.model import Decidable, Facts, Model, Noise, Potential, RewardSource
from lmppl.ir.types import Interval, Type


def facts_of(model: Model, potential: Potential, values: Mapping[str, object]) -> Facts:
    """The facts of a potential when the parameters are `values`; parameters may be missing."""
    if potential.kind == "factor":
        range = expr_range(potential.expr, model, values)
    else:
        range = Interval(-math.inf, 0.0)
    return Facts(
        range,
        _decidable(model, potential, values),
        noise=_noise(model, potential),
        cost=_cost(model, potential),
    )


def _noise(model: Model, potential: Potential) -> Noise:
    called = (n for n in model.nodes(potential.expr, potential.when) if isinstance(n, RewardCall))
    noisy = any(model.rewards[call.reward].noise != "none" for call in called)
    return "unbiased" if noisy else "none"


def _decidable(model: Model, potential: Potential, values: Mapping[str, object]) -> Decidable:
    read = texts_read(model, potential)
    if not read:
        return "constant"
    if potential.kind == "factor" or len(read) != 1:
        return "end"
    # Most programs have no constraints, and need not wait for the automata to be imported.
    from lmppl.automata.language import when_decidable
    from lmppl.automata.regex import NotRegular
    from lmppl.evaluation.constraints import required_predicate

    (site,) = read
    known = {**stand_ins(model), **values}
    predicate = required_predicate(model, potential, site, known)
    if predicate is None:
        return "end"
    try:
        return when_decidable(predicate)
    except NotRegular:
        return "end"


def texts_read(model: Model, potential: Potential) -> frozenset[str]:
    """The text sites that a potential looks at, in its condition after `when` too."""
    texts = frozenset(site.name for site in model.text_sites)
    asked = frozenset() if potential.when is None else model.sites_of(potential.when)
    return (model.sites_of(potential.expr) | asked) & texts


def stand_ins(model: Model) -> dict[str, object]:
    """A value of the right type for every parameter and discrete choice.

    When a requirement becomes decidable depends on its form, hardly on the values in it.
    """
    values: dict[str, object] = {}
    for parameter in model.parameters:
        if parameter.default is not None:
            try:
                values[parameter.name] = constant_value(parameter.default, model, {})
                continue
            except (NotConstant, ArithmeticError, ValueError):
                pass
        values[parameter.name] = _stand_in(parameter.type)
    for site in model.sites:
        if site.is_text:
            continue
        argument = site.distribution.argument("values")
        try:
            support = () if argument is None else constant_value(argument, model, values)
        except (NotConstant, ArithmeticError, ValueError):
            support = ()
        values[site.name] = support[0] if support else _stand_in(site.type)
    return values


def _stand_in(type: Type) -> object:
    if type.dimensions:
        return (_stand_in(type.element()),)
    match type.kind:
        case "string":
            return "x"
        case "bool":
            return True
        case _:
            low = type.range.lower if type.range.lower > -math.inf else 1.0
            value = min(max(low, 1.0), type.range.upper)
            return math.ceil(value) if type.kind == "int" else value


def _cost(model: Model, potential: Potential) -> Literal["free", "cheap", "model"]:
    nodes = list(model.nodes(potential.expr, potential.when))
    rewards = [model.rewards[node.reward] for node in nodes if isinstance(node, RewardCall)]
    if any(_runs_a_model(reward.source) for reward in rewards):
        return "model"
    if any(isinstance(node, ExternCall) for node in nodes):
        return "model"
    texts = {site.name for site in model.text_sites}
    return "cheap" if model.sites_of(potential.expr, potential.when) & texts else "free"


def _runs_a_model(source: RewardSource) -> bool:
    return source_of(source).runs_a_model or any(_runs_a_model(each) for each in source.members)
