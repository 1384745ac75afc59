"""From an engine's draws to a Posterior: verification, manifest, expectations, warnings."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from lmppl.density import Target, Traces
from lmppl.density.possible import unequal_endings
from lmppl.density.reopening import kept_program
from lmppl.density.spelling import spelled_in_expressions
from lmppl.errors import InferenceError, InternalError
from lmppl.fence import fenced
from lmppl.inference.loop import Draws, Outcome
from lmppl.inference.settings import Settings
from lmppl.ir.expr import Expr
from lmppl.ir.model import Expectation
from lmppl.lm.protocol import Chat
from lmppl.posterior import Estimate, ExpectationResult, Posterior
from lmppl.posterior.cells import Cells
from lmppl.posterior.claims import claim_estimates, verdict_on
from lmppl.posterior.expectation import MEAN, Statistic
from lmppl.records import brief

_PACKAGES = ("lmppl", "torch", "transformers", "pyro-ppl", "numpy")

ParseExpression = Callable[[str], Expr]
Asked = tuple[Statistic, str, float | None]


def posterior_of(
    target: Target,
    draws: Draws,
    group: int,
    *,
    settings: Settings,
    seed: int,
    outcome: Outcome,
    parse: ParseExpression | None = None,
) -> Posterior:
    """The Posterior of one binding.

    Raises:
        InternalError: a draw breaks a requirement, which no engine may let through.
    """
    traces = draws.traces
    _verify(target, draws)
    log_weight = draws.log_weight.cpu().numpy()
    warnings = [
        *draws.warnings,
        *_slow_paths(target, draws),
        *target.ruled_out.get(group, ()),
        *unequal_endings(target, group),
    ]
    if outcome.stopped_by is not None:
        warnings.append(f"incomplete: {outcome.stopped_by}")
    sites = {stage.name: traces.values[stage.name].listed() for stage in target.stages}
    evaluator = None if parse is None else _Evaluator(target, traces, group, parse)
    posterior = Posterior(
        sites=sites,
        outputs=target.outputs(traces),
        tokens={
            name: (ids.cpu().numpy(), lengths.cpu().numpy())
            for name, (ids, lengths) in traces.token_ids().items()
        },
        log_weights=log_weight,
        log_prior=traces.total_log_prior().cpu().numpy(),
        log_priors={name: x.cpu().numpy() for name, x in traces.log_prior.items()},
        prompts=_prompts(target, traces),
        log_potentials={
            p.label: traces.log_potential[p.label].cpu().numpy() for p in target.model.potentials
        },
        log_evidence=_evidence(target, draws),
        log_evidence_reason=draws.log_evidence_reason,
        clusters=draws.clusters,
        num_chains=draws.num_chains,
        enumerated=draws.exact,
        from_prior=draws.from_prior,
        unseen=draws.unseen,
        ranges=_ranges(target, group),
        diagnostics=draws.diagnostics,
        warnings=warnings,
        checks={"every draw satisfies every require": True, **draws.checks},
        method=settings.name,
        manifest=_manifest(target, group, settings, seed, outcome),
        complete=draws.complete and outcome.stopped_by is None,
        info=draws.info,
        program=kept_program(target, traces),
        evaluator=evaluator,
        sampler=None if draws.sampler is None else fenced(draws.sampler),
        guide=draws.guide,
    )
    return posterior.replace(expectations=_expectations(target, draws, posterior, group))


@dataclass(frozen=True, slots=True)
class _Evaluator:
    """The values of expressions of the language on draws, and the range that they can have."""

    target: Target
    traces: Traces
    group: int
    parse: ParseExpression

    __repr__ = brief

    @fenced
    def __call__(self, source: str) -> np.ndarray:
        expr = self.parse(source)
        if spelled := spelled_in_expressions(self.target, [expr]):
            raise InferenceError(spelled, {None: source})
        values = self.target.evaluate(expr, self.traces)
        return values.astype(bool) if expr.type.kind == "bool" else values

    def range_of(self, source: str) -> tuple[float, float]:
        return self.target.range_of(self.parse(source), self.group)

    def cells_of(self, source: str) -> tuple[Cells, ...]:
        """What an expression can be where draws are heavy."""
        return _cells(self.target, self.parse(source), self.group)

    def asked(self, source: str) -> Asked:
        """The statistic that a text asks for, the expression that it is of, and its level."""
        asked: Callable[[str], Asked] | None = getattr(self.parse, "asked", None)
        return (MEAN, source, None) if asked is None else asked(source)


def _cells(target: Target, expr: Expr, group: int) -> tuple[Cells, ...]:
    return tuple(
        Cells.of([(cell.value.lower, cell.value.upper, cell.below) for cell in cells])
        for cells in target.joint_ranges(expr, group)
    )


def _slow_paths(target: Target, draws: Draws) -> tuple[str, ...]:
    """What made the language models of this run slower than they could be, each thing once."""
    run = (*target.language_models(), draws.guide)
    return tuple(dict.fromkeys(slow for each in run for slow in getattr(each, "slow_paths", ())))


def _prompts(target: Target, traces: Traces) -> dict[str, str | list[str]]:
    """What every text continues: one string where it is the same for all draws."""
    found: dict[str, str | list[str]] = {}
    for number, stage in enumerate(target.stages):
        if stage.text is not None:
            prompts = [
                prompt.user if isinstance(prompt, Chat) else prompt
                for prompt in target.rows(number, traces).prompts
            ]
            found[stage.name] = prompts[0] if len(set(prompts)) == 1 else prompts
    return found


def _ranges(target: Target, group: int) -> dict[str, tuple[float, float]]:
    """The ranges of what is returned and of the factors, by name."""
    model = target.model
    found = {
        p.label: target.range_of(p.expr, group) for p in model.potentials if p.kind == "factor"
    }
    return found | {o.name: target.range_of(o.expr, group) for o in model.outputs}


def _evidence(target: Target, draws: Draws) -> Estimate | None:
    """The estimate of the engine; where nothing weighs, the evidence is known to be 1."""
    found = draws.log_evidence
    if found is not None and not found.is_exact and not target.model.potentials:
        return Estimate.exact(0.0)
    return found


def spent_on_rewards(
    target: Target, before: Mapping[str, tuple[float, int]] | None = None
) -> dict[str, tuple[float, int]]:
    """Seconds and texts scored by each reward of the target, since `before` where it is given."""
    earlier = before or {}
    spent = {}
    for name, scorer in target.scorers.items():
        seconds, num_scored = earlier.get(name, (0.0, 0))
        spent[name] = (scorer.seconds - seconds, scorer.num_scored - num_scored)
    return spent


def _verify(target: Target, draws: Draws) -> None:
    """No draw of positive weight may break a requirement or have a density of zero."""
    log_density = draws.traces.log_density()
    if not bool(torch.isfinite(log_density).all()):
        row = int((~torch.isfinite(log_density)).nonzero()[0])
        broken = [
            label
            for label, value in draws.traces.log_potential.items()
            if float(value[row]) == -math.inf
        ]
        raise InternalError(f"draw {row} has density zero (broken: {', '.join(broken) or 'none'})")


def _expectations(
    target: Target, draws: Draws, posterior: Posterior, group: int
) -> list[ExpectationResult]:
    """Each `expect` of the file, estimated at 99 % confidence; claims about one number once.

    What has no value on some draw leaves its claim undecided: a claim must not lose a result.
    """
    results = []
    found: dict[tuple[object, ...], tuple[Estimate, Estimate]] = {}
    for claim in target.model.expectations:
        try:
            values = target.evaluate(claim.expr, draws.traces)
            bound = float(target.evaluate(claim.bound, draws.traces)[0])
            q = None if claim.q is None else float(target.evaluate(claim.q, draws.traces)[0])
        except InferenceError as error:
            results.append(_without_value(claim, error.diagnostics[0].message))
            continue
        if claim.expr.type.kind == "bool":
            values = values.astype(bool)
        infinite = int(np.isneginf(values[posterior.log_weights > -math.inf]).sum())
        if infinite and claim.statistic != MEAN:
            sentence = f"it is −∞ on {infinite:,} of {len(posterior):,} draws"
            results.append(_without_value(claim, sentence, bound))
            continue
        bounds = target.range_of(claim.expr, group)
        key = (claim.statistic, q, bounds, values.dtype.str, values.tobytes())
        if infinite:
            # What is −∞ with positive probability, and nowhere ∞, is −∞ on average.
            found[key] = (Estimate.exact(-math.inf),) * 2
        if key not in found:
            cells = _cells(target, claim.expr, group)
            found[key] = claim_estimates(
                posterior.data, claim.statistic, values, q=q, bounds=bounds, cells=cells
            )
        results.append(
            verdict_on(
                posterior.data,
                claim.label,
                claim.source,
                claim.statistic,
                found[key],
                claim.operator,
                bound,
            )
        )
    return results


def _without_value(claim: Expectation, reason: str, bound: float = math.nan) -> ExpectationResult:
    """A claim that cannot be estimated, undecided for a reason."""
    nothing = Estimate(math.nan, math.inf, -math.inf, math.inf, "consistent", 0.99)
    return ExpectationResult(
        claim.label,
        claim.source,
        nothing,
        "undecided",
        claim.statistic,
        claim.operator,
        bound,
        f"there is no number to judge: {reason}",
    )


@cache
def _versions() -> dict[str, str]:
    """Of Python and the packages that results depend on; reading them takes longer than a step."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _manifest(
    target: Target, group: int, settings: Settings, seed: int, outcome: Outcome
) -> dict[str, Any]:
    """Everything that is needed to run this again."""
    rewards = {
        name: {
            "seconds": seconds,
            "num_scored": num_scored,
            "notes": list(target.scorers[name].notes),
        }
        for name, (seconds, num_scored) in outcome.rewards.items()
    }
    reward_seconds = math.fsum(seconds for seconds, _ in outcome.rewards.values())
    return {
        "model": target.model.name,
        "path": target.model.path,
        "choices": {
            stage.name: list(stage.support) for stage in target.stages if stage.support is not None
        },
        "parameters": dict(target.bindings[group]),
        "method": settings.name,
        "settings": asdict(settings),
        "seed": seed,
        "versions": dict(_versions()),
        "digests": dict(target.digests),
        "device": str(target.device),
        "num_threads": torch.get_num_threads(),
        "seconds": outcome.seconds,
        "num_tokens": outcome.num_tokens,
        "num_steps": outcome.num_steps,
        "rewards": rewards,
        "reward_seconds": reward_seconds,
        "reward_share": reward_seconds / outcome.seconds if outcome.seconds else 0.0,
        "constraints": target.requirements.followed(),
        "language_models": [
            {
                "name": lm.name,
                "notes": list(lm.notes),
                "slow_paths": list(getattr(lm, "slow_paths", ())),
            }
            for lm in target.language_models()
        ],
    }
