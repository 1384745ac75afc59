"""Rules for uncertain rewards by name, as the tests ask for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lmppl.builtins import every
from lmppl.builtins.kinds import Rule
from lmppl.ir.types import Interval
from lmppl.rewards.uncertain import UncertainScores

RULES = every(Rule)


def apply_rule(rule: str, scores: UncertainScores, argument: Any = None) -> np.ndarray:
    """The value of a rule, `[batch]`."""
    return RULES[rule].apply(scores, argument)


def rule_range(
    rule: str,
    range: Interval,
    arguments: Mapping[str, Interval | float] | None = None,
    *,
    may_be_gaussian: bool = True,
) -> Interval:
    """The interval of a rule's value, from that of the reward and the parameter."""
    given = {
        name: value if isinstance(value, Interval) else Interval(float(value), float(value))
        for name, value in (arguments or {}).items()
    }
    return RULES[rule].range({"r": range, **given}, may_be_gaussian=may_be_gaussian)
