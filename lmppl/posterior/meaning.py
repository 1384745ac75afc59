"""What a posterior says of its own making: how far from the prior it is, and how likely its texts.

All in nats and per draw; nothing here needs the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lmppl.posterior.estimate import Estimate, cluster_sums, hangs_on_few

if TYPE_CHECKING:
    from lmppl.posterior.posterior import Posterior

# More values than this are no categories.
_MOST_CATEGORIES = 1000
# Methods whose draws are draws of the prior (restricted to the requirements) with weights.
_FROM_THE_PRIOR = ("importance",)


def kl_to_prior(posterior: Posterior, confidence: float = 0.95) -> Estimate | None:
    """KL(posterior ‖ prior) = E[Σ log potentials] − log evidence, in nats; None without evidence.

    The two terms come from the same draws: the standard error is that of their difference by the
    delta method. The interval adds the two terms' intervals and their chances to miss, which no
    dependence exceeds; it starts at 0 or above.
    """
    if not posterior.potential_labels:
        return Estimate.exact(0.0)
    evidence = evidence_estimate(posterior)
    if evidence is None or not math.isfinite(evidence.value):
        return None
    # A requirement is 0 on every draw.
    known = posterior.fields()["ranges"]
    ranges = [known.get(label, (0.0, 0.0)) for label in posterior.potential_labels]
    bounds = math.fsum(low for low, _ in ranges), math.fsum(high for _, high in ranges)
    mean = posterior.expectation(
        total_log_potential(posterior), bounds=bounds, confidence=confidence
    )
    if mean.kind == evidence.kind == "exact":
        return Estimate.exact(max(0.0, mean.value - evidence.value))
    missed = sum(1.0 - each.confidence for each in (mean, evidence) if each.kind != "exact")
    return Estimate(
        max(0.0, mean.value - evidence.value),
        _error_of_difference(posterior, mean, evidence),
        mean.lower - evidence.upper,
        mean.upper - evidence.lower,
        "consistent",
        max(0.0, round(1.0 - missed, 12)),
    ).clipped(0.0, math.inf)


def _error_of_difference(posterior: Posterior, mean: Estimate, evidence: Estimate) -> float:
    """The standard error of E[Σ log potentials] − log Ẑ, both from the weights of these draws.

    Where the error of one of the two is not believed from the draws, nor is that of the difference:
    errors of numbers that may depend on each other add up at most.
    """
    if posterior.num_chains is not None or evidence.kind == "exact":
        return mean.standard_error + evidence.standard_error
    weights = posterior.weights
    on_few = hangs_on_few(cluster_sums(weights, posterior.clusters), weights.size)
    if on_few or mean.error_is_of_interval or evidence.error_is_of_interval:
        return mean.standard_error + evidence.standard_error
    influence = weights * (total_log_potential(posterior) - mean.value)
    influence -= weights - 1.0 / weights.size
    units = cluster_sums(influence, posterior.clusters)
    if units.size < 2 or not units.any():
        return mean.standard_error + evidence.standard_error
    return math.sqrt(float(np.sum(units**2)) * units.size / (units.size - 1.0))


def evidence_estimate(posterior: Posterior) -> Estimate | None:
    """The log evidence, where there is more than a bound: for svi its importance estimate."""
    found = posterior.log_evidence
    if found is None or found.kind not in ("lower bound", "upper bound"):
        return found
    kept = posterior.info.get("log_evidence_importance")
    return Estimate.from_dict(kept) if isinstance(kept, Mapping) else None


def kl_from_guide(posterior: Posterior, confidence: float = 0.95) -> Estimate | None:
    """KL(guide ‖ posterior) in nats, the gap between evidence and ELBO; None where none was fitted.

    With the weights w = π/q of independent draws of the guide it is log mean w − mean log w. Where
    the guide never goes, the draws cannot tell: what is missing there makes it too small.
    """
    if "elbo" not in posterior.diagnostics:
        return None
    log_w = posterior.log_weights
    if log_w.size < 2 or not np.isfinite(log_w).all():
        return None
    gap = -math.log(log_w.size) - float(log_w.mean())
    # Both means move with the same draws: w/w̄ − 1 in the first, log w − its mean in the second.
    influence = posterior.weights * log_w.size - 1.0 - (log_w - log_w.mean())
    error = float(influence.std(ddof=1)) / math.sqrt(log_w.size)
    if error <= 1e-12:
        # Weights that are all alike say nothing of their spread.
        error = math.inf
    made = Estimate.from_error(max(0.0, gap), error, degrees=log_w.size - 1, confidence=confidence)
    return made.clipped(0.0, math.inf)


def perplexity(posterior: Posterior, site: str | None = None, confidence: float = 0.95) -> Estimate:
    """exp(E[−log prior] / E[number of tokens]) of the draws, of one text site or of all.

    How many equally likely tokens the prior hesitated between, on average, along texts like
    these; the end token counts. The error is that of a ratio, by the delta method.

    Raises: ValueError where the draws have no texts, or their log priors were not kept.
    """
    log_prior, lengths = _text_log_prior(posterior, site)
    weights = posterior.weights
    num_tokens = float(np.sum(weights * lengths))
    if num_tokens == 0.0:
        raise ValueError("the texts have no tokens")
    nats = -float(np.sum(weights * log_prior)) / num_tokens
    influence = (-log_prior - nats * lengths) / num_tokens
    around = posterior.expectation(influence, confidence=confidence)
    value = math.exp(nats)
    if around.kind == "exact":
        return Estimate.exact(value)
    return Estimate(
        value,
        value * around.standard_error,
        _exp(nats + around.lower),
        _exp(nats + around.upper),
        "consistent",
        confidence,
    ).clipped(1.0, math.inf)


def probabilities(posterior: Posterior, name: str, confidence: float = 0.95) -> dict[Any, Estimate]:
    """The probability of every value of a choice or of a returned name, likeliest first.

    Values that the program allows and no draw has are there too.

    Raises: ValueError for more values than categories can be.
    """
    column = posterior[name]
    seen: list[Any] = column.tolist() if isinstance(column, np.ndarray) else list(column)
    alive = posterior.log_weights > -math.inf
    values = dict.fromkeys(value for value, lives in zip(seen, alive, strict=True) if lives)
    support = posterior.manifest.get("choices", {}).get(name, [])
    values |= dict.fromkeys(support)
    if len(values) > _MOST_CATEGORIES:
        raise ValueError(f"{name} has {len(values)} different values; probabilities are of few")
    found = {
        value: posterior.statistic(
            np.array([each == value for each in seen]), "probability", confidence=confidence
        )
        for value in values
    }
    return dict(sorted(found.items(), key=lambda item: -item[1].value))


def prior_expectation(posterior: Posterior, f: Any, confidence: float = 0.95) -> Estimate:
    """The mean of f under the prior, restricted to what every requirement allows.

    A factor of −∞ rules out what a requirement would. The weights without the factors are the
    prior's. That is so for enumerated draws, and for draws that were proposed by the prior; those
    of other methods never went where the posterior has no mass, and say nothing of the prior there.

    Runs of `rejection` and `svi` see draws of the prior, too, and keep the mean of every factor on
    them: where `f` is the label of one, that is what is returned.

    Raises: ValueError for draws of another method.
    """
    if not posterior.enumerated and posterior.method not in _FROM_THE_PRIOR:
        kept = posterior.diagnostics.get("factors_before", {})
        if isinstance(f, str) and f in kept and confidence == kept[f]["confidence"]:
            return Estimate.from_dict(kept[f])
        labels = f"; of the factors {', '.join(kept)} the mean is kept, by label" if kept else ""
        raise ValueError(
            f"the draws of {posterior.method or 'this posterior'} went where the posterior is, and"
            f" do not show the prior: use importance or exact{labels}"
        )
    if isinstance(f, str) and f in posterior.potential_labels and f not in posterior:
        f = posterior.log_potential(f)
    before = posterior.replace(
        log_weights=posterior.log_weights - total_log_potential(posterior),
        num_chains=None,
        unseen=None,
    )
    return before.expectation(f, confidence=confidence)


def total_log_potential(posterior: Posterior) -> NDArray[np.float64]:
    """The sum of all factors on each draw, `[draws]`, 0 on draws of weight zero."""
    total = np.zeros(len(posterior))
    for label in posterior.potential_labels:
        total += posterior.log_potential(label)
    return np.where(posterior.log_weights > -math.inf, total, 0.0)


def one_in(nats: float) -> str:
    """e^−nats as a share: "1 in 20", "1 in 10^31"."""
    if nats == math.inf:
        return "none"
    if nats > math.log(1e6):
        return f"1 in 10^{round(nats / math.log(10.0))}"
    count = math.exp(max(0.0, nats))
    return f"1 in {count:.1f}" if count < 10.0 else f"1 in {count:,.0f}"


def _text_log_prior(
    posterior: Posterior, site: str | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log prior and number of tokens of one text or of all, `[draws]`."""
    fields = posterior.fields()
    texts, kept = fields["tokens"], fields["log_priors"]
    if site is not None and site not in texts:
        raise ValueError(f"there is no text {site!r}; the texts are {', '.join(texts) or 'none'}")
    names = [site] if site is not None else [name for name in texts if name in kept]
    if not names or any(name not in kept for name in names):
        raise ValueError("the log priors of its texts were not kept with this posterior")
    alive = posterior.log_weights > -math.inf
    log_prior = sum((kept[name] for name in names), np.zeros(len(posterior)))
    lengths = sum((texts[name][1] for name in names), np.zeros(len(posterior)))
    return np.where(alive, log_prior, 0.0), np.where(alive, lengths, 0.0)


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700.0 else math.inf
