"""The lowered Pyro program and guide, under enumeration and under stock Pyro algorithms."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Importance, ReweightedWakeSleep, Trace_ELBO

import lmppl
from lmppl.lowering import LeaveOneOutELBO, PyroGuide, PyroModel, lower
from tests.exactness.cases import CASES, ENDS, HARD, MIXED, STOP, TILT, Case
from tests.exactness.statistics import p_value_of_means
from tests.exactness.svi_cases import fit_of, log_prob_at, values_of


def _lowered(case: Case) -> tuple[PyroModel, PyroGuide]:
    return lower(case.target())


def _joint(case: Case) -> np.ndarray:
    return np.array([e.log_prior + e.log_phi for e in case.table])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_pyro_model_has_the_density_of_the_program_at_every_execution(case: Case) -> None:
    model, _ = _lowered(case)
    log_density = log_prob_at(model, values_of(case, model.target)).numpy()
    np.testing.assert_allclose(log_density, _joint(case), rtol=0, atol=1e-9)


def test_a_replayed_trace_sums_to_the_target_density_of_its_rows() -> None:
    bound = MIXED.bound()
    model, guide = bound.pyro_model, bound.pyro_guide
    pyro.set_rng_seed(4)
    pyro.clear_param_store()
    drawn = poutine.trace(guide).get_trace(3)
    trace = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(3)
    pyro.clear_param_store()
    numbers = {e.key: e for e in MIXED.table}
    expected = 0.0
    for row in range(3):
        choices = tuple(
            model.target.stages[k].support[int(trace.nodes[name]["value"][row])]
            for k, name in enumerate(MIXED.choice_names)
        )
        execution = numbers[(*choices, tuple(trace.nodes["text"]["value"][row].tolist()))]
        expected += execution.log_prior + execution.log_phi
    assert float(trace.log_prob_sum()) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_guide_starts_as_a_distribution_over_what_the_requirements_leave(case: Case) -> None:
    _, guide = _lowered(case)
    log_q = log_prob_at(guide, values_of(case, guide.target)).detach()
    assert float(log_q.logsumexp(0)) == pytest.approx(0.0, abs=1e-9)
    allowed = np.array([e.log_phi > -math.inf for e in case.table])
    assert np.array_equal(np.isfinite(log_q.numpy()), allowed)


@pytest.mark.parametrize("case", [TILT, ENDS], ids=lambda case: case.name)
def test_without_requirements_the_guide_starts_as_the_prior(case: Case) -> None:
    _, guide = _lowered(case)
    log_q = log_prob_at(guide, values_of(case, guide.target)).detach().numpy()
    np.testing.assert_allclose(log_q, [e.log_prior for e in case.table], rtol=0, atol=1e-9)


def test_with_requirements_the_guide_starts_as_the_prior_renormalised_token_by_token() -> None:
    _, guide = _lowered(HARD)
    log_q = log_prob_at(guide, values_of(HARD, guide.target)).detach().numpy()
    alive = [e.tokens for e in HARD.table if e.log_phi > -math.inf]
    prefixes = {tokens[:n] for tokens in alive for n in range(len(tokens) + 1)}
    for execution, value in zip(HARD.table, log_q, strict=True):
        if execution.log_phi == -math.inf:
            continue
        expected = 0.0
        for n, token in enumerate(execution.tokens):
            prefix = execution.tokens[:n]
            probs = HARD.next_probs(prefix)
            mass = sum(p for t, p in enumerate(probs) if (*prefix, t) in prefixes)
            expected += math.log(probs[token] / mass)
        assert value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("case", [TILT, STOP], ids=lambda case: case.name)
def test_stock_importance_agrees_with_the_exact_evidence(case: Case) -> None:
    model, guide = _lowered(case)
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    posterior = Importance(model, guide, num_samples=100).run()
    weights = torch.stack([torch.as_tensor(w) for w in posterior.log_weights]).double()
    ratio = (weights - case.log_z).exp().numpy()
    assert p_value_of_means(ratio, 1.0) > 1e-4
    assert float(posterior.get_log_normalizer()) == pytest.approx(
        math.log(ratio.mean()) + case.log_z, abs=1e-6
    )
    pyro.clear_param_store()


def test_stock_trace_elbo_agrees_with_the_elbo_by_enumeration() -> None:
    model, guide = _lowered(MIXED)
    exact = fit_of(MIXED, log_prob_at(guide, values_of(MIXED, guide.target))).elbo
    pyro.set_rng_seed(1)
    pyro.clear_param_store()
    elbo = Trace_ELBO(num_particles=20, vectorize_particles=True, max_plate_nesting=1)
    losses = np.array([-elbo.loss(model, guide, 2) / 2 for _ in range(40)])
    assert p_value_of_means(losses, exact) > 1e-4
    pyro.clear_param_store()


def test_stock_svi_fits_the_guide() -> None:
    model, guide = _lowered(ENDS)
    values = values_of(ENDS, guide.target)
    before = fit_of(ENDS, log_prob_at(guide, values))
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    elbo = Trace_ELBO(num_particles=50, vectorize_particles=True, max_plate_nesting=0)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), elbo)
    for _ in range(25):
        svi.step()
    after = fit_of(ENDS, log_prob_at(guide, values))
    assert after.total_mass == pytest.approx(1.0, abs=1e-9)
    assert after.kl_guide_posterior < 0.5 * before.kl_guide_posterior
    pyro.clear_param_store()


def test_stock_svi_takes_our_objective() -> None:
    model, guide = _lowered(TILT)
    values = values_of(TILT, guide.target)
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), LeaveOneOutELBO())
    for _ in range(40):
        svi.step(50)
    assert fit_of(TILT, log_prob_at(guide, values)).kl_guide_posterior < 0.1
    pyro.clear_param_store()


def test_reweighted_wake_sleep_fits_the_guide() -> None:
    model, guide = _lowered(ENDS)
    values = values_of(ENDS, guide.target)
    before = fit_of(ENDS, log_prob_at(guide, values))
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    loss = ReweightedWakeSleep(num_particles=50, vectorize_particles=True, max_plate_nesting=0)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), loss)
    for _ in range(25):
        svi.step()
    after = fit_of(ENDS, log_prob_at(guide, values))
    assert after.kl_posterior_guide < 0.5 * before.kl_posterior_guide
    pyro.clear_param_store()


def test_a_batch_of_rows_needs_two_of_them_for_a_baseline() -> None:
    model, guide = _lowered(TILT)
    with pytest.raises(ValueError, match="at least two rows"):
        LeaveOneOutELBO().loss(model, guide, 1)


def test_an_inference_leaves_the_parameter_store_and_the_random_state_as_they_were() -> None:
    pyro.clear_param_store()
    kept = pyro.param("mine", torch.tensor(2.0))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    post = lmppl.infer(TILT.bound(), method="svi", num_steps=3, num_particles=8, num_samples=8)
    post.sample(4, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(pyro.get_param_store().keys()) == ["mine"]
    assert pyro.param("mine") is kept or torch.equal(pyro.param("mine"), kept)
    pyro.clear_param_store()
