"""A number with its error, and with what kind of statement it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import fdtri

from lmppl.posterior.arithmetic import negative, scaled, total
from lmppl.posterior.intervals import normal_quantile, student_quantile
from lmppl.posterior.mean_bounds import Units, mean_interval

Kind = Literal[
    "exact", "unbiased", "lower bound", "upper bound", "bracket", "consistent", "of what was seen"
]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate of a number, its standard error, an interval, and what kind of claim it is.

    Of a log evidence (nats) the kinds are: `exact`; `unbiased`, whose exponential is an unbiased
    estimate of the evidence (the value itself is too low on average); `lower bound` and
    `upper bound`, which an ELBO and its reverse are and an evidence is not; and `bracket`, where
    `lower` and `upper` hold the evidence at the stated confidence and `value` is their middle.
    Of an expectation the kind is `exact`, `consistent`, or `of what was seen`: the same where
    nothing bounds how much of the posterior the draws may have missed, so that the interval is one
    for the error of draws like these, and of the rest it holds what is known to have been lost.

    `[lower, upper]` holds the true value at the stated `confidence`; a side that the draws cannot
    bound is infinite. A standard error that cannot be known from the draws is infinite too.
    `drawn_from` names the random numbers that it rests on, where they are known: two estimates that
    share them are not taken for independent.
    """

    value: float
    standard_error: float
    lower: float
    upper: float
    kind: Kind
    confidence: float = 0.95
    drawn_from: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    @property
    def is_exact(self) -> bool:
        """Whether it is the true value and not an estimate of it."""
        return self.kind == "exact"

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        if self.is_exact:
            return f"{_digits(self.value)} (exact)"
        error = self.standard_error
        # Of an unknown error, three digits of the value.
        places = _places(
            abs(self.value) / 10.0 if self.kind != "bracket" and math.isinf(error) else error
        )
        lower, upper = _digits(self.lower, places), _digits(self.upper, places)
        if self.kind == "bracket":
            return f"between {lower} and {upper} (bracket, {_percent(self.confidence)})"
        error_in_words = "unknown" if math.isinf(error) else _digits(error, places)
        value = _digits(self.value, places)
        kind = "" if self.kind == "consistent" else f"{_KIND_IN_WORDS[self.kind]}; "
        return f"{value} ± {error_in_words} ({kind}{_percent(self.confidence)}: {lower} to {upper})"

    def __format__(self, spec: str) -> str:
        """The value as a number where digits are asked for, as in f"{estimate:.2f}"."""
        return format(self.value, spec) if spec else str(self)

    @classmethod
    def exact(cls, value: float) -> Estimate:
        """A number without error."""
        return cls(float(value), 0.0, float(value), float(value), "exact", 1.0)

    @classmethod
    def bracket(cls, lower: float, upper: float, confidence: float) -> Estimate:
        """An interval that holds the true value at the stated confidence."""
        if lower > upper:
            raise ValueError(f"the bracket [{lower}, {upper}] is inverted")
        finite = math.isfinite(lower) and math.isfinite(upper)
        middle = 0.5 * (lower + upper) if finite else (lower if math.isfinite(lower) else upper)
        return cls(middle, math.inf, float(lower), float(upper), "bracket", confidence)

    @classmethod
    def from_weights(
        cls,
        log_weights: ArrayLike,
        *,
        log_bound: float = math.inf,
        confidence: float = 0.95,
    ) -> Estimate:
        """The log of the mean of independent weights: unbiased before the log is taken.

        `log_weights` is `[draws]`, in nats, unnormalised; −inf is a draw of weight zero. No weight
        can be larger than `log_bound`. See `from_units` for the interval.
        """
        log_w = np.asarray(log_weights, dtype=np.float64).ravel()
        return cls.from_units(log_w, log_bound=log_bound, confidence=confidence)

    @classmethod
    def from_units(
        cls,
        log_totals: ArrayLike,
        *,
        log_bound: float = math.inf,
        log_missing: float = -math.inf,
        num_looks: float | None = None,
        kind: Kind = "unbiased",
        shape: float = 1.0,
        confidence: float = 0.95,
    ) -> Estimate:
        """The log of the mean of independent numbers that are not negative, `[units]`, in nats.

        Units are weighted draws, or what descends from the first particles of a population. The
        standard error is the delta method's, unless the interval is much longer or few units carry
        the weight. The interval is
        Gaffke's for the mean of numbers in [0, exp(`log_bound`)] (see `mean_bounds`): prior mass of
        up to 1 − δ^(1/n) goes unseen by `num_looks` = n independent draws (all of them where it is
        not given), and adds that much times the bound. Where nothing bounds the weights there is no
        upper end. `log_missing` is the log of what is known to have been lost, at most. Below,
        Markov's inequality P(Ẑ ≥ Z/δ) ≤ δ is used where it is better. `shape` below 1 says that
        a unit is worth less than one independent draw.

        Weights that are all zero give −inf, and an upper end where there is a bound.
        """
        log_w = np.asarray(log_totals, dtype=np.float64).ravel()
        _refuse_nan(log_w)
        tail = 0.5 * (1.0 - confidence)
        looks = float(log_w.size if num_looks is None else num_looks)
        value = log_mean_exp(log_w)
        log_unseen = math.log(-math.expm1(math.log(tail) / looks))
        # The most that can be missing altogether, were it all as heavy as can be.
        log_most = min(float(np.logaddexp(log_bound + log_unseen, log_missing)), log_bound)
        if value == -math.inf:
            return cls(value, math.inf, -math.inf, log_most, kind, confidence)
        relative = np.exp(log_w - value)
        size = relative.size
        units = Units(
            np.full(size, 1.0 / size),
            relative / size,
            shape=shape,
            further=1.0 / looks,
            missing=0.0,
        )
        lowest, _ = mean_interval(units, 0.0, float(relative.max()), confidence)
        lower = value + max(_log(lowest), math.log(tail))
        upper = math.inf
        if log_bound < math.inf:
            if max(log_bound, log_missing) - value > 200.0:
                # What was seen counts for nothing beside it.
                upper = log_most
            else:
                units = replace(units, missing=math.exp(log_missing - log_bound))
                end = max(math.exp(log_bound - value), float(relative.max()))
                upper = value + math.log(mean_interval(units, 0.0, end, confidence)[1])
            upper = max(value, min(upper, log_bound))
        error = 0.0
        if size > 1:
            error = float(relative.std(ddof=1)) / math.sqrt(size * shape)
        elif log_w.size == 1:
            error = math.inf
        # What is below is rounding.
        error = error if error > 1e-7 else 0.0
        error = honest_error(error, lower, upper, confidence, on_few=hangs_on_few(relative, size))
        return cls(value, error, min(lower, value), upper, kind, confidence)

    @classmethod
    def from_genealogy(
        cls,
        log_weights: ArrayLike,
        eves: ArrayLike,
        *,
        num_first: int | None = None,
        num_looks: float | None = None,
        log_bound: float = math.inf,
        log_missing: float = -math.inf,
        confidence: float = 0.95,
    ) -> Estimate:
        """The log evidence of independent runs of SMC, its error read off their genealogy.

        `log_weights` `[runs, particles]` are those of the last step, in nats, with a mean that is
        the run's estimate of the evidence; `eves` `[runs, particles]` is the index of the particle
        of the first step that each descends from, of `num_first` (as many as now by default). What
        descends from one first particle is a unit: the variance is that of Chan and Lai (2013), "A
        general theory of particle filters in hidden Markov models and some applications". The
        correction of Lee and Whiteley (2018), arXiv:1509.00394, for the noise of multinomial
        resampling is left out: under systematic resampling it takes away too much. Runs that differ
        by more than their families explain make each unit worth less. `num_looks` first particles
        have looked for what was not seen, by default those with living offspring: what was
        resampled away can no longer find anything, and what died by itself found that there is
        nothing.
        """
        log_w = np.atleast_2d(np.asarray(log_weights, dtype=np.float64))
        _refuse_nan(log_w)
        highest = float(log_w.max())
        runs, last = log_w.shape
        size = last if num_first is None else num_first
        if highest == -math.inf:
            return cls.from_units(log_w, log_bound=log_bound, confidence=confidence)
        units = np.asarray(eves, dtype=np.int64).reshape(runs, last)
        units = units + size * np.arange(runs)[:, None]
        totals = np.bincount(
            units.ravel(), weights=np.exp(log_w - highest).ravel(), minlength=runs * size
        ).reshape(runs, size) * (size / last)
        with np.errstate(divide="ignore"):
            log_totals = highest + np.log(totals)
        return cls.from_units(
            log_totals,
            log_bound=log_bound,
            log_missing=log_missing,
            num_looks=float(np.count_nonzero(totals)) if num_looks is None else num_looks,
            shape=_share_explained(totals.mean(axis=1), totals) if size > 1 else 1.0,
            confidence=confidence,
        )

    @classmethod
    def from_mean(
        cls,
        values: ArrayLike,
        *,
        kind: Kind = "consistent",
        confidence: float = 0.95,
    ) -> Estimate:
        """The mean of independent values `[draws]` with its standard error and Student's interval.

        With `kind="lower bound"` this is an ELBO and its Monte Carlo error: `lower` bounds the
        evidence from below at the stated confidence, and `upper` is infinite.
        """
        x = np.asarray(values, dtype=np.float64).ravel()
        _refuse_nan(x)
        value = float(x.mean())
        if not math.isfinite(value):
            return cls(value, math.inf, -math.inf, math.inf, kind, confidence)
        error = float(x.std(ddof=1)) / math.sqrt(x.size) if x.size > 1 else math.inf
        if error <= 1e-12 * (1.0 + abs(value)):
            # Values that are all alike say nothing of their spread.
            error = math.inf
        return cls.from_error(value, error, degrees=x.size - 1, kind=kind, confidence=confidence)

    @classmethod
    def from_error(
        cls,
        value: float,
        standard_error: float,
        *,
        degrees: float = math.inf,
        kind: Kind = "consistent",
        confidence: float = 0.95,
    ) -> Estimate:
        """An estimate with a known standard error and Student's interval around it.

        A bound is uncertain on one side only; its other side is infinite.
        """
        one_sided = kind in ("lower bound", "upper bound")
        tail = (1.0 - confidence) if one_sided else 0.5 * (1.0 - confidence)
        spread = (
            0.0 if standard_error == 0.0 else student_quantile(1.0 - tail, degrees) * standard_error
        )
        lower = -math.inf if kind == "upper bound" else value - spread
        upper = math.inf if kind == "lower bound" else value + spread
        return cls(float(value), float(standard_error), lower, upper, kind, confidence)

    # Arithmetic of estimates; see `lmppl.posterior.arithmetic`.

    def __add__(self, other: Estimate | float) -> Estimate:
        """The sum with another estimate, or with a number, with its error and kind."""
        if isinstance(other, (int, float)):
            other = Estimate.exact(other)
        return total(self, other) if isinstance(other, Estimate) else NotImplemented

    def __sub__(self, other: Estimate | float) -> Estimate:
        """The difference to another estimate, or to a number, with its error and kind.

        `a.log_evidence - b.log_evidence` is the log Bayes factor of two models. Estimates of one
        seed depend on each other in a way that is not known: their interval is the widest that
        there can be, and its confidence what is left when both may miss. Give every run a seed of
        its own; of two statistics of one posterior, take the statistic of the difference.

        Raises: ValueError where the difference means nothing, as of two lower bounds.
        """
        if isinstance(other, (int, float)):
            other = Estimate.exact(other)
        if not isinstance(other, Estimate):
            return NotImplemented
        return Estimate.exact(0.0) if other is self else total(self, negative(other))

    def __radd__(self, other: float) -> Estimate:
        return self + other

    def __rsub__(self, other: float) -> Estimate:
        return negative(self) + other

    def __neg__(self) -> Estimate:
        return negative(self)

    def __mul__(self, factor: float) -> Estimate:
        """The estimate times a number, as 1 / log(2) to turn nats into bits."""
        return scaled(self, factor) if isinstance(factor, (int, float)) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Estimate:
        return scaled(self, 1.0 / divisor) if isinstance(divisor, (int, float)) else NotImplemented

    @property
    def error_is_of_interval(self) -> bool:
        """Whether the standard error is half the interval in units of the normal's, or infinite,
        because the spread of the draws is not believed (see `honest_error`)."""
        if self.is_exact or math.isinf(self.standard_error):
            return not self.is_exact
        half = (self.upper - self.lower) / (2.0 * normal_quantile(0.5 + 0.5 * self.confidence))
        return math.isclose(self.standard_error, half, rel_tol=1e-9)

    def clipped(self, lower: float, upper: float) -> Estimate:
        """The same estimate with its interval cut to a range that is known beforehand."""
        return replace(
            self,
            lower=min(max(self.lower, lower), upper),
            upper=max(min(self.upper, upper), lower),
        )

    def to_dict(self) -> dict[str, Any]:
        """What it says, by name."""
        return {name: value for name, value in asdict(self).items() if name != "drawn_from"}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Estimate:
        """The inverse of `to_dict`."""
        return cls(**fields)


