"""What runs of sequential Monte Carlo have found, and whether to trust it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmppl.density import Target, Traces
from lmppl.errors import InternalError
from lmppl.inference.bounds import WeightBound, weight_bound
from lmppl.inference.failures import NoMass
from lmppl.inference.loop import Draws
from lmppl.inference.smc import SMC
from lmppl.inference.smc.known import ROUNDING
from lmppl.inference.smc.scouting import missing
from lmppl.inference.smc.state import State
from lmppl.posterior import Estimate
from lmppl.posterior.pareto import pareto_tail
from lmppl.sequences.weights import log_mean_exp

# Resamplings whose weights are judged, the last ones.
_MAX_TAILS = 64


def draws_of(target: Target, settings: SMC, state: State, complete: bool, group: int) -> Draws:
    """What the runs of one binding have found, with what is to be known of it.

    Raises:
        NoMass: all particles of the binding have died.
    """
    populations, size = state.log_weight.shape
    runs = populations // target.num_groups
    here = slice(group * runs, (group + 1) * runs)
    log_weight = state.log_weight[here]
    log_z = (state.log_evidence[here] + log_mean_exp(log_weight)).cpu()
    total = (state.log_evidence[here].unsqueeze(-1) + log_weight).reshape(-1)
    rows = torch.arange(group * runs * size, (group + 1) * runs * size, device=total.device)
    alive = (total > -math.inf).nonzero().squeeze(-1)
    if alive.shape[0] == 0:
        raise NoMass(f"all {total.shape[0]} particles died")
    traces = state.traces.select(rows[alive])
    eve = state.eve[rows].view(runs, size).cpu().numpy()
    log_final = total.view(runs, size).cpu().numpy()
    bound = WeightBound(math.inf, elsewhere=True)
    if state.is_bounded:
        bound = replace(
            weight_bound(target, group, followed=state.followed),
            log_bound=float(state.log_most[here].max()),
            by_factors=not state.followed,
        )
    log_missing, misled = _misled(target, state, here, log_z)
    lost, by_prior = None, None
    if state.plain is not None and state.plain.is_done:
        by_prior = state.plain.evidence(group, weight_bound(target, group).log_bound)
    if state.scouts is not None and state.scouts.stage >= len(target.stages):
        value = float(log_mean_exp(log_z))
        lost = missing(state, state.scouts, group, target.num_groups, value)
        log_missing = max(log_missing, lost.log_missing(value))
    first = settings.num_particles
    num_looks = float(first * runs - int(state.unlooked[here].sum()))
    evidence = Estimate.from_genealogy(
        log_final,
        eve % first,
        num_first=first,
        num_looks=num_looks,
        log_bound=bound.log_bound,
        log_missing=log_missing,
    )
    if bound.elsewhere:
        # What draws did not show may weigh anything, but all together no more than this.
        most = weight_bound(target, group).log_bound
        if by_prior is not None:
            # Each end misses at half of the rate; this one by draws of its own.
            most = min(most, by_prior.upper)
        evidence = replace(evidence, upper=max(min(evidence.upper, most), evidence.value))
    clusters = eve.reshape(-1)[alive.cpu().numpy()]
    unseen = bound.unseen(evidence.value, num_looks, log_missing)
    info = {}
    if state.ess:
        info["ess"] = torch.stack([e[here] for e in state.ess]).cpu().numpy()
        families = torch.stack([n[here] for n in state.num_ancestors]).cpu()
        info["num_ancestors"] = families.numpy()
    dead_runs = int((log_z == -math.inf).sum())
    diagnostics: dict[str, Any] = {
        "num_particles": size,
        "num_runs": runs,
        "num_resamplings": state.num_resamplings[here].tolist(),
        "num_ancestors": families[-1].tolist() if state.ess else [size] * runs,
        "num_dead_runs": dead_runs,
        "log_evidence_runs": log_z.tolist(),
        **_tails(state, here),
    }
    if proposed := int(state.proposed[here].sum()):
        diagnostics["acceptance_rate"] = int(state.accepted[here].sum()) / proposed
    if state.told:
        diagnostics["lookahead"] = {told.site: dict(told.facts) for told in state.told}
        info["lookahead_seconds"] = np.array([told.seconds for told in state.told])
    if lost is not None:
        diagnostics["scouts"] = lost.facts()
    if state.plain is not None and by_prior is not None:
        diagnostics["prior_draws"] = state.plain.facts(by_prior)
    warnings = [words for words in (misled, lost and lost.warning()) if words]
    if size < settings.num_particles:
        warnings.append(
            f"only {size} of {settings.num_particles} particles"
            f"{' of each run' if runs > 1 else ''} could be finished in the time there was:"
            " the others were resampled away, so the result is right, and worth that many"
        )
    if dead_runs:
        warnings.append(
            f"{dead_runs} of {runs} runs lost all their particles; their evidence counts as"
            " zero. Use more particles"
        )
    if state.blind is not None:
        warnings.append(
            f"unfinished texts could not always be scored ({state.blind}), so particles were"
            ' steered less; the answer is right all the same. Use lookahead="none" where'
            " the factor makes sense on finished texts only"
        )
    constant = float(state.log_constant[here].max())
    if not math.isnan(constant):
        return _of_constant(traces, total, constant, diagnostics, warnings, info, complete)
    return Draws(
        traces,
        total[alive],
        evidence,
        clusters=clusters,
        unseen=unseen,
        diagnostics=diagnostics,
        warnings=warnings,
        info=info,
        complete=complete,
    )


def _of_constant(
    traces: Traces,
    log_weight: Tensor,
    constant: float,
    diagnostics: dict[str, Any],
    warnings: list[str],
    info: dict[str, Any],
    complete: bool,
) -> Draws:
    """Independent draws of the posterior: all weigh what is known beforehand to be the evidence.

    Raises:
        InternalError: they do not.
    """
    if bool(((log_weight - constant).abs() > ROUNDING * (1.0 + abs(constant))).any()):
        raise InternalError(f"weights of {log_weight.tolist()[:3]} and not {constant}")
    return Draws(
        traces,
        torch.zeros_like(log_weight),
        Estimate.exact(constant),
        diagnostics=diagnostics,
        warnings=warnings,
        info=info,
        complete=complete,
    )


def _misled(target: Target, state: State, here: slice, log_z: Tensor) -> tuple[float, str | None]:
    """The log of what the lookahead may have thrown away, and a warning where that matters.

    At every resampling less than one particle's share is given up for good. Where that is more
    than a few particles' shares of the evidence in the end, the lookahead promised more than
    came of what was kept, and what it gave up can have become as heavy as the bound allows.
    """
    given_up = float(log_mean_exp(state.given_up[here]))
    value = float(log_mean_exp(log_z))
    resamplings = float(state.num_resamplings[here].double().mean())
    usual = 3.0 * resamplings / state.log_weight.shape[1]
    if given_up == -math.inf or given_up - value < math.log(max(usual, 1e-3)):
        return -math.inf, None
    prior = float(log_mean_exp(state.given_up_prior[here]))
    share = math.exp(min(given_up - value, 0.0))
    if any(potential.kind == "factor" for potential in target.model.potentials):
        words = (
            f"the lookahead was misled: texts that it gave up were worth {share:.0%} of the"
            " evidence by its own guess, and more if that was wrong of them too; use"
            ' lookahead="none", or more particles'
        )
    else:
        words = (
            f"texts that were given up on the way were worth {share:.0%} of the evidence then:"
            " most of those that were kept met the requirements only by unlikely words, and"
            " the others might have met them by likely ones; use more particles"
        )
    return prior, words


def _tails(state: State, here: slice) -> dict[str, float]:
    """The worst k-hat and the largest share of one particle over all weights that were used:
    those before every resampling, and the last."""
    weights = [*state.resampled[-_MAX_TAILS:], state.log_weight]
    rows = [row for weight in weights for row in weight[here].cpu().numpy()]
    living = [row for row in rows if row.max() > -math.inf]
    found = {"max_weight": max(float(np.exp(row - _log_sum_exp(row)).max()) for row in living)}
    shapes = [k for row in living if (k := pareto_tail(row).k) is not None]
    return {**found, "pareto_k": max(shapes)} if shapes else found


def _log_sum_exp(row: np.ndarray) -> float:
    """Log of the sum of weights given in logs."""
    return float(np.logaddexp.reduce(row))
