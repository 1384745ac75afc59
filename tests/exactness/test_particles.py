"""Particle Gibbs against exact answers, and wrong variants of it.

All seeds are fixed; each criterion has a false-alarm rate of 1e-5 over the choice of the seed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

import lmppl
from lmppl.density import Target, Traces, concatenate
from lmppl.density.steering.lookahead import PrefixLookahead
from lmppl.density.steering.steered import Steered
from lmppl.density.tempered import Tempered
from lmppl.inference import conditional
from lmppl.inference.conditional import Particles, particle_move
from lmppl.inference.exact import Exact
from lmppl.inference.exact.engine import ExactEngine
from lmppl.models import bind_target
from lmppl.rng import Stream
from lmppl.sequences.conditional import SCHEMES, conditional_resample
from lmppl.sequences.resampling import systematic_resample
from tests.exactness.cases import CASES, ENDS, HARD, STOP, TILT, Case
from tests.exactness.statistics import p_value_of_draws, rows_of
from tests.exactness.test_sampling import (
    ALPHA,
    Kernel,
    exact_states,
    invariance_p_value,
    resized_kernel,
    run_to_the_end,
)

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def particle_kernel(**how: object) -> Kernel:
    particles = Particles(**{"num_particles": 3, "joints": 2, "ess_threshold": 0.8, **how})  # type: ignore[arg-type]

    def kernel(target: Target, traces: Traces, stream: Stream) -> Traces:
        return particle_move(target, traces, len(target.stages) - 1, particles, stream).traces

    return kernel


def invariance_only_p_value(case: Case, kernel: Kernel, size: int = 2_000) -> float:
    """Exact draws, then three moves: still draws of the posterior?"""
    target = case.target()
    traces = exact_states(target, size)
    for number in range(3):
        traces = kernel(target, traces, Stream.from_seed(2).child(number))
    return p_value_of_draws(case, rows_of(case, target, traces))


@every_case
@pytest.mark.parametrize("scheme", SCHEMES)
def test_particle_gibbs_leaves_the_posterior_invariant_and_is_reversible(
    case: Case, scheme: str
) -> None:
    kernel = particle_kernel(scheme=scheme, joints=0)
    assert invariance_p_value(case, kernel, 3_000) > ALPHA


@every_case
def test_ancestor_sampling_leaves_the_posterior_invariant(case: Case) -> None:
    """It is not reversible: beginnings change before ends do."""
    kernel = particle_kernel(joints=2, guides=(PrefixLookahead,), look_every=1)
    assert invariance_only_p_value(case, kernel) > ALPHA


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("case", [TILT, ENDS, STOP], ids=lambda case: case.name)
def test_ancestor_sampling_without_guides_leaves_the_posterior_invariant(
    case: Case, scheme: str
) -> None:
    kernel = particle_kernel(joints=2, scheme=scheme)
    assert invariance_only_p_value(case, kernel) > ALPHA


def test_particles_keep_to_a_target_whose_factors_are_tempered() -> None:
    """At the power 0.4, by particles and by blocks of another size."""
    tempered = replace(
        TILT,
        executions=lambda case: [
            replace(each, log_phi=0.4 * each.log_phi) for each in TILT.executions(case)
        ],
        _table=None,
    )
    target = Tempered.of(TILT.target(), torch.tensor([0.4], dtype=torch.float64))
    # Draws of the posterior, kept in proportion to what the power takes from them, 1 at most.
    whole = exact_states(TILT.target(), 20_000)
    share = Stream.from_seed(5).uniforms(torch.arange(20_000)).log()
    kept = (share < -0.6 * whole.total_log_potential()).nonzero().squeeze(-1)
    traces = target.corrected(whole.select(kept[:3_000]))
    kernel = particle_kernel(joints=2, guides=(PrefixLookahead,), look_every=1)
    for number in range(2):
        traces = kernel(target, traces, Stream.from_seed(2).child(number))
        traces = resized_kernel(target, traces, Stream.from_seed(3).child(number))
    rows = rows_of(tempered, target, traces)
    assert p_value_of_draws(tempered, rows) > ALPHA
    assert p_value_of_draws(TILT, rows) < ALPHA


TWO_TEXTS = """
    extern lm prior
    reward count_a(t: string): int<lower=0, upper=3> = count("a")
    model two(bias: real = 1.0) {
        first ~ prior(max_tokens=3, stop=["cb"])
        second ~ prior(max_tokens=3)
        factor both: bias * count_a(first) * count_a(second)
        require c: contains(second, "c") when contains(first, "b")
        require not_c: not starts_with(second, "c") when contains(first, "cb")
        return first, second
    }
