"""Reading a finished posterior: the numbers that tell whether it can be trusted, and warnings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmppl.diagnostics.advice import ADVISED, Method, advice, no_r_hat_advice, unseen_advice
from lmppl.diagnostics.chains import bulk_ess, r_hat, r_hat_limit, stuck_chains, tail_ess
from lmppl.diagnostics.weights import effective_sample_size, max_weight
from lmppl.posterior import Posterior
from lmppl.posterior.estimate import cluster_sums
from lmppl.posterior.features import text_features
from lmppl.posterior.pareto import pareto_tail

_FEW = 10
_FALSE_ALARM = 0.01


def judge(posterior: Posterior, method: Method | None = None) -> Posterior:
    """The posterior assessed, and for chains with whether they agree."""
    assessed = assess(posterior, method)
    if assessed.num_chains is None:
        return assessed
    r_hat, limit = (assessed.diagnostics.get(name) for name in ("r_hat", "r_hat_limit"))
    agree = r_hat is not None and r_hat <= limit
    claims = assessed.expectations
    if not agree:
        # What chains that disagree agree in, they may agree in by chance.
        claims = tuple(each.undecided("the chains do not agree with each other") for each in claims)
    checks = {**assessed.checks, "chains agree (R-hat)": agree}
    return assessed.replace(checks=checks, expectations=claims)


def assess(posterior: Posterior, method: Method | None = None) -> Posterior:
    """The posterior with diagnostics and warnings added, in the words of the method that made its
    draws; what its engine said stays.

    Weighted draws get `weight_diagnostics`, where draws that are related count as one for `ess`;
    chains get `chain_diagnostics` of the log density, the factors, the numeric values and features
    of the texts, and `num_chains_that_never_moved`; all get `num_unique_draws`. An enumerated
    posterior has nothing to be diagnosed.
    """
    if posterior.enumerated:
        return posterior
    found: dict[str, Any] = {"num_unique_draws": num_unique_draws(posterior)}
    chained = posterior.num_chains is not None
    if chained:
        shape = (posterior.num_chains or 1, -1)
        table = {name: x.reshape(shape) for name, x in _quantities(posterior).items()}
        found |= chain_diagnostics(table)
        states = _states(posterior).reshape(shape)
        found["num_chains_that_never_moved"] = stuck_chains(states)
    else:
        found |= weight_diagnostics(posterior.log_weights)
        if posterior.clusters is not None:
            families = cluster_sums(posterior.weights, posterior.clusters)
            found["ess"] = min(found["ess"], float(1.0 / np.sum(families**2)))
    diagnostics = {**found, **posterior.diagnostics}
    words = [*posterior.warnings, *_words(posterior, method, diagnostics)]
    return posterior.replace(diagnostics=diagnostics, warnings=list(dict.fromkeys(words)))


def _words(
    posterior: Posterior, method: Method | None, diagnostics: Mapping[str, Any]
) -> list[str]:
    """The warnings that the diagnostics give cause for."""
    words: list[str | None] = []
    unseen = posterior.unseen
    # Draws that are independent and exact have honest errors, however few they are.
    scored = not posterior.potential_labels or bool(posterior.data.total_log_potential.any())
    exact = unseen is None and posterior.clusters is None and np.ptp(posterior.log_weights) == 0.0
    few = False
    for name in ADVISED:
        if name in ("num_unique_draws", "max_weight") and len(posterior) < _FEW:
            continue
        if name == "ess" and exact:
            continue
        if name == "pareto_k" and unseen is not None and math.isfinite(unseen.log_further):
            # A known bound of the weights says more than the shape of their tail.
            continue
        sentence = advice(
            name,
            diagnostics.get(name),
            method,
            num_draws=len(posterior),
            limit=diagnostics.get("r_hat_limit"),
            scored=scored,
        )
        if name == "ess_tail" and few:
            # Of chains that are worth few draws altogether, the tails need not be told.
            continue
        few = few or (name == "ess_bulk" and sentence is not None)
        words.append(sentence)
    if posterior.num_chains is not None and diagnostics.get("r_hat") is None:
        words.append(no_r_hat_advice())
    claimed = bool(posterior.expectations)
    words.append(unseen_advice(unseen, method, scored=scored, claimed=claimed))
    return [sentence for sentence in words if sentence is not None]


def weight_diagnostics(log_weights: ArrayLike) -> dict[str, Any]:
    """`ess`, `max_weight` and `pareto_k` of importance weights `[draws]`, in nats.

    Where k-hat has no meaning it is None, and `pareto_k_reason` says why.
    """
    tail = pareto_tail(log_weights)
    found: dict[str, Any] = {
        "ess": effective_sample_size(log_weights),
        "max_weight": max_weight(log_weights),
        "pareto_k": tail.k,
    }
    if tail.k is None:
        found["pareto_k_reason"] = tail.reason
    return found


def chain_diagnostics(table: Mapping[str, ArrayLike]) -> dict[str, Any]:
    """R-hat and effective sample sizes of quantities by name, each `[chains, draws]`.

    `r_hat`, `ess_bulk` and `ess_tail` are the worst over the quantities, None where none has a
    meaning; `r_hat_limit` is what chance explains of that R-hat at 1 % over all quantities (see
    `r_hat_limit`); `chains` holds those of each. Quantities that never change in any chain, or are
    not finite, are left out.
    """
    rows = {}
    for name, values in table.items():
        x = np.asarray(values, dtype=np.float64)
        if np.isfinite(x).all() and np.ptp(x) > 0.0:
            rows[name] = {
                "r_hat": r_hat(x),
                "r_hat_limit": r_hat_limit(x, 1.0 - _FALSE_ALARM / len(table)),
                "ess_bulk": bulk_ess(x),
                "ess_tail": tail_ess(x),
            }
    known = [row for row in rows.values() if not math.isnan(row["r_hat"])]
    # Infinite where chains stand still; no limit takes that back.
    worst = max(known, key=lambda row: row["r_hat"] - row["r_hat_limit"], default=None)
    return {
        "r_hat": None if worst is None else worst["r_hat"],
        "r_hat_limit": None if worst is None else worst["r_hat_limit"],
        "ess_bulk": _least([row["ess_bulk"] for row in rows.values()]),
        "ess_tail": _least([row["ess_tail"] for row in rows.values()]),
        "chains": rows,
    }


def num_unique_draws(posterior: Posterior) -> int:
    """How many different draws of positive weight there are, all sites compared."""
    return int(np.unique(_states(posterior)[posterior.log_weights > -math.inf]).size)


def _quantities(posterior: Posterior) -> dict[str, NDArray[np.float64]]:
    """The numbers of each draw whose mixing is looked at, `[draws]` by name."""
    found: dict[str, NDArray[np.float64]] = {}
    if posterior.data.log_prior is not None:
        found["log density"] = posterior.log_density
    for label in posterior.potential_labels:
        found[label] = posterior.log_potential(label)
    for name in dict.fromkeys((*posterior.site_names, *posterior.names)):
        values = posterior[name]
        if isinstance(values, np.ndarray):
            found.setdefault(name, values.astype(np.float64))
    return found | text_features(posterior.data)


def _states(posterior: Posterior) -> NDArray[np.int64]:
    """A number for each draw, `[draws]`, equal where all sites are equal."""
    columns = posterior.data.sites.values()
    numbers: dict[tuple[str, ...], int] = {}
    keys = [tuple(str(column[i]) for column in columns) for i in range(len(posterior))]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _least(values: list[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return min(known) if known else None
