"""Whether posteriors that claim to be the same are: estimate by estimate, and text by text."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmppl.posterior import Estimate, Posterior
from lmppl.posterior.intervals import normal_quantile, student_tail

Floats = NDArray[np.float64]

FALSE_ALARM = 0.01
_EVIDENCE = "log evidence"
_BY_WEIGHTS = "log evidence by importance weights"
_MAX_CATEGORIES = 20
_NUM_SIGNS = 8


@dataclass(frozen=True, slots=True)
class Measured:
    """An estimate and the degrees of freedom of its error; infinite where it is exact."""

    estimate: Estimate
    degrees: float = math.inf


@dataclass(frozen=True, slots=True)
class Difference:
    """How far two posteriors are apart in one quantity.

    `sigmas` is in standard errors of the difference, `p_value` the probability of one as large by
    chance, by Student's t at Welch's (1947) degrees of freedom.
    """

    quantity: str
    first: str
    second: str
    sigmas: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The estimates of each posterior by quantity, and all differences between any two.

    `tables` is by name of the posterior. Quantities in `hidden` are many small ones of the same
    texts, which a reader has no use for one by one.
    """

    tables: Mapping[str, Mapping[str, Measured]]
    differences: tuple[Difference, ...]
    hidden: frozenset[str]

    @property
    def disagreements(self) -> tuple[Difference, ...]:
        """The differences that chance does not explain, at `FALSE_ALARM` over all of them; the
        least probable first."""
        limit = FALSE_ALARM / max(1, len(self.differences))
        far = [each for each in self.differences if each.p_value < limit]
        return tuple(sorted(far, key=lambda each: (each.p_value, -each.sigmas)))

    @property
    def compared(self) -> tuple[str, ...]:
        """What could be compared, in words; the texts of a site are one thing."""
        names = dict.fromkeys(each.quantity for each in self.differences)
        return tuple(dict.fromkeys(_in_words(name) for name in names))


def compare_posteriors(posteriors: Mapping[str, Posterior]) -> Comparison:
    """Compares posteriors of one model by name in all that they can be asked.

    That is the log evidence (a bound only has to be on its side), an importance estimate of it, the
    means of factors and numbers, the probabilities of categories, the file's own `expect` lines,
    and of each text its length and random projections of its tokens, their pairs and its first
    token: distributions of texts that differ in what tokens they have differ in one of those.
    """
    categories = _categories(posteriors.values())
    return compare_tables({name: measure(each, categories) for name, each in posteriors.items()})


def compare_tables(tables: Mapping[str, Mapping[str, Measured]]) -> Comparison:
    """Compares estimates of the same quantities, by name of what made them and of the quantity."""
    hidden = frozenset(name for table in tables.values() for name in table if _is_hidden(name))
    differences = tuple(_differences(tables))
    return Comparison(tables, differences, hidden)


def measure(
    posterior: Posterior, categories: Mapping[str, tuple[Any, ...]] | None = None
) -> dict[str, Measured]:
    """Every quantity of a posterior that can be compared, by name.

    `categories` has the values of each categorical site that any of the posteriors drew.
    """
    degrees = _degrees(posterior)
    found: dict[str, Measured] = {}
    if posterior.log_evidence is not None:
        found[_EVIDENCE] = Measured(posterior.log_evidence, degrees)
    by_weights = posterior.info.get("log_evidence_importance")
    if isinstance(by_weights, Mapping):
        found[_BY_WEIGHTS] = Measured(Estimate.from_dict(by_weights), degrees)
    alive = posterior.log_weights > -math.inf
    for label in posterior.potential_labels:
        values = posterior.log_potential(label)[alive]
        # A requirement is 0 on all draws, whatever the method.
        if np.isfinite(values).all() and values.any():
            found[f"mean of {label}"] = Measured(posterior.factor_mean(label), degrees)
    known = _categories([posterior]) if categories is None else categories
    for name in dict.fromkeys((*posterior.names, *posterior.site_names)):
        for quantity, estimate in _of_column(posterior, name, known.get(name, ())):
            found[quantity] = Measured(estimate, degrees)
    for claim in posterior.expectations:
        found[f"expect {claim.source}"] = Measured(claim.estimate, degrees)
    # Where nothing varies and no range is known, there is nothing to compare.
    return {name: each for name, each in found.items() if not _is_void(each.estimate)}


def _of_column(
    posterior: Posterior, name: str, categories: tuple[Any, ...]
) -> Iterator[tuple[str, Estimate]]:
    column = posterior.data.outputs.get(name)
    column = posterior.data.sites[name] if column is None else column
    if isinstance(column, np.ndarray):
        if column.dtype.kind == "b":
            yield f"probability of {name}", posterior.probability(column)
        else:
            yield f"mean of {name}", posterior.expectation(name)
    elif name in posterior.data.tokens:
        yield from _of_text(posterior, name)
    elif categories:
        values = np.array([str(value) for value in column], dtype=object)
        for category in categories:
            same = np.asarray(values == str(category), dtype=bool)
            yield f"probability of {name} = {category}", posterior.probability(same)
    elif all(isinstance(value, str) for value in column):
        lengths = np.array([len(value) for value in column], dtype=np.float64)
        yield f"mean length of {name}", posterior.expectation(lengths, bounds=(0.0, math.inf))


