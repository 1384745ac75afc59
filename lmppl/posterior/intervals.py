"""Quantiles of the normal, Student's t and beta distributions, for confidence intervals.

Written out because numpy has none of them and scipy is no run-time dependency.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

_NORMAL = NormalDist()


def normal_quantile(probability: float) -> float:
    """The quantile of the standard normal distribution; ±inf at 1 and 0."""
    if probability <= 0.0:
        return -math.inf
    if probability >= 1.0:
        return math.inf
    return _NORMAL.inv_cdf(probability)


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction.

    Lentz's method as in Press et al. (2007), Numerical Recipes, section 6.4; the symmetry
    I_x(a, b) = 1 − I_{1−x}(b, a) keeps x where the fraction converges fast.
    """
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - beta_cdf(1.0 - x, b, a)
    log_front = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    return math.exp(log_front) * _beta_fraction(x, a, b) / a


def _beta_fraction(x: float, a: float, b: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    value = d
    # The number of terms grows like the square root of the larger parameter.
    for m in range(1, 10_000 + int(10.0 * math.sqrt(a + b))):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        for term in (even, odd):
            d = 1.0 + term * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + term / c
            c = c if abs(c) > tiny else tiny
            value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return value


def beta_quantile(probability: float, a: float, b: float) -> float:
    """The x in [0, 1] at which `beta_cdf(x, a, b)` is `probability`, by bisection."""
    if probability <= 0.0:
        return 0.0
    if probability >= 1.0:
        return 1.0
    low, high = 0.0, 1.0
    # Bisection on the bits: small quantiles keep their relative precision.
    for _ in range(1100):
        middle = 0.5 * (low + high)
        if middle in (low, high) or high - low <= 1e-14 * low:
            break
        if beta_cdf(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


@lru_cache(maxsize=1024)
def student_quantile(probability: float, degrees: float) -> float:
    """The quantile of Student's t with `degrees` of freedom (any positive real number).

    No degree of freedom gives ±inf: nothing is known of the spread.
    """
    if not degrees > 0.0:
        return math.copysign(math.inf, probability - 0.5) if probability != 0.5 else 0.0
    if probability < 0.5:
        return -student_quantile(1.0 - probability, degrees)
    if degrees > 1e7:
        return normal_quantile(probability)
    # |T| > t has probability I_x(ν/2, 1/2) at x = ν / (ν + t²).
    x = beta_quantile(2.0 * (1.0 - probability), 0.5 * degrees, 0.5)
    return math.inf if x == 0.0 else math.sqrt(degrees * (1.0 / x - 1.0))


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
    lower = 0.0 if successes == 0.0 else beta_quantile(tail, successes, failures + 1.0)
    upper = 1.0 if failures == 0.0 else 1.0 - beta_quantile(tail, failures, successes + 1.0)
    return lower, upper
