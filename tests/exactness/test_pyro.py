"""The lowered Pyro program and guide, under enumeration and under stock Pyro algorithms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    SVI,
    Importance,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.infer.tracegraph_elbo import TrackNonReparam
from pyro.ops.provenance import get_provenance

import lmppl
from lmppl.lowering import LeaveOneOutELBO, PyroGuide, PyroModel, lower
from lmppl.lowering.execution import Execution
from tests.exactness.cases import CASES, ENDS, HARD, MIXED, STOP, TILT, Case
from tests.exactness.statistics import p_value_of_means
from tests.exactness.svi_cases import Perturbed, fit_of, log_prob_at, values_of


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


# --- the gradient of every stock objective -------------------------------------------------------


@pytest.fixture(scope="module")
def perturbed() -> Perturbed:
    return Perturbed(MIXED)


def _projections(
    perturbed: Perturbed, objective: Any, num: int, *args: int, guide: Any = None
) -> np.ndarray:
    """Independent gradients of an objective's loss, `[num]`, projected on the true gradient."""
    pyro.set_rng_seed(7)
    pyro.clear_param_store()
    found = []
    for _ in range(num):
        for parameter in perturbed.parameters:
            parameter.grad = None
        objective.loss_and_grads(perturbed.model, guide or perturbed.program, *args)
        pairs = zip(perturbed.parameters, perturbed.direction, strict=True)
        found.append(float(sum((p.grad * d).sum() for p, d in pairs if p.grad is not None)))
    pyro.clear_param_store()
    for parameter in perturbed.parameters:
        parameter.grad = None
    return np.array(found)


def _rows(objective: Any, perturbed: Perturbed, **kwargs: Any) -> np.ndarray:
    return _projections(perturbed, objective, 60, 40, **kwargs) / 40


_ELBOS = {
    "Trace_ELBO": lambda: Trace_ELBO(),
    "TraceGraph_ELBO": lambda: TraceGraph_ELBO(),
    "LeaveOneOutELBO": lambda: LeaveOneOutELBO(),
}


@pytest.mark.parametrize("name", _ELBOS)
def test_a_stock_elbo_has_the_exact_gradient(perturbed: Perturbed, name: str) -> None:
    # The objective of a plate of rows is the sum over them; ours is the mean.
    scale = 40 if name == "LeaveOneOutELBO" else 1
    found = scale * _rows(_ELBOS[name](), perturbed)
    assert p_value_of_means(found, -perturbed.squared_norm) > 1e-4


def test_a_factor_that_hides_what_it_reads_is_rejected(
    perturbed: Perturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Execution, "marks", lambda *_: frozenset())
    found = _rows(TraceGraph_ELBO(), perturbed)
    assert p_value_of_means(found, -perturbed.squared_norm) < 1e-6


def test_enumerating_the_choices_keeps_the_exact_gradient(perturbed: Perturbed) -> None:
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    guide = config_enumerate(perturbed.program, "parallel")
    found = _rows(elbo, perturbed, guide=guide)
    assert p_value_of_means(found, -perturbed.squared_norm) > 1e-4
    assert found.std() < _rows(Trace_ELBO(), perturbed).std()


def _pairs(perturbed: Perturbed, power: float) -> float:
    """Σ w̄ ∇log q along the true gradient, of two particles: its mean over all pairs of draws.

    w̄ are the normalised weights raised to `power`.
    """
    drawn = perturbed.probs > 0
    q, slopes = perturbed.probs[drawn], perturbed.slopes.numpy()[drawn]
    log_w = power * (perturbed.joint - perturbed.log_q.detach()).numpy()[drawn]
    share = 1.0 / (1.0 + np.exp(log_w[None, :] - log_w[:, None]))
    # Either of the two may be the first.
    return 2.0 * float(np.einsum("i,j,ij,i->", q, q, share, slopes))


def test_renyi_has_the_exact_gradient_of_two_particles(perturbed: Perturbed) -> None:
    elbo = RenyiELBO(alpha=0.5, num_particles=2, vectorize_particles=True, max_plate_nesting=0)
    found = _projections(perturbed, elbo, 150)
    # α / (1 − α) = 1; `_pairs` divides by no number of particles, as Pyro's mean weight does.
    assert p_value_of_means(found, -_pairs(perturbed, 0.5)) > 1e-4


def test_the_alpha_of_renyi_acts_on_particles_and_not_on_rows(perturbed: Perturbed) -> None:
    elbo = RenyiELBO(alpha=0.5, num_particles=1, max_plate_nesting=1)
    pyro.set_rng_seed(3)
    pyro.clear_param_store()
    renyi = elbo.loss(perturbed.model, perturbed.program, 30)
    pyro.set_rng_seed(3)
    pyro.clear_param_store()
    plain = Trace_ELBO().loss(perturbed.model, perturbed.program, 30)
    pyro.clear_param_store()
    assert renyi == pytest.approx(plain, rel=1e-6)


def test_wake_sleep_has_the_exact_gradient_of_two_particles(perturbed: Perturbed) -> None:
    loss = ReweightedWakeSleep(num_particles=2, vectorize_particles=True, max_plate_nesting=0)
    found = _projections(perturbed, loss, 150)
    assert p_value_of_means(found, -_pairs(perturbed, 1.0)) > 1e-4


def test_a_mean_field_objective_refuses_what_it_cannot_do(perturbed: Perturbed) -> None:
    with pytest.raises(NotImplementedError, match="reparam"):
        TraceMeanField_ELBO().loss_and_grads(perturbed.model, perturbed.program)
    pyro.clear_param_store()


def test_a_factor_depends_in_pyro_on_the_sites_that_it_reads(perturbed: Perturbed) -> None:
    with TrackNonReparam():
        drawn = poutine.trace(perturbed.program).get_trace(5)
        trace = poutine.trace(poutine.replay(perturbed.model, trace=drawn)).get_trace(5)
    trace.compute_log_prob()
    found = {
        name: get_provenance(site["log_prob"])
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
    }
    assert found["fit"] == {"topic", "mood", "text"}
    assert found["topic"] == {"topic"} and found["mood"] == {"topic", "mood"}
    assert type(trace.nodes["_RETURN"]["value"]["text"][0]) is str
    pyro.clear_param_store()


def test_one_execution_of_a_program_with_choices_is_a_call_without_rows() -> None:
    model, guide = _lowered(MIXED)
    pyro.set_rng_seed(2)
    pyro.clear_param_store()
    trace = poutine.trace(guide).get_trace()
    replayed = poutine.trace(poutine.replay(model, trace=trace)).get_trace()
    pyro.clear_param_store()
    values = {name: trace.nodes[name]["value"].unsqueeze(0) for name in ("topic", "mood", "text")}
    expected = log_prob_at(model, values)
    assert float(replayed.log_prob_sum()) == pytest.approx(float(expected[0]), rel=1e-6)


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
