"""A guide that proposes for importance, smc and mcmc: right, collapsed or absurd, it leaves E[Ẑ],
weighted marginals and invariance as they are, at a false-alarm rate of 1e-5 each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from torch import Tensor

from lmppl.density import Target, Traces
from lmppl.density.proposal import Proposal
from lmppl.density.stages.run import Step
from lmppl.inference.importance import Importance
from lmppl.inference.importance.engine import ImportanceEngine
from lmppl.inference.moves import restart_move
from lmppl.inference.smc import SMC
from lmppl.inference.smc.engine import SMCEngine
from lmppl.inference.svi import SVI
from lmppl.inference.svi.engine import SVIEngine
from lmppl.lowering import Guide
from lmppl.lowering.proposal import GuideProposal
from lmppl.posterior import Estimate
from lmppl.rng import Stream
from lmppl.sequences.weights import log_mean_exp
from tests.exactness.cases import CASES, HARD, MIXED, STOP, TILT, WARP, Case
from tests.exactness.test_sampling import (
    ALPHA,
    importance_p_value,
    invariance_p_value,
    run_to_the_end,
    smc_p_value,
)

CASES_AND_KINDS = [
    (case, kind)
    for case in CASES
    for kind in ("fitted", "collapsed", "absurd")
    # Each kind on some of the cases, and all on what has choices before its text.
    if case is MIXED or kind == ("absurd" if case in (HARD, WARP) else "collapsed")
]


def _named(value: Case | str) -> str:
    return value if isinstance(value, str) else value.name


every_guide = pytest.mark.parametrize(("case", "kind"), CASES_AND_KINDS, ids=_named)


@cache
def _guide(name: str, kind: str) -> Guide:
    case = next(case for case in CASES if case.name == name)
    target = case.target()
    if kind == "fitted":
        settings = SVI(num_steps=12, num_particles=24, table_lr=0.3)
        engine = SVIEngine(settings, target, Stream.from_seed(2))
        return engine.guide(run_to_the_end(engine))
    guide = Guide(target)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in guide.parameters():
            if kind == "absurd":
                parameter.copy_(6.0 * torch.randn(parameter.shape, generator=generator))
            else:
                parameter.zero_()
                parameter[..., -1] = 80.0
    return guide


def proposal_of(case: Case, kind: str, target: Target, floor: float = 0.15) -> Proposal:
    return GuideProposal(target, _guide(case.name, kind), (0,), floor, lambda lm: lm)


Engine = Callable[..., ImportanceEngine | SMCEngine]


def engine_with(kind: type, case: Case, guide: str, floor: float = 0.15) -> Engine:
    """An engine that draws from a guide of its target."""

    def made(settings: object, target: Target, stream: Stream) -> ImportanceEngine | SMCEngine:
        proposal = proposal_of(case, guide, target, floor)
        found: ImportanceEngine | SMCEngine = kind(settings, target, stream, proposal=proposal)
        return found

    return made


def importance_by(case: Case, kind: str, monkeypatch: pytest.MonkeyPatch) -> float:
    from tests.exactness import test_sampling

    monkeypatch.setattr(
        test_sampling, "ImportanceEngine", engine_with(ImportanceEngine, case, kind)
    )
    return importance_p_value(case, Importance(num_samples=40))


THREE = SMC(num_particles=3, num_runs=4000, ess_threshold=0.9)


@every_guide
def test_importance_from_a_guide_is_unbiased(
    case: Case, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert importance_by(case, kind, monkeypatch) > ALPHA


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        (MIXED, "fitted"),
        (MIXED, "absurd"),
        (STOP, "collapsed"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_smc_from_a_guide_is_unbiased_with_three_particles(case: Case, kind: str) -> None:
    engine = engine_with(SMCEngine, case, kind)
    assert smc_p_value(case, THREE, engine) > ALPHA  # type: ignore[arg-type]


@pytest.mark.parametrize(("case", "kind"), [(MIXED, "fitted"), (HARD, "absurd")], ids=_named)
def test_moves_from_a_guide_leave_the_posterior_invariant(case: Case, kind: str) -> None:
    assert invariance_p_value(case, partial(guide_kernel, case, kind)) > ALPHA


def guide_kernel(case: Case, kind: str, target: Target, traces: Traces, stream: Stream) -> Traces:
    return restart_move(target, traces, stream, proposal_of(case, kind, target)).traces


# --------------------------------------------------------------------------------- wrong variants


def test_weights_that_forget_prior_over_proposal_are_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Step, "log_weight", property(lambda self: self.log_mass))
    assert importance_by(MIXED, "fitted", monkeypatch) < ALPHA


def test_moves_that_forget_what_the_old_draw_cost_are_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nothing(self: object, rows: object, steering: object, value: object) -> Tensor:
        return torch.zeros(rows.num_rows, dtype=torch.float64)  # type: ignore[attr-defined]

    monkeypatch.setattr(GuideProposal, "log_ratio", nothing)
    assert invariance_p_value(MIXED, partial(guide_kernel, MIXED, "fitted")) < ALPHA


def test_a_choice_that_is_weighed_without_its_floor_is_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lmppl.density import ChoiceStage

    right = ChoiceStage.draw_from

    def unfloored(self, rows, log_q, uniforms):  # type: ignore[no-untyped-def]
        """As if what was drawn from the mixture were of the guide alone."""
        value, log_prior, log_base = right(self, rows, log_q, uniforms)
        alone = (log_base.exp() - 0.15 * log_prior.exp()).clamp(min=1e-12) / 0.85
        return value, log_prior, alone.log()

    monkeypatch.setattr(ChoiceStage, "draw_from", unfloored)
    assert importance_by(MIXED, "absurd", monkeypatch) < ALPHA


# ------------------------------------------------------------------------------- what is said of it


def test_a_good_guide_makes_weights_alike_and_a_collapsed_one_costs_draws() -> None:
    def ess(kind: str | None) -> float:
        target = TILT.target()
        proposal = None if kind is None else proposal_of(TILT, kind, target)
        settings = Importance(num_samples=2000)
        engine = ImportanceEngine(settings, target, Stream.from_seed(1), proposal)
        (draws,) = engine.result(run_to_the_end(engine), complete=True)
        weights = draws.log_weight.softmax(0)
        return float(1.0 / (weights**2).sum())

    prior = ess(None)
    assert ess("fitted") > 1.3 * prior
    # 0.15 of the draws are the prior's.
    assert ess("collapsed") > 0.1 * prior


@pytest.mark.parametrize("kind", ["fitted", "collapsed", "absurd"])
def test_what_is_unseen_is_bounded_by_the_floor(kind: str) -> None:
    """No weight is above the bound of the factors over the floor, which is what is said."""
    target = TILT.target()
    engine = ImportanceEngine(
        Importance(num_samples=3000), target, Stream.from_seed(3), proposal_of(TILT, kind, target)
    )
    (draws,) = engine.result(run_to_the_end(engine), complete=True)
    bound = 5 / 0.7 - math.log(0.15)
    assert float(draws.log_weight.max()) <= bound + 1e-9
    evidence = draws.log_evidence
    assert evidence is not None and draws.unseen is not None
    assert draws.unseen.log_further == pytest.approx(bound - evidence.value - math.log(3000))
    assert not draws.from_prior


def test_runs_of_a_collapsed_guide_do_not_claim_what_they_cannot_see() -> None:
    """Of 200 runs of 60 draws from a guide of one text, the 95 % interval holds log Z in at least
    178 (false alarm below 1e-4)."""
    target, size, num_runs = TILT.target(), 60, 200
    proposal = proposal_of(TILT, "collapsed", target, floor=0.05)
    settings = Importance(num_samples=size * num_runs, batch_size=size * num_runs)
    state = run_to_the_end(ImportanceEngine(settings, target, Stream.from_seed(4), proposal))
    batch = state.batches[0]
    every = np.full(size * num_runs, -math.inf)
    every[batch.rows.numpy()] = batch.log_weight.numpy()
    bound = 5 / 0.7 - math.log(0.05)
    covered = 0
    for run in every.reshape(num_runs, size):
        found = Estimate.from_weights(run, log_bound=bound)
        covered += found.lower <= TILT.log_z <= found.upper
    assert covered >= 178


def test_smc_counts_the_tokens_of_both_language_models() -> None:
    target = TILT.target()
    settings = SMC(num_particles=10)
    engine = SMCEngine(
        settings, target, Stream.from_seed(0), proposal=proposal_of(TILT, "fitted", target)
    )
    state, total = engine.init(), 0
    while not engine.is_done(state):
        state, info = engine.step(state)
        total += info.num_tokens
    assert total == 2 * 5 * 10


def test_parts_of_a_run_are_one_run() -> None:
    from lmppl.inference.loop import Shard

    target = MIXED.target()
    proposal = proposal_of(MIXED, "fitted", target)
    small = SMCEngine(replace(THREE, num_runs=2), target, Stream.from_seed(7), proposal=proposal)
    large = SMCEngine(replace(THREE, num_runs=4), target, Stream.from_seed(7), proposal=proposal)
    parts = []
    for index in range(2):
        state = small.init(Shard(index))
        while not small.is_done(state):
            state, _ = small.step(state)
        parts.append(state)
    whole = run_to_the_end(large)
    together = small.merge(parts)
    assert torch.allclose(
        whole.log_evidence + log_mean_exp(whole.log_weight),
        together.log_evidence + log_mean_exp(together.log_weight),
    )
