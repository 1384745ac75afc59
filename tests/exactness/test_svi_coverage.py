"""What svi says of a guide that has lost a part of the posterior, and of a fit that diverges."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import lmppl
from lmppl.inference.coverage import Coverage, coverage_of, num_check_draws
from lmppl.inference.keeping import Best, is_sound
from lmppl.posterior import Posterior
from tests.exactness.cases import CASES, MIXED, TILT, Case

_TWO_MODES = """
    reward na(t: string): int<lower=0, upper=10> = count("a")
    model two_modes(c: real<lower=0> = 2.0) {
        t ~ markov("iid.json", max_tokens=10)
        factor f: c * abs(2 * na(t) - 10)
        expect rare_a: probability(starts_with(t, "a")) <= 0.2
        return t
    }
"""


@pytest.fixture
def two_modes(tmp_path: Path) -> lmppl.CompiledModel:
    table = {"tokens": ["a", "b"], "initial": [1, 1], "transition": [[1, 1], [1, 1]], "eos": None}
    (tmp_path / "iid.json").write_text(json.dumps(table))
    return lmppl.compile(_TWO_MODES, base_dir=tmp_path)


# --- the test itself --------------------------------------------------------------------------


def _mixture(lost: bool, seed: int, size: int = 400) -> Coverage:
    """Two halves of a posterior that is twice the prior on both; the guide draws one, or both."""
    random = np.random.default_rng(seed)
    log_q = math.log(1.0) if lost else math.log(0.5)
    own = np.full(200, math.log(2.0) + math.log(0.5) - log_q)
    ratio = np.where(random.random(size) < 0.5, own[0], math.inf if lost else own[0])
    return coverage_of(own, np.full(size, math.log(2.0)), ratio, size)


def test_half_a_posterior_that_the_guide_never_draws_is_found() -> None:
    found = _mixture(True, 0)
    assert found.missing == pytest.approx(0.5, abs=0.1) and found.unseen >= found.missing
    assert "lost a part" in found.warning and found.reason


def test_a_guide_that_is_the_posterior_is_covered_up_to_what_so_many_draws_can_show() -> None:
    found = _mixture(False, 0)
    assert found.missing == 0.0 and not found.warning and not found.reason
    # Clopper and Pearson of none in 400.
    assert found.unseen == pytest.approx(1.0 - 0.005 ** (1 / 400), rel=1e-6)


def test_draws_of_the_prior_that_are_worth_little_show_nothing() -> None:
    random = np.random.default_rng(0)
    log_v = 6.0 * random.standard_normal(300) - 18.0
    found = coverage_of(np.zeros(100), log_v, np.zeros(300), 300)
    assert found.unseen == 1.0 and "too few" in found.reason


@pytest.mark.parametrize("seed", range(20))
def test_a_guide_that_reaches_nothing_is_told_so_whatever_the_rounding(seed: int) -> None:
    random = np.random.default_rng(seed)
    log_v = random.normal(size=int(random.integers(60, 400)))
    found = coverage_of(np.zeros(64), log_v, np.full(log_v.size, math.inf), log_v.size)
    assert found.unseen == 1.0 and "lost a part" in found.warning


def test_draws_of_weight_zero_count() -> None:
    some = coverage_of(np.zeros(100), np.full(100, math.log(2.0)), np.zeros(100), 200)
    assert some.log_evidence == pytest.approx(0.0) and some.num_draws == 200
    none = coverage_of(np.zeros(100), [], [], 200)
    assert none.unseen == 1.0 and "no draw" in none.reason


def test_the_check_is_small_beside_the_fit() -> None:
    assert num_check_draws(300 * 64) == 512
    assert num_check_draws(100) == 64


# --- runs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_a_lost_mode_is_reported(two_modes: lmppl.CompiledModel, seed: int) -> None:
    post = lmppl.infer(two_modes, method="svi", seed=seed, num_steps=100)
    share = post.expectation('starts_with(t, "a")').value
    assert share < 0.2 and post.diagnostics["ess"] > 150  # all else looks fine
    coverage = post.diagnostics["guide_coverage"]
    assert coverage["missing"] > 0.05
    assert any("lost a part of the posterior" in warning for warning in post.warnings)
    # Of what the guide covers it would hold, or fail.
    assert post.expectations[0].verdict == "undecided"
    assert any("what the guide covers" in warning for warning in post.warnings)
    assert post.sample(50, seed=1).expectations[0].verdict == "undecided"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_guide_that_fits_raises_no_alarm(case: Case) -> None:
    options = {"num_steps": 60, "num_particles": 64, "table_lr": 0.2}
    post = lmppl.infer(case.bound(), method="svi", seed=0, **options)
    coverage = post.diagnostics["guide_coverage"]
    assert coverage["missing"] < 0.05 and coverage["unseen"] < 0.2
    assert not any("lost" in warning for warning in post.warnings)
    assert coverage["log_evidence"] == pytest.approx(case.log_z, abs=0.5)


@pytest.mark.parametrize(("bound", "verdict"), [(0.7, "holds"), (0.115, "undecided")])
def test_claims_leave_room_for_what_is_unseen(bound: float, verdict: str) -> None:
    program = TILT.program.replace(
        "return text", f'expect starts: probability(starts_with(text, "a")) <= {bound}\nreturn text'
    )
    model = lmppl.compile(program)(prior=TILT.language_model())
    options = {"num_steps": 60, "num_particles": 64, "table_lr": 0.2, "num_samples": 4000}
    post = lmppl.infer(model, method="svi", seed=0, **options)
    (claim,) = post.expectations
    coverage = post.diagnostics["guide_coverage"]
    assert 0.0 < coverage["unseen"] < 0.1
    # The interval reaches further than the guide's own draws would have it.
    among = Posterior(sites={"x": post["text"]}, log_weights=post.log_weights)
    starts = np.array([text.startswith("a") for text in post.texts])
    assert among.statistic(starts, "probability", confidence=0.99).upper < bound
    assert claim.verdict == verdict, (claim, coverage)


def test_executions_are_scored_as_the_guide_scored_its_own() -> None:
    post = lmppl.infer(
        MIXED.bound(), method="svi", num_steps=5, num_particles=16, num_samples=300, seed=0
    )
    scored = post.guide.draw_scored(300, lmppl.rng.Stream(4))
    np.testing.assert_allclose(
        post.guide.score(scored.traces), scored.log_guide.numpy(), rtol=0, atol=1e-9
    )


# --- fits that diverge ------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [5.0, 100.0])
def test_a_fit_that_diverges_ends_with_its_best_guide_and_says_so(rate: float) -> None:
    post = lmppl.infer(
        TILT.bound(), method="svi", num_steps=40, num_particles=32, seed=0, table_lr=rate
    )
    assert not post.complete
    assert any("diverged" in warning and "learning rate" in warning for warning in post.warnings)
    # The best one was the prior: its ELBO, not that of the guide at the end.
    curve = post.info["elbo"]
    assert len(curve) < 40 and curve[-1] < curve[0] - 2.0
    assert abs(post.log_evidence.value - curve[0]) < 1.0
    error = post.diagnostics["log_evidence_importance_standard_error"]
    assert abs(post.diagnostics["log_evidence_importance"] - TILT.log_z) < 5 * error


def test_a_fit_that_goes_well_keeps_its_last_guide() -> None:
    post = lmppl.infer(
        TILT.bound(), method="svi", num_steps=40, num_particles=32, seed=0, table_lr=0.2
    )
    assert post.complete and post.diagnostics["num_steps"] == 40
    assert not any("diverged" in warning for warning in post.warnings)


def _curve(*values: float) -> list[torch.Tensor]:
    return [torch.tensor([value]) for value in values]


def test_the_best_parameters_come_back() -> None:
    parameters = [torch.tensor([1.0, 2.0])]
    best = Best.start(parameters)
    errors = _curve(*[0.1] * 9)
    curve: list[torch.Tensor] = []
    for step, value in enumerate([0.0, 1.0, 2.0, 3.0, 3.0, 3.0, -50.0, -60.0, -70.0]):
        parameters = [parameters[0] + 1.0]
        curve += _curve(value)
        best = best.after(parameters, curve, errors[: step + 1])
    assert best.step == 6 and best.elbo == pytest.approx(3.0)
    assert best.is_left_by(curve, 30) and not best.is_left_by(curve[:8], 30)
    assert not best.is_left_by(curve, 300)  # a long fit may come back
    assert best.tensors[0].tolist() == [7.0, 8.0]


def test_weights_that_are_no_numbers_are_not_sound() -> None:
    assert is_sound([torch.ones(4)], 2.0)
    for value in (math.nan, math.inf, 1e38):
        assert not is_sound([torch.tensor([1.0, value])], 2.0)
