"""Claims about what has no number, and numbers that are known: a finished result is kept."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import lmppl
from lmppl import load_posterior
from lmppl.diagnostics.comparison import compare_posteriors
from lmppl.posterior import Estimate

PRIOR = {
    "tokens": ["a", "b"],
    "initial": [3, 1],
    "transition": [[3, 1], [3, 1]],
    "eos": None,
}
PROGRAM = """
reward n(t: string): int<lower=0, upper=3> = count("a")
model m() {{
    t ~ markov("prior.json", max_tokens=3)
    factor f: {factor}
    expect c: {claim}
    expect sure: probability(starts_with(t, "a")) >= 0.1
    return t
}}
"""
METHODS: tuple[tuple[str, dict[str, object]], ...] = (
    ("exact", {}),
    ("importance", {"num_samples": 200}),
    ("rejection", {"num_samples": 200}),
    ("smc", {"num_particles": 200}),
    ("mcmc", {"num_chains": 8, "num_samples": 50}),
)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "prior.json").write_text(json.dumps(PRIOR))
    return tmp_path


def inferred(
    here: Path, claim: str, factor: str, method: str, **options: object
) -> lmppl.Posterior:
    model = lmppl.compile(PROGRAM.format(claim=claim, factor=factor), base_dir=here)
    return lmppl.infer(model, method=method, seed=0, progress=False, **options)


@pytest.mark.parametrize(("method", "options"), METHODS)
@pytest.mark.parametrize(
    ("claim", "why"),
    [
        ("mean(1 / n(t)) <= 2", "division by zero"),
        ("quantile(log(n(t) - 1), 0.5) <= 2", "log(-1) has no value"),
        ("std(log(n(t))) <= 2", "it is −∞ on"),
        ("quantile(log(n(t)), 0.9) <= 2", "it is −∞ on"),
    ],
)
def test_a_claim_without_a_number_is_undecided_and_loses_nothing(
    here: Path, tmp_path: Path, claim: str, why: str, method: str, options: dict[str, object]
) -> None:
    post = inferred(here, claim, "0.1 * n(t)", method, **options)
    found, sure = post.expectations
    assert found.verdict == "undecided" and why in found.reason
    assert math.isnan(found.estimate.value)
    assert sure.verdict == "holds" or (method == "mcmc" and sure.verdict == "undecided")
    # It is said, kept and compared as everything else is.
    assert why in " ".join(post.summary().split()) and why in post._repr_html_()
    post.save(tmp_path / "saved")
    (again, _) = load_posterior(tmp_path / "saved").expectations
    assert again.verdict == "undecided" and again.reason == found.reason
    compared = compare_posteriors({"one": post, "two": post})
    assert not any("n(t)" in each.quantity for each in compared.differences)


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_a_mean_of_what_may_be_minus_infinity_is_just_that(
    here: Path, method: str, options: dict[str, object]
) -> None:
    """By hand: "bbb", where log(0) = −∞, has probability 1/64 of the prior."""
    post = inferred(here, "mean(log(n(t))) >= -1000", "0.1 * n(t)", method, **options)
    assert "bbb" in post["t"], "else the seed shows nothing"
    assert post.expectations[0].verdict == "fails"
    assert post.expectations[0].estimate == Estimate.exact(-math.inf)
    assert "−∞ (exact)" in post.summary()


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_a_number_that_cannot_vary_is_exact(
    here: Path, method: str, options: dict[str, object]
) -> None:
    post = inferred(here, "mean(0 * n(t) + 2) >= 2", "0.1 * n(t)", method, **options)
    assert post.expectations[0].estimate == Estimate.exact(2.0)
    assert post.expectations[0].verdict == "holds"


def test_a_distance_of_draws_that_are_all_alike_has_the_error_of_what_they_miss(
    here: Path,
) -> None:
    """A text in 64 weighs e^8 times as much; where no draw has it, "0 ± 1e-17" would be a lie.

    By hand: Z = 1 + (e^8 − 1) / 64, KL = 8 P(bbb) − log Z with P(bbb) = e^8 / (64 Z).
    """
    z = 1 + math.expm1(8) / 64
    kl = 8 * math.exp(8) / (64 * z) - math.log(z)
    unseen = 0
    for seed in range(12):
        model = lmppl.compile(
            PROGRAM.format(claim="mean(n(t)) >= 0", factor='if t == "bbb" then 8 else 0'),
            base_dir=here,
        )
        post = lmppl.infer(model, method="importance", num_samples=20, seed=seed, progress=False)
        unseen += "bbb" not in post["t"]
        assert post.kl_to_prior.lower <= kl <= post.kl_to_prior.upper
        if "bbb" not in post["t"]:
            assert post.kl_to_prior.value < 1e-9 and post.kl_to_prior.standard_error > 0.1
    assert unseen >= 3


def test_a_share_of_prior_draws_that_pass_comes_with_its_interval(here: Path) -> None:
    program = 'model m() { t ~ markov("prior.json", max_tokens=3) require n: t == "bbb" return t }'
    model = lmppl.compile(program, base_dir=here)
    found = lmppl.infer(
        model, method="importance", proposal="prior", num_samples=300, seed=0, progress=False
    )
    (line,) = [line for line in found.summary().splitlines() if "prior draws that pass" in line]
    lower, upper = math.exp(-found.log_evidence.upper), math.exp(-found.log_evidence.lower)
    assert lower < 64 < upper
    assert f"(95%: 1 in {upper:,.0f} to 1 in {lower:,.0f})" in line
    exact = lmppl.infer(model, method="exact", progress=False)
    assert "1 in 64 satisfies every require\n" in exact.summary()


def test_an_estimate_that_hangs_on_one_draw_does_not_say_that_it_is_off_by_one(here: Path) -> None:
    """By the delta method the log of a sum that is one draw is off by 1, however wrong it is.

    By hand: "bbb", which few of 64 draws are, has nearly all the weight; letters are independent.
    """
    program = """
reward n(t: string): int<lower=0, upper=3> = count("a")
model m() { t ~ markov("prior.json", max_tokens=3) factor f: -4 * n(t) return t }
"""
    model = lmppl.compile(program, base_dir=here)
    seen = 0
    for seed in range(8):
        post = lmppl.infer(model, method="importance", num_samples=64, seed=seed, progress=False)
        evidence, distance = post.log_evidence, post.kl_to_prior
        if post.diagnostics["ess"] < 10:
            seen += 1
            half = (evidence.upper - evidence.lower) / (2 * 1.96)
            assert evidence.standard_error == pytest.approx(half, rel=1e-3)
            assert distance.standard_error >= evidence.standard_error
        truth = 3 * math.log(1 / 4 + 3 / 4 * math.exp(-4))
        assert abs(evidence.value - truth) < 3 * evidence.standard_error
    assert seen >= 4