"""


@pytest.mark.parametrize("site", [0, 1])
def test_particles_keep_to_the_posterior_of_two_texts_under_two_bindings(site: int) -> None:
    """Every pair of texts is as frequent after the moves as by enumeration, binding by binding."""
    model = lmppl.compile(TWO_TEXTS)
    biases = (1.0, -0.5)
    prior = TILT.language_model()
    target = bind_target([model(prior=prior, bias=bias) for bias in biases], None, None)
    assert target.num_groups == 2
    size = 2_000
    engine = ExactEngine(Exact(num_samples=size), target, Stream.from_seed(21))
    state = run_to_the_end(engine)
    traces = concatenate([draws.traces for draws in engine.result(state, complete=True)])
    for number, stage in enumerate(target.stages):
        rows = target.rows(number, traces)
        value, log_prior = stage.retraced(rows, target.steering(rows), traces.values[stage.name])
        traces = traces.with_value(stage.name, value, log_prior)
    how = Particles(num_particles=3, joints=2, guides=(PrefixLookahead,), look_every=1)
    for number in range(3):
        stream = Stream.from_seed(2).child(number)
        traces = particle_move(target, traces, site, how, stream).traces
    texts = list(zip(*(traces.values[s.name].listed() for s in target.stages), strict=True))
    for group, bias in enumerate(biases):
        exact = lmppl.infer(model(prior=prior, bias=bias), method="exact", seed=0, progress=False)
        drawn = texts[group * size : (group + 1) * size]
        pairs = dict.fromkeys(zip(exact["first"], exact["second"], strict=True), 0.0)
        for first, second, weight in zip(
            exact["first"], exact["second"], exact.weights, strict=True
        ):
            pairs[first, second] += weight
        assert set(drawn) <= {pair for pair, weight in pairs.items() if weight > 0.0}
        counts = np.array([drawn.count(pair) for pair in pairs], float)
        expected = size * np.array(list(pairs.values()))
        large = expected >= 10.0
        observed = np.append(counts[large], counts[~large].sum())
        expected = np.append(expected[large], expected[~large].sum())
        assert stats.chisquare(observed, expected)[1] > ALPHA


def test_a_kept_text_that_is_resampled_away_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        conditional,
        "conditional_resample",
        lambda scheme, log_weight, kept, uniforms: systematic_resample(log_weight, uniforms[:, 0]),
    )
    kernel = particle_kernel(joints=0, guides=(PrefixLookahead,), look_every=1)
    assert invariance_p_value(HARD, kernel, 3_000) < ALPHA


def test_particles_that_are_resampled_where_the_kept_text_is_open_are_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether they are resampled must not hang on which of them is the kept one."""
    ended: list[torch.Tensor] = []
    true_resampled = conditional._Sweep.resampled

    def resampled(self: conditional._Sweep) -> conditional._Sweep:
        chains = torch.unique(self.run.open // self.log_weight.shape[1])
        ended[:] = [(self.kept.lengths <= self.position)[chains]]
        return true_resampled(self)

    def resample(scheme, log_weight, kept, uniforms):  # type: ignore[no-untyped-def]
        found = conditional_resample(scheme, log_weight, kept, uniforms)
        return torch.where(ended[0].unsqueeze(-1), torch.arange(found.shape[1]), found)

    monkeypatch.setattr(conditional._Sweep, "resampled", resampled)
    monkeypatch.setattr(conditional, "conditional_resample", resample)
    kernel = particle_kernel(joints=5, scheme="multinomial")
    # Without guides all weights are equal: every chain is resampled in which a text is open.
    assert invariance_only_p_value(ENDS, kernel, 4_000) < ALPHA


def test_ancestors_that_forget_the_rest_of_the_text_are_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forgetful(self: conditional._Sweep, joined: torch.Tensor) -> tuple[torch.Tensor, int]:
        is_open = torch.zeros(self.run.num_rows, dtype=torch.bool)
        is_open[self.run.open] = True
        log_weight = self.log_weight.masked_fill(~is_open.view_as(self.log_weight), -torch.inf)
        uniforms = self.stream.child("ancestor").uniforms(torch.arange(len(joined)), self.position)
        return conditional._drawn(log_weight, uniforms), 0

    monkeypatch.setattr(conditional._Sweep, "_ancestors", forgetful)
    assert invariance_only_p_value(TILT, particle_kernel(joints=2)) < ALPHA


def test_ancestors_whose_lookahead_is_not_divided_out_are_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    true_ancestors = conditional._Sweep._ancestors

    def forgetful(self: conditional._Sweep, joined: torch.Tensor) -> tuple[torch.Tensor, int]:
        with pytest.MonkeyPatch.context() as inside:
            inside.setattr(Steered, "log_psi", None)
            return true_ancestors(self, joined)

    monkeypatch.setattr(conditional._Sweep, "_ancestors", forgetful)
    kernel = particle_kernel(joints=5, guides=(PrefixLookahead,), look_every=1)
    assert invariance_only_p_value(TILT, kernel, 4_000) < ALPHA


def test_a_text_that_always_gives_way_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was must be among what it can become."""

    def away(log_weight: torch.Tensor, choice: torch.Tensor, accept: torch.Tensor) -> torch.Tensor:
        others = log_weight.clone()
        others[:, 0] = -torch.inf
        return conditional._drawn(others, choice)

    monkeypatch.setattr(conditional, "_another", away)
    assert invariance_p_value(TILT, particle_kernel(joints=0), 3_000) < ALPHA


WEIGHTS = torch.tensor([0.05, 0.42, 0.0, 0.33, 0.2], dtype=torch.float64)


def offspring_p_value(scheme: str, uniforms: torch.Tensor) -> float:
    """Slots of which the first is a particle's drawn by weight: has each its share, everywhere?"""
    num_runs, size = uniforms.shape[0], WEIGHTS.shape[0]
    draws = Stream.from_seed(3).uniforms(torch.arange(num_runs))
    kept = torch.searchsorted(WEIGHTS.cumsum(0), draws, right=True)
    log_weight = WEIGHTS.log().expand(num_runs, size)
    ancestors = conditional_resample(scheme, log_weight, kept, uniforms)
    assert bool((ancestors[:, 0] == kept).all())
    p_values = []
    for slot in range(size):
        counts = torch.bincount(ancestors[:, slot], minlength=size).numpy()
        assert counts[2] == 0, "a dead particle has offspring"
        alive = WEIGHTS.numpy() > 0.0
        expected = num_runs * WEIGHTS.numpy()[alive]
        p_values.append(stats.chisquare(counts[alive], expected).pvalue)
    if scheme == "systematic":
        counts = torch.stack([(ancestors == number).sum(-1) for number in range(size)], -1)
        expected = size * WEIGHTS
        assert bool(((counts >= expected.floor()) & (counts <= expected.ceil())).all())
    return min(1.0, min(p_values) * size)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_given_the_kept_particle_the_others_are_what_resampling_gives(scheme: str) -> None:
    uniforms = Stream.from_seed(4).uniforms(torch.arange(100_000 * 5)).view(-1, 5)
    assert offspring_p_value(scheme, uniforms) > ALPHA


def test_points_that_do_not_know_of_the_kept_particle_are_rejected() -> None:
    """The shift is likelier where it leaves the kept particle more offspring."""
    uniforms = Stream.from_seed(4).uniforms(torch.arange(100_000 * 5)).view(-1, 5).clone()
    expected = 5.0 * WEIGHTS
    draws = Stream.from_seed(3).uniforms(torch.arange(100_000))
    own = expected[torch.searchsorted(WEIGHTS.cumsum(0), draws, right=True)]
    # The place that gives the shift a uniform distribution instead.
    whole = own.floor()
    part, shift = own - whole, uniforms[:, 0].clone()
    area = (whole + 1.0) * part
    place = torch.where(shift < part, shift * (whole + 1.0), area + (shift - part) * whole)
    uniforms[:, 0] = (place / own).clamp(max=1.0 - 1e-12)
    assert offspring_p_value("systematic", uniforms) < ALPHA


def test_particles_that_ended_stay_as_they_are() -> None:
    """Texts of any length, each of which could be drawn: none grew past its end."""
    target = ENDS.target()
    eos = ENDS.tokens.index("<eos>")
    traces = exact_states(target, 500)
    for number in range(3):
        traces = particle_kernel()(target, traces, Stream.from_seed(9).child(number))
        text = traces.values["text"]
        for tokens, length in zip(text.tokens.tolist(), text.lengths.tolist(), strict=True):
            assert eos not in tokens[: length - 1]
        assert set(np.unique(text.lengths)) == set(range(1, 7))


def test_a_text_that_cannot_be_followed_stays() -> None:
    """One that the mask forbids, as rounding may make it: none takes its place unweighed."""
    target = HARD.target()
    traces = exact_states(target, 6)
    text = traces.values["text"]
    tokens = text.tokens.clone()
    # "bb" at its beginning is ruled out.
    tokens[2, :2] = HARD.tokens.index("b")
    traces = traces.with_value("text", replace(text, tokens=tokens), traces.log_prior["text"])
    new = particle_kernel()(target, traces, Stream.from_seed(1)).values["text"]
    assert torch.equal(new.tokens[2], tokens[2])
    assert bool(new.differs(text).any())
