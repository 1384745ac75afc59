"""Uncertain rewards and the rules that turn one into a number, all in closed form.

An uncertain reward is a distribution for each text: the members of an ensemble, each with the same
weight, or a Gaussian. A rule reads that distribution; nothing is ever averaged silently.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmppl.builtins.risk_ranges import RISK_RULES
from lmppl.errors import Diagnostic, InferenceError

Floats = NDArray[np.float64]

_SQRT_HALF = math.sqrt(0.5)
_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True, slots=True, eq=False)
class UncertainScores:
    """The distribution of a reward for each of a batch of texts.

    Either `members` is given, `[batch, members]`, equally weighted; or `gaussian_mean` and
    `gaussian_std` are, `[batch]` each, with std 0 for a certain value. All finite, float64.
    """

    members: Floats | None = None
    gaussian_mean: Floats | None = None
    gaussian_std: Floats | None = None

    @classmethod
    def ensemble(cls, members: ArrayLike) -> UncertainScores:
        """The scores of an ensemble, `[batch, members]` with at least one member.

        Raises:
            ValueError: not two axes, no member, or a value that is not finite.
        """
        array = np.asarray(members, dtype=np.float64)
        if array.ndim != 2 or array.shape[1] == 0:
            raise ValueError(f"members must be [batch, members], not {list(array.shape)}")
        if not np.isfinite(array).all():
            raise ValueError("members must be finite")
        return cls(members=array)

    @classmethod
    def gaussian(cls, mean: ArrayLike, std: ArrayLike) -> UncertainScores:
        """Scores that are Gaussian with the given means and standard deviations, `[batch]` each.

        Raises:
            ValueError: shapes differ, a std is negative, or a value is not finite.
        """
        means = np.asarray(mean, dtype=np.float64)
        stds = np.asarray(std, dtype=np.float64)
        if means.ndim != 1 or means.shape != stds.shape:
            raise ValueError(
                f"mean and std must both be [batch], not {list(means.shape)} and {list(stds.shape)}"
            )
        if not (np.isfinite(means).all() and np.isfinite(stds).all()):
            raise ValueError("mean and std must be finite")
        if (stds < 0.0).any():
            raise ValueError("std must not be negative")
        return cls(gaussian_mean=means, gaussian_std=stds)

    def __len__(self) -> int:
        array = self.members if self.members is not None else self.gaussian_mean
        return 0 if array is None else int(array.shape[0])

    @property
    def is_gaussian(self) -> bool:
        return self.members is None

    @property
    def num_members(self) -> int | None:
        """The number of members; None for a Gaussian."""
        return None if self.members is None else int(self.members.shape[1])

    def take(self, rows: NDArray[np.integer]) -> UncertainScores:
        """The scores of the given rows, in that order."""
        if self.members is not None:
            return UncertainScores(members=self.members[rows])
        assert self.gaussian_mean is not None and self.gaussian_std is not None
        return UncertainScores(
            gaussian_mean=self.gaussian_mean[rows], gaussian_std=self.gaussian_std[rows]
        )

    def moments(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation, `[batch]` each."""
        return mean(self), std(self)


def mean(scores: UncertainScores) -> Floats:
    """The expected reward, `[batch]`."""
    if scores.members is not None:
        return _within(scores.members, scores.members.mean(axis=1))
    assert scores.gaussian_mean is not None
    return scores.gaussian_mean


def std(scores: UncertainScores) -> Floats:
    """The standard deviation, `[batch]`.

    The members *are* the distribution, so it is that of the population (divided by the number of
    members, not by one less): a single member has std 0.
    """
    if scores.members is not None:
        spread: Floats = scores.members.std(axis=1)
        return spread
    assert scores.gaussian_std is not None
    return scores.gaussian_std


def lcb(scores: UncertainScores, k: ArrayLike = 1.0) -> Floats:
    """The lower confidence bound `mean − k·std`, `[batch]`; a negative k is an upper bound."""
    return mean(scores) - _checked("lcb", k, scores) * std(scores)


