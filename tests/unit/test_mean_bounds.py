"""Intervals of means of bounded numbers: exact where an answer is known, and counted elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from lmppl.posterior.intervals import proportion_interval
from lmppl.posterior.mean_bounds import Units, log_tail, mean_interval


def plain(x: np.ndarray) -> Units:
    return Units(np.full(x.size, 1 / x.size), x / x.size, further=1 / x.size)


@pytest.mark.parametrize("confidence", [0.95, 0.99])
@pytest.mark.parametrize(
    ("successes", "size"),
    [(0, 1), (1, 2), (0, 5), (3, 10), (0, 100), (1, 100), (50, 100), (3, 1000), (1000, 1000)],
)
def test_of_zeros_and_ones_it_is_clopper_and_pearsons(
    successes: int, size: int, confidence: float
) -> None:
    x = (np.arange(size) < successes).astype(np.float64)
    found = mean_interval(plain(x), 0.0, 1.0, confidence)
    expected = proportion_interval(successes, size, confidence)
    # As probabilities of the tail, the saddlepoint is right to a few per cent.
    assert found[0] == pytest.approx(expected[0], rel=0.08, abs=1e-12)
    assert 1.0 - found[1] == pytest.approx(1.0 - expected[1], rel=0.08, abs=1e-12)


@pytest.mark.parametrize("threshold", [0.3, 1.0, 3.0, 9.0, 20.0])
@pytest.mark.parametrize("size", [1, 3, 40])
def test_a_tail_of_equal_terms_is_that_of_a_gamma(size: int, threshold: float) -> None:
    threshold *= math.sqrt(size)
    found = log_tail(np.ones(size), np.ones(size), -threshold)
    expected = scipy.stats.gamma.logsf(threshold, size)
    assert found == pytest.approx(expected, abs=0.07)


def test_a_tail_of_unequal_terms_is_that_of_a_simulation() -> None:
    y = np.array([-1.0, -0.5, -0.2, 0.1, 0.7, 2.0])
    rng = np.random.default_rng(0)
    sums = rng.exponential(size=(400_000, y.size)) @ y
    for shift in (-8.0, -4.0, -1.0, 0.0, 1.0):
        share = float(np.mean(sums + shift >= 0.0))
        assert math.exp(log_tail(y, np.ones(y.size), shift)) == pytest.approx(share, rel=0.06)


def test_signs_decide_where_all_terms_agree() -> None:
    assert log_tail(np.array([1.0, 2.0]), np.ones(2), 0.5) == 0.0
    assert log_tail(np.array([-1.0, -2.0]), np.ones(2), -0.5) == -math.inf


def test_values_that_are_all_alike_leave_room_for_what_was_not_drawn() -> None:
    low, high = mean_interval(plain(np.full(100, 3.0)), 0.0, 5.0, 0.99)
    unseen = 1.0 - 0.005 ** (1 / 100)
    assert low == pytest.approx(3.0 * (1.0 - unseen), abs=1e-3)
    assert high == pytest.approx(3.0 + 2.0 * unseen, abs=1e-3)
    assert mean_interval(plain(np.full(100, 3.0)), -math.inf, 5.0, 0.99)[0] == -math.inf


def test_many_draws_that_differ_have_the_normal_interval() -> None:
    x = np.random.default_rng(1).uniform(size=20_000)
    low, high = mean_interval(plain(x), 0.0, 1.0, 0.95)
    error = x.std() / math.sqrt(x.size)
    assert low == pytest.approx(x.mean() - 1.96 * error, abs=0.05 * error)
    assert high == pytest.approx(x.mean() + 1.96 * error, abs=0.05 * error)


def test_the_weight_of_one_further_draw_decides_how_far_the_interval_reaches() -> None:
    x = np.zeros(200)
    reaches = []
    for further in (1 / 200, 0.1, 10.0, 1e6):
        units = Units(np.full(200, 1 / 200), x, further=further)
        reaches.append(mean_interval(units, 0.0, 1.0, 0.95)[1])
    assert reaches == sorted(reaches)
    assert reaches[0] < 0.03
    # ln(1/0.025) times the further weight, as odds
    assert reaches[1] == pytest.approx(0.369 / 1.369, abs=0.01)
    assert reaches[-1] > 0.999


def test_half_of_a_draw_is_worth_half() -> None:
    x = np.tile([0.0, 1.0], 100)
    halves = Units(np.full(200, 1 / 200), x / 200, shape=0.5, further=1 / 200)
    low, high = mean_interval(halves, 0.0, 1.0, 0.95)
    expected = proportion_interval(50, 100, 0.95)
    assert (low, high) == pytest.approx(expected, abs=1e-3)


DISTRIBUTIONS = {
    "uniform": scipy.stats.uniform(),
    "skewed": scipy.stats.beta(0.1, 3.0),
    "rare": scipy.stats.bernoulli(0.01),
    "two ends": scipy.stats.beta(0.2, 0.2),
    "narrow": scipy.stats.beta(300.0, 100.0),
}


@pytest.mark.parametrize("size", [5, 60])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_intervals_miss_no_more_often_than_they_say(name: str, size: int) -> None:
    distribution = DISTRIBUTIONS[name]
    truth, repeats = float(distribution.mean()), 200
    rng = np.random.default_rng(7)
    misses = 0
    for _ in range(repeats):
        x = np.asarray(distribution.rvs(size=size, random_state=rng), dtype=np.float64)
        low, high = mean_interval(plain(x), 0.0, 1.0, 0.95)
        misses += not low <= truth <= high
    # At 5 %, more misses than this have a probability of 1e-4.
    assert misses <= scipy.stats.binom.isf(1e-4, repeats, 0.05)


@pytest.mark.parametrize("scale", [0.5, 1.5, 2.5])
def test_weighted_means_and_totals_miss_no_more_often_than_they_say(scale: float) -> None:
    """Importance sampling of a normal tilted by exp(scale x): log weights up to the bound."""
    rng = np.random.default_rng(11)
    size, repeats, top = 200, 150, 3.0
    grid = np.linspace(-8.0, top, 20_001)
    density = scipy.stats.norm.pdf(grid)
    density /= density.sum()
    evidence = float(np.sum(density * np.exp(scale * grid)))
    truth = float(np.sum(density * np.exp(scale * grid) * (grid > 1.0))) / evidence
    missed_means = missed_totals = 0
    for _ in range(repeats):
        x = scipy.stats.truncnorm.rvs(-8.0, top, size=size, random_state=rng)
        weight = np.exp(scale * x)
        share = weight / weight.sum()
        largest = math.exp(scale * top)
        units = Units(share, share * (x > 1.0), further=largest / weight.sum())
        low, high = mean_interval(units, 0.0, 1.0, 0.95)
        missed_means += not low <= truth <= high
        low, high = mean_interval(plain(weight), 0.0, largest, 0.95)
        missed_totals += not low <= evidence <= high
    limit = scipy.stats.binom.isf(1e-4, repeats, 0.05)
    assert missed_means <= limit
    assert missed_totals <= limit


def test_weights_and_ends_of_any_size_have_an_interval_around_the_mean() -> None:
    """A text that can hardly be finished weighs e^-50 of its promise: sizes know no limit."""
    rng = np.random.default_rng(3)
    for _ in range(100):
        size = int(rng.integers(1, 20))
        weight = 10.0 ** rng.uniform(-rng.choice([0, 5, 60]), 0, size)
        weight /= weight.sum()
        value = rng.choice([0.0, 1.0, -3.0, 1e-9], size)
        units = Units(
            weight,
            weight * value,
            shape=float(rng.choice([1.0, 0.2, 1e-3])),
            further=float(rng.choice([0.0, 1.0, 10.0 ** rng.uniform(-200, 30)])),
            missing=float(rng.choice([0.0, 10.0 ** rng.uniform(-60, 0)])),
        )
        end = 10.0 ** rng.uniform(1, rng.choice([3, 40, 290]))
        low, high = mean_interval(units, -end, end, 0.95)
        mean = float(units.total.sum())
        rounding = 1e-9 * abs(mean) + 1e-30
        assert -end <= low <= mean + rounding
        assert mean - rounding <= high <= end


def test_a_shift_that_outweighs_all_terms_decides_alone() -> None:
    y = np.array([-5e-23] * 15 + [1.0])
    assert log_tail(y, np.ones(16), 0.0125) == 0.0
    assert log_tail(-y, np.ones(16), -0.0125) < -1e19
