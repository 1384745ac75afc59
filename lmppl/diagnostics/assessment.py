"""Reading a finished posterior: the numbers that tell whether it can be trusted, and warnings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmppl.diagnostics.advice import ADVISED, advice
from lmppl.diagnostics.chains import bulk_ess, r_hat, stuck_chains, tail_ess
from lmppl.diagnostics.weights import effective_sample_size, max_weight, pareto_tail
from lmppl.posterior import Posterior
from lmppl.posterior.estimate import cluster_sums

_FEW = 10


def assess(posterior: Posterior) -> Posterior:
    """The posterior with diagnostics and warnings added; what its engine said stays.

    Weighted draws get `weight_diagnostics` and, where draws are related, `num_independent_draws`;
    chains get `chain_diagnostics` of the log density, the factors and the numeric values, and
    `num_chains_that_never_moved`; all get `num_unique_draws`. An enumerated posterior has nothing
    to be diagnosed.
    """
    if posterior.enumerated:
        return posterior
    found: dict[str, Any] = {"num_unique_draws": num_unique_draws(posterior)}
    if posterior.num_chains is not None:
        shape = (posterior.num_chains, -1)
        table = {name: x.reshape(shape) for name, x in _quantities(posterior).items()}
        found |= chain_diagnostics(table)
        states = _states(posterior).reshape(shape)
        found["num_chains_that_never_moved"] = stuck_chains(states)
    else:
        found |= weight_diagnostics(posterior.log_weights)
        if posterior.clusters is not None:
            families = cluster_sums(posterior.weights, posterior.clusters)
            found["num_independent_draws"] = float(1.0 / np.sum(families**2))
    diagnostics = {**found, **posterior.diagnostics}
    words = list(posterior.warnings)
    for name in ADVISED:
        if name in ("num_unique_draws", "max_weight") and len(posterior) < _FEW:
            continue
        sentence = advice(name, diagnostics.get(name), posterior.method)
        if sentence is not None and sentence not in words:
            words.append(sentence)
    return posterior.replace(diagnostics=diagnostics, warnings=words)


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
    meaning; `chains` holds those of each. Quantities that never change in any chain, or are not
    finite, are left out.
    """
    rows = {}
    for name, values in table.items():
        x = np.asarray(values, dtype=np.float64)
        if np.isfinite(x).all() and np.ptp(x) > 0.0:
            rows[name] = {"r_hat": r_hat(x), "ess_bulk": bulk_ess(x), "ess_tail": tail_ess(x)}
    return {
        "r_hat": _worst([row["r_hat"] for row in rows.values()], largest=True),
        "ess_bulk": _worst([row["ess_bulk"] for row in rows.values()], largest=False),
        "ess_tail": _worst([row["ess_tail"] for row in rows.values()], largest=False),
        "chains": rows,
    }


def num_unique_draws(posterior: Posterior) -> int:
    """How many different draws of positive weight there are, all sites compared."""
    return int(np.unique(_states(posterior)[posterior.log_weights > -math.inf]).size)


def _quantities(posterior: Posterior) -> dict[str, NDArray[np.float64]]:
    """The numbers of each draw whose mixing is looked at, `[draws]` by name."""
    found: dict[str, NDArray[np.float64]] = {}
    if posterior.fields()["log_prior"] is not None:
        found["log density"] = posterior.log_density
    for label in posterior.potential_labels:
        found[label] = posterior.log_potential(label)
    for name in dict.fromkeys((*posterior.site_names, *posterior.names)):
        values = posterior[name]
        if isinstance(values, np.ndarray):
            found.setdefault(name, values.astype(np.float64))
    return found


def _states(posterior: Posterior) -> NDArray[np.int64]:
    """A number for each draw, `[draws]`, equal where all sites are equal."""
    columns = [posterior.fields()["sites"][name] for name in posterior.site_names]
    numbers: dict[tuple[str, ...], int] = {}
    keys = [tuple(str(column[i]) for column in columns) for i in range(len(posterior))]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _worst(values: list[float], *, largest: bool) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return None
    return float(max(known) if largest else min(known))
