"""What became of a file's `expect` lines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from lmppl.posterior.estimate import Estimate
from lmppl.records import brief

Statistic = Literal["mean", "probability", "quantile", "std"]
# By these names callers ask for them, as `expect` lines do.
MEAN: Final = "mean"
PROBABILITY: Final = "probability"
QUANTILE: Final = "quantile"
STD: Final = "std"
Verdict = Literal["holds", "fails", "undecided"]


@dataclass(frozen=True, slots=True)
class ExpectationResult:
    """A claim about the posterior, its estimate, and whether it holds.

    The verdict is at the confidence of the estimate, 99 % unless said otherwise: `holds` and
    `fails` where the whole interval lies on one side of the bound, `undecided` where it does not,
    or where the draws cannot settle it whatever their number: `reason` says why.
    """

    label: str
    source: str
    estimate: Estimate
    verdict: Verdict
    statistic: Statistic = MEAN
    operator: str = ">="
    bound: float = math.nan
    reason: str = ""

    __repr__ = brief

    def undecided(self, reason: str) -> ExpectationResult:
        """The same estimate without a verdict, for a reason; what is undecided keeps its own, and
        what is exact is no matter of draws."""
        if self.verdict == "undecided" or self.estimate.is_exact:
            return self
        return replace(self, verdict="undecided", reason=reason)

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, the estimate as a mapping."""
        return {**asdict(self), "estimate": self.estimate.to_dict()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ExpectationResult:
        """The inverse of `to_dict`."""
        return cls(**{**fields, "estimate": Estimate.from_dict(fields["estimate"])})


def verdict_of(estimate: Estimate, operator: str, bound: float) -> Verdict:
    """Whether `estimate operator bound` holds, from the estimate's interval alone.

    An equality can be refuted by an interval but confirmed only by an exact value. Exact values
    are compared with a relative tolerance of 1e-9, because sums of weights are rounded.
    """
    lower, upper = estimate.lower, estimate.upper
    if math.isnan(lower) or math.isnan(upper) or math.isnan(bound):
        return "undecided"
    if estimate.is_exact and math.isclose(lower, bound, rel_tol=1e-9, abs_tol=1e-12):
        return "holds" if operator in (">=", "<=", "==") else "fails"
    match operator:
        case ">=":
            return "holds" if lower >= bound else "fails" if upper < bound else "undecided"
        case ">":
            return "holds" if lower > bound else "fails" if upper <= bound else "undecided"
        case "<=":
            return "holds" if upper <= bound else "fails" if lower > bound else "undecided"
        case "<":
            return "holds" if upper < bound else "fails" if lower >= bound else "undecided"
        case "==":
            return "undecided" if lower <= bound <= upper else "fails"
        case _:
            raise ValueError(f"no comparison {operator!r}")
