"""Whether a fitted guide has lost a part of the posterior, seen from draws that are not its own.

The weights of a guide's draws cannot show what the guide never draws: a mode that it has left is
missed by all of them, and their effective sample size is the better for it. Draws of the (masked)
prior reach everything that the posterior may be, so some are scored under the guide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from lmppl.density import Target
from lmppl.diagnostics import effective_sample_size, pareto_tail
from lmppl.errors import InferenceError
from lmppl.inference.before import factors_before
from lmppl.inference.proposing import propose
from lmppl.lowering.fitted import FittedGuide
from lmppl.posterior.estimate import log_mean_exp
from lmppl.posterior.intervals import proportion_interval
from lmppl.rng import Stream

Floats = NDArray[np.float64]

CONFIDENCE = 0.99
# How many times the heaviest of the guide's own draws a draw must weigh under it to count as out of
# its reach: in the tail of a guide that fits, weights beyond the largest seen are common.
_FACTOR = 3.0
# Below this many independent draws the prior says nothing of the posterior.
_FEWEST = 20.0
# A share of the posterior that is worth a warning.
_WORTH_SAYING = 0.05
_MOST_DRAWS, _FEWEST_DRAWS = 512, 64


@dataclass(frozen=True, slots=True)
class Coverage:
    """What draws of the prior say of a guide.

    `missing` is the share of the posterior that they find out of the guide's reach, and `unseen`
    how large that share may be at 99 % confidence; 1 where they cannot tell, for the `reason`
    given. `ess` is how many independent draws of the posterior they are worth, `num_out_of_reach`
    counts those that lie there, and `log_evidence` is their own estimate of it. `before` has what
    the factors are under the prior (see `factors_before`).
    """

    missing: float
    unseen: float
    ess: float
    num_draws: int
    num_out_of_reach: int
    log_evidence: float
    reason: str = ""
    warning: str = ""
    before: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The fields of the coverage itself by name."""
        left_out = ("warning", "before")
        return {name: value for name, value in asdict(self).items() if name not in left_out}


def coverage_of(guide: ArrayLike, prior: ArrayLike, ratio: ArrayLike, num_draws: int) -> Coverage:
    """The coverage of a guide.

    `guide` `[draws]` are the log weights log(density / q) of its own draws, `prior` `[alive]` the
    log importance weights of `num_draws` draws of the masked prior, those of weight zero left out,
    and `ratio` `[alive]` their log(density / q); +∞ for what the guide never draws. The evidence
    beyond the guide's reach is the mean of the prior's weights there, that within it the mean of
    the guide's own.
    """
    own = np.asarray(guide, dtype=np.float64)
    log_v = np.asarray(prior, dtype=np.float64)
    reach = float(own.max()) + math.log(_FACTOR)
    beyond = np.asarray(ratio, dtype=np.float64) > reach
    num_beyond = int(beyond.sum())
    if log_v.size == 0:
        return unknown(num_draws, "no draw of the prior satisfies every requirement")
    log_evidence = float(np.logaddexp.reduce(log_v)) - math.log(num_draws)
    log_inside = log_mean_exp(own)
    missing = 0.0
    if num_beyond:
        log_beyond = float(np.logaddexp.reduce(log_v[beyond])) - math.log(num_draws)
        missing = _share(log_beyond, log_inside)
    ess = effective_sample_size(log_v)
    tail = pareto_tail(log_v)
    unseen, reason, warning = 1.0, "", ""
    if ess < _FEWEST or (tail.k is not None and tail.k > 0.7):
        reason = (
            f"{num_draws} draws of the prior are worth {ess:.1f} of the posterior, too few to show"
            " what the guide may have lost"
        )
    else:
        share = float(np.exp(log_v - np.logaddexp.reduce(log_v))[beyond].sum())
        # All of them may add up to a little more than 1.
        unseen = proportion_interval(min(share, 1.0) * ess, ess, CONFIDENCE)[1]
    if missing > _WORTH_SAYING:
        reason = (
            f"draws of the prior find {100 * missing:.0f}% of the posterior where the guide"
            " does not go"
        )
        warning = (
            f"the guide has lost a part of the posterior: {num_beyond} of {num_draws} draws of the"
            f" prior lie where it hardly ever goes, and stand for about {100 * missing:.0f}% of the"
            " posterior; use smc or mcmc, or a smaller learning rate and more particles"
        )
        unseen = max(unseen, missing)
    return Coverage(
        missing, unseen, float(ess), num_draws, num_beyond, log_evidence, reason, warning
    )


def unknown(num_draws: int, reason: str) -> Coverage:
    """Nothing is known."""
    return Coverage(0.0, 1.0, 0.0, num_draws, 0, -math.inf, reason)


def _share(log_part: float, log_rest: float) -> float:
    """The part among both, from their logs."""
    return float(1.0 / (1.0 + math.exp(min(log_rest - log_part, 700.0))))


def num_check_draws(num_fitted: int) -> int:
    """How many draws of the prior are scored: little against those that the guide was fitted on."""
    return min(_MOST_DRAWS, max(_FEWEST_DRAWS, num_fitted // 16))


def check_coverage(
    target: Target,
    guide: FittedGuide,
    log_weight: Floats,
    num_draws: int,
    stream: Stream,
) -> Coverage:
    """The coverage of the guide of one binding, whose own draws weigh `log_weight` `[draws]`."""
    groups = torch.full((num_draws,), guide.group, device=target.device)
    try:
        drawn = propose(target, groups, torch.arange(num_draws), stream)
        if drawn.traces.num_rows == 0:
            return coverage_of(log_weight, [], [], num_draws)
        log_guide = guide.score(drawn.traces)
    except InferenceError as error:
        # A reward that fails on a text which the guide never draws is no fault of the fit.
        return unknown(
            num_draws, f"scoring draws of the prior failed ({error.diagnostics[0].code})"
        )
    ratio = drawn.traces.log_density().cpu().numpy() - log_guide
    found = coverage_of(log_weight, drawn.log_weight.cpu().numpy(), ratio, num_draws)
    log_prior = drawn.log_weight - drawn.traces.total_log_potential()
    before = factors_before(target, guide.group, drawn.traces.log_potential, log_prior)
    return replace(found, before=before)