_KIND_IN_WORDS = {
    "unbiased": "unbiased in Z",
    "lower bound": "a lower bound",
    "upper bound": "an upper bound",
    "of what was seen": "of what was seen",
}


def log_mean_exp(log_weights: Floats | Sequence[float]) -> float:
    """Log of the mean weight, in nats; all −inf gives −inf, not NaN."""
    log_w = np.asarray(log_weights, dtype=np.float64)
    if log_w.size == 0:
        raise ValueError("no weights")
    highest = float(log_w.max())
    if not math.isfinite(highest):
        return highest
    return highest + math.log(float(np.exp(log_w - highest).mean()))


def cluster_sums(values: Floats, clusters: ArrayLike | None) -> Floats:
    """The sum of the values `[draws]` of every cluster, `[clusters]`; each its own without any."""
    if clusters is None:
        return values
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    return np.asarray(np.bincount(index.ravel(), weights=values), dtype=np.float64)


# How many times as long as its standard error an interval is before that is not believed.
_MUCH_MORE = 2.5


# Fewer units than this say nothing of their spread, where there are far more: an estimate that
# hangs on one has a relative error of 1 by the delta method, however wrong it is.
_FEW_UNITS = 10.0


def hangs_on_few(shares: Floats, num_draws: int) -> bool:
    """Whether few units `[units]` of many draws carry the weight, so that its spread tells no
    error."""
    size = float(np.sum(shares)) ** 2 / float(np.sum(shares**2))
    return size < min(_FEW_UNITS, num_draws / 4.0)


