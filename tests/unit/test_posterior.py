"""The Posterior: what it holds, its expectations and their errors, and its storage."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmppl import load_posterior
from lmppl.posterior import (
    Draw,
    Estimate,
    ExpectationResult,
    Posterior,
    TextDraw,
    Unseen,
)
from lmppl.posterior.chains import autocorrelation_ess
from lmppl.posterior.draws import KINDS


def _posterior(**changes: Any) -> Posterior:
    given: dict[str, Any] = {
        "sites": {"mood": np.array([True, False, True]), "text": ["a b", "c", "a b"]},
        "outputs": {"text": ["a b", "c", "a b"]},
        "tokens": {"text": (np.array([[1, 2], [3, 0], [1, 2]]), np.array([2, 1, 2]))},
        "log_weights": np.log([2.0, 1.0, 1.0]),
        "log_prior": np.array([-1.0, -2.0, -1.0]),
        "log_potentials": {"tone": np.array([0.5, 0.25, 0.5])},
        "log_evidence": Estimate.exact(-0.5),
        "method": "importance",
        "manifest": {"model": "demo", "seed": 1},
    }
    return Posterior(**{**given, **changes})


def test_values_come_by_returned_name_and_by_site() -> None:
    post = _posterior()
    assert post["text"] == ["a b", "c", "a b"]
    assert post["mood"].tolist() == [True, False, True]
    assert post.texts == ["a b", "c", "a b"]
    assert post.names == ("text",)
    assert "mood" in post and "other" not in post
    with pytest.raises(KeyError, match=r"no value 'other'.*text, mood"):
        post["other"]


def test_tokens_and_lengths_need_no_name_where_there_is_one_text() -> None:
    post = _posterior()
    assert post.tokens().tolist() == post.tokens("text").tolist() == [[1, 2], [3, 0], [1, 2]]
    assert post.lengths().tolist() == [2, 1, 2]
    with pytest.raises(KeyError, match="no tokens of a text 'mood'"):
        post.tokens("mood")


def test_weights_are_normalised_in_the_log() -> None:
    post = _posterior(log_weights=np.array([-2000.0, -2000.0, -math.inf]))
    assert post.log_weights[:2] == pytest.approx(math.log(0.5))
    assert post.log_weights[2] == -math.inf
    assert post.log_weights.dtype == np.float64
    assert post.weights.tolist() == pytest.approx([0.5, 0.5, 0.0])


def test_the_log_density_is_prior_and_potentials() -> None:
    post = _posterior()
    assert post.log_density.tolist() == [-0.5, -1.75, -0.5]
    assert post.log_potential("tone").tolist() == [0.5, 0.25, 0.5]
    with pytest.raises(KeyError, match=r"no potential 'tune'.*tone"):
        post.log_potential("tune")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"log_weights": [-math.inf] * 3}, "every draw has weight zero"),
        ({"log_weights": [0.0, math.nan, 0.0]}, "NaN"),
        ({"log_weights": []}, "at least one draw"),
        ({"log_weights": [0.0, 0.0]}, "3 rows and the posterior 2 draws"),
        ({"num_chains": 2}, "cannot be 2 chains"),
        ({"clusters": [1]}, "clusters has 1 rows"),
    ],
)
def test_what_is_inconsistent_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _posterior(**changes)


def test_nothing_can_be_changed_in_place() -> None:
    source = np.array([-1.0, -2.0, -1.0])
    post = _posterior(log_prior=source)
    source[0] = 99.0
    assert post.log_prior[0] == -1.0
    with pytest.raises(ValueError, match="read-only"):
        post.log_weights[0] = 0.0
    with pytest.raises(TypeError):
        post.diagnostics["x"] = 1  # type: ignore[index]
    assert post.replace(method="smc").method == "smc" != post.method


def test_torch_tensors_are_taken_as_arrays() -> None:
    post = _posterior(
        log_weights=torch.zeros(3, dtype=torch.bfloat16),
        log_prior=torch.tensor([-1.0, -2.0, -1.0], requires_grad=True),
    )
    assert isinstance(post.log_prior, np.ndarray)
    assert post.weights == pytest.approx(1 / 3)


# Draws and expectations


def test_a_draw_of_one_text_is_that_text() -> None:
    draw = _posterior().draw(0)
    assert isinstance(draw, TextDraw)
    assert draw == "a b" and len(draw) == 3 and draw.upper() == "A B" and draw[0] == "a"
    assert draw["mood"] is True and draw.mood is True and draw.text == draw["text"] == "a b"
    assert draw.weight == pytest.approx(0.5)


def test_a_draw_of_several_values_is_a_mapping_with_attributes() -> None:
    post = _posterior(outputs=None)
    draw = post.draw(1)
    assert isinstance(draw, Draw)
    assert dict(draw) == {"mood": False, "text": "c"}
    assert draw.text == "c" and len(list(post.draws())) == 3
    with pytest.raises(AttributeError, match="no value 'nope'"):
        _ = draw.nope


@pytest.mark.parametrize(
    "f",
    [
        lambda draw: len(draw),
        lambda draw: len(draw["text"]),
        lambda draw: len(draw.text),
        lambda draw: 3 if draw.mood else 1,
        np.array([3, 1, 3]),
    ],
)
def test_an_expectation_takes_any_function_of_a_draw(f: Callable[[Any], float] | Any) -> None:
    assert _posterior().expectation(f).value == pytest.approx(0.75 * 3 + 0.25 * 1)


def test_an_expectation_by_expression_uses_the_language_where_it_is_there() -> None:
    asked: list[str] = []

    def evaluate(source: str) -> np.ndarray:
        asked.append(source)
        return np.array([4.0, 0.0, 4.0])

    assert _posterior(evaluator=evaluate).expectation("2 + 2").value == pytest.approx(3.0)
    assert asked == ["2 + 2"]
    post = _posterior()
    assert post.expectation("mood").value == pytest.approx(0.75)
    with pytest.raises(ValueError, match="cannot evaluate 'sentiment\\(text\\)'"):
        post.expectation("sentiment(text)")


def test_a_function_that_gives_no_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="returned 'a b', which is no number"):
        _posterior().expectation(lambda draw: str(draw))
    with pytest.raises(ValueError, match="returned None"):
        _posterior().expectation(lambda draw: None)
    with pytest.raises(ValueError, match="not a finite number"):
        _posterior().expectation(lambda draw: math.nan)


def test_dead_draws_are_never_looked_at() -> None:
    post = _posterior(log_weights=[0.0, 0.0, -math.inf])
    values = iter([1.0, 2.0])
    assert post.expectation(lambda draw: next(values)).value == pytest.approx(1.5)
    assert post.expectation(np.array([1.0, 2.0, math.nan])).value == pytest.approx(1.5)


def test_an_enumerated_posterior_has_no_error() -> None:
    post = _posterior(enumerated=True)
    found = post.expectation(lambda draw: len(draw))
    assert (found.kind, found.standard_error) == ("exact", 0.0)
    assert found.value == found.lower == found.upper == pytest.approx(2.5)
    assert post.statistic("mood", "probability").kind == "exact"
    assert post.statistic(np.array([3, 1, 3]), "std").value == pytest.approx(math.sqrt(0.75))
    assert post.statistic(np.array([3, 1, 3]), "quantile", q=0.25).value == 1.0
    assert post.statistic(np.array([3, 1, 3]), "quantile", q=0.26).value == 3.0


def test_equal_weights_give_the_textbook_standard_error() -> None:
    x = np.random.default_rng(0).normal(size=100)
    post = Posterior(sites={"x": x}, log_weights=np.zeros(100))
    found = post.expectation("x")
    assert found.standard_error == pytest.approx(x.std(ddof=1) / 10)


def test_a_single_effective_draw_has_an_unknown_error_not_none() -> None:
    post = Posterior(sites={"x": [1.0, 2.0]}, log_weights=[0.0, -800.0])
    found = post.expectation("x")
    assert found.standard_error == math.inf
    assert (found.lower, found.upper) == (-math.inf, math.inf)


def test_copies_are_not_counted_as_evidence() -> None:
    x = np.random.default_rng(0).normal(size=30)
    once = Posterior(sites={"x": x}, log_weights=np.zeros(30)).expectation("x")
    copies = Posterior(
        sites={"x": np.repeat(x, 10)},
        log_weights=np.zeros(300),
        clusters=np.repeat(np.arange(30), 10),
    ).expectation("x")
    assert copies.standard_error == pytest.approx(once.standard_error)
    blind = Posterior(sites={"x": np.repeat(x, 10)}, log_weights=np.zeros(300)).expectation("x")
    assert blind.standard_error < 0.5 * once.standard_error


def test_intervals_of_weighted_means_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(7)
    trials, covered = 1500, 0
    for _ in range(trials):
        # Proposal N(0, 1), target N(0.5, 1): the weight is exp(x/2 − 1/8).
        x = rng.normal(size=300)
        found = Posterior(sites={"x": x}, log_weights=0.5 * x).expectation("x")
        covered += found.lower <= 0.5 <= found.upper
    # The delta method is asymptotic: one point of slack and 4 standard errors.
    assert covered / trials > 0.94 - 4 * math.sqrt(0.95 * 0.05 / trials)


def test_chains_pay_for_their_autocorrelation() -> None:
    rng = np.random.default_rng(3)
    rho, chains, length = 0.8, 4, 5000
    x = np.empty((chains, length))
    x[:, 0] = rng.normal(size=chains)
    for t in range(1, length):
        x[:, t] = rho * x[:, t - 1] + math.sqrt(1 - rho**2) * rng.normal(size=chains)
    post = Posterior(sites={"x": x.ravel()}, log_weights=np.zeros(x.size), num_chains=chains)
    expected = math.sqrt((1 + rho) / (1 - rho) / x.size)
    assert post.expectation("x").standard_error == pytest.approx(expected, rel=0.15)


def test_chains_that_stand_still_count_as_one_draw_each() -> None:
    x = np.repeat([1.0, 2.0, 3.0], 50)
    post = Posterior(sites={"x": x}, log_weights=np.zeros(150), num_chains=3)
    assert post.expectation("x").standard_error == pytest.approx(1.0 / math.sqrt(3))
    alone = Posterior(sites={"x": np.r_[np.ones(3), 2.0]}, log_weights=np.zeros(4), num_chains=4)
    assert alone.expectation("x").standard_error == pytest.approx(0.25)


def test_never_seen_is_not_impossible() -> None:
    post = Posterior(sites={"bad": np.zeros(100, dtype=bool)}, log_weights=np.zeros(100))
    found = post.statistic("bad", "probability", confidence=0.95)
    assert (found.value, found.lower) == (0.0, 0.0)
    assert found.upper == pytest.approx(1 - 0.025 ** (1 / 100), rel=5e-3)
    with pytest.raises(ValueError, match="true or false"):
        _posterior().statistic(lambda draw: len(draw), "probability")


def test_quantiles_and_deviations_come_with_intervals() -> None:
    rng = np.random.default_rng(12)
    x = rng.normal(size=4000)
    post = Posterior(sites={"x": x}, log_weights=np.zeros(x.size))
    median = post.statistic("x", "quantile", q=0.5, confidence=0.9999)
    assert median.lower < 0.0 < median.upper
    # The density of the normal at its median is 1/√(2π).
    assert median.standard_error == pytest.approx(math.sqrt(math.pi / 2 / x.size), rel=0.2)
    std = post.statistic("x", "std", confidence=0.9999)
    assert std.lower < 1.0 < std.upper
    assert std.standard_error == pytest.approx(1 / math.sqrt(2 * x.size), rel=0.2)
    with pytest.raises(ValueError, match="level q"):
        post.statistic("x", "quantile")


def test_the_two_parts_of_a_deviations_lower_end_miss_half_as_often_as_allowed_together() -> None:
    x = np.random.default_rng(3).random(50)
    post = Posterior(sites={"x": x}, log_weights=np.zeros(50))
    std = post.statistic("x", "std", bounds=(0.0, 1.0), confidence=0.9)
    centre = float(x.mean())
    far = max(centre, 1.0 - centre) ** 2
    # Of 0.05, 0.04 for the mean square and 0.01 for the mean: an interval has two ends.
    square = post.expectation((x - centre) ** 2, bounds=(0.0, far), confidence=1.0 - 2 * 0.04)
    mean = post.expectation(x, bounds=(0.0, 1.0), confidence=1.0 - 0.01)
    away = max(mean.upper - centre, centre - mean.lower)
    assert std.lower == pytest.approx(math.sqrt(square.lower - away**2), rel=1e-6)


def test_values_that_never_change_in_a_single_chain_have_the_error_of_what_it_missed() -> None:
    density = np.random.default_rng(0).normal(size=40)
    post = Posterior(
        sites={"x": np.ones(40)}, log_weights=np.zeros(40), log_prior=density, num_chains=1
    )
    for statistic in ("mean", "std"):
        found = post.statistic("x", statistic, bounds=(0.0, 5.0))
        assert 0.0 < found.standard_error < math.inf and found.lower < found.upper


@pytest.mark.parametrize("statistic", ["mean", "std", "quantile"])
def test_statistics_scale_with_their_values_up_to_the_largest_numbers(statistic: Any) -> None:
    x = np.random.default_rng(1).uniform(-1.7, 1.7, size=30)
    log_weights = np.linspace(0.0, 1.0, 30)

    def found(scale: float) -> Estimate:
        post = Posterior(sites={"x": x * scale}, log_weights=log_weights)
        bounds = (-1.7 * scale, 1.7 * scale)
        return post.statistic("x", statistic, q=0.3, bounds=bounds)

    chain = np.random.default_rng(2).normal(size=(2, 50))
    assert autocorrelation_ess(1e307 * chain) == pytest.approx(autocorrelation_ess(chain))
    one, huge = found(1.0), found(1e308)
    for name in ("value", "standard_error", "lower", "upper"):
        assert getattr(huge, name) == pytest.approx(1e308 * getattr(one, name), rel=1e-6)


@pytest.mark.parametrize("statistic", ["mean", "std", "quantile"])
def test_values_outside_of_the_range_that_was_given_widen_it(statistic: Any) -> None:
    x = np.random.default_rng(1).normal(size=30)
    post = Posterior(sites={"x": x}, log_weights=np.zeros(30))
    found = post.statistic("x", statistic, q=0.5, bounds=(0.0, 0.1), confidence=0.9999)
    assert found.lower <= found.value <= found.upper and found.standard_error > 0.0
    assert found.upper > found.lower and str(found)
    wide = post.statistic("x", "std", bounds=(-1e300, 1e300))
    assert wide.upper == pytest.approx(1e300) and wide.standard_error > 0.0


def test_a_claim_is_judged_at_its_confidence() -> None:
    x = np.random.default_rng(0).normal(1.0, 1.0, size=400)
    post = Posterior(sites={"x": x}, log_weights=np.zeros(400))
    bounds = (-5.0, 5.0)
    judged = [
        post.judge("a", f"mean(x) >= {level}", "mean", "x", ">=", level, bounds=bounds)
        for level in (0.0, 2.0, float(x.mean()))
    ]
    assert [each.verdict for each in judged] == ["holds", "fails", "undecided"]
    assert judged[2].estimate.confidence == 0.99


def test_a_claim_about_values_of_unknown_range_is_undecided_and_says_so() -> None:
    x = np.random.default_rng(0).normal(1.0, 1.0, size=400)
    post = Posterior(sites={"x": x}, log_weights=np.zeros(400))
    found = post.judge("a", "mean(x) >= 0", "mean", "x", ">=", 0.0)
    assert found.verdict == "undecided" and "range" in found.reason
    # A lower bound is all that a claim of a lower bound needs.
    assert post.judge("a", "", "mean", "x", ">=", 0.0, bounds=(-5.0, math.inf)).verdict == "holds"


def test_values_that_are_all_alike_have_no_width_of_zero() -> None:
    post = Posterior(sites={"x": np.ones(100)}, log_weights=np.zeros(100))
    for statistic in ("mean", "std"):
        found = post.statistic("x", statistic, bounds=(0.0, 5.0), confidence=0.99)
        assert found.lower < found.upper and found.standard_error > 0.0
    unknown = post.expectation("x")
    assert (unknown.lower, unknown.upper) == (-math.inf, math.inf)
    assert "± unknown" in str(unknown)
    median = post.statistic("x", "quantile", q=0.5)
    assert (median.lower, median.upper) == (1.0, 1.0)
    # That one in a thousand differs, a hundred draws cannot rule out.
    assert post.statistic("x", "quantile", q=0.999, bounds=(0.0, 5.0)).upper == 5.0


def test_what_no_draw_showed_counts_with_all_that_it_could_weigh() -> None:
    x = np.zeros(200, dtype=bool)
    for log_further, highest in ((-math.log(200), 0.03), (0.0, 0.85), (20.0, 1.0)):
        post = Posterior(
            sites={"x": x}, log_weights=np.zeros(200), unseen=Unseen(log_further=log_further)
        )
        found = post.statistic("x", "probability", confidence=0.99)
        assert 0.6 * highest < found.upper <= highest
        claim = post.judge("a", "", "probability", "x", "<=", 0.5)
        assert claim.verdict == ("holds" if highest < 0.5 else "undecided")


def test_draws_are_selected_by_number_or_by_a_truth_value_for_each() -> None:
    post = Posterior(sites={"x": np.arange(4.0)}, log_weights=np.zeros(4))
    mask = post["x"] > 1.0
    assert post.select(mask)["x"].tolist() == post.select([2, -1])["x"].tolist() == [2.0, 3.0]
    for wrong, error in ((mask[:2], IndexError), ([4], IndexError), ([1.0], TypeError)):
        with pytest.raises(error):
            post.select(wrong)
    with pytest.raises(ValueError, match="at least one draw"):
        post.select(~mask & mask)


def test_the_share_that_may_be_unseen_is_one_whatever_the_odds() -> None:
    assert Unseen().share() == pytest.approx(0.0)
    assert Unseen(log_missing=-900.0).share() == pytest.approx(0.0)
    assert Unseen(log_missing=0.0).share() == pytest.approx(0.5)
    assert Unseen(math.inf).share() == pytest.approx(1.0)


def test_what_was_not_seen_is_more_beside_fewer_draws() -> None:
    x = np.arange(100.0)
    whole = Posterior(
        sites={"x": x}, log_weights=np.zeros(100), unseen=Unseen(math.log(0.05), math.log(0.01))
    )
    tenth = whole.select(np.arange(10))
    assert tenth.unseen == Unseen(pytest.approx(math.log(0.5)), pytest.approx(math.log(0.1)))
    assert whole.select(np.arange(-10, 0)).unseen == tenth.unseen
    for same in (
        whole.select(np.arange(100)[::-1]),
        whole.resample(10),
        whole.select([*range(100)]),
    ):
        assert same.unseen == whole.unseen


def test_where_the_draws_cannot_settle_a_claim_the_verdict_says_why() -> None:
    post = Posterior(
        sites={"x": np.zeros(200, dtype=bool)},
        log_weights=np.zeros(200),
        unseen=Unseen(log_further=math.inf, reason="the guide may have missed a mode"),
    )
    found = post.judge("a", "", "probability", "x", "<=", 0.5)
    assert (found.verdict, found.reason) == ("undecided", "the guide may have missed a mode")


# Resampling


def test_resampling_follows_the_weights_and_the_seed() -> None:
    post = _posterior()
    drawn = post.resample(6000, seed=4)
    assert len(drawn) == 6000
    assert np.ptp(drawn.log_weights) == 0.0
    share = np.mean([not mood for mood in drawn["mood"]])
    assert abs(share - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 6000)
    again = post.resample(6000, seed=4)
    assert (again["mood"] == drawn["mood"]).all()
    assert (post.resample(6000, seed=5)["mood"] != drawn["mood"]).any()
    assert drawn.log_density.shape == (6000,) and drawn.tokens().shape == (6000, 2)


def test_dead_draws_are_never_resampled() -> None:
    drawn = _posterior(log_weights=[-math.inf, 0.0, -math.inf]).resample(200, seed=0)
    assert set(drawn.texts) == {"c"}


def test_resampling_does_not_make_draws_better() -> None:
    x = np.random.default_rng(1).normal(size=25)
    post = Posterior(sites={"x": x}, log_weights=np.zeros(25))
    many = post.resample(50_000, seed=0).expectation("x")
    assert many.standard_error == pytest.approx(post.expectation("x").standard_error, rel=0.05)
    exact = Posterior(sites={"x": x}, log_weights=np.zeros(25), enumerated=True)
    assert exact.resample(50_000, seed=0).expectation("x").standard_error < 0.01


def test_an_expression_is_evaluated_on_the_draws_that_were_resampled() -> None:
    post = _posterior(evaluator=lambda source: np.array([1.0, 5.0, 1.0]))
    drawn = post.resample(50, seed=0)
    expected = np.mean([5.0 if text == "c" else 1.0 for text in drawn.texts])
    assert drawn.expectation("anything").value == pytest.approx(expected)


def test_sampling_asks_the_guide_where_there_is_one() -> None:
    fresh = _posterior(method="fresh")
    post = _posterior(sampler=lambda n, seed: fresh)
    assert post.sample(3, seed=0) is fresh
    assert len(_posterior().sample(7, seed=0)) == 7


# Storage and export


def _full() -> Posterior:
    return _posterior(
        sites={
            "mood": np.array([True, False, True]),
            "count": np.array([1, 2, 3], dtype=np.int32),
            "text": ["a\n\u2028", "", "\U0001f600\ud800"],
            "pair": [(1.5, "x"), (math.inf, "y"), (2.0, "z")],
        },
        outputs={"text": ["a", "b", "c"], "score": np.array([0.1, -math.inf, math.nan])},
        log_weights=np.array([0.3, -math.inf, -700.123456789]),
        log_potentials={"tone": np.array([0.1, -math.inf, 1 / 3]), "a/b": np.zeros(3)},
        log_evidence=Estimate(-1.5, math.inf, -math.inf, math.inf, "unbiased"),
        clusters=np.array([0, 0, 1]),
        diagnostics={"ess": 2.5, "k": None, "per_chain": {"r": [1.0, math.nan]}, "n": 3},
        warnings=["careful"],
        checks={"requires": True},
        expectations=[ExpectationResult("a", "mean(x)", Estimate.exact(1.0), "holds", bound=0.5)],
        complete=False,
        info={"ess": np.array([3.0, 2.0]), "elbo": [-3.0, -2.5]},
        evaluator=lambda source: np.zeros(3),
    )


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray):
        return (
            isinstance(right, np.ndarray)
            and left.dtype == right.dtype
            and left.shape == right.shape
            and left.tobytes() == right.tobytes()
        )
    if isinstance(left, dict):
        return list(left) == list(right) and all(_same(left[k], right[k]) for k in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(_same, left, right))
    return left == right or (left != left and right != right)


def test_a_saved_posterior_comes_back_to_the_bit(tmp_path: Path) -> None:
    post = _full()
    post.save(tmp_path / "run")
    back = load_posterior(tmp_path / "run")
    for name, kind in KINDS.items():
        expected = getattr(post.data, name) if kind.is_saved else None
        assert _same(expected, getattr(back.data, name)), name
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "posterior.json",
        "draws.safetensors",
    }
    assert back.summary() == post.summary()


def test_saving_again_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    _posterior(method="one").save(tmp_path / "run")
    _posterior(method="two").save(tmp_path / "run")
    assert load_posterior(tmp_path / "run").method == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_saving_never_destroys_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="no saved posterior"):
        _posterior().save(tmp_path)
    with pytest.raises(FileExistsError, match="is a file"):
        _posterior().save(tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_failure_while_saving_leaves_the_old_result(tmp_path: Path) -> None:
    class Broken:
        def save_pretrained(self, directory: Path) -> None:
            raise OSError("disk full")

    _posterior(method="old").save(tmp_path / "run")
    with pytest.raises(OSError, match="disk full"):
        _posterior(method="new", guide=Broken()).save(tmp_path / "run")
    assert load_posterior(tmp_path / "run").method == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_fitted_guide_is_saved_beside_the_draws(tmp_path: Path) -> None:
    class Guide:
        def save_pretrained(self, directory: Path) -> None:
            directory.mkdir()
            (directory / "weights").write_text("w")

    _posterior(guide=Guide()).save(tmp_path / "run")
    assert (tmp_path / "run" / "guide" / "weights").read_text() == "w"
    assert load_posterior(tmp_path / "run").guide is None


def test_loading_something_else_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no saved posterior"):
        load_posterior(tmp_path)
    (tmp_path / "posterior.json").write_text('{"format": "other"}')
    with pytest.raises(ValueError, match="not in the format"):
        load_posterior(tmp_path)


def test_json_lines_hold_every_draw_and_only_legal_json(tmp_path: Path) -> None:
    path = tmp_path / "draws.jsonl"
    _full().to_jsonl(path)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    rows = [json.loads(line, parse_constant=refuse) for line in path.read_text().split("\n")[:-1]]
    assert len(rows) == 3
    assert rows[1]["weight"] == 0.0
    assert rows[1]["log_weight"] == "-Infinity"
    assert rows[2]["values"]["score"] == "NaN"
    assert rows[0]["log_potentials"] == {"tone": 0.1, "a/b": 0.0}
    assert rows[2]["values"]["text"] == "c" and rows[2]["values"]["mood"] is True


def test_a_damaged_posterior_is_named_and_said_to_be_damaged(tmp_path: Path) -> None:
    _posterior().save(tmp_path / "run")
    document, arrays = tmp_path / "run" / "posterior.json", tmp_path / "run" / "draws.safetensors"
    whole = document.read_bytes()
    for damaged in (whole[:-5], "é".encode()):
        document.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"posterior\.json is damaged"):
            load_posterior(tmp_path / "run")
    document.write_bytes(whole)
    arrays.write_bytes(arrays.read_bytes()[:4])
    with pytest.raises(ValueError, match=r"draws\.safetensors is damaged"):
        load_posterior(tmp_path / "run")
    arrays.unlink()
    with pytest.raises(FileNotFoundError, match="is not whole"):
        load_posterior(tmp_path / "run")


def test_a_missing_library_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pandas", "arviz"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"lmppl\[pandas\]"):
        _posterior().to_pandas()
    with pytest.raises(ImportError, match=r"lmppl\[arviz\]"):
        _posterior().to_arviz()


def test_a_data_frame_has_a_row_for_each_draw() -> None:
    pytest.importorskip("pandas", reason="pandas is an extra")
    frame = _posterior().to_pandas()
    assert list(frame["text"]) == ["a b", "c", "a b"]
    assert frame["weight"].sum() == pytest.approx(1.0)
    assert list(frame["log_potential[tone]"]) == [0.5, 0.25, 0.5]


def test_arviz_gets_chains_of_numbers() -> None:
    pytest.importorskip("arviz", reason="arviz is an extra, too large for development and CI")
    post = _posterior(
        sites={"x": np.arange(4.0), "text": list("abcd")},
        outputs=None,
        tokens={},
        log_weights=np.zeros(4),
        log_prior=np.zeros(4),
        log_potentials={},
        num_chains=2,
    )
    data = post.to_arviz()
    assert data["posterior"]["x"].values.tolist() == [[0.0, 1.0], [2.0, 3.0]]


# For people


def test_the_summary_says_what_is_known_and_what_to_beware_of() -> None:
    text = _full().summary()
    assert "INCOMPLETE" in text
    assert "all 2 results, from 3 draws" in text or "all 2 draws" in text
    assert "log evidence" in text and "unbiased in Z" in text
    assert "expect mean(x)  holds: 1.0000 (exact)" in text
    assert "warning: careful" in text
    assert "\x1b" not in text


def test_the_summary_says_which_draws_it_shows() -> None:
    texts = [f"text {i}" for i in range(20)]
    equal = Posterior(sites={"text": texts}, log_weights=np.zeros(20))
    assert "4 of 20 draws, evenly spaced" in equal.summary(num_draws=4)
    tilted = Posterior(sites={"text": texts}, log_weights=np.arange(20.0))
    summary = tilted.summary(num_draws=4)
    assert "the 4 heaviest of 20 draws" in summary
    assert summary.index("text 19") < summary.index("text 18")
    doubled = Posterior(sites={"text": texts[:10] * 2}, log_weights=np.arange(20.0))
    assert "the 4 heaviest of 10 distinct results" in doubled.summary(num_draws=4)


def test_the_summary_gives_the_reason_where_there_is_no_evidence() -> None:
    post = _posterior(log_evidence=None, log_evidence_reason="mcmc does not estimate it")
    assert re.search(r"log evidence +none: mcmc does not estimate it", post.summary())


def test_long_texts_are_wrapped_to_the_width() -> None:
    post = Posterior(
        sites={"text": ["word " * 100, "見" * 300, "x" * 500, "\x1b[31mred\nline\x07"]},
        log_weights=np.zeros(4),
    )
    summary = post.summary(width=60)
    from rich.cells import cell_len

    assert max(cell_len(line) for line in summary.split("\n")) <= 60
    assert "\x1b" not in summary and "\x07" not in summary
    assert "red⏎line" in summary
    assert summary.count("…") == 3


def test_the_report_stands_alone_and_escapes_texts(tmp_path: Path) -> None:
    post = _full().replace(outputs={"text": ["<script>alert(1)</script>", "b", "c"]})
    post.report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "http" not in page
    assert "<polyline" in page  # the effective sample size over the steps
    assert "careful" in page and "-1.5" in page
    assert "careful" in post._repr_html_()


def test_texts_that_differ_by_a_space_at_the_end_look_different() -> None:
    post = Posterior(sites={"text": ["rain", "rain ", "sun"]}, log_weights=np.log([3.0, 2.0, 1.0]))
    table = post.summary()
    assert "rain\n" in table and "rain␣\n" in table
    assert "the heaviest of 3 draws:" in post.summary(num_draws=1)


def test_a_table_fits_its_width_whatever_the_texts_are() -> None:
    from rich.cells import cell_len

    from lmppl.posterior.layout import table

    rows = [("a b", "[bold]x[/bold] :smile:", "見" * 40), ("", "─ ─", "  lead")]
    lines = table(("a long name of a column", "日本", ""), rows, width=30, max_lines=3)
    assert all(cell_len(line) <= 30 for line in lines)
    # Markup is text, and what is too long says so.
    found = "\n".join(table(("", "b", "c"), rows, width=60, max_lines=1))
    assert "[bold]x[/bold] :smile:" in found and "…" in found
    wide = table(("", "b"), [("x", "y" * 300)], ruled=False)
    assert wide == ["   b", "x  " + "y" * 300]
