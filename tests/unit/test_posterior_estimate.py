"""Estimates: intervals that cover, and kinds that say what they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from lmppl.posterior import (
    Estimate,
    ExpectationResult,
    Posterior,
    Unseen,
    log_mean_exp,
    verdict_of,
)
from lmppl.posterior.intervals import (
    normal_quantile,
    proportion_interval,
    student_quantile,
)


@pytest.mark.parametrize("degrees", [0.7, 1.0, 2.0, 9.5, 300.0, 1e9])
def test_student_quantiles_agree_with_scipy(degrees: float) -> None:
    for p in (0.005, 0.4, 0.5, 0.975, 0.995):
        expected = scipy.stats.t.ppf(p, degrees)
        assert student_quantile(p, degrees) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_no_degree_of_freedom_leaves_everything_open() -> None:
    assert student_quantile(0.975, 0.0) == math.inf
    assert student_quantile(0.025, 0.0) == -math.inf
    assert student_quantile(1.0, 3.0) == math.inf
    assert normal_quantile(1.0) == math.inf


@pytest.mark.parametrize(("successes", "trials"), [(0, 5), (5, 5), (1, 7), (30, 4000), (50, 100)])
def test_clopper_pearson_agrees_with_scipy(successes: int, trials: int) -> None:
    exact = scipy.stats.binomtest(successes, trials).proportion_ci(0.99, method="exact")
    assert proportion_interval(successes, trials, 0.99) == pytest.approx(
        (exact.low, exact.high), abs=1e-9
    )


def test_clopper_pearson_of_nothing_is_everything() -> None:
    assert proportion_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 successes in 2 trials"):
        proportion_interval(3, 2)


def test_clopper_pearson_covers_at_least_as_often_as_it_says() -> None:
    # Coverage is a finite sum, so this is exact: no sampling.
    n = 20
    intervals = [proportion_interval(k, n, 0.9) for k in range(n + 1)]
    for p in (0.01, 0.1, 0.37, 0.5, 0.93):
        covered = [k for k, (low, high) in enumerate(intervals) if low <= p <= high]
        assert sum(scipy.stats.binom.pmf(k, n, p) for k in covered) >= 0.9


def test_the_log_of_a_mean_survives_weights_beyond_floating_point() -> None:
    assert log_mean_exp([1000.0, 1000.0 + math.log(3.0)]) == pytest.approx(1000 + math.log(2.0))
    assert log_mean_exp([-math.inf, 0.0]) == pytest.approx(-math.log(2.0))
    assert log_mean_exp([-math.inf, -math.inf]) == -math.inf


def test_an_evidence_from_weights_has_the_delta_method_error() -> None:
    log_w = np.log([1.0, 2.0, 3.0, 6.0])
    found = Estimate.from_weights(log_w)
    assert found.kind == "unbiased"
    assert found.value == pytest.approx(math.log(3.0))
    # sd of the weights (n − 1) over √4 and over the mean
    assert found.standard_error == pytest.approx(np.std([1, 2, 3, 6], ddof=1) / 2 / 3)
    assert found.lower < found.value < found.upper


def test_equal_weights_have_the_error_of_what_was_not_seen() -> None:
    found = Estimate.from_weights([2.0, 2.0, 2.0])
    # Clopper and Pearson's lower end of a share of three out of three; nothing bounds the upper.
    assert found.value == 2.0
    assert found.lower == pytest.approx(2.0 + math.log(0.025 ** (1 / 3)), abs=1e-2)
    assert (found.standard_error, found.upper) == (math.inf, math.inf)
    assert "± unknown" in str(found)
    bounded = Estimate.from_weights([2.0, 2.0, 2.0], log_bound=4.0)
    unseen = 1.0 - 0.025 ** (1 / 3)
    assert bounded.upper == pytest.approx(
        math.log((1.0 - unseen) * math.exp(2.0) + unseen * math.exp(4.0)), abs=1e-2
    )
    assert 0.0 < bounded.standard_error < math.inf
    # No weight is larger than the bound, and here none is smaller.
    assert Estimate.from_weights([2.0] * 3, log_bound=2.0).upper == pytest.approx(2.0)


def test_a_bound_that_dwarfs_what_was_seen_is_what_the_upper_end_is_made_of() -> None:
    unseen = math.log(1.0 - 0.025 ** (1 / 100))
    for log_bound in (50.0, 300.0, 1e5):
        found = Estimate.from_weights(np.zeros(100), log_bound=log_bound)
        assert found.upper == pytest.approx(log_bound + unseen, abs=1e-2)


def test_what_is_known_to_be_lost_is_added() -> None:
    rng = np.random.default_rng(0)
    log_w = rng.normal(0.0, 0.3, size=400)
    kept = Estimate.from_units(log_w, log_bound=3.0)
    lossy = Estimate.from_units(log_w, log_bound=3.0, log_missing=1.0)
    # Of what was seen too a little, since the quantile is of the sum.
    added = math.exp(lossy.upper) - math.exp(kept.upper)
    assert 0.8 * math.e < added < 1.05 * math.e
    assert (lossy.value, lossy.lower) == (kept.value, kept.lower)


def test_an_interval_holds_the_evidence_where_every_draw_met_the_constraint() -> None:
    share, size, log_z = 0.97, 40, math.log(0.97)
    generator = np.random.default_rng(0)
    missed = 0
    for _ in range(2000):
        kept = generator.random(size) < share
        with np.errstate(divide="ignore"):
            found = Estimate.from_weights(np.log(kept))
        missed += not found.lower <= log_z <= found.upper and bool(kept.all())
    # Without the lower end, each of the runs without a rejection (30 % of them) would miss it.
    assert missed == 0


@pytest.mark.parametrize(("runs", "size"), [(1, 40), (4, 16), (2, 8)])
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_an_interval_holds_what_weights_that_are_nearly_equal_or_runs_that_agree_did_not_see(
    runs: int, size: int, noise: float
) -> None:
    share, repeats = 0.97, 1000
    log_z = math.log(share) + 0.5 * noise**2
    generator = np.random.default_rng(1)
    below = 0
    for _ in range(repeats):
        kept = generator.random((runs, size)) < share
        weights = kept * np.exp(noise * generator.standard_normal((runs, size)))
        if not kept.all():
            continue
        if runs == 1:
            found = Estimate.from_weights(np.log(weights[0]))
        else:
            found = Estimate.from_genealogy(np.log(weights), np.tile(np.arange(size), (runs, 1)))
        below += found.lower > log_z
    # Between a quarter and two thirds of the repeats see no rejection at all.
    assert below == 0


def test_a_wild_estimate_is_not_bounded_above() -> None:
    found = Estimate.from_weights([0.0, -30.0, -30.0, -30.0])
    assert found.standard_error == pytest.approx(1.0)
    assert found.upper == math.inf
    assert Estimate.from_weights([0.0, -30.0, -30.0, -30.0], log_bound=0.0).upper < 0.0
    # Markov: Ẑ exceeds Z/δ with probability at most δ.
    assert found.lower >= found.value + math.log(0.025)


def test_a_long_interval_is_longer_above() -> None:
    found = Estimate.from_weights(np.log([1.0, 1.0, 3.0, 5.0]), log_bound=3.0)
    assert found.upper - found.value > found.value - found.lower > 0


def test_dead_draws_count_as_zero_and_all_dead_is_no_number() -> None:
    alive = Estimate.from_weights([0.0, 0.0, -math.inf, -math.inf])
    assert alive.value == pytest.approx(math.log(0.5))
    dead = Estimate.from_weights([-math.inf, -math.inf])
    assert dead.value == -math.inf
    assert dead.upper == math.inf
    bounded = Estimate.from_weights([-math.inf] * 100, log_bound=0.0)
    assert bounded.upper == pytest.approx(math.log(1.0 - 0.025 ** (1 / 100)))


def test_one_unit_has_no_error_of_its_own() -> None:
    found = Estimate.from_weights([-3.0])
    assert found.value == -3.0
    assert found.standard_error == math.inf
    assert "unknown" in str(found)


def test_nan_and_plus_infinity_are_refused() -> None:
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="NaN or \\+inf"):
            Estimate.from_weights([0.0, bad])


def test_intervals_of_the_evidence_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    trials, truth = 300, 0.5 * 0.8**2
    covered = 0
    for _ in range(trials):
        # Weights above this are a share of 1e-9 of the mean.
        log_w = np.minimum(rng.normal(0.0, 0.8, size=400), 0.8 * 6.8)
        found = Estimate.from_weights(log_w, log_bound=0.8 * 6.8)
        covered += found.lower <= truth <= found.upper
    # Not fewer than nominal by more than 4 standard errors of a binomial (one in 30 000).
    assert covered / trials > 0.95 - 4 * math.sqrt(0.95 * 0.05 / trials)


def test_the_genealogy_without_resampling_is_the_variance_of_the_mean_weight() -> None:
    log_w = np.log([1.0, 2.0, 3.0, 6.0])
    found = Estimate.from_genealogy(log_w, [0, 1, 2, 3])
    expected = Estimate.from_weights(log_w)
    assert found.value == pytest.approx(expected.value)
    assert found.standard_error == pytest.approx(expected.standard_error)
    assert found.lower == pytest.approx(expected.lower)


def test_one_surviving_family_says_little_and_looks_for_nothing() -> None:
    found = Estimate.from_genealogy(np.zeros(8), [3] * 8, log_bound=2.0)
    # The relative error of one exponential, and as much unseen as one draw leaves unseen.
    assert found.lower == pytest.approx(math.log(0.025), abs=0.1)
    assert found.upper == pytest.approx(2.0, abs=0.1)
    assert Estimate.from_genealogy(np.zeros(8), [3] * 8).upper == math.inf


def test_families_of_several_runs_are_pooled() -> None:
    rng = np.random.default_rng(3)
    log_w = rng.normal(0.0, 0.5, size=(2, 200))
    eves = np.tile(np.arange(200), (2, 1))
    both = Estimate.from_genealogy(log_w, eves)
    alone = Estimate.from_genealogy(log_w[0], eves[0])
    # With two runs and one degree of freedom an interval would be worth nothing.
    assert 0.5 * alone.standard_error < both.standard_error < 0.9 * alone.standard_error


def test_runs_that_differ_by_more_than_their_families_explain_have_a_larger_error() -> None:
    rng = np.random.default_rng(4)
    log_w = rng.normal(0.0, 0.5, size=(8, 200))
    eves = np.tile(np.arange(200), (8, 1))
    apart = log_w + rng.normal(0.0, 1.0, size=(8, 1))
    found = Estimate.from_genealogy(apart, eves)
    z = np.exp(apart).mean(axis=1)
    assert found.standard_error == pytest.approx(z.std(ddof=1) / z.mean() / math.sqrt(8), rel=0.1)
    assert Estimate.from_genealogy(log_w, eves).standard_error < 0.2 * found.standard_error


@pytest.mark.parametrize("size", [2, 8, 100])
def test_families_that_are_all_alike_explain_no_difference_between_runs(size: int) -> None:
    # As where systematic resampling left every first particle one descendant.
    runs = np.array([0.0, 0.7, 2.0])
    found = Estimate.from_genealogy(
        np.repeat(runs[:, None], size, axis=1), np.tile(np.arange(size), (3, 1))
    )
    z = np.exp(runs)
    assert found.standard_error >= 0.9 * z.std(ddof=1) / z.mean() / math.sqrt(3)
    same = np.full((3, size), 0.1)
    alike = Estimate.from_genealogy(same, np.tile(np.arange(size), (3, 1)), log_bound=0.2)
    assert alike.lower == Estimate.from_weights(same, log_bound=0.2).lower


def test_the_genealogical_variance_is_calibrated_under_systematic_resampling() -> None:
    """A toy filter of six steps whose weights ignore the past, the worst case for the estimate: it
    errs on the safe side by less than 60 %, and the multinomial correction on the other side."""
    rng = np.random.default_rng(5)
    num, runs, steps = 40, 2000, 6
    log_z, found, corrected = np.zeros(runs), np.empty(runs), np.empty(runs)
    for run in range(runs):
        eves = np.arange(num)
        for step in range(steps):
            weights = rng.choice([0.5, 1.5], size=num)
            log_z[run] += math.log(weights.mean())
            if step < steps - 1:
                points = (np.arange(num) + rng.random()) / num
                ancestors = np.searchsorted(np.cumsum(weights / weights.sum()), points)
                eves = eves[np.minimum(ancestors, num - 1)]
        made = Estimate.from_genealogy(np.log(weights), eves)
        found[run] = made.standard_error**2
        families = np.bincount(eves, weights=weights / weights.sum(), minlength=num)
        corrected[run] = 1 - (num / (num - 1)) ** steps * (1 - np.sum(families**2))
    truth = np.exp(log_z).var(ddof=1)
    # Where nearly all weight is one family's, no error is claimed.
    known = np.isfinite(found)
    assert known.mean() > 0.95
    assert 0.95 * truth < found[known].mean() < 1.6 * truth
    assert corrected.mean() < 0.5 * truth


def test_a_bound_is_open_on_its_other_side() -> None:
    elbo = Estimate.from_mean([-3.0, -1.0, -2.0, -2.0], kind="lower bound")
    assert elbo.value == -2.0
    assert -math.inf < elbo.lower < -2.0
    assert elbo.upper == math.inf
    assert "lower bound" in str(elbo)


def test_a_bracket_is_not_inverted() -> None:
    assert Estimate.bracket(-3.0, -1.0, 0.99).value == -2.0
    with pytest.raises(ValueError, match="inverted"):
        Estimate.bracket(1.0, 0.0, 0.99)


def test_an_estimate_reads_like_a_sentence() -> None:
    assert str(Estimate.exact(-1.25)) == "-1.2500 (exact)"
    tiny = Estimate(-1e-9, 0.03, -0.12, -1e-5, "unbiased")
    assert str(tiny) == "0.000 ± 0.030 (unbiased in Z; 95%: -0.120 to 0.000)"
    vague = Estimate(14.1987, math.inf, 1.0, math.inf, "consistent")
    assert str(vague) == "14.2 ± unknown (95%: 1.0 to ∞)"
    text = str(Estimate(-12.3456, 0.0123, -12.37, -12.32, "unbiased"))
    assert text == "-12.346 ± 0.012 (unbiased in Z; 95%: -12.370 to -12.320)"
    assert str(Estimate(0.5, 0.25, -math.inf, math.inf, "consistent")) == (
        "0.50 ± 0.25 (95%: −∞ to ∞)"
    )
    huge = Estimate(12.0, 2.51e306, -6.4e307, 6.4e307, "consistent")
    assert str(huge) == "12 ± 2.51e+306 (95%: -6.4e+307 to 6.4e+307)"


@pytest.mark.parametrize(
    ("interval", "operator", "bound", "verdict"),
    [
        ((0.4, 0.6), ">=", 0.4, "holds"),
        ((0.4, 0.6), ">", 0.4, "undecided"),
        ((0.4, 0.6), ">=", 0.5, "undecided"),
        ((0.4, 0.6), ">=", 0.7, "fails"),
        ((0.4, 0.6), "<=", 0.6, "holds"),
        ((0.4, 0.6), "<", 0.3, "fails"),
        ((0.4, 0.6), "==", 0.5, "undecided"),
        ((0.4, 0.6), "==", 0.9, "fails"),
        ((math.nan, 0.6), ">=", 0.0, "undecided"),
        ((-math.inf, math.inf), "<", 0.0, "undecided"),
    ],
)
def test_a_claim_holds_only_where_the_whole_interval_does(
    interval: tuple[float, float], operator: str, bound: float, verdict: str
) -> None:
    estimate = Estimate(0.5, 0.05, *interval, "consistent", 0.99)
    assert verdict_of(estimate, operator, bound) == verdict


def test_an_exact_value_at_its_bound_is_equal_up_to_rounding() -> None:
    third = Estimate.exact(0.1 + 0.2)
    assert verdict_of(third, "==", 0.3) == "holds"
    assert verdict_of(third, "<=", 0.3) == "holds"
    assert verdict_of(third, ">", 0.3) == "fails"


def test_a_result_survives_a_dictionary() -> None:
    result = ExpectationResult("a", "mean(x) >= 0", Estimate.exact(1.0), "holds", "mean", ">=", 0.0)
    assert ExpectationResult.from_dict(result.to_dict()) == result


def test_what_nothing_bounds_is_said_to_be_of_what_was_seen() -> None:
    """And so is what is made of it: no sum may sound surer than its parts."""
    draws = {"text": ["a", "b", "c", "d"] * 10}
    x = np.arange(40.0) % 7
    kinds = []
    for log_further in (math.inf, -3.0):
        post = Posterior(
            sites=draws, log_weights=np.zeros(40), unseen=Unseen(log_further=log_further)
        )
        every = [post.statistic(x), post.std(x), post.quantile(x, 0.4)]
        kinds.append({each.kind for each in every})
    assert kinds == [{"of what was seen"}, {"consistent"}]
    seen = Estimate(0.5, 0.1, 0.3, 0.7, "of what was seen")
    assert str(seen) == "0.50 ± 0.10 (of what was seen; 95%: 0.30 to 0.70)"
    sure = Estimate(0.5, 0.1, 0.3, 0.7, "consistent")
    assert (seen - sure).kind == (sure + seen).kind == (2.0 * seen).kind == "of what was seen"
    assert Estimate.from_dict(seen.to_dict()) == seen
