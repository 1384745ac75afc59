"""Sums and differences of estimates, as of two log evidences: a Bayes factor."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmppl.posterior.estimate import Estimate, Kind

_TURNED: dict[Kind, Kind] = {
    "lower bound": "upper bound",
    "upper bound": "lower bound",
    # The reciprocal of an unbiased estimate is not unbiased.
    "unbiased": "consistent",
}
_BOUNDS: tuple[Kind, ...] = ("lower bound", "upper bound")


def negative(a: Estimate) -> Estimate:
    """−a: a lower bound becomes an upper one, and what was unbiased in Z is only consistent."""
    kind = _TURNED.get(a.kind, a.kind)
    return replace(a, value=-a.value, lower=-a.upper, upper=-a.lower, kind=kind)


def total(a: Estimate, b: Estimate) -> Estimate:
    """a + b of two estimates.

    The interval combines the two by the method of Zou and Donner (2008), "Construction of
    confidence limits about effect measures": the distances from the values to their limits are
    added in quadrature, side by side, so that asymmetric intervals stay so. That takes them to be
    independent. Estimates of the same random numbers are added end to end, and the chances to miss
    add up; so is a bracket, which is a guarantee and no sampling distribution.

    Raises: ValueError where the sum means nothing: a lower with an upper bound, ∞ with −∞.
    """
    kind = _kind(a, b)
    value = a.value + b.value
    if math.isnan(value):
        raise ValueError(f"{_shown(a.value)} and {_shown(b.value)} have no sum")
    made = type(a)
    if a.is_exact or b.is_exact:
        moved, shift = (b, a.value) if a.is_exact else (a, b.value)
        error, confidence = moved.standard_error, moved.confidence
        lower, upper = moved.lower + shift, moved.upper + shift
        return made(value, error, lower, upper, kind, confidence, moved.drawn_from)
    are_tied = bool(a.drawn_from & b.drawn_from)
    if are_tied or "bracket" in (a.kind, b.kind):
        lower, upper = a.lower + b.lower, a.upper + b.upper
        confidence = max(0.0, round(a.confidence + b.confidence - 1.0, 12))
    else:
        lower = value - math.hypot(a.value - a.lower, b.value - b.lower)
        upper = value + math.hypot(a.upper - a.value, b.upper - b.value)
        # The wider of two confidences holds at the narrower one, too.
        confidence = min(a.confidence, b.confidence)
    errors = (a.standard_error, b.standard_error)
    error = sum(errors) if are_tied else math.hypot(*errors)
    if are_tied and kind == "unbiased":
        # Only of independent estimates is the product unbiased.
        kind = "consistent"
    return made(value, error, lower, upper, kind, confidence, a.drawn_from | b.drawn_from)


def scaled(a: Estimate, factor: float) -> Estimate:
    """a times a number; negative numbers turn bounds around.

    Raises: ValueError for a factor that is not finite.
    """
    if not math.isfinite(factor):
        raise ValueError(f"an estimate cannot be multiplied by {factor}")
    if factor < 0.0:
        return scaled(negative(a), -factor)
    kind = "consistent" if a.kind == "unbiased" and factor != 1.0 else a.kind
    if factor == 0.0:
        return type(a).exact(0.0)
    return replace(
        a,
        value=factor * a.value,
        standard_error=factor * a.standard_error,
        lower=factor * a.lower,
        upper=factor * a.upper,
        kind=kind,
    )


def _kind(a: Estimate, b: Estimate) -> Kind:
    kinds = {a.kind, b.kind}
    if kinds == {"lower bound", "upper bound"}:
        raise ValueError(
            "a lower bound and an upper bound add up to neither: the difference of two lower"
            " bounds, such as two ELBOs, says nothing about the difference of the evidences;"
            " compare estimates that are exact or unbiased (smc, importance, or"
            " log_evidence_importance of svi)"
        )
    for bound in _BOUNDS:
        if bound in kinds:
            return bound
    if "bracket" in kinds:
        return "bracket"
    kinds.discard("exact")
    if not kinds:
        return "exact"
    if "of what was seen" in kinds:
        return "of what was seen"
    # A product of independent unbiased estimates of evidences is unbiased.
    return kinds.pop() if len(kinds) == 1 else "consistent"


def _shown(value: float) -> str:
    return "−∞" if value == -math.inf else "∞" if value == math.inf else f"{value:g}"
