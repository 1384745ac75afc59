"""What may well be a mistake and may not be: only under `--pedantic` (6xx)."""

from __future__ import annotations

from collections.abc import Callable

from lmppl.builtins import source_of
from lmppl.checker.divisors import divisors
from lmppl.checker.report import Report
from lmppl.errors import Label
from lmppl.inference.methods import method_named
from lmppl.ir.expr import Constant, RewardCall
from lmppl.ir.model import Model, Potential, RewardSource
from lmppl.ir.types import Interval

# exp(20) is half a billion: what such a factor favours drowns out the prior.
_LARGE_NATS = 20.0


Heuristic = Callable[[Model, Report], None]
_HEURISTICS: list[Heuristic] = []


def _heuristic(warn: Heuristic) -> Heuristic:
    _HEURISTICS.append(warn)
    return warn


def add_heuristics(model: Model, report: Report) -> None:
    """Adds warnings about what is legal and often not meant."""
    for warn in _HEURISTICS:
        warn(model, report)


@_heuristic
def _warn_no_seed(model: Model, report: Report) -> None:
    for spec in model.infers:
        method = method_named(spec.method)
        if method is not None and method.is_random(spec.options) and "seed" not in spec.options:
            report.warning(
                "LMP601",
                spec.span,
                f"this `infer {spec.method}` names no seed",
                notes=["another run gives other draws"],
                help="add `seed=0`",
            )


@_heuristic
def _warn_open_divisors(model: Model, report: Report) -> None:
    found = divisors(model)
    for parameter in model.parameters:
        divisor = found.get(parameter.name)
        if divisor is not None and divisor.in_factor and parameter.type.range.lower < 0.0:
            report.warning(
                "LMP602",
                parameter.span,
                f"`{parameter.name}` divides in a factor and may be negative",
                labels=[Label(divisor.span, "divides here")],
                help=f"declare `{parameter.name}: real<lower=0>`",
            )


@_heuristic
def _warn_large_factors(model: Model, report: Report) -> None:
    for potential in model.potentials:
        if potential.kind != "factor":
            continue
        range = potential.facts.range
        if range.is_bounded_above and range.upper > _LARGE_NATS:
            if _is_bounded_by_declaration(model, potential):
                continue
            report.warning(
                "LMP603",
                potential.span,
                f"this factor can be as large as {range.upper:g} nats",
                notes=[f"exp({range.upper:g}) drowns out the prior, and weights will be uneven"],
                help="divide by a larger temperature",
            )


def _is_bounded_by_declaration(model: Model, potential: Potential) -> bool:
    """Whether a reward has no bound but the declared one, which is a promise and not a scale."""
    return any(
        isinstance(node, RewardCall)
        and not _known_range(model.rewards[node.reward].source).is_bounded_above
        for node in model.nodes(potential.expr)
    )


def _known_range(source: RewardSource) -> Interval:
    return source_of(source).score_range(source.arguments)


@_heuristic
def _warn_unbounded_factors(model: Model, report: Report) -> None:
    for potential in model.potentials:
        if potential.kind != "factor" or potential.facts.range.is_bounded_above:
            continue
        for node in model.nodes(potential.expr):
            if not isinstance(node, RewardCall) or node.type.range.is_bounded_above:
                continue
            report.warning(
                "LMP604",
                potential.span,
                "this factor has no upper bound",
                labels=[Label(model.rewards[node.reward].span, "nor does this reward")],
                notes=["rejection cannot run, and the evidence may not be finite"],
                help="declare the reward's range: `real<lower=…, upper=…>`",
            )
            break


@_heuristic
def _warn_short_texts(model: Model, report: Report) -> None:
    for site in model.text_sites:
        budget = site.distribution.argument("max_tokens")
        if budget is None:
            continue
        known = model.resolve(budget)
        if isinstance(known, Constant) and known.value == 1:
            report.warning("LMP605", budget.span, f"`{site.name}` is a text of one token")