def honest_error(
    error: float, lower: float, upper: float, confidence: float, *, on_few: bool = False
) -> float:
    """The standard error, or half the interval in units of the normal's where that is much more.

    Draws that are all alike have no spread to read an error from, and a rare heavy draw that was
    missed does not show in it; the interval knows of both. `on_few`: the estimate hangs on few
    units, whose spread is no error at all.
    """
    half = (upper - lower) / (2.0 * normal_quantile(0.5 + 0.5 * confidence))
    if on_few:
        return max(error, half)
    if math.isinf(half):
        return error if error > 0.0 else math.inf
    return error if 0.0 < error < math.inf and half <= _MUCH_MORE * error else half


# Means of equal numbers differ by less than this, relative to them.
_ROUNDING = 1e-12


def _share_explained(run_means: Floats, totals: Floats) -> float:
    """The share of the variance between runs `[runs]` that families `[runs, particles]` explain.

    1 where runs differ no more than their families say, by an F test at 1 %: with few runs, chance
    alone makes them differ.
    """
    runs, size = totals.shape
    if runs < 2:
        return 1.0
    within = float(totals.var(axis=1, ddof=1).mean()) / size
    between = float(run_means.var(ddof=1))
    surprising = float(fdtri(runs - 1, runs * (size - 1), 0.99))
    # Families that are all alike, one of each first particle, explain nothing; rounding is nothing.
    if between <= max(surprising * within, (_ROUNDING * float(run_means.mean())) ** 2):
        return 1.0
    return float(min(1.0, float(totals.var(ddof=1)) / size / between))


def _refuse_nan(values: Floats) -> None:
    if values.size == 0:
        raise ValueError("an estimate needs at least one value")
    if np.isnan(values).any() or np.isposinf(values).any():
        raise ValueError("NaN or +inf among the values of an estimate")


def _log(value: float) -> float:
    return math.log(value) if value > 0.0 else -math.inf


def _places(error: float) -> int | None:
    """The decimals that an error supports: two of its own digits."""
    if not math.isfinite(error) or error == 0.0:
        return None
    return max(0, 1 - math.floor(math.log10(error)))


# Beyond it the digits of a number are counted, not read.
_LONGEST = 1e12


def _digits(value: float, places: int | None = None) -> str:
    if math.isnan(value):
        return "unknown"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if places is not None and places <= 6 and abs(value) < _LONGEST:
        return f"{value:z.{places}f}"  # no "-0.00"
    if value == 0.0:
        return "0"
    return f"{value:.4g}" if abs(value) < 1e-2 or abs(value) >= 1e6 else f"{value:.4f}"


def _percent(confidence: float) -> str:
    return f"{100.0 * confidence:g}%"
