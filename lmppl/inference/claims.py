"""Claims about a posterior of which its guide may have lost a part."""

from __future__ import annotations

import math
from dataclasses import replace

from lmppl.factors.ranges import expr_range
from lmppl.ir.expr import Expr
from lmppl.posterior import ExpectationResult, Posterior, verdict_of
from lmppl.target import Target


def judged(posterior: Posterior, target: Target, group: int) -> Posterior:
    """The posterior with its claims judged for what its guide may have lost, too.

    Of a posterior of which a share of up to u is unseen, a mean lies between (1 − u) times the ends
    of its interval plus u times those of the expression's range; a quantile or deviation is not
    bounded so. A verdict that does not stand that becomes `undecided`.
    """
    coverage = posterior.diagnostics.get("guide_coverage")
    if coverage is None or not posterior.expectations:
        return posterior
    results = [
        _limited(result, _range_of(claim.expr, target, group), coverage["unseen"])
        for result, claim in zip(posterior.expectations, target.model.expectations, strict=True)
    ]
    if results == list(posterior.expectations):
        return posterior
    reason = coverage["reason"] or (
        f"up to {100 * coverage['unseen']:.2g}% of the posterior may lie where the guide does not"
        " go"
    )
    sentence = f"claims are undecided that hold or fail only of what the guide covers: {reason}"
    return posterior.replace(expectations=results, warnings=[*posterior.warnings, sentence])


def _limited(
    result: ExpectationResult, bounds: tuple[float, float], unseen: float
) -> ExpectationResult:
    if result.verdict == "undecided":
        return result
    if result.statistic not in ("mean", "probability") or not all(map(math.isfinite, bounds)):
        return replace(result, verdict="undecided")
    estimate = result.estimate
    wider = replace(
        estimate,
        lower=(1.0 - unseen) * estimate.lower + unseen * bounds[0],
        upper=(1.0 - unseen) * estimate.upper + unseen * bounds[1],
    )
    return replace(result, verdict=verdict_of(wider, result.operator, result.bound))


def _range_of(expr: Expr, target: Target, group: int) -> tuple[float, float]:
    """The least and largest value of an expression, for the parameters of a binding."""
    if expr.type.kind == "bool":
        return 0.0, 1.0
    found = expr_range(expr, target.model, target.bindings[group])
    return found.lower, found.upper
