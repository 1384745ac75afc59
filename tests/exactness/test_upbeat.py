"""One file, unmodified, under every method: the answers agree within their errors."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import lmppl

UPBEAT = Path(__file__).parents[2] / "examples" / "upbeat.lmp"
REWARD = "sentiment(text)"
# Of a difference of two estimates with their own errors; about 1e-6 two-sided.
SIGMAS = 4.9


@pytest.fixture(scope="module")
def posteriors() -> dict[str, lmppl.Posterior]:
    model = lmppl.load(UPBEAT)
    run = {
        "smc": dict(num_particles=96, num_runs=3),
        "importance": dict(num_samples=384),
        "rejection": dict(num_samples=60, max_attempts=20_000),
        "mcmc": dict(num_chains=16, num_samples=20, warmup_steps=20),
        "svi": dict(num_steps=10, num_particles=24, num_samples=96),
    }
    return {
        name: lmppl.infer(model, method=name, seed=5, **options) for name, options in run.items()
    }


def agree(a: lmppl.Estimate, b: lmppl.Estimate) -> bool:
    return abs(a.value - b.value) <= SIGMAS * math.hypot(a.standard_error, b.standard_error)


def test_the_methods_agree_on_the_log_evidence(posteriors: dict[str, lmppl.Posterior]) -> None:
    reference = posteriors["importance"].log_evidence
    assert reference is not None and reference.standard_error < 0.2
    for name in ("smc", "rejection"):
        found = posteriors[name].log_evidence
        assert found is not None and found.standard_error < 0.5
        assert agree(found, reference), name
    assert posteriors["mcmc"].log_evidence is None
    assert "do not estimate" in posteriors["mcmc"].log_evidence_reason


def test_the_methods_agree_on_the_mean_reward(posteriors: dict[str, lmppl.Posterior]) -> None:
    reference = posteriors["importance"].expectation(REWARD)
    for name in ("smc", "rejection", "mcmc"):
        found = posteriors[name].expectation(REWARD)
        assert found.standard_error < 0.15
        assert agree(found, reference), name


def test_the_elbo_lies_below_the_log_evidence(posteriors: dict[str, lmppl.Posterior]) -> None:
    elbo = posteriors["svi"].log_evidence
    reference = posteriors["importance"].log_evidence
    assert elbo is not None and reference is not None
    assert elbo.kind == "lower bound"
    slack = SIGMAS * math.hypot(elbo.standard_error, reference.standard_error)
    assert elbo.value <= reference.value + slack


def test_the_draws_of_the_guide_weighed_to_the_target_agree_too(
    posteriors: dict[str, lmppl.Posterior],
) -> None:
    found = posteriors["svi"].expectation(REWARD)
    assert agree(found, posteriors["importance"].expectation(REWARD))


def test_the_same_seed_gives_the_same_draws() -> None:
    model = lmppl.load(UPBEAT)
    first, second = (lmppl.infer(model, num_particles=24, seed=9) for _ in range(2))
    other = lmppl.infer(model, num_particles=24, seed=10)
    assert first.texts == second.texts
    assert first.log_weights.tolist() == second.log_weights.tolist()
    assert first.texts != other.texts