def _of_text(posterior: Posterior, name: str) -> Iterator[tuple[str, Estimate]]:
    ids, lengths = posterior.tokens(name), posterior.lengths(name)
    longest = float(max(ids.shape[1], 1))
    yield (
        f"mean length of {name} in tokens",
        posterior.expectation(lengths.astype(np.float64), bounds=(0.0, longest)),
    )
    here = np.arange(ids.shape[1])[None, :] < lengths[:, None]
    for number in range(_NUM_SIGNS):
        signs = np.where(here, _signs(ids, f"token {number}"), 0.0)
        first = signs[:, 0] if ids.shape[1] else np.zeros(len(posterior))
        # The sign of a pair is not the product of two signs, which would see only parities.
        pairs = np.zeros(len(posterior))
        if ids.shape[1] > 1:
            both = ids[:, :-1] * 1_000_003 + ids[:, 1:]
            pairs = np.where(here[:, 1:], _signs(both, f"pair {number}"), 0.0).sum(axis=1)
        for what, values in (("token", signs.sum(axis=1)), ("pair", pairs), ("first", first)):
            reach = 1.0 if what == "first" else longest
            estimate = posterior.expectation(values, bounds=(-reach, reach))
            yield f"texts of {name} ({what} {number + 1})", estimate


def _signs(numbers: NDArray[np.int64], salt: str) -> Floats:
    """A random sign for each number, the same for the same number in every process."""
    values, index = np.unique(numbers, return_inverse=True)
    signs = [
        1.0 if zlib.crc32(f"{salt} {int(value)}".encode()) & 0x10000 else -1.0 for value in values
    ]
    return np.asarray(signs, dtype=np.float64)[index.reshape(numbers.shape)]


def _categories(posteriors: Any) -> dict[str, tuple[Any, ...]]:
    """The values of each categorical site over all posteriors, where they are few."""
    found: dict[str, dict[Any, None]] = {}
    for posterior in posteriors:
        for name, column in posterior.data.sites.items():
            if isinstance(column, tuple) and name not in posterior.data.tokens:
                found.setdefault(name, {}).update(dict.fromkeys(str(value) for value in column))
    few = {name: values for name, values in found.items() if len(values) <= _MAX_CATEGORIES}
    return {name: tuple(sorted(values)) for name, values in few.items()}


def _degrees(posterior: Posterior) -> float:
    """The degrees of freedom of a standard error: independent draws less one."""
    if posterior.enumerated:
        return math.inf
    return max(posterior.num_independent - 1.0, 1.0)


def _differences(tables: Mapping[str, Mapping[str, Measured]]) -> Iterator[Difference]:
    for first, second in combinations(tables, 2):
        a, b = tables[first], tables[second]
        for quantity in dict.fromkeys((*a, *b)):
            # An importance estimate is compared with whatever the other has of the evidence.
            other = _EVIDENCE if quantity == _BY_WEIGHTS else quantity
            one, two = a.get(quantity, a.get(other)), b.get(quantity, b.get(other))
            if one is None or two is None:
                continue
            found = _distance(one, two)
            if found is not None:
                yield Difference(quantity, first, second, *found)


def _distance(a: Measured, b: Measured) -> tuple[float, float] | None:
    """Standard errors between two estimates and their p-value; None where that means nothing."""
    one, two = a.estimate, b.estimate
    if "bracket" in (one.kind, two.kind):
        apart = one.lower > two.upper or two.lower > one.upper
        return (math.inf, 0.0) if apart else (0.0, 1.0)
    excess = abs(one.value - two.value)
    bounds = {"lower bound": 1.0, "upper bound": -1.0}
    if not math.isfinite(excess) or (one.kind in bounds and two.kind in bounds):
        return None
    if one.kind in bounds:
        excess = max(0.0, bounds[one.kind] * (one.value - two.value))
    elif two.kind in bounds:
        excess = max(0.0, bounds[two.kind] * (two.value - one.value))
    errors = (_error_towards(one, two.value), _error_towards(two, one.value))
    error = math.hypot(*errors)
    if not math.isfinite(error):
        return None
    # Two exact answers may differ by rounding.
    error = math.hypot(error, 1e-6 * max(1.0, abs(one.value)))
    degrees = _welch(errors, (a.degrees, b.degrees))
    sigmas = excess / error
    return sigmas, 2.0 * student_tail(sigmas, degrees)


def _error_towards(estimate: Estimate, other: float) -> float:
    """The standard error of an estimate on the side of another value.

    Read off the interval, which is longer on the side of what may have been missed; where that side
    is open, the standard error.
    """
    if estimate.is_exact:
        return 0.0
    above = other > estimate.value
    reach = estimate.upper - estimate.value if above else estimate.value - estimate.lower
    if math.isinf(reach):
        return estimate.standard_error
    one_sided = estimate.kind in ("lower bound", "upper bound")
    level = estimate.confidence if one_sided else 0.5 + 0.5 * estimate.confidence
    return max(reach / normal_quantile(level), 0.0)


def _welch(errors: tuple[float, float], degrees: tuple[float, float]) -> float:
    """Degrees of freedom of a difference, by Welch (1947) and Satterthwaite (1946)."""
    total = errors[0] ** 2 + errors[1] ** 2
    if total == 0.0:
        return math.inf
    parts = sum(e**4 / d for e, d in zip(errors, degrees, strict=True) if e > 0.0)
    return math.inf if parts == 0.0 else total**2 / parts


def _is_void(estimate: Estimate) -> bool:
    return math.isinf(estimate.standard_error) and (
        math.isinf(estimate.lower) and math.isinf(estimate.upper)
    )


def _is_hidden(name: str) -> bool:
    return name.startswith("texts of ")


def _in_words(name: str) -> str:
    return name.partition(" (")[0] if _is_hidden(name) else name
