"""Judges of whole methods, by what a method says of itself: runs through `lmppl.infer`, against
brute force.

A method names its referee: its draws are independent draws of the posterior, weighted ones with an
unbiased evidence, states of Markov chains, or weighted ones of a fitted guide with a bound. Each
referee gives a p-value; what it rejects at `ALPHA` is wrong but for one choice of the seeds in
100,000. Claims of evidence, and of errors, are judged wherever they are made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import bdtrc

import lmppl
from lmppl.inference import Settings
from lmppl.posterior import Estimate, Posterior
from lmppl.posterior.meaning import evidence_estimate
from tests.exactness.cases import Case
from tests.exactness.statistics import functions_of, p_value_of_draws, p_value_of_weighted_runs

ALPHA = 1e-5
# What costs time and no referee needs, where a method has such an option.
_SHORT = {"warmup_steps": 30, "num_steps": 2, "num_rounds": 1, "num_moves": 1, "stage_ess": 0.7}
# Draws of a run and runs, by referee; of chains the number of them.
_SIZES = {"independent": (500, 1), "weighted": (300, 12), "chain": (400, 1), "guide": (200, 6)}
# Pairs of draws that tell something of how often they are equal.
_FEWEST_PAIRS = 50
# Numbers that were computed in another order differ by less.
_ROUNDING = 1e-9


class Refused(Exception):
    """The method says that it cannot do the case; the codes say why."""


@dataclass(frozen=True)
class Run:
    """One result in the terms of a case: the row of its table that each draw is."""

    posterior: Posterior
    rows: np.ndarray

    @property
    def log_evidence(self) -> Estimate | None:
        return self.posterior.log_evidence


@dataclass(frozen=True)
class Verdict:
    """The p-value of a method on a case, and what may be pooled over cases: squares of deviations
    in units of the errors that were claimed."""

    p_value: float
    squares: tuple[float, ...] = ()


def judge(method: type[Settings], case: Case) -> Verdict:
    """What the method's own referee says of its runs on the case.

    Raises:
        Refused: the method does not do the case.
    """
    num_draws, num_runs = _SIZES[method.referee]
    bound = case.bound()
    numbers = {e.key: number for number, e in enumerate(case.table)}
    runs = []
    for seed in range(num_runs):
        try:
            post = lmppl.infer(
                bound,
                method=method.name,
                seed=seed,
                progress=False,
                **options_of(method, num_draws),
            )
        except lmppl.LmpError as error:
            codes = {d.code for d in error.diagnostics}
            if all(code.startswith("LMP41") for code in codes):
                raise Refused(", ".join(sorted(codes))) from None
            raise
        try:
            runs.append(Run(post, np.array([numbers[key] for key in keys_of(case, post)])))
        except KeyError:
            return Verdict(0.0)  # a draw that the program cannot give
        if post.enumerated:
            break
    p_values = (_REFEREES[method.referee](case, runs), _of_bounds(case, runs), _of_copies(runs))
    return Verdict(min(p_values), tuple(_squares(case, runs)))


def options_of(method: type[Settings], num_draws: int) -> dict[str, Any]:
    """Options that give about so many draws, as soon as the method can."""
    known = {f.name for f in fields(method)}
    options: dict[str, Any] = {name: x for name, x in _SHORT.items() if name in known}
    if method.referee == "chain":
        return options | {"num_chains": num_draws, method.num_draws_option: 1}
    if method.num_draws_option:
        options[method.num_draws_option] = method.option_for_draws(num_draws, options)
    return options


def keys_of(case: Case, post: Posterior) -> list[tuple[object, ...]]:
    """What each draw is called in the table of the case."""
    tokens, lengths = post.tokens("text").tolist(), post.lengths("text").tolist()
    columns = [list(post[name]) for name in case.choice_names]
    return [
        (*(column[i] for column in columns), tuple(tokens[i][: lengths[i]]))
        for i in range(len(post))
    ]


def p_value_of_claimed_errors(squares: Sequence[float]) -> float:
    """Whether deviations are larger than the errors claimed for them; honest ones may be too
    careful."""
    return float(stats.chi2.sf(math.fsum(squares), len(squares))) if squares else 1.0


# The referees ------------------------------------------------------------------------------------


def _independent(case: Case, runs: Sequence[Run]) -> float:
    """Draws that weigh the same, each of them a draw of the posterior."""
    if any(np.ptp(run.posterior.log_weights) > 0.0 for run in runs):
        return 0.0
    return p_value_of_draws(case, np.concatenate([run.rows for run in runs]))


def _weighted(case: Case, runs: Sequence[Run]) -> float:
    """Ẑ, and Ẑ times the weighted draws, without bias at any number of draws.

    Of a guide, whose own claim is a bound, Ẑ is the mean of its weights.
    """
    log_z = []
    for run in runs:
        found = evidence_estimate(run.posterior)
        if found is None:
            return 0.0
        log_z.append(found.value)
    if runs[0].posterior.enumerated:
        return _enumerated(case, runs[0], log_z[0])
    return p_value_of_weighted_runs(
        case, [(z, run.rows, run.posterior.weights) for z, run in zip(log_z, runs, strict=True)]
    )


def _enumerated(case: Case, run: Run, log_z: float) -> float:
    weights = np.bincount(run.rows, weights=run.posterior.weights, minlength=len(case.table))
    right = abs(log_z - case.log_z) < _ROUNDING
    return float(right and bool(np.allclose(weights, case.posterior(), atol=_ROUNDING)))


def _chain(case: Case, runs: Sequence[Run]) -> float:
    """Last states of chains that know nothing of each other."""
    last = [run.rows.reshape(run.posterior.num_chains or 1, -1)[:, -1] for run in runs]
    return p_value_of_draws(case, np.concatenate(last))


_REFEREES: dict[str, Callable[[Case, Sequence[Run]], float]] = {
    "independent": _independent,
    "weighted": _weighted,
    "chain": _chain,
    "guide": _weighted,
}


# Claims -----------------------------------------------------------------------------------------


def _of_bounds(case: Case, runs: Sequence[Run]) -> float:
    """A bound of the evidence must not lie on its wrong side, and what is exact must be right."""
    p_values = [1.0]
    for run in runs:
        found = run.log_evidence
        if found is None:
            continue
        excess = found.value - case.log_z
        if found.kind == "exact":
            p_values.append(float(abs(excess) < _ROUNDING))
        elif found.kind in ("lower bound", "upper bound"):
            wrong = excess if found.kind == "lower bound" else -excess
            error = found.standard_error
            p_values.append(float(stats.norm.sf(wrong / error)) if error > 0.0 else 1.0)
    return min(1.0, len(p_values) * min(p_values))


def _of_copies(runs: Sequence[Run]) -> float:
    """Draws that are said to be independent are equal at no distance more often than at others.

    Draws of a common origin (`clusters`), chains and enumerations make no such claim.
    """
    p_values = [1.0]
    for run in runs:
        post, size = run.posterior, len(run.rows)
        if post.clusters is not None or post.num_chains is not None or post.enumerated:
            continue
        equal = run.rows[:, None] == run.rows[None, :]
        usual = (equal.sum() - size) / (size * (size - 1))
        for distance in range(1, size - _FEWEST_PAIRS):
            pairs = size - distance
            found = int(equal.diagonal(distance).sum())
            p_values.append(float(bdtrc(found - 1, pairs, usual)) if found else 1.0)
    return min(1.0, len(p_values) * min(p_values))


def _squares(case: Case, runs: Sequence[Run]) -> list[float]:
    """Squared deviations of the evidence and of one mean, in units of their claimed errors."""
    names, values = functions_of(case)
    column = values[:, names.index("log prior")]
    truth = float(case.posterior() @ column)
    found = []
    for run in runs:
        evidence = run.log_evidence
        if evidence is not None and evidence.kind in ("unbiased", "consistent"):
            found.append((evidence.value - case.log_z, evidence.standard_error))
        mean = run.posterior.expectation(column[run.rows])
        found.append((mean.value - truth, mean.standard_error))
    return [(off / error) ** 2 for off, error in found if 0.0 < error < math.inf]
