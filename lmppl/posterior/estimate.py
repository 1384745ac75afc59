"""A number with its error, and with what kind of statement it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmppl.posterior.arithmetic import negative, scaled, total
from lmppl.posterior.intervals import student_quantile

Kind = Literal["exact", "unbiased", "lower bound", "upper bound", "bracket", "consistent"]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate of a number, its standard error, an interval, and what kind of claim it is.

    Of a log evidence (nats) the kinds are: `exact`; `unbiased`, whose exponential is an unbiased
    estimate of the evidence (the value itself is too low on average); `lower bound` and
    `upper bound`, which an ELBO and its reverse are and an evidence is not; and `bracket`, where
    `lower` and `upper` hold the evidence at the stated confidence and `value` is their middle.
    Of an expectation the kind is `exact` or `consistent`.

    `[lower, upper]` holds the true value at the stated `confidence`; a side that the draws cannot
    bound is infinite. A standard error that cannot be known from the draws is infinite too.
    """

    value: float
    standard_error: float
    lower: float
    upper: float
    kind: Kind
    confidence: float = 0.95

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        if self.kind == "exact":
            return f"{_digits(self.value)} (exact)"
        places = _places(self.standard_error)
        lower, upper = _digits(self.lower, places), _digits(self.upper, places)
        if self.kind == "bracket":
            return f"between {lower} and {upper} (bracket, {_percent(self.confidence)})"
        error = (
            "unknown" if math.isinf(self.standard_error) else _digits(self.standard_error, places)
        )
        value = _digits(self.value, places)
        kind = "" if self.kind == "consistent" else f"{_KIND_IN_WORDS[self.kind]}; "
        return f"{value} ± {error} ({kind}{_percent(self.confidence)}: {lower} to {upper})"

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
        clusters: ArrayLike | None = None,
        num_particles: int = 1,
        confidence: float = 0.95,
    ) -> Estimate:
        """The log of the mean weight: unbiased for the evidence before the log is taken.

        `log_weights` is `[draws]`, in nats, unnormalised; −inf is a draw of weight zero, and all
        of them give −inf. `clusters` is `[draws]`: draws with the same number may depend on each
        other, others are independent. `num_particles` independent draws stand behind each weight.
        See `from_relative_variance` for the interval.
        """
        log_w = np.asarray(log_weights, dtype=np.float64).ravel()
        _refuse_nan(log_w)
        value = log_mean_exp(log_w)
        if value == -math.inf:
            return cls(value, math.inf, -math.inf, math.inf, "unbiased", confidence)
        shares = cluster_sums(np.exp(log_w - value) / log_w.size, clusters)
        units = shares.size
        if clusters is None:
            deviations = shares - 1.0 / units
        else:
            # Clusters may differ in size: the deviation is from what their size would give.
            sizes = cluster_sums(np.ones(log_w.size), clusters)
            deviations = shares - sizes / log_w.size
        variance = math.inf
        if units > 1:
            variance = float(np.sum(deviations**2)) * units / (units - 1)
        return cls.from_relative_variance(
            value,
            variance,
            degrees=units - 1,
            num_units=units * num_particles,
            confidence=confidence,
        )

    @classmethod
    def from_runs(
        cls, log_z_hats: ArrayLike, *, num_particles: int = 1, confidence: float = 0.95
    ) -> Estimate:
        """The log of the mean of independent unbiased estimates of the evidence.

        `log_z_hats` is `[runs]`, in nats; −inf is a run that lost all its mass. A single run has
        no error of its own: the standard error is infinite. `num_particles` is those of each run:
        the more there are, the less can have gone unseen by all.
        """
        return cls.from_weights(log_z_hats, num_particles=num_particles, confidence=confidence)

    @classmethod
    def from_genealogy(
        cls,
        log_z_hat: float,
        log_weights: ArrayLike,
        eves: ArrayLike,
        *,
        confidence: float = 0.95,
    ) -> Estimate:
        """The log evidence of one run of SMC, its error read off the genealogy.

        `log_weights` `[particles]` are those of the last step, in nats, `eves` `[particles]` the
        index of the particle of the first step that each descends from. See
        `genealogical_variance`.
        """
        variance = genealogical_variance(log_weights, eves)
        families = float(np.unique(np.asarray(eves)).size)
        return cls.from_relative_variance(
            float(log_z_hat),
            variance,
            degrees=families - 1.0,
            num_units=families,
            confidence=confidence,
        )

    @classmethod
    def from_relative_variance(
        cls,
        value: float,
        relative_variance: float,
        *,
        degrees: float = math.inf,
        num_units: float = math.inf,
        confidence: float = 0.95,
    ) -> Estimate:
        """A log evidence whose estimate Ẑ has variance Z² · `relative_variance`.

        The standard error is that of log Ẑ by the delta method. The interval inverts
        (Ẑ − Z) / (Z · r), with Student's t at `degrees` of freedom: it is symmetric where r is
        small, and longer above where r is large, because a weight that was missed only ever makes
        Ẑ too small. Where t · r ≥ 1 the draws do not bound Z from above. Below, Markov's
        inequality P(Ẑ ≥ Z/δ) ≤ δ holds whatever the distribution, and is used where it is better.

        Weights that are all equal, or nearly, show no variance, but a share of up to 1 − δ^(1/n)
        of the draws may weigh less, or nothing, and go unseen among `num_units` = n independent
        ones: the interval reaches down to Ẑ · δ^(1/n) at least, as Clopper and Pearson's does.
        """
        if value == -math.inf or math.isnan(value):
            return cls(value, math.inf, -math.inf, math.inf, "unbiased", confidence)
        # What is below is rounding.
        error = 0.0 if relative_variance < 1e-15 else math.sqrt(relative_variance)
        tail = 0.5 * (1.0 - confidence)
        spread = 0.0 if error == 0.0 else student_quantile(1.0 - tail, degrees) * error
        upper = value - math.log1p(-spread) if spread < 1.0 else math.inf
        unseen = math.log(tail) / num_units
        lower = value + max(min(-math.log1p(spread), unseen), math.log(tail))
        return cls(value, error, lower, upper, "unbiased", confidence)

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

    # Arithmetic of independent estimates; see `lmppl.posterior.arithmetic`.

    def __add__(self, other: Estimate | float) -> Estimate:
        """The sum with an independent estimate, or with a number, with its error and kind."""
        if isinstance(other, (int, float)):
            other = Estimate.exact(other)
        return total(self, other) if isinstance(other, Estimate) else NotImplemented

    def __sub__(self, other: Estimate | float) -> Estimate:
        """The difference to an independent estimate, or to a number, with its error and kind.

        `a.log_evidence - b.log_evidence` is the log Bayes factor of two models. Of two statistics
        of one posterior, which depend on each other, take the statistic of the difference.

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

    def clipped(self, lower: float, upper: float) -> Estimate:
        """The same estimate with its interval cut to a range that is known beforehand."""
        return replace(
            self,
            lower=min(max(self.lower, lower), upper),
            upper=max(min(self.upper, upper), lower),
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Estimate:
        """The inverse of `to_dict`."""
        return cls(**fields)


_KIND_IN_WORDS = {
    "unbiased": "unbiased in Z",
    "lower bound": "a lower bound",
    "upper bound": "an upper bound",
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


def genealogical_variance(log_weights: ArrayLike, eves: ArrayLike) -> float:
    """The variance of Ẑ/Z of one SMC run, from which first particles the last ones descend.

    With N particles and W_e the normalised weight of the descendants of first particle e,

        (N · Σ_e W_e² − 1) / (N − 1),

    the estimate of Chan and Lai (2013), "A general theory of particle filters in hidden Markov
    models and some applications". The correction of Lee and Whiteley (2018), arXiv:1509.00394, for
    the noise of multinomial resampling is left out: under systematic resampling it takes away too
    much and the estimate can fall to 0 (a test shows both). One surviving family gives 1: the
    genealogy says nothing any more. Without resampling it is the sample variance of the mean
    weight. All dead gives inf.
    """
    log_w = np.asarray(log_weights, dtype=np.float64).ravel()
    _refuse_nan(log_w)
    size = log_w.size
    total = log_mean_exp(log_w)
    if size < 2 or total == -math.inf:
        return math.inf
    families = cluster_sums(np.exp(log_w - total) / size, eves)
    return max(0.0, (size * float(np.sum(families**2)) - 1.0) / (size - 1.0))


def _refuse_nan(values: Floats) -> None:
    if values.size == 0:
        raise ValueError("an estimate needs at least one value")
    if np.isnan(values).any() or np.isposinf(values).any():
        raise ValueError("NaN or +inf among the values of an estimate")


def _places(error: float) -> int | None:
    """The decimals that an error supports: two of its own digits."""
    if not math.isfinite(error) or error == 0.0:
        return None
    return max(0, 1 - math.floor(math.log10(error)))


def _digits(value: float, places: int | None = None) -> str:
    if math.isnan(value):
        return "unknown"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if places is not None and places <= 6:
        return f"{value:.{places}f}"
    if value == 0.0:
        return "0"
    return f"{value:.4g}" if abs(value) < 1e-2 or abs(value) >= 1e6 else f"{value:.4f}"


def _percent(confidence: float) -> str:
    return f"{100.0 * confidence:g}%"
