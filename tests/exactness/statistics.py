"""Criteria with stated false-alarm rates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from lmppl.density import Target, Traces
from tests.exactness.cases import Case, Execution

# A share of the posterior below which means over runs are not tested.
_RARE = 1e-3


def functions_of(case: Case) -> tuple[list[str], np.ndarray]:
    """Numbers of an execution on which draws are judged, `[executions, functions]`.

    Directions, not only cells: they see a small smooth error long before a table does.
    """
    columns: dict[str, list[float]] = {
        "log prior": [e.log_prior for e in case.table],
        "log prior squared": [e.log_prior**2 for e in case.table],
        "length": [float(len(e.tokens)) for e in case.table],
        "finished": [float(e.finished) for e in case.table],
    }
    finite = [0.0 if e.log_phi == -math.inf else e.log_phi for e in case.table]
    columns["log phi"] = finite
    columns["log phi squared"] = [x * x for x in finite]
    for position in range(case.max_tokens):
        for token in range(len(case.tokens)):
            columns[f"token {position} = {token}"] = [
                float(e.tokens[position : position + 1] == (token,)) for e in case.table
            ]
    for number, name in enumerate(case.choice_names):
        for value in sorted({e.choices[number] for e in case.table}, key=str):
            columns[f"{name} = {value}"] = [float(e.choices[number] == value) for e in case.table]
    return list(columns), np.array(list(columns.values())).T


def rows_of(case: Case, target: Target, traces: Traces) -> np.ndarray:
    """The row of the case's table that each trace is.

    Raises:
        KeyError: a trace that the case does not have.
    """
    numbers = {e.key: number for number, e in enumerate(case.table)}
    text = traces.values["text"]
    tokens, lengths = text.tokens.tolist(), text.lengths.tolist()
    choices = [traces.values[name].listed() for name in case.choice_names]
    found = []
    for row in range(traces.num_rows):
        chosen = tuple(column[row] for column in choices)
        found.append(numbers[(*chosen, tuple(tokens[row][: lengths[row]]))])
    return np.array(found)


def p_value_of_draws(case: Case, rows: np.ndarray) -> float:
    """Independent draws against the posterior: chi-square on the table and z-tests in all
    directions, Bonferroni-corrected. 0 for a draw outside the support."""
    probs = case.posterior()
    if (probs[rows] == 0.0).any():
        return 0.0
    num = len(rows)
    counts = np.bincount(rows, minlength=len(probs)).astype(float)
    order = np.argsort(-probs, kind="stable")
    observed, expected, o, e = [], [], 0.0, 0.0
    for i in order:
        o, e = o + counts[i], e + num * probs[i]
        if e >= 10.0:
            observed.append(o)
            expected.append(e)
            o = e = 0.0
    if expected:
        observed[-1] += o
        expected[-1] += e
    table = 1.0
    if len(expected) > 1:
        scale = sum(observed) / sum(expected)
        table = stats.chisquare(observed, np.array(expected) * scale).pvalue
    _, values = functions_of(case)
    mean = probs @ values
    deviation = np.sqrt(np.maximum(probs @ values**2 - mean**2, 0.0))
    judged = deviation * math.sqrt(num) > 10 * np.abs(values).max(0).clip(1e-9) / math.sqrt(num)
    z = np.abs(values[rows].mean(0) - mean)[judged] / (deviation[judged] / math.sqrt(num))
    directions = min(1.0, 2 * stats.norm.sf(z.max()) * len(z)) if len(z) else 1.0
    return min(1.0, 2 * min(table, directions))


def p_value_of_means(samples: np.ndarray, truth: float) -> float:
    """Two-sided: whether independent samples have the given mean, by Student's t."""
    error = samples.std(ddof=1) / math.sqrt(len(samples))
    if error < 1e-12:
        return 1.0 if abs(samples.mean() - truth) < 1e-9 * max(1.0, abs(truth)) else 0.0
    return float(2 * stats.t.sf(abs(samples.mean() - truth) / error, len(samples) - 1))


def p_value_of_weighted_runs(
    case: Case, runs: Sequence[tuple[float, np.ndarray, np.ndarray]]
) -> float:
    """Runs of an unbiased method: (log Ẑ, rows, normalised weights) each.

    Ẑ must average to Z and Ẑ·Σ W f to Z·E f in all directions; both without bias at any number
    of particles, so a bias of order 1/N is not forgiven. Bonferroni-corrected.
    """
    probs = case.posterior()
    _, values = functions_of(case)
    ratio = np.array([math.exp(log_z - case.log_z) for log_z, _, _ in runs])
    p_values = [p_value_of_means(ratio, 1.0)]
    estimates = np.array(
        [
            r * (weights @ values[rows]) if len(rows) else np.zeros(values.shape[1])
            for r, (_, rows, weights) in zip(ratio, runs, strict=True)
        ]
    )
    for row_set in (rows for _, rows, _ in runs):
        if (probs[row_set] == 0.0).any():
            return 0.0
    mean = probs @ values
    # What is that rare rests on a few heavy draws, far from the normal distribution that is used.
    often = probs @ np.abs(values) >= _RARE * np.abs(values).max(axis=0)
    for number in np.flatnonzero(often):
        if estimates[:, number].std() > 0:
            p_values.append(p_value_of_means(estimates[:, number], float(mean[number])))
    return min(1.0, min(p_values) * len(p_values))


__all__ = ["Execution", "functions_of", "p_value_of_draws", "p_value_of_weighted_runs", "rows_of"]
