"""The rules that turn an uncertain reward into a number: their arguments and their ranges.

Read by the checker, so it knows neither numpy nor torch; `lmppl.builtins.risk` computes the rules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lmppl.ir.types import Interval


@dataclass(frozen=True, slots=True)
class RiskRule:
    """A rule `name(r)` or `name(r, parameter)` and the values that its parameter may take.

    `default` is the parameter's value when it is not written; None means that it must be written.
    The parameter lies in `[lower, upper]`, without an end that is open.
    """

    name: str
    parameter: str | None = None
    default: float | None = None
    lower: float = -math.inf
    upper: float = math.inf
    lower_is_open: bool = False
    upper_is_open: bool = False

    def accepts(self, value: float) -> bool:
        """Whether the parameter may have this value."""
        above = value > self.lower or (value == self.lower and not self.lower_is_open)
        below = value < self.upper or (value == self.upper and not self.upper_is_open)
        return above and below and math.isfinite(value)

    @property
    def domain(self) -> str:
        """The values of the parameter in words, such as `above 0 and at most 1`."""
        parts = []
        if self.lower > -math.inf:
            parts.append(f"{'above' if self.lower_is_open else 'at least'} {self.lower:g}")
        if self.upper < math.inf:
            parts.append(f"{'below' if self.upper_is_open else 'at most'} {self.upper:g}")
        return " and ".join(parts) or "finite"


RISK_RULES: Mapping[str, RiskRule] = {
    rule.name: rule
    for rule in (
        RiskRule("mean"),
        RiskRule("std"),
        RiskRule("lcb", "k", 1.0),
        RiskRule("worst"),
        RiskRule("quantile", "q", None, 0.0, 1.0, lower_is_open=True, upper_is_open=True),
        RiskRule("cvar", "alpha", None, 0.0, 1.0, lower_is_open=True),
        RiskRule("entropic", "rho"),
        RiskRule("preferred", "over"),
    )
}


def rule_range(
    rule: str,
    range: Interval,
    arguments: Mapping[str, Interval | float] | None = None,
    *,
    may_be_gaussian: bool = True,
) -> Interval:
    """The interval that a risk rule's value lies in.

    `range` is the declared range of the uncertain reward: it bounds every member of an ensemble,
    and the mean of a Gaussian. `arguments` holds the rule's parameter, as a number or as the
    interval it is known to lie in. A Gaussian has no widest spread, so where the reward may be one
    (any extern reward) a rule that adds spread is unbounded on that side; pass
    `may_be_gaussian=False` for `ensemble([...])`, whose values never leave the range of its
    members.
    """
    described = RISK_RULES[rule]
    argument = Interval(-math.inf, math.inf)
    if described.parameter is not None:
        given = (arguments or {}).get(described.parameter, described.default)
        if isinstance(given, Interval):
            argument = given
        elif given is not None:
            argument = Interval(float(given), float(given))
    width = range.upper - range.lower
    # Popoviciu (1935): no distribution on an interval has a std above half its width.
    spread = Interval(0.0, math.inf if may_be_gaussian else width / 2.0)
    above = math.inf if may_be_gaussian else range.upper
    below = -math.inf if may_be_gaussian else range.lower
    match rule:
        case "std":
            return spread
        case "lcb":
            return range - argument * spread
        case "preferred":
            return Interval(-math.inf, 0.0)
        case "quantile":
            return Interval(
                range.lower if argument.lower >= 0.5 else below,
                range.upper if argument.upper <= 0.5 else above,
            )
        case "cvar":
            return Interval(range.lower if argument.lower >= 1.0 else below, range.upper)
        case "entropic":
            return Interval(
                range.lower if argument.upper <= 0.0 else below,
                range.upper if argument.lower >= 0.0 else above,
            )
        case _:  # mean, and worst, which is refused of a Gaussian
            return range