def worst(scores: UncertainScores) -> Floats:
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
                    "worst() needs an ensemble, but this reward gave a mean and a std",
                    notes=("a Gaussian has no smallest value",),
                    help="use quantile(r, q=0.05), cvar(r, alpha=0.05) or lcb(r, k=2)",
                )
            ]
        )
    smallest: Floats = scores.members.min(axis=1)
    return smallest


def quantile(scores: UncertainScores, q: ArrayLike) -> Floats:
    """The smallest value x with P(reward ≤ x) ≥ q, `[batch]`, for 0 < q < 1.

    For an ensemble this is the ⌈q·M⌉-th smallest of the M members (type 1 of Hyndman and Fan 1996,
    The American Statistician 50(4)): always a member, never something between two.
    """
    level = _checked("quantile", q, scores)
    if scores.members is not None:
        ordered = np.sort(scores.members, axis=1)
        num_members = ordered.shape[1]
        # The slack forgives the rounding of q·M, such as 0.07·100 = 7.000000000000001.
        rank = np.ceil(level * num_members - 1e-9).astype(np.int64) - 1
        rank = np.clip(rank, 0, num_members - 1)
        return np.take_along_axis(ordered, rank[:, None], axis=1)[:, 0]
    return mean(scores) + std(scores) * _normal_quantile(level)


def cvar(scores: UncertainScores, alpha: ArrayLike) -> Floats:
    """The mean of the worst share `alpha` of the distribution, `[batch]`, for 0 < alpha ≤ 1.

    `(1/α) ∫₀^α quantile(u) du`: exact for an ensemble, where a member on the edge counts with the
    part of its weight that is inside; `mean − std·φ(z_α)/α` for a Gaussian. alpha 1 is the mean.
    Rockafellar and Uryasev (2000), Journal of Risk 2(3), for the upper tail of a loss.
    """
    level = _checked("cvar", alpha, scores)
    if scores.members is not None:
        ordered = np.sort(scores.members, axis=1)
        num_members = ordered.shape[1]
        inside = np.clip(level[:, None] * num_members - np.arange(num_members), 0.0, 1.0)
        return _within(ordered, (inside * ordered).sum(axis=1) / inside.sum(axis=1))
    z = _normal_quantile(level)
    density = np.exp(-0.5 * np.square(z) - _HALF_LOG_TWO_PI)
    return mean(scores) - std(scores) * density / level


def entropic(scores: UncertainScores, rho: ArrayLike) -> Floats:
    """The entropic certainty equivalent `−(1/ρ) log E exp(−ρ·reward)`, `[batch]`.

    ρ > 0 is averse to risk (below the mean, towards the worst as ρ grows), ρ = 0 is the mean, ρ < 0
    seeks risk: ρ = −1/β turns `factor entropic(r, rho) / beta` into log E exp(r/β), the evidence
    averaged over what the reward may be. A Gaussian gives `mean − ρ·std²/2`. It is minus the
    entropic risk measure of Föllmer and Schied (Stochastic Finance, 2016, section 4.2).
    """
    aversion = _checked("entropic", rho, scores)
    centre = mean(scores)
    if scores.members is None:
        return centre - 0.5 * aversion * np.square(std(scores))
    exponents = -aversion[:, None] * (scores.members - centre[:, None])
    # expm1 and log1p keep every digit as ρ → 0, where the plain formula is 0/0; far from 0 they
    # would overflow, and there the usual shift by the largest exponent is exact enough.
    is_small = np.abs(exponents).max(axis=1) < 1.0
    largest = exponents.max(axis=1)
    shifted = np.exp(exponents - largest[:, None]).mean(axis=1)
    near = np.log1p(np.expm1(np.where(is_small[:, None], exponents, 0.0)).mean(axis=1))
    log_mean = np.where(is_small, near, largest + np.log(shifted))
    safe = np.where(aversion == 0.0, 1.0, aversion)
    return _within(scores.members, centre - np.where(aversion == 0.0, 0.0, log_mean / safe))


