"""Diagnostics against known answers, scipy-free references and the oracle."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lmppl.diagnostics import (
    ADVISED,
    advice,
    assess,
    bulk_ess,
    chain_diagnostics,
    effective_sample_size,
    max_weight,
    num_unique_draws,
    pareto_tail,
    r_hat,
    r_hat_limit,
    rank_normalise,
    split_chains,
    stuck_chains,
    tail_ess,
    weight_diagnostics,
)
from lmppl.diagnostics.advice import unseen_advice
from lmppl.inference import METHODS
from lmppl.inference.importance import Importance
from lmppl.inference.smc import SMC
from lmppl.posterior import Posterior, Unseen


def test_the_effective_sample_size_counts_equal_weights() -> None:
    assert effective_sample_size([7.0] * 5) == pytest.approx(5.0)
    assert effective_sample_size([0.0, 0.0, -math.inf]) == pytest.approx(2.0)
    assert effective_sample_size(np.log([3.0, 1.0])) == pytest.approx(16 / 10)
    assert max_weight(np.log([3.0, 1.0])) == pytest.approx(0.75)


def test_no_weight_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="every weight is zero"):
        effective_sample_size([-math.inf, -math.inf])
    with pytest.raises(ValueError, match="finite"):
        effective_sample_size([math.nan])


def test_k_hat_finds_the_shape_of_a_pareto_tail() -> None:
    rng = np.random.default_rng(0)
    for shape in (0.2, 0.7, 1.2):
        log_w = shape * rng.exponential(size=40_000)
        tail = pareto_tail(log_w)
        assert tail.k is not None
        # The maximum-likelihood shape has standard error (1 + k)/√M; the prior pulls by 10/M.
        error = (1 + shape) / math.sqrt(tail.num_tail)
        assert abs(tail.k - shape) < 4 * error + 10 / tail.num_tail


def test_k_hat_says_why_it_has_none() -> None:
    assert pareto_tail([1.0] * 100).k is None
    assert pareto_tail([1.0] * 100).reason == "all weights are equal"
    assert "too few" in pareto_tail(np.arange(10.0)).reason
    assert "largest weights are equal" in pareto_tail([0.0] * 50 + [-1.0] * 50).reason
    # Ten runs of SMC after a resampling each: as many weights as runs.
    runs = np.repeat(np.random.default_rng(1).normal(scale=0.01, size=10), 1000)
    assert "largest weights are equal" in pareto_tail(runs).reason
    # Texts that met their requirement long ago weigh the same but for what is still expected.
    rng = np.random.default_rng(2)
    alike = np.concatenate([-rng.exponential(size=60), 1e-5 * rng.exponential(size=190) ** 2])
    few_more = np.concatenate([alike, np.log([1.3, 1.6, 2.4, 3.0, 5.0, 9.0])])
    assert "largest weights are equal" in pareto_tail(few_more).reason


def test_weights_that_are_nearly_alike_do_not_hide_a_heavy_tail() -> None:
    """Nor make one: half of the tail is next to the cutoff, and what goes beyond has its shape."""
    rng = np.random.default_rng(4)
    for shape, heavy in ((0.1, False), (1.5, True)):
        beyond = shape * rng.exponential(size=80)
        alike = 1e-4 * rng.exponential(size=100)
        light = -0.5 - rng.exponential(size=1420)
        tail = pareto_tail(np.concatenate([light, alike, beyond]))
        assert tail.k is not None and (tail.k > 0.7) == heavy


def test_k_hat_does_not_mind_dead_draws_or_units() -> None:
    rng = np.random.default_rng(3)
    log_w = rng.normal(size=500)
    dead = np.concatenate([log_w, np.full(0, -math.inf)])
    assert pareto_tail(dead + 1000.0).k == pytest.approx(pareto_tail(log_w).k)
    mostly_dead = np.concatenate([log_w, np.full(500, -math.inf)])
    assert pareto_tail(mostly_dead).k is not None


def test_k_hat_agrees_with_the_oracle(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The oracle's modules import each other by their bare names.
    monkeypatch.syspath_prepend(str(shared / "oracle"))
    checks = importlib.import_module("checks")
    rng = np.random.default_rng(11)
    for size, scale in ((60, 1.0), (1000, 0.3), (1000, 3.0)):
        log_w = rng.normal(scale=scale, size=size)
        assert pareto_tail(log_w).k == pytest.approx(checks.psis_khat(log_w), abs=1e-9)


def _autoregressive(rng: np.random.Generator, rho: float, shape: tuple[int, int]) -> np.ndarray:
    x = np.empty(shape)
    x[:, 0] = rng.normal(size=shape[0])
    for t in range(1, shape[1]):
        x[:, t] = rho * x[:, t - 1] + math.sqrt(1 - rho**2) * rng.normal(size=shape[0])
    return x


@pytest.mark.parametrize("rho", [-0.4, 0.0, 0.5, 0.9])
def test_chains_are_worth_what_their_autocorrelation_says(rho: float) -> None:
    x = _autoregressive(np.random.default_rng(2), rho, (4, 20_000))
    expected = x.size * (1 - rho) / (1 + rho)
    # Fixed seed; the estimate is good to a few per cent at this length.
    assert bulk_ess(x) == pytest.approx(expected, rel=0.1)
    assert r_hat(x) < 1.01


def test_chains_read_as_arviz_reads_them() -> None:
    # Printed by arviz 0.23.4 (rhat; ess bulk and tail) for these very draws.
    rng = np.random.default_rng(0)
    expected = {
        0.0: (0.996058, 390.538, 335.113),
        0.9: (1.09681, 38.1094, 59.8687),
        -0.5: (1.00499, 1040.82, 355.39),
    }
    for rho, answers in expected.items():
        x = np.zeros((4, 101))
        x[:, 0] = rng.normal(size=4)
        for t in range(1, 101):
            x[:, t] = rho * x[:, t - 1] + rng.normal(size=4)
        found = (r_hat(x), bulk_ess(x), tail_ess(x))
        assert found == pytest.approx(answers, rel=1e-5)


def test_r_hat_by_hand() -> None:
    # Two chains of four draws, no ties; ranks give symmetric normal scores.
    x = np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    z = rank_normalise(split_chains(x))
    assert z.shape == (4, 2)
    assert z[0, 0] == pytest.approx(-1.4342, abs=1e-4)  # Φ⁻¹((1 − 3/8) / (8 + 1/4))
    within = z.var(axis=1, ddof=1).mean()
    between = 2 * z.mean(axis=1).var(ddof=1)
    assert r_hat(x) == pytest.approx(math.sqrt((between / within + 1) / 2))


def test_ties_share_their_mean_rank() -> None:
    z = rank_normalise(np.array([[0.0, 1.0, 1.0, 2.0]]))
    assert z[0, 1] == z[0, 2] == 0.0
    assert z[0, 0] == -z[0, 3]


def test_r_hat_sees_a_chain_that_is_elsewhere_or_wider() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(4, 500))
    assert r_hat(x) < 1.01
    moved = x.copy()
    moved[0] += 1.0
    assert r_hat(moved) > 1.05
    wider = x.copy()
    wider[0] *= 4.0  # the same mean: only the folded half of R-hat sees it
    assert r_hat(wider) > 1.05


def test_r_hat_sees_a_drift_within_one_chain() -> None:
    x = np.random.default_rng(4).normal(size=(1, 500)) + np.linspace(0, 3, 500)
    assert r_hat(x) > 1.1


def autoregressive(
    rng: np.random.Generator, chains: int, draws: int, time: float
) -> NDArray[np.float64]:
    """Chains of whole numbers that begin where they end, `time` steps of which are worth one."""
    rho = (time - 1.0) / (time + 1.0)
    x = rng.standard_normal((chains, draws))
    for step in range(1, draws):
        x[:, step] = rho * x[:, step - 1] + math.sqrt(1.0 - rho**2) * x[:, step]
    return np.round(x)


@pytest.mark.parametrize(
    ("chains", "draws", "time"), [(32, 100, 3.0), (32, 100, 8.0), (32, 400, 30.0), (4, 1000, 30.0)]
)
def test_r_hat_of_chains_that_agree_is_rarely_above_its_limit(
    chains: int, draws: int, time: float
) -> None:
    rng = np.random.default_rng(12)
    num_runs = 40
    above = 0
    for _ in range(num_runs):
        x = autoregressive(rng, chains, draws, time)
        above += r_hat(x) > r_hat_limit(x, 0.99)
    # At a rate of 1 in 20, more than 7 of 40 have a chance of 1 in 1,000.
    assert above <= 7


@pytest.mark.parametrize(("chains", "draws"), [(32, 100), (4, 400)])
def test_r_hat_of_chains_in_two_places_is_above_its_limit(chains: int, draws: int) -> None:
    rng = np.random.default_rng(13)
    for _ in range(20):
        x = autoregressive(rng, chains, draws, 3.0)
        x[: chains // 2] += 2.0
        assert r_hat(x) > r_hat_limit(x, 0.99)
        # Half of each chain is worth about one draw: nothing says that they agree.
        slow = autoregressive(rng, 32, 100, 150.0)
        assert r_hat(slow) > r_hat_limit(slow, 0.99) == 1.2


def test_chains_worth_few_draws_are_told_so_once() -> None:
    rng = np.random.default_rng(14)
    x = autoregressive(rng, 4, 100, 20.0).ravel()
    post = assess(Posterior(sites={"n": x}, log_weights=np.zeros(400), num_chains=4))
    assert post.diagnostics["ess_bulk"] < 100 and post.diagnostics["ess_tail"] < 100
    assert sum("independent draws" in each for each in post.warnings) == 1


def test_a_chain_that_never_moves_is_not_converged() -> None:
    still = np.ones((4, 100))
    assert math.isnan(r_hat(still))
    assert math.isnan(bulk_ess(still))
    apart = np.repeat(np.arange(4.0)[:, None], 100, axis=1)
    assert r_hat(apart) == math.inf
    assert math.isnan(bulk_ess(apart))
    assert stuck_chains(apart) == 4


def test_a_short_or_broken_chain_has_no_r_hat() -> None:
    assert math.isnan(r_hat(np.array([[1.0, 2.0, 3.0]])))
    assert math.isnan(r_hat(np.array([[1.0, 2.0, math.inf, 3.0, 4.0]])))


def test_the_tail_is_worth_less_than_the_bulk_where_visits_to_it_are_rare_and_long() -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(4, 4000))
    for chain in x:
        chain[1000:1400] += 20.0  # one long visit to the upper tail
    assert tail_ess(x) < 0.1 * tail_ess(rng.normal(size=(4, 4000)))


def test_the_worst_quantity_decides() -> None:
    rng = np.random.default_rng(6)
    good, bad = rng.normal(size=(2, 4, 200))
    bad = bad + np.arange(4.0)[:, None]
    found = chain_diagnostics({"good": good, "bad": bad, "constant": np.zeros((4, 200))})
    assert found["r_hat"] == found["chains"]["bad"]["r_hat"] > found["chains"]["good"]["r_hat"]
    assert "constant" not in found["chains"]
    assert chain_diagnostics({"constant": np.zeros((4, 200))})["r_hat"] is None


def test_weights_are_diagnosed_with_a_reason_where_k_hat_has_none() -> None:
    found = weight_diagnostics(np.zeros(50))
    assert found["ess"] == pytest.approx(50.0)
    assert found["pareto_k"] is None
    assert found["pareto_k_reason"] == "all weights are equal"


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("ess", 3.0, 300.0),
        ("max_weight", 0.9, 0.01),
        ("pareto_k", 0.9, 0.4),
        ("r_hat", 1.3, 1.001),
        ("ess_bulk", 20.0, 900.0),
        ("ess_tail", 20.0, 900.0),
        ("num_chains_that_never_moved", 2, 0),
        ("num_unique_draws", 1, 60),
        ("acceptance_rate", 0.001, 0.4),
    ],
)
def test_advice_is_given_where_it_is_due(name: str, bad: float, good: float) -> None:
    sentence = advice(name, bad)
    assert sentence is not None and ";" in sentence  # what is wrong; what to do
    assert advice(name, good) is None
    assert advice(name, None) is None
    assert advice(name, math.nan) is None


@pytest.mark.parametrize("name", ["ess", "pareto_k", "max_weight", "num_unique_draws"])
def test_no_method_is_told_to_use_itself(name: str) -> None:
    bad = {"ess": 3.0, "pareto_k": 0.9, "max_weight": 0.6, "num_unique_draws": 1}[name]
    for method in METHODS:
        sentence = advice(name, bad, method)
        assert sentence is not None
        assert method.is_exact or method.name not in sentence.split(";")[1]
        assert not method.is_exact or "svi" not in str(advice("ess", 3.0, method))
    assert "num_particles" in str(advice("ess", 3.0, SMC))
    assert "smc" in str(advice("ess", 3.0, Importance))


def test_a_program_without_factors_is_not_told_to_change_them() -> None:
    for name, bad in (("ess", 3.0), ("max_weight", 0.9), ("acceptance_rate", 0.001)):
        sentence = advice(name, bad, SMC, scored=False)
        assert sentence is not None
        assert "factor" not in sentence and "lookahead" not in sentence
    unseen = Unseen(log_further=5.0)
    assert "rewards" in str(unseen_advice(unseen, SMC))
    assert "rewards" not in str(unseen_advice(unseen, SMC, scored=False))


def test_verdicts_are_spoken_of_only_where_something_is_claimed() -> None:
    unseen = Unseen(log_further=math.inf, reason="a factor has no upper bound")
    assert unseen_advice(unseen, SMC) == "verdicts are undecided: a factor has no upper bound"
    assert unseen_advice(unseen, SMC, claimed=False) == "a factor has no upper bound"


def test_every_rule_is_tested_above_and_unknown_names_are_quiet() -> None:
    marks = test_advice_is_given_where_it_is_due.pytestmark  # type: ignore[attr-defined]
    assert {row[0] for row in marks[0].args[1]} == set(ADVISED)
    assert advice("num_particles", 0) is None
    assert advice("ess", "many") is None


def test_assessing_keeps_what_the_engine_said_and_adds_the_rest() -> None:
    posterior = Posterior(
        sites={"text": ["a"] * 20},
        log_weights=np.r_[10.0, np.zeros(19)],
        diagnostics={"ess": 77.0},
        warnings=["engine says hello"],
        clusters=np.zeros(20),
    )
    found = assess(posterior)
    assert found.diagnostics["ess"] == 77.0
    assert found.diagnostics["num_unique_draws"] == 1
    assert found.warnings[0] == "engine says hello"
    assert any("carries" in sentence for sentence in found.warnings)
    assert any("every draw is the same" in sentence for sentence in found.warnings)
    assert assess(found).warnings == found.warnings


def test_assessing_chains_finds_those_that_never_moved() -> None:
    texts = ["x"] * 50 + [f"y{i % 7}" for i in range(50)]
    density = np.array([0.0] * 50 + [float(i % 7) for i in range(50)])
    found = assess(
        Posterior(sites={"text": texts}, log_weights=np.zeros(100), log_prior=density, num_chains=2)
    )
    assert found.diagnostics["num_chains_that_never_moved"] == 1
    assert found.diagnostics["r_hat"] > 1.01
    assert "ess" not in found.diagnostics
    assert any("never moved" in sentence for sentence in found.warnings)


def test_an_enumerated_posterior_has_nothing_to_warn_of() -> None:
    exact = Posterior(sites={"text": ["a", "b"]}, log_weights=np.log([0.99, 0.01]), enumerated=True)
    assert assess(exact) is exact
    assert num_unique_draws(exact) == 2


@pytest.mark.parametrize("memory", [0.0, 0.1, 0.9])
def test_chain_statistics_agree_with_arviz_stats(memory: float) -> None:
    """ArviZ's take seconds to import, so a run has its own; they are held to ArviZ's here."""
    from arviz_stats.base import array_stats

    rng = np.random.default_rng(0)
    x = np.empty((4, 300))
    x[:, 0] = rng.normal(size=4)
    for step in range(1, 300):
        x[:, step] = memory * x[:, step - 1] + rng.normal(size=4)
    axes = {"chain_axis": 0, "draw_axis": 1}
    assert r_hat(x) == pytest.approx(float(array_stats.rhat(x, **axes)), rel=1e-9)
    # The sums of autocorrelations are cut off at slightly different lags.
    bulk = float(array_stats.ess(x, method="bulk", **axes))
    tail = float(array_stats.ess(x, method="tail", prob=(0.05, 0.95), **axes))
    assert bulk_ess(x) == pytest.approx(bulk, rel=0.05)
    assert tail_ess(x) == pytest.approx(tail, rel=0.05)


@pytest.mark.parametrize("scale", [0.5, 1.5, 3.0])
def test_the_shape_of_a_tail_agrees_with_arviz_stats(scale: float) -> None:
    from arviz_stats.base import array_stats

    log_w = scale * np.random.default_rng(1).normal(size=1000)
    # ArviZ takes log likelihoods, whose weights are their reciprocals.
    expected = float(array_stats.psislw(-log_w, axis=0)[1])
    assert pareto_tail(log_w).k == pytest.approx(expected, abs=0.05)
