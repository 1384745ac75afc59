"""Uncertain rewards: a distribution of the score for each text.

The members of an ensemble, each with the same weight, or a Gaussian. Nothing is ever averaged
silently: a rule (`lmppl.builtins.rules`) reads that distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
        return self.mean(), self.std()

    def mean(self) -> Floats:
        """The expected reward, `[batch]`."""
        if self.members is not None:
            return within(self.members, self.members.mean(axis=1))
        assert self.gaussian_mean is not None
        return self.gaussian_mean

    def std(self) -> Floats:
        """The standard deviation, `[batch]`.

        The members *are* the distribution, so it is that of the population (divided by the number
        of members, not by one less): a single member has std 0.
        """
        if self.members is not None:
            spread: Floats = self.members.std(axis=1)
            return spread
        assert self.gaussian_std is not None
        return self.gaussian_std


def within(members: Floats, averages: Floats) -> Floats:
    """The averages without the rounding that puts them outside their members: ranges are exact."""
    return np.clip(averages, members.min(axis=1), members.max(axis=1))


def normal_quantile(level: Floats) -> Floats:
    """The quantiles of the standard normal distribution, `[batch]`; ∞ at 1."""
    standard = NormalDist()
    by_level = {
        value: math.inf if value >= 1.0 else standard.inv_cdf(value)
        for value in np.unique(level).tolist()
    }
    return np.array([by_level[value] for value in level.tolist()], dtype=np.float64)


def normal_density(z: Floats) -> Floats:
    """φ(z) of the standard normal distribution."""
    density: Floats = np.exp(-0.5 * np.square(z) - _HALF_LOG_TWO_PI)
    return density


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