def preferred(scores: UncertainScores, over: ArrayLike) -> Floats:
    """The log of the probability that the reward exceeds `over`, in nats, `[batch]`; at most 0.

    A Gaussian gives log Φ((mean − over)/std); with std 0 that is 0, −∞, or log ½ at a tie. An
    ensemble of M members, k of them above (a tie counts as half), gives log((k + ½)/(M + 1)): the
    middle of Hill's interval [k/(M+1), (k+1)/(M+1)] for one more exchangeable draw (Hill 1968, JASA
    63, assumption A(n)), and the posterior mean of the probability under Jeffreys' prior. A few
    members never prove that a probability is 0 or 1, so the value stays finite. The two sides of
    `over` add up to 1 in both cases, and a spread that is wide against the distance gives log ½.
    """
    bar = _checked("preferred", over, scores)
    if scores.members is not None:
        members = scores.members
        above = (members > bar[:, None]).sum(axis=1) + 0.5 * (members == bar[:, None]).sum(axis=1)
        log_share: Floats = np.log((above + 0.5) / (members.shape[1] + 1.0))
        return log_share
    distance = mean(scores) - bar
    spread = std(scores)
    certain = np.where(distance > 0.0, 0.0, np.where(distance < 0.0, -np.inf, -math.log(2.0)))
    with np.errstate(over="ignore"):
        # A spread next to nothing is as good as none: ±∞ is right there.
        z = distance / np.where(spread > 0.0, spread, 1.0)
    return np.where(spread > 0.0, log_normal_cdf(z), certain)


def log_normal_cdf(z: ArrayLike) -> Floats:
    """log Φ(z) of the standard normal distribution, accurate in both tails."""
    values = np.atleast_1d(np.asarray(z, dtype=np.float64))
    return np.array([_log_normal_cdf(value) for value in values.tolist()], dtype=np.float64)


def _log_normal_cdf(z: float) -> float:
    if z > 0.0:
        return math.log1p(-0.5 * math.erfc(z * _SQRT_HALF))
    if z > -30.0:
        return math.log(0.5 * math.erfc(-z * _SQRT_HALF))
    # erfc underflows near −38; its asymptotic series (Abramowitz and Stegun 26.2.12) is exact to
    # the last digit long before.
    t = 1.0 / (z * z)
    series = -t * (1.0 - 3.0 * t * (1.0 - 5.0 * t * (1.0 - 7.0 * t)))
    return -0.5 * z * z - math.log(-z) - _HALF_LOG_TWO_PI + math.log1p(series)


def apply_rule(rule: str, scores: UncertainScores, argument: ArrayLike | None = None) -> Floats:
    """The value of the named rule, `[batch]`; without `argument` the rule's default is used.

    Raises:
        InferenceError: the argument is outside the rule's domain, or the rule does not fit.
    """
    described = RISK_RULES[rule]
    if described.parameter is None:
        plain: dict[str, Callable[[UncertainScores], Floats]] = {
            "mean": mean,
            "std": std,
            "worst": worst,
        }
        return plain[rule](scores)
    if argument is None:
        argument = described.default
    if argument is None:
        raise ValueError(f"{rule}() needs its argument {described.parameter}")
    with_argument: dict[str, Callable[[UncertainScores, ArrayLike], Floats]] = {
        "lcb": lcb,
        "quantile": quantile,
        "cvar": cvar,
        "entropic": entropic,
        "preferred": preferred,
    }
    return with_argument[rule](scores, argument)


def _checked(rule: str, argument: ArrayLike, scores: UncertainScores) -> Floats:
    """The argument as `[batch]`, every value inside the rule's domain."""
    described = RISK_RULES[rule]
    values = np.broadcast_to(np.asarray(argument, dtype=np.float64), (len(scores),))
    for value in np.unique(values).tolist():
        if not described.accepts(value):
            raise InferenceError(
                [
                    Diagnostic(
                        "LMP927",
                        "error",
                        f"{rule}() needs {described.parameter} {described.domain}, not {value:g}",
                    )
                ]
            )
    return values


def _within(members: Floats, averages: Floats) -> Floats:
    """The averages without the rounding that puts them outside their members: ranges are exact."""
    return np.clip(averages, members.min(axis=1), members.max(axis=1))


def _normal_quantile(level: Floats) -> Floats:
    standard = NormalDist()
    by_level = {
        value: math.inf if value >= 1.0 else standard.inv_cdf(value)
        for value in np.unique(level).tolist()
    }
    return np.array([by_level[value] for value in level.tolist()], dtype=np.float64)
