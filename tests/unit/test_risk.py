"""Risk rules against quadrature, exact sums, limits, and Monte Carlo at a stated level."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, special, stats

from lmppl.builtins.rules import CVAR, ENTROPIC, LCB, MEAN, PREFERRED, QUANTILE, STD, WORST
from lmppl.errors import InferenceError
from lmppl.ir.types import Interval
from lmppl.rewards.uncertain import UncertainScores, log_normal_cdf
from tests.rules import RULES, apply_rule, rule_range

mean, std, lcb, worst = MEAN.apply, STD.apply, LCB.apply, WORST.apply
quantile, cvar, entropic, preferred = (
    QUANTILE.apply,
    CVAR.apply,
    ENTROPIC.apply,
    PREFERRED.apply,
)

MEMBERS = np.array(
    [[0.1, -1.5, 2.0, 0.1, 0.7], [3.0, 3.0, 3.0, 3.0, 3.0], [-4.0, 1.0, -1.0, 0.0, 2.5]]
)
ENSEMBLE = UncertainScores.ensemble(MEMBERS)
MEANS, STDS = np.array([0.3, -1.0, 2.0]), np.array([0.5, 2.0, 1.0])
GAUSSIAN = UncertainScores.gaussian(MEANS, STDS)

# One-sided 1e-6 on each side for every comparison with Monte Carlo below.
Z = stats.norm.isf(1e-6)


def test_mean_std_lcb_and_worst_are_their_formulas() -> None:
    assert np.allclose(mean(ENSEMBLE), [0.28, 3.0, -0.3])
    population = np.sqrt(((MEMBERS - MEMBERS.mean(1, keepdims=True)) ** 2).mean(1))
    assert np.allclose(std(ENSEMBLE), population)
    assert np.allclose(lcb(ENSEMBLE, 2.0), MEMBERS.mean(1) - 2 * population)
    assert np.allclose(lcb(GAUSSIAN, 2.0), MEANS - 2 * STDS)
    assert worst(ENSEMBLE).tolist() == [-1.5, 3.0, -4.0]


def test_the_worst_of_a_gaussian_is_refused() -> None:
    with pytest.raises(InferenceError, match="a Gaussian has no smallest value"):
        worst(GAUSSIAN)


@pytest.mark.parametrize("q", [0.05, 0.2, 0.21, 0.4, 0.5, 0.99])
def test_a_quantile_is_the_smallest_value_with_that_much_mass_below(q: float) -> None:
    for members, found in zip(MEMBERS, quantile(ENSEMBLE, q), strict=True):
        reached = [x for x in members if np.mean(members <= x) >= q - 1e-12]
        assert found == min(reached)
    assert np.allclose(quantile(GAUSSIAN, q), stats.norm.ppf(q, MEANS, STDS))


def test_a_quantile_forgives_the_rounding_of_its_rank() -> None:
    hundred = UncertainScores.ensemble(np.arange(1.0, 101.0)[None])
    for percent in range(1, 100):
        assert quantile(hundred, percent / 100)[0] == percent


@pytest.mark.parametrize("alpha", [0.01, 0.2, 0.3, 0.5, 0.77, 1.0])
def test_cvar_is_the_integral_of_the_quantile(alpha: float) -> None:
    for row in range(3):
        # The quantile of an ensemble is a step function: integrate it step by step.
        ordered = np.sort(MEMBERS[row])
        edges = np.clip(np.arange(6) / 5, 0.0, alpha)
        exact = (ordered * np.diff(edges)).sum() / alpha
        assert math.isclose(cvar(ENSEMBLE, alpha)[row], exact, abs_tol=1e-12)
        gaussian = stats.norm(MEANS[row], STDS[row])
        lower_tail, _ = integrate.quad(gaussian.ppf, 0.0, alpha, limit=200)
        assert math.isclose(cvar(GAUSSIAN, alpha)[row], lower_tail / alpha, abs_tol=1e-6)


@pytest.mark.parametrize("rho", [-2.0, -0.5, 1e-3, 0.4, 3.0])
def test_entropic_is_the_certainty_equivalent(rho: float) -> None:
    exact = -np.log(np.exp(-rho * MEMBERS).mean(1)) / rho
    assert np.allclose(entropic(ENSEMBLE, rho), exact, atol=1e-12)
    for row in range(3):
        gaussian = stats.norm(MEANS[row], STDS[row])
        moment = gaussian.expect(
            lambda r: math.exp(-rho * r), lb=MEANS[row] - 40, ub=MEANS[row] + 40, limit=500
        )
        assert math.isclose(entropic(GAUSSIAN, rho)[row], -math.log(moment) / rho, abs_tol=1e-6)


def test_entropic_goes_from_the_worst_over_the_mean_to_the_best() -> None:
    assert np.allclose(entropic(ENSEMBLE, 1e4), MEMBERS.min(1), atol=1e-3)
    assert np.allclose(entropic(ENSEMBLE, -1e4), MEMBERS.max(1), atol=1e-3)
    for rho in (0.0, 1e-300, 1e-12, -1e-12):
        assert np.allclose(entropic(ENSEMBLE, rho), MEMBERS.mean(1), atol=1e-11)
        assert np.allclose(entropic(GAUSSIAN, rho), MEANS, atol=1e-11)
    # Two terms of the cumulant expansion, where the plain formula has lost half its digits.
    expected = MEMBERS.mean(1) - 0.5e-6 * MEMBERS.var(1)
    assert np.allclose(entropic(ENSEMBLE, 1e-6), expected, atol=1e-10, rtol=0)


def test_entropic_averages_the_evidence_at_minus_one_over_beta() -> None:
    beta = 0.25
    value = entropic(ENSEMBLE, -1 / beta) / beta
    assert np.allclose(value, np.log(np.exp(MEMBERS / beta).mean(1)))


def test_entropic_does_not_overflow() -> None:
    wide = UncertainScores.ensemble([[-1e5, 1e5]])
    assert math.isclose(entropic(wide, 1.0)[0], -1e5 + math.log(2))
    assert math.isclose(entropic(wide, -1.0)[0], 1e5 - math.log(2))


def test_preferred_of_a_gaussian_is_a_log_normal_probability() -> None:
    expected = stats.norm.logsf(0.5, MEANS, STDS)
    assert np.allclose(preferred(GAUSSIAN, 0.5), expected)
    z = np.linspace(-200.0, 40.0, 4001)
    assert np.allclose(log_normal_cdf(z), special.log_ndtr(z), rtol=1e-13, atol=1e-300)


def test_preferred_of_a_certain_reward_is_a_step_and_a_half_at_a_tie() -> None:
    certain = UncertainScores.gaussian([1.0, 0.0, -1.0], [0.0, 0.0, 0.0])
    assert preferred(certain, 0.0).tolist() == [0.0, -math.log(2), -math.inf]


def test_wide_uncertainty_is_preferred_with_probability_a_half() -> None:
    wide = UncertainScores.gaussian([3.0, -3.0], [1e9, 1e9])
    assert np.allclose(preferred(wide, 0.0), math.log(0.5), atol=1e-8)
    symmetric = UncertainScores.ensemble([[-1e9, 1e9, -2e9, 3e9]])
    assert math.isclose(preferred(symmetric, 0.0)[0], math.log(0.5))
    assert math.isclose(preferred(UncertainScores.ensemble([[1.0]]), 1.0)[0], math.log(0.5))


def test_both_sides_of_the_bar_add_up_to_one() -> None:
    for scores, mirrored in (
        (ENSEMBLE, UncertainScores.ensemble(-MEMBERS)),
        (GAUSSIAN, UncertainScores.gaussian(-MEANS, STDS)),
    ):
        for bar in (-1.0, 0.1, 3.0):
            total = np.exp(preferred(scores, bar)) + np.exp(preferred(mirrored, -bar))
            assert np.allclose(total, 1.0)


def test_preferred_of_an_ensemble_is_calibrated_for_an_exchangeable_member() -> None:
    """P(next > c) averaged over ensembles is what the rule says on average, for c drawn alike.

    With c, the members and the next member all exchangeable, P(next > c) = 1/2 and so is the mean
    of the rule; given k of M above, P(next > c | k) = (k + 1)/(M + 2) is Laplace's rule, within
    the interval [k/(M+1), (k+1)/(M+1)] that the rule is the middle of.
    """
    rng = np.random.default_rng(1)
    num_draws, num_members = 200_000, 4
    draws = rng.normal(size=(num_draws, num_members))
    bars, following = rng.normal(size=num_draws), rng.normal(size=num_draws)
    probability = np.exp(preferred(UncertainScores.ensemble(draws), bars))
    assert abs(probability.mean() - 0.5) < Z * probability.std() / math.sqrt(num_draws)
    above = (draws > bars[:, None]).sum(1)
    for k in range(num_members + 1):
        chosen = following[above == k] > bars[above == k]
        error = Z * math.sqrt(0.25 / len(chosen))
        low, high = k / (num_members + 1), (k + 1) / (num_members + 1)
        assert low - error < chosen.mean() < high + error
        assert np.allclose(probability[above == k], (low + high) / 2)


def test_gaussian_rules_agree_with_monte_carlo() -> None:
    rng = np.random.default_rng(0)
    num_draws = 400_000
    draws = rng.normal(MEANS, STDS, size=(num_draws, 3))
    share = np.exp(preferred(GAUSSIAN, 0.5))
    error = Z * np.sqrt(share * (1 - share) / num_draws)
    assert (np.abs((draws > 0.5).mean(0) - share) < error).all()
    assert (np.abs(draws.mean(0) - mean(GAUSSIAN)) < Z * STDS / math.sqrt(num_draws)).all()
    below = draws <= quantile(GAUSSIAN, 0.1)
    assert (np.abs(below.mean(0) - 0.1) < Z * math.sqrt(0.09 / num_draws)).all()
    for row in range(3):
        tail = draws[below[:, row], row]
        # The threshold is exact, so the mean below it has the standard error of a plain mean.
        error = Z * tail.std() / math.sqrt(len(tail))
        assert abs(tail.mean() - cvar(GAUSSIAN, 0.1)[row]) < error
    utility = np.exp(-0.5 * draws)
    error = Z * utility.std(0) / math.sqrt(num_draws)
    assert (np.abs(utility.mean(0) - np.exp(-0.5 * entropic(GAUSSIAN, 0.5))) < error).all()


def test_rule_arguments_may_differ_by_row() -> None:
    levels = np.array([0.2, 0.5, 0.9])
    for rule in ("quantile", "cvar", "entropic", "preferred", "lcb"):
        for scores in (ENSEMBLE, GAUSSIAN):
            together = apply_rule(rule, scores, levels)
            alone = [apply_rule(rule, scores, level)[row] for row, level in enumerate(levels)]
            assert together.tolist() == alone


@pytest.mark.parametrize(
    ("rule", "argument"),
    [("quantile", 0.0), ("quantile", 1.0), ("cvar", 0.0), ("cvar", 1.1), ("entropic", math.nan),
     ("preferred", math.inf), ("lcb", math.inf)],
)  # fmt: skip
def test_an_argument_outside_its_domain_is_refused(rule: str, argument: float) -> None:
    with pytest.raises(InferenceError) as caught:
        apply_rule(rule, ENSEMBLE, argument)
    assert caught.value.diagnostics[0].code == "LMP927"
    parameter = RULES[rule].parameter
    assert parameter is not None and not parameter.allows(argument)


@pytest.mark.parametrize("members", [[], [[]], [1.0], [[math.nan]], [[-math.inf, 1.0]]])
def test_what_is_no_ensemble_is_refused(members: list[object]) -> None:
    with pytest.raises(ValueError, match="members must be"):
        UncertainScores.ensemble(members)


def test_what_is_no_gaussian_is_refused() -> None:
    for means, stds in (([0.0], [-1.0]), ([0.0], [1.0, 2.0]), ([math.inf], [1.0]), (0.0, 1.0)):
        with pytest.raises(ValueError, match=r"must"):
            UncertainScores.gaussian(means, stds)


def test_rows_are_taken_in_order() -> None:
    rows = np.array([2, 0, 2])
    assert mean(ENSEMBLE.take(rows)).tolist() == mean(ENSEMBLE)[rows].tolist()
    assert std(GAUSSIAN.take(rows)).tolist() == STDS[rows].tolist()


def test_ranges_are_those_of_the_extreme_ensembles() -> None:
    """Each finite bound of an ensemble's rule is the value of some ensemble on the range."""
    box = Interval(-1.0, 3.0)
    extremes = UncertainScores.ensemble([[-1.0, -1.0], [3.0, 3.0], [-1.0, 3.0]])
    for rule, argument in (("mean", None), ("worst", None), ("std", None), ("quantile", 0.3),
                           ("cvar", 0.4), ("entropic", 2.0), ("entropic", -2.0)):  # fmt: skip
        parameter = RULES[rule].parameter
        arguments = {} if parameter is None else {parameter.name: argument}
        found = rule_range(rule, box, arguments, may_be_gaussian=False)
        values = apply_rule(rule, extremes, argument)
        assert math.isclose(found.lower, values.min()) and math.isclose(found.upper, values.max())


def test_a_rule_that_adds_spread_is_unbounded_for_a_gaussian() -> None:
    box = Interval(-1.0, 3.0)
    assert rule_range("lcb", box, {"k": 2.0}) == Interval(-math.inf, 3.0)
    assert rule_range("lcb", box, {"k": Interval(-1.0, 1.0)}) == Interval()
    assert rule_range("lcb", box, {"k": 0.0}) == box
    assert rule_range("quantile", box, {"q": 0.1}) == Interval(-math.inf, 3.0)
    assert rule_range("quantile", box, {"q": 0.9}) == Interval(-1.0, math.inf)
    assert rule_range("entropic", box, {"rho": -1.0}) == Interval(-1.0, math.inf)
    assert rule_range("preferred", box, {"over": 0.0}) == Interval(-math.inf, 0.0)
    assert rule_range("std", box) == Interval(0.0, math.inf)


def test_a_spread_next_to_nothing_is_as_good_as_none() -> None:
    tiny = np.full(3, 1.1125369292536007e-308)
    scores = UncertainScores.gaussian(np.array([0.0, 2.0, 4.0]), tiny)
    assert apply_rule("preferred", scores, 2.0).tolist() == [-math.inf, -math.log(2.0), 0.0]
