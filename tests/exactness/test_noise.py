"""Rewards that say of themselves that they are noisy: who may weigh with them, and who refuses."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest

import lmppl
from lmppl.inference import METHODS
from tests.exactness.cases import TILT
from tests.exactness.referees import ALPHA, keys_of
from tests.exactness.statistics import p_value_of_weighted_runs

PROGRAM = """
    extern lm prior
    extern reward judge(t: string, noise="unbiased"): real<upper=10>
    model noisy() {
        text ~ prior(max_tokens=5)
        factor tone: judge(text)
        return text
    }
"""
Noise = Callable[[random.Random], float]


def right_on_average(rng: random.Random) -> float:
    """The log of a number between 0.5 and 1.5, whose mean is 1."""
    return math.log(0.5 + rng.random())


def right_in_the_log(rng: random.Random) -> float:
    """Its own mean is 0, and that of its exponential is not 1."""
    return rng.choice((-1.0, 1.0))


def bound_to(noise: Noise, asked: list[str], program: str = PROGRAM) -> lmppl.BoundModel:
    rng = random.Random(5)

    def judge(texts: list[str]) -> list[float]:
        asked.extend(texts)
        return [text.count("a") / 0.7 + noise(rng) for text in texts]

    return lmppl.compile(program)(prior=TILT.language_model(), judge=judge)


def noisy_p_value(noise: Noise, method: str, **options: object) -> float:
    """Runs of a posterior that is TILT's, whose factor is only estimated."""
    numbers = {e.key: number for number, e in enumerate(TILT.table)}
    bound, runs = bound_to(noise, []), []
    for seed in range(24):
        post = lmppl.infer(bound, method=method, seed=seed, progress=False, **options)
        assert post.log_evidence is not None and not any("no function" in w for w in post.warnings)
        rows = np.array([numbers[key] for key in keys_of(TILT, post)])
        runs.append((post.log_evidence.value, rows, post.weights))
    return p_value_of_weighted_runs(TILT, runs)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("importance", {"num_samples": 200}),
        ("smc", {"num_particles": 100, "lookahead_every": 2}),
        ("smc", {"num_particles": 100, "lookahead": "none"}),
    ],
)
def test_an_estimate_that_is_right_on_average_is_enough(
    method: str, options: dict[str, object]
) -> None:
    assert noisy_p_value(right_on_average, method, **options) > ALPHA


def test_an_estimate_that_is_not_right_on_average_is_rejected() -> None:
    assert noisy_p_value(right_in_the_log, "importance", num_samples=200) < ALPHA


def test_every_draw_is_scored_by_itself() -> None:
    asked: list[str] = []
    bound = bound_to(right_on_average, asked)
    lmppl.infer(bound, method="importance", num_samples=200, seed=0, progress=False)
    assert len(asked) >= 200 > len(set(asked))


def test_methods_that_need_the_score_itself_refuse() -> None:
    bound = bound_to(right_on_average, [])
    codes = {
        method.name: [refusal.code for refusal in lmppl.explain(bound, method=method.name).refusals]
        for method in METHODS
    }
    assert codes == {
        "exact": ["LMP418"],
        "rejection": ["LMP418"],
        "importance": [],
        "smc": [],
        "tempered": ["LMP418"],
        "ais": ["LMP418"],
        "mcmc": ["LMP415"],
        "twist": ["LMP418"],
        "svi": ["LMP418"],
    }
    with pytest.raises(lmppl.InferenceError, match="LMP415"):
        lmppl.infer(bound, method="mcmc", seed=0, progress=False)


def test_noise_that_is_not_declared_is_caught_by_scoring_again() -> None:
    silent = PROGRAM.replace(', noise="unbiased"', "")
    bound = bound_to(right_on_average, [], silent)
    with pytest.raises(lmppl.InferenceError, match="LMP951"):
        lmppl.infer(bound, method="exact", progress=False)
    post = lmppl.infer(bound, method="importance", num_samples=50, seed=0, progress=False)
    assert any("no function" in warning for warning in post.warnings)


def test_other_words_for_noise_are_refused() -> None:
    with pytest.raises(lmppl.LmpError, match='`noise` is "none" or "unbiased"'):
        lmppl.compile(PROGRAM.replace('"unbiased"', '"some"'))
