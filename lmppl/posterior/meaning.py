"""What a posterior says of its own making: how far from the prior it is, and how likely its texts.

All in nats and per draw; nothing here needs the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmppl.posterior.draws import WeightedDraws
from lmppl.posterior.estimate import Estimate, cluster_sums, hangs_on_few
from lmppl.posterior.expectation import PROBABILITY
from lmppl.posterior.questions import Question, statistic

# More values than this are no categories.
_MOST_CATEGORIES = 1000


def kl_to_prior(draws: WeightedDraws, confidence: float = 0.95) -> Estimate | None:
    """KL(posterior ‖ prior) = E[Σ log potentials] − log evidence, in nats; None without evidence.

    Where the method has summed over all texts, it is known. Else the two terms come from the same
    draws: the standard error is that of their difference by the delta method. The interval adds
    the two terms' intervals and their chances to miss, which no dependence exceeds; it starts at 0
    or above.
    """
    if not draws.log_potentials:
        return Estimate.exact(0.0)
    summed = draws.diagnostics.get("kl_to_prior")
    if isinstance(summed, float):
        return Estimate.exact(max(0.0, summed))
    evidence = evidence_estimate(draws)
    if evidence is None or not math.isfinite(evidence.value):
        return None
    # A requirement is 0 on every draw.
    known = draws.ranges
    ranges = [known.get(label, (0.0, 0.0)) for label in draws.log_potentials]
    bounds = math.fsum(low for low, _ in ranges), math.fsum(high for _, high in ranges)
    mean = statistic(draws, draws.total_log_potential, bounds=bounds, confidence=confidence)
    if mean.is_exact and evidence.is_exact:
        return Estimate.exact(max(0.0, mean.value - evidence.value))
    missed = sum(1.0 - each.confidence for each in (mean, evidence) if not each.is_exact)
    return Estimate(
        max(0.0, mean.value - evidence.value),
        _error_of_difference(draws, mean, evidence),
        mean.lower - evidence.upper,
        mean.upper - evidence.lower,
        "consistent" if mean.is_exact else mean.kind,
        max(0.0, round(1.0 - missed, 12)),
    ).clipped(0.0, math.inf)


def _error_of_difference(draws: WeightedDraws, mean: Estimate, evidence: Estimate) -> float:
    """The standard error of E[Σ log potentials] − log Ẑ, both from the weights of these draws.

    Where the error of one of the two is not believed from the draws, nor is that of the difference:
    errors of numbers that may depend on each other add up at most.
    """
    if draws.num_chains is not None or evidence.is_exact:
        return mean.standard_error + evidence.standard_error
    weights = draws.weights
    on_few = hangs_on_few(cluster_sums(weights, draws.clusters), weights.size)
    if on_few or mean.error_is_of_interval or evidence.error_is_of_interval:
        return mean.standard_error + evidence.standard_error
    influence = weights * (draws.total_log_potential - mean.value)
    influence -= weights - 1.0 / weights.size
    units = cluster_sums(influence, draws.clusters)
    if units.size < 2 or not units.any():
        return mean.standard_error + evidence.standard_error
    return math.sqrt(float(np.sum(units**2)) * units.size / (units.size - 1.0))


def evidence_estimate(draws: WeightedDraws) -> Estimate | None:
    """The log evidence, where there is more than a bound: for svi its importance estimate."""
    found = draws.log_evidence
    if found is None or found.kind not in ("lower bound", "upper bound"):
        return found
    kept = draws.info.get("log_evidence_importance")
    return Estimate.from_dict(kept) if isinstance(kept, Mapping) else None


def kl_from_guide(draws: WeightedDraws, confidence: float = 0.95) -> Estimate | None:
    """KL(guide ‖ posterior) in nats, the gap between evidence and ELBO; None where none was fitted.

    With the weights w = π/q of independent draws of the guide it is log mean w − mean log w. Where
    the guide never goes, the draws cannot tell: what is missing there makes it too small.
    """
    if "elbo" not in draws.diagnostics:
        return None
    log_w = draws.log_weights
    if log_w.size < 2 or not np.isfinite(log_w).all():
        return None
    gap = -math.log(log_w.size) - float(log_w.mean())
    # Both means move with the same draws: w/w̄ − 1 in the first, log w − its mean in the second.
    influence = draws.weights * log_w.size - 1.0 - (log_w - log_w.mean())
    error = float(influence.std(ddof=1)) / math.sqrt(log_w.size)
    if error <= 1e-12:
        # Weights that are all alike say nothing of their spread.
        error = math.inf
    made = Estimate.from_error(max(0.0, gap), error, degrees=log_w.size - 1, confidence=confidence)
    return made.clipped(0.0, math.inf)


def perplexity(draws: WeightedDraws, site: str | None = None, confidence: float = 0.95) -> Estimate:
    """exp(E[−log prior] / E[number of tokens]) of the draws, of one text site or of all.

    How many equally likely tokens the prior hesitated between, on average, along texts like
    these; the end token counts. The error is that of a ratio, by the delta method.

    Raises: ValueError where the draws have no texts, or their log priors were not kept.
    """
    log_prior, lengths = _text_log_prior(draws, site)
    weights = draws.weights
    num_tokens = float(np.sum(weights * lengths))
    if num_tokens == 0.0:
        raise ValueError("the texts have no tokens")
    nats = -float(np.sum(weights * log_prior)) / num_tokens
    influence = (-log_prior - nats * lengths) / num_tokens
    around = statistic(draws, influence, confidence=confidence)
    value = math.exp(nats)
    if around.is_exact:
        return Estimate.exact(value)
    return Estimate(
        value,
        value * around.standard_error,
        _exp(nats + around.lower),
        _exp(nats + around.upper),
        around.kind,
        confidence,
    ).clipped(1.0, math.inf)


def probabilities(draws: WeightedDraws, name: str, confidence: float = 0.95) -> dict[Any, Estimate]:
    """The probability of every value of a choice or of a returned name, likeliest first.

    Values that the program allows and no draw has are there too.

    Raises: ValueError for more values than categories can be.
    """
    column = draws.column(name)
    seen: list[Any] = column.tolist() if isinstance(column, np.ndarray) else list(column)
    alive = draws.alive
    values = dict.fromkeys(value for value, lives in zip(seen, alive, strict=True) if lives)
    support = draws.manifest.get("choices", {}).get(name, [])
    values |= dict.fromkeys(support)
    if len(values) > _MOST_CATEGORIES:
        raise ValueError(f"{name} has {len(values)} different values; probabilities are of few")
    found = {
        value: statistic(
            draws, np.array([each == value for each in seen]), PROBABILITY, confidence=confidence
        )
        for value in values
    }
    return dict(sorted(found.items(), key=lambda item: -item[1].value))


def prior_expectation(draws: WeightedDraws, f: Question, confidence: float = 0.95) -> Estimate:
    """The mean of f under the prior, restricted to what every requirement allows.

    A factor of −∞ rules out what a requirement would. The weights without the factors are the
    prior's. That is so for enumerated draws, and for draws that were proposed by the prior; those
    of other methods never went where the posterior has no mass, and say nothing of the prior there.

    Runs of `rejection` and `svi` see draws of the prior, too, and keep the mean of every factor on
    them: where `f` is the label of one, that is what is returned.

    Raises: ValueError for draws of another method.
    """
    if not (draws.enumerated or draws.from_prior):
        kept = draws.diagnostics.get("factors_before", {})
        if isinstance(f, str) and f in kept and confidence == kept[f]["confidence"]:
            return Estimate.from_dict(kept[f])
        labels = f"; of the factors {', '.join(kept)} the mean is kept, by label" if kept else ""
        raise ValueError(
            f"the draws of {draws.method or 'this posterior'} went where the posterior is, and"
            f" do not show the prior: use importance or exact{labels}"
        )
    if isinstance(f, str) and f in draws.log_potentials and f not in draws:
        f = draws.log_potential(f)
    before = draws.replace(
        log_weights=draws.log_weights - draws.total_log_potential,
        num_chains=None,
        unseen=None,
    )
    return statistic(before, f, confidence=confidence)


def one_in(nats: float) -> str:
    """e^−nats as a share: "1 in 20", "1 in 10^31"."""
    if nats == math.inf:
        return "none"
    if nats > math.log(1e6):
        return f"1 in 10^{round(nats / math.log(10.0))}"
    count = math.exp(max(0.0, nats))
    return f"1 in {count:.1f}" if count < 10.0 else f"1 in {count:,.0f}"


def _text_log_prior(
    draws: WeightedDraws, site: str | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log prior and number of tokens of one text or of all, `[draws]`."""
    texts, kept = draws.tokens, draws.log_priors
    if site is not None and site not in texts:
        raise ValueError(f"there is no text {site!r}; the texts are {', '.join(texts) or 'none'}")
    names = [site] if site is not None else [name for name in texts if name in kept]
    if not names or any(name not in kept for name in names):
        raise ValueError("the log priors of its texts were not kept with this posterior")
    alive = draws.alive
    log_prior = sum((kept[name] for name in names), np.zeros(len(draws)))
    lengths = sum((texts[name][1] for name in names), np.zeros(len(draws)))
    return np.where(alive, log_prior, 0.0), np.where(alive, lengths, 0.0)


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700.0 else math.inf
