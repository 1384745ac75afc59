"""Quantiles of the normal and Student's t distributions, and the interval of a proportion."""

from __future__ import annotations

import math
from functools import lru_cache

from scipy import special


def normal_quantile(probability: float) -> float:
    """The quantile of the standard normal distribution; ±inf at 1 and 0."""
    return float(special.ndtri(min(max(probability, 0.0), 1.0)))


@lru_cache(maxsize=1024)
def student_quantile(probability: float, degrees: float) -> float:
    """The quantile of Student's t with `degrees` of freedom (any positive real number).

    No degree of freedom gives ±inf: nothing is known of the spread.
    """
    if not degrees > 0.0:
        return math.copysign(math.inf, probability - 0.5) if probability != 0.5 else 0.0
    if probability in (0.0, 1.0):
        return math.copysign(math.inf, probability - 0.5)
    if degrees > 1e7:
        return normal_quantile(probability)
    return float(special.stdtrit(degrees, probability))


def student_tail(value: float, degrees: float) -> float:
    """P(T > value) for Student's t with `degrees` of freedom; the normal's where they are many."""
    if degrees > 1e7:
        return float(special.ndtr(-value))
    return float(special.stdtr(degrees, -value))


def proportion_interval(
    successes: float, trials: float, confidence: float = 0.95
) -> tuple[float, float]:
    """The Clopper–Pearson interval of a probability: at least `confidence` coverage, always.

    Clopper and Pearson (1934). `successes` and `trials` may be fractions, as an effective sample
    size is (Korn and Graubard 1998). No trials give [0, 1].
    """
    if not trials > 0.0:
        return 0.0, 1.0
    if not 0.0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    tail = 0.5 * (1.0 - confidence)
    failures = trials - successes
    lower, upper = 0.0, 1.0
    if successes > 0.0:
        lower = float(special.betaincinv(successes, failures + 1.0, tail))
    if failures > 0.0:
        upper = float(special.betainccinv(successes + 1.0, failures, tail))
    return lower, upper
