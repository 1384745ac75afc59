"""Rules that turn an uncertain reward into a number, all in closed form.

A rule is its signature, the interval its value lies in, and what computes it from the distribution
of the reward of each text. The checker reads this file and needs no NumPy, so that the functions
which do import it themselves.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lmppl.builtins.kinds import Rule
from lmppl.builtins.signature import Argument
from lmppl.errors import Diagnostic, InferenceError
from lmppl.ir.types import Interval

if TYPE_CHECKING:
    from lmppl.rewards.uncertain import Floats, UncertainScores

_REWARD = Argument("r", "uncertain", "an uncertain reward")


def _mean_bounds(
    members: Interval, spread: Interval, is_open: bool, parameter: Interval
) -> Interval:
    return members


MEAN = Rule(
    name="mean",
    arguments=(_REWARD,),
    doc="The mean of the reward's distribution.",
    example="factor mean(helpful(text)) / beta",
    compute=lambda scores: scores.mean(),
    bounds=_mean_bounds,
)


def _std_bounds(
    members: Interval, spread: Interval, is_open: bool, parameter: Interval
) -> Interval:
    return spread


STD = Rule(
    name="std",
    arguments=(_REWARD,),
    doc="The standard deviation of the reward's distribution.",
    example="return std(h)",
    compute=lambda scores: scores.std(),
    bounds=_std_bounds,
)


def lower_bound(scores: UncertainScores, k: Floats) -> Floats:
    """`mean − k·std`, `[batch]`; a negative k is an upper bound."""
    return scores.mean() - k * scores.std()


def _lower_bound_bounds(
    members: Interval, spread: Interval, is_open: bool, parameter: Interval
) -> Interval:
    return members - parameter * spread


LCB = Rule(
    name="lcb",
    arguments=(
        _REWARD,
        Argument(
            "k",
            "number",
            "how many standard deviations below the mean",
            required=False,
            default=1.0,
        ),
    ),
    doc="The lower confidence bound: mean - k * std.",
    example="factor lcb(helpful(text), k=2) / beta",
    compute=lower_bound,
    bounds=_lower_bound_bounds,
)


def smallest(scores: UncertainScores) -> Floats:
    """The smallest member, `[batch]`.

    Raises:
        InferenceError: the reward is Gaussian, whose smallest value is −∞.
    """
    if scores.members is None:
        raise InferenceError(
            [
                Diagnostic(
                    "LMP927",
                    "error",
                    f"{WORST.name}() needs an ensemble, but this reward gave a mean and a std",
                    notes=("a Gaussian has no smallest value",),
                    help=f"use {QUANTILE.name}(r, q=0.05), {CVAR.name}(r, alpha=0.05) or"
                    f" {LCB.name}(r, k=2)",
                )
            ]
        )
    found: Floats = scores.members.min(axis=1)
    return found


WORST = Rule(
    name="worst",
    arguments=(_REWARD,),
    doc="The lowest member of an ensemble.",
    example="factor worst(helpful(text)) / beta",
    compute=smallest,
    # It is refused of a Gaussian.
    bounds=_mean_bounds,
)


def quantile(scores: UncertainScores, q: Floats) -> Floats:
    """The smallest value x with P(reward ≤ x) ≥ q, `[batch]`, for 0 < q < 1.

    For an ensemble this is the ⌈q·M⌉-th smallest of the M members (type 1 of Hyndman and Fan 1996,
    The American Statistician 50(4)): always a member, never something between two.
    """
    import numpy as np

    from lmppl.rewards.uncertain import normal_quantile

    if scores.members is not None:
        ordered = np.sort(scores.members, axis=1)
        num_members = ordered.shape[1]
        # The slack forgives the rounding of q·M, such as 0.07·100 = 7.000000000000001.
        rank = np.ceil(q * num_members - 1e-9).astype(np.int64) - 1
        rank = np.clip(rank, 0, num_members - 1)
        return np.take_along_axis(ordered, rank[:, None], axis=1)[:, 0]
    return scores.mean() + scores.std() * normal_quantile(q)


def _quantile_bounds(
    members: Interval, spread: Interval, is_open: bool, parameter: Interval
) -> Interval:
    return Interval(
        -math.inf if is_open and parameter.lower < 0.5 else members.lower,
        math.inf if is_open and parameter.upper > 0.5 else members.upper,
    )


QUANTILE = Rule(
    name="quantile",
    arguments=(
        _REWARD,
        Argument(
            "q",
            "number",
            "a probability",
            range=Interval(0.0, 1.0),
            lower_is_open=True,
            upper_is_open=True,
        ),
    ),
    doc="The value that the reward is below with probability q.",
    example="factor quantile(helpful(text), q=0.1) / beta",
    compute=quantile,
    bounds=_quantile_bounds,
)


def mean_of_the_worst(scores: UncertainScores, alpha: Floats) -> Floats:
    """The mean of the worst share `alpha` of the distribution, `[batch]`, for 0 < alpha ≤ 1.

    `(1/α) ∫₀^α quantile(u) du`: exact for an ensemble, where a member on the edge counts with the
    part of its weight that is inside; `mean − std·φ(z_α)/α` for a Gaussian. alpha 1 is the mean.
    Rockafellar and Uryasev (2000), Journal of Risk 2(3), for the upper tail of a loss.
    """
    import numpy as np

    from lmppl.rewards.uncertain import normal_density, normal_quantile, within

    if scores.members is not None:
        ordered = np.sort(scores.members, axis=1)
        num_members = ordered.shape[1]
        inside = np.clip(alpha[:, None] * num_members - np.arange(num_members), 0.0, 1.0)
        return within(ordered, (inside * ordered).sum(axis=1) / inside.sum(axis=1))
    density = normal_density(normal_quantile(alpha))
    return scores.mean() - scores.std() * density / alpha


def _mean_of_the_worst_bounds(
    members: Interval, spread: Interval, is_open: bool, parameter: Interval
) -> Interval:
    below = -math.inf if is_open and parameter.lower < 1.0 else members.lower
    return Interval(below, members.upper)


CVAR = Rule(
    name="cvar",
    arguments=(
        _REWARD,
        Argument(
            "alpha",
            "number",
            "the share of the lowest values",
            range=Interval(0.0, 1.0),
            lower_is_open=True,
        ),
    ),
    doc="The mean of the reward over its lowest share alpha.",
    example="factor cvar(helpful(text), alpha=0.25) / beta",
    compute=mean_of_the_worst,
    bounds=_mean_of_the_worst_bounds,
)


def certainty_equivalent(scores: UncertainScores, rho: Floats) -> Floats:
    """The entropic certainty equivalent `−(1/ρ) log E exp(−ρ·reward)`, `[batch]`.

    ρ > 0 is averse to risk (below the mean, towards the worst as ρ grows), ρ = 0 is the mean, ρ < 0
    seeks risk: ρ = −1/β turns `factor entropic(r, rho) / beta` into log E exp(r/β), the evidence
    averaged over what the reward may be. A Gaussian gives `mean − ρ·std²/2`. It is minus the
    entropic risk measure of Föllmer and Schied (Stochastic Finance, 2016, section 4.2).
    """
    import numpy as np

    from lmppl.rewards.uncertain import within

    centre = scores.mean()
    if scores.members is None:
        return centre - 0.5 * rho * np.square(scores.std())
    exponents = -rho[:, None] * (scores.members - centre[:, None])
    # expm1 and log1p keep every digit as ρ → 0, where the plain formula is 0/0; far from 0 they
    # would overflow, and there the usual shift by the largest exponent is exact enough.
    is_small = np.abs(exponents).max(axis=1) < 1.0
    largest = exponents.max(axis=1)
    shifted = np.exp(exponents - largest[:, None]).mean(axis=1)
    near = np.log1p(np.expm1(np.where(is_small[:, None], exponents, 0.0)).mean(axis=1))
    log_mean = np.where(is_small, near, largest + np.log(shifted))
    safe = np.where(rho == 0.0, 1.0, rho)
    return within(scores.members, centre - np.where(rho == 0.0, 0.0, log_mean / safe))


def _certainty_equivalent_bounds(
    members: Interval, spread: Interval, is_open: bool, parameter: Interval
) -> Interval:
    return Interval(
        -math.inf if is_open and parameter.upper > 0.0 else members.lower,
        math.inf if is_open and parameter.lower < 0.0 else members.upper,
    )


ENTROPIC = Rule(
    name="entropic",
    arguments=(_REWARD, Argument("rho", "number", "the attitude to risk; 0 is the mean")),
    doc="The certainty equivalent -log(mean(exp(-rho * r))) / rho; averse to risk for rho > 0.",
    example="factor entropic(helpful(text), rho=1) / beta",
    compute=certainty_equivalent,
    bounds=_certainty_equivalent_bounds,
)


def log_share_above(scores: UncertainScores, over: Floats) -> Floats:
    """The log of the probability that the reward exceeds `over`, in nats, `[batch]`; at most 0.

    A Gaussian gives log Φ((mean − over)/std); with std 0 that is 0, −∞, or log ½ at a tie. An
    ensemble of M members, k of them above (a tie counts as half), gives log((k + ½)/(M + 1)): the
    middle of Hill's interval [k/(M+1), (k+1)/(M+1)] for one more exchangeable draw (Hill 1968, JASA
    63, assumption A(n)), and the posterior mean of the probability under Jeffreys' prior. A few
    members never prove that a probability is 0 or 1, so the value stays finite. The two sides of
    `over` add up to 1 in both cases, and a spread that is wide against the distance gives log ½.
    """
    import numpy as np

    from lmppl.rewards.uncertain import log_normal_cdf

    if scores.members is not None:
        members, bar = scores.members, over[:, None]
        above = (members > bar).sum(axis=1) + 0.5 * (members == bar).sum(axis=1)
        log_share: Floats = np.log((above + 0.5) / (members.shape[1] + 1.0))
        return log_share
    distance = scores.mean() - over
    spread = scores.std()
    certain = np.where(distance > 0.0, 0.0, np.where(distance < 0.0, -np.inf, -math.log(2.0)))
    with np.errstate(over="ignore"):
        # A spread next to nothing is as good as none: ±∞ is right there.
        z = distance / np.where(spread > 0.0, spread, 1.0)
    return np.where(spread > 0.0, log_normal_cdf(z), certain)


def _log_share_bounds(
    members: Interval, spread: Interval, is_open: bool, parameter: Interval
) -> Interval:
    return Interval(-math.inf, 0.0)


PREFERRED = Rule(
    name="preferred",
    arguments=(_REWARD, Argument("over", "number", "the threshold")),
    doc="The log of the probability that the reward exceeds a threshold.",
    example="factor preferred(helpful(text), over=0.5)",
    compute=log_share_above,
    bounds=_log_share_bounds,
    may_be_zero_mass=True,
)

RULES = (MEAN, STD, LCB, WORST, QUANTILE, CVAR, ENTROPIC, PREFERRED)
