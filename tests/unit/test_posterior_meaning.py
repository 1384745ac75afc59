"""How far a posterior is from its prior, how likely its texts are there, and its categories."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lmppl
from lmppl import load_posterior
from lmppl.posterior import Estimate, Posterior
from lmppl.posterior.meaning import one_in

# Two tokens: "a" with 3/4, then the other one with 2/3.
TOKENS = {"tokens": ["a", "b"], "initial": [3, 1], "transition": [[1, 2], [2, 1]], "eos": None}
PROGRAM = """\
reward vowels(t: string): int<lower=0, upper=2> = count("a")

model tiny(beta: real<lower=0> = 1.0) {
    pet ~ categorical(["cat", "dog", "emu"])
    lucky ~ bernoulli(0.25)
    text ~ markov("prior.json", max_tokens=2)
    factor tone: (if pet == "cat" then vowels(text) / beta else 0)
    require not lucky or pet == "dog"
    return pet, lucky, text
}
"""
# The executions by hand: text, its prior, and its count.
TEXTS = {"aa": (0.25, 2), "ab": (0.5, 1), "ba": (1 / 6, 1), "bb": (1 / 12, 0)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("meaning")
    (folder / "prior.json").write_text(json.dumps(TOKENS))
    return lmppl.compile(PROGRAM, base_dir=folder)


def _by_hand() -> list[tuple[float, float, float, str]]:
    """Prior, log potential, log prior of the text and pet of every execution that is allowed."""
    rows = []
    for pet in ("cat", "dog", "emu"):
        for lucky, chance in ((True, 0.25), (False, 0.75)):
            for p, count in TEXTS.values():
                if not lucky or pet == "dog":
                    rows.append((p * chance / 3, count * (pet == "cat"), math.log(p), pet))
    return rows


ROWS = _by_hand()
Z = sum(p * math.exp(phi) for p, phi, _, _ in ROWS)
WEIGHTS = [p * math.exp(phi) / Z for p, phi, _, _ in ROWS]
KL = sum(w * math.log(w / p) for w, (p, _, _, _) in zip(WEIGHTS, ROWS, strict=True))
PERPLEXITY = math.exp(-sum(w * row[2] for w, row in zip(WEIGHTS, ROWS, strict=True)) / 2)
CATS = sum(w for w, row in zip(WEIGHTS, ROWS, strict=True) if row[3] == "cat")
BEFORE = sum(p * phi for p, phi, _, _ in ROWS) / sum(p for p, _, _, _ in ROWS)


def test_an_enumerated_posterior_knows_its_distance_exactly(model: Any) -> None:
    post = lmppl.infer(model, method="exact")
    found = post.probabilities("pet")
    for estimate, truth in (
        (post.kl_to_prior, KL),
        (post.perplexity(), PERPLEXITY),
        (post.perplexity("text"), PERPLEXITY),
        (post.prior_expectation(post.log_potential("tone")), BEFORE),
        (found["cat"], CATS),
    ):
        assert estimate.kind == "exact" and estimate.value == pytest.approx(truth)
    assert post.kl_from_guide is None
    assert next(iter(found)) == max(found, key=lambda pet: found[pet].value)
    assert sum(each.value for each in found.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("method", ["importance", "smc"])
def test_estimates_of_the_distance_hold_the_truth(model: Any, method: str) -> None:
    """The interval of the sum of two terms holds at 90 %: of 40 seeds at most 12 may miss.

    P(Binomial(40, 0.1) > 12) < 1e-4.
    """
    size = {"importance": "num_samples", "smc": "num_particles"}[method]
    missed = {"kl": 0, "perplexity": 0, "cat": 0}
    for seed in range(40):
        post = lmppl.infer(model, method=method, seed=seed, **{size: 200})
        for name, estimate, truth in (
            ("kl", post.kl_to_prior, KL),
            ("perplexity", post.perplexity(), PERPLEXITY),
            ("cat", post.probabilities("pet")["cat"], CATS),
        ):
            assert estimate.standard_error > 0.0
            missed[name] += not estimate.lower <= truth <= estimate.upper
    assert max(missed.values()) <= 12, missed


def test_the_mean_before_is_told_by_draws_of_the_prior_alone(model: Any) -> None:
    post = lmppl.infer(model, method="importance", num_samples=2000, seed=0)
    before = post.prior_expectation(post.log_potential("tone"))
    assert abs(before.value - BEFORE) < 5 * before.standard_error
    assert before.value != post.expectation(post.log_potential("tone")).value
    cats = post.prior_expectation(lambda draw: draw.pet == "cat")
    assert cats.lower < 0.3 < cats.upper  # of the allowed executions: 3/12 + 3/12 + 4/12
    smc = lmppl.infer(model, method="smc", num_particles=50, seed=0)
    with pytest.raises(ValueError, match="do not show the prior"):
        smc.prior_expectation(smc.log_potential("tone"))


@pytest.mark.parametrize(
    ("method", "options", "num_seeds"),
    [("rejection", {"num_samples": 60}, 30), ("svi", {"num_steps": 5, "num_particles": 8}, 8)],
)
def test_methods_that_see_the_prior_on_the_way_keep_the_factors_before(
    model: Any, tmp_path: Path, method: str, options: dict[str, int], num_seeds: int
) -> None:
    """95 % intervals: P(Binomial(30, 0.05) > 6) and P(Binomial(8, 0.05) > 3) are below 1e-3."""
    missed = 0
    for seed in range(num_seeds):
        post = lmppl.infer(model, method=method, seed=seed, progress=False, **options)
        before = post.prior_expectation("tone")
        assert before.standard_error > 0.0 and 0.0 <= before.lower and before.upper <= 2.0
        missed += not before.lower <= BEFORE <= before.upper
    assert missed <= (6 if num_seeds == 30 else 3)
    assert "mean of tone before" in post.summary() and str(before) in post.summary()
    with pytest.raises(ValueError, match="of the factors tone the mean is kept"):
        post.prior_expectation(lambda draw: draw.pet == "cat")
    post.save(tmp_path / "post")
    assert lmppl.load_posterior(tmp_path / "post").prior_expectation("tone") == before


def test_chains_do_not_know_how_far_the_prior_is(model: Any) -> None:
    post = lmppl.infer(
        model, method="mcmc", num_chains=2, num_samples=5, warmup_steps=2, start="prior", seed=0
    )
    assert post.kl_to_prior is None
    assert "KL to the prior" in post.summary() and "unknown: Markov chains" in post.summary()
    assert post.perplexity().value > 1.0


def test_without_factors_nothing_is_far() -> None:
    post = lmppl.infer(lmppl.compile("model m() { x ~ bernoulli(0.3) return x }"))
    assert post.kl_to_prior == Estimate.exact(0.0)
    with pytest.raises(ValueError, match="log priors"):
        post.perplexity()


def test_the_gap_of_svi_is_the_divergence_of_its_guide(model: Any) -> None:
    post = lmppl.infer(model, method="svi", num_steps=3, num_particles=8, num_samples=4000, seed=0)
    gap, importance = post.kl_from_guide, post.info["log_evidence_importance"]["value"]
    # By definition, and against the truth at 5 standard errors.
    assert gap.value == pytest.approx(importance - post.log_evidence.value, abs=1e-9)
    elbo = post.log_evidence
    assert abs(gap.value - (math.log(Z) - elbo.value)) < 5 * max(gap.standard_error, 1e-3)
    assert post.kl_to_prior.lower <= KL <= post.kl_to_prior.upper
    text = post.summary()
    assert text.count(str(elbo)) == 1 and "ELBO" not in text
    assert "by importance" in text and "KL(guide ‖ posterior)" in text


def test_the_error_of_the_gap_is_that_of_its_two_means() -> None:
    """Lognormal weights, whose gap is σ²/2: 3 of 1000 samples may be off by 4 errors."""
    rng = np.random.default_rng(0)
    far = 0
    for _ in range(1000):
        log_w = 0.5 * rng.normal(size=400)
        post = Posterior(sites={"x": np.zeros(400)}, log_weights=log_w, diagnostics={"elbo": 0.0})
        gap = post.kl_from_guide
        far += abs(gap.value - 0.125) > 4 * gap.standard_error
    assert far <= 3


def test_values_that_no_draw_has_are_possible_still(model: Any) -> None:
    rare = lmppl.compile(
        'model rare() { pet ~ categorical(values=["cat", "yeti"], probs=[0.999, 0.001])'
        " return pet }"
    )
    post = lmppl.infer(rare, method="importance", num_samples=20, seed=1)
    assert set(post["pet"]) == {"cat"}
    found = post.probabilities("pet")
    assert list(found) == ["cat", "yeti"]
    assert found["yeti"].value == 0.0 and found["yeti"].upper > 0.001
    assert "P(pet = yeti)" in post.summary()
    with pytest.raises(KeyError):
        post.probabilities("dog")


def test_too_many_values_are_no_categories() -> None:
    post = Posterior(sites={"x": np.arange(1500)}, log_weights=np.zeros(1500))
    with pytest.raises(ValueError, match="1500 different values"):
        post.probabilities("x")


def test_a_share_is_said_in_words() -> None:
    assert one_in(71.0) == "1 in 10^31"
    assert one_in(0.0) == "1 in 1.0" and one_in(-1e-9) == "1 in 1.0"
    assert one_in(math.log(4.0)) == "1 in 4.0"
    assert one_in(math.log(12345.0)) == "1 in 12,345"


def test_a_requirement_alone_says_how_many_prior_draws_pass(tmp_path: Path) -> None:
    (tmp_path / "prior.json").write_text(json.dumps(TOKENS))
    program = 'model m() { t ~ markov("prior.json", max_tokens=2) require t == "bb" return t }'
    post = lmppl.infer(lmppl.compile(program, base_dir=tmp_path), method="exact")
    assert "prior draws that pass  1 in 12 satisfies every require" in post.summary()


def test_a_requirement_that_nearly_all_meet_is_not_one_in_one(tmp_path: Path) -> None:
    (tmp_path / "prior.json").write_text(json.dumps(TOKENS))
    program = 'model m() { t ~ markov("prior.json", max_tokens=2) require length(t) <= 2 return t }'
    post = lmppl.infer(lmppl.compile(program, base_dir=tmp_path), num_particles=8, seed=0)
    assert "prior draws that pass" not in post.summary()
    almost = post.replace(log_evidence=Estimate(-0.01, 0.01, -0.1, 0.0, "unbiased"))
    assert "prior draws that pass  nearly all satisfy every require" in almost.summary()


def test_what_is_known_survives_selection_and_saving(model: Any, tmp_path: Path) -> None:
    post = lmppl.infer(model, method="importance", num_samples=50, seed=0)
    post.save(tmp_path / "result")
    again = load_posterior(tmp_path / "result")
    assert again.kl_to_prior == post.kl_to_prior and again.perplexity() == post.perplexity()
    assert again.probabilities("pet") == post.probabilities("pet")
    assert again.summary() == post.summary()
    some = post.select(np.arange(10))
    assert some.perplexity().value != post.perplexity().value


# Prompts


def test_draws_are_shown_after_their_prompt() -> None:
    post = Posterior(
        sites={"text": ["erpillar", "alogue"]},
        log_weights=[1.0, 0.0],
        prompts={"text": "A long time ago there was a cat"},
    )
    text = post.summary()
    assert "[…ime ago there was a cat]erpillar" in text
    assert post.prompts() == ["A long time ago there was a cat"] * 2
    html = post._repr_html_()
    assert "<span class='prompt'>A long time ago there was a cat</span>erpillar" in html


def test_a_prompt_of_its_own_stays_with_every_draw(tmp_path: Path) -> None:
    post = Posterior(
        sites={"text": ["a", "a", "b"]},
        log_weights=np.log([3.0, 2.0, 1.0]),
        prompts={"text": ["My cat", "My dog", "My dog"]},
    )
    text = post.summary()
    # Equal texts of different prompts are different results.
    assert text.index("[My cat]a") < text.index("[My dog]a") < text.index("[My dog]b")
    assert post.select([2]).prompts("text") == ["My dog"]
    post.save(tmp_path / "result")
    assert load_posterior(tmp_path / "result").summary() == text
    with pytest.raises(KeyError, match="no prompts"):
        post.prompts("story")


def test_a_prompt_cannot_reach_the_terminal_or_the_page() -> None:
    post = Posterior(sites={"text": ["x"]}, log_weights=[0.0], prompts={"text": "\x1b[31m<i>\n"})
    html = post._repr_html_()
    assert "\x1b" not in post.summary() + html and "<i>" not in html


def test_a_run_knows_its_prompts() -> None:
    program = """
    model pets() {
        pet ~ categorical(["cat", "dog"])
        text ~ lm("builtin:stories", prompt=f"The {pet}", max_tokens=2)
        return text
    }
    """
    post = lmppl.infer(lmppl.compile(program), method="importance", num_samples=8, seed=0)
    assert post.prompts() == [f"The {pet}" for pet in post["pet"]]
    fixed = lmppl.compile(program.replace('f"The {pet}"', '"The cat"'))
    post = lmppl.infer(fixed, method="importance", num_samples=8, seed=0)
    assert post.data.prompts == {"text": "The cat"}
    assert "[The cat]" in post.summary()
