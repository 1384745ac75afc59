"""Runs in parts: engines that hold nothing, and states that merge to what one large run gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

import lmppl
from lmppl.density import Target
from lmppl.inference import METHODS, Settings
from lmppl.inference.exact import Exact
from lmppl.inference.importance import Importance
from lmppl.inference.loop import Draws, Shard, Sharded
from lmppl.inference.mcmc import MCMC
from lmppl.inference.rejection import Rejection
from lmppl.inference.smc import SMC
from lmppl.inference.starting import engine_of
from lmppl.inference.svi import SVI
from lmppl.inference.twist import Twist
from lmppl.models import bind_target
from lmppl.rng import Stream
from tests.exactness.cases import CASES, ENDS, HARD, MIXED, TILT, Case
from tests.exactness.referees import ALPHA, options_of
from tests.exactness.statistics import p_value_of_draws, p_value_of_means, rows_of

STREAM = Stream.from_seed(17)
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def ended(engine: Any, shard: int = 0) -> Any:
    state = engine.init(Shard(shard)) if shard else engine.init()
    while not engine.is_done(state):
        state, _ = engine.step(state)
    return state


def in_parts(settings: Settings, target: Target, shards: Sequence[int]) -> list[Draws]:
    """The result of parts that were run apart, each by an engine of its own."""
    states = [ended(engine_of(settings, target, STREAM), shard) for shard in shards]
    engine: Any = engine_of(settings, target, STREAM)
    return engine.result(engine.merge(states), complete=True)  # type: ignore[no-any-return]


def at_once(settings: Settings, target: Target) -> list[Draws]:
    engine: Any = engine_of(settings, target, STREAM)
    return engine.result(ended(engine), complete=True)  # type: ignore[no-any-return]


def assert_alike(some: Draws, others: Draws) -> None:
    """Bit for bit, draws and whatever is said of them."""
    assert torch.equal(some.log_weight, others.log_weight)
    assert some.traces.values.keys() == others.traces.values.keys()
    for name, value in some.traces.values.items():
        assert not bool(value.differs(others.traces.values[name]).any())
    assert some.log_evidence == others.log_evidence
    assert some.unseen == others.unseen
    assert some.diagnostics == others.diagnostics
    assert list(some.warnings) == list(others.warnings)
    assert np.array_equal(some.clusters, others.clusters)  # type: ignore[arg-type]


@every_method
def test_an_engine_holds_nothing_but_settings_target_and_stream(method: type[Settings]) -> None:
    """A fresh engine for every step gives what one engine gives."""
    target = TILT.target()
    settings = method(seed=0, **options_of(method, 12))
    engine: Any = engine_of(settings, target, STREAM)
    assert is_dataclass(engine) and {f.name for f in fields(engine)} >= {"settings", "target"}
    with pytest.raises((AttributeError, TypeError)):
        engine.anything = 1
    state = engine.init()
    while not engine.is_done(state):
        state, _ = engine_of(settings, target, STREAM).step(state)
    found = engine_of(settings, target, STREAM).result(state, complete=True)
    assert_alike(found[0], at_once(settings, target)[0])


@every_method
def test_a_step_leaves_the_state_that_it_came_from_as_it_was(method: type[Settings]) -> None:
    """Whoever keeps a state can come back to it, however far others have gone on from there."""
    target = TILT.target()
    settings = method(seed=0, **options_of(method, 12))
    engine: Any = engine_of(settings, target, STREAM)
    states = [engine.init()]
    while not engine.is_done(states[-1]):
        states.append(engine.step(states[-1])[0])
    found = engine.result(states[-1], complete=True)[0]
    # From the last to the first, so that later states have been stepped when an earlier one is.
    for state in (states[-2], states[len(states) // 2], states[0]):
        while not engine.is_done(state):
            state, _ = engine.step(state)
        assert_alike(engine.result(state, complete=True)[0], found)
    if found.guide is not None:
        # What a result holds is its own too.
        before = _digest(found.guide)
        assert _digest(engine.result(states[0], complete=False)[0].guide) != before
        assert _digest(engine.result(states[-1], complete=True)[0].guide) == before
        assert _digest(found.guide) == before


def _digest(guide: Any) -> str:
    return str(getattr(guide, "module", guide).digest)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_parts_of_importance_sampling_are_one_run_bit_for_bit(case: Case) -> None:
    target = case.target()
    whole = at_once(Importance(num_samples=90, batch_size=30), target)
    assert_alike(in_parts(Importance(num_samples=30), target, (0, 1, 2))[0], whole[0])


def test_parts_of_several_bindings_stay_apart() -> None:
    model = lmppl.compile(TILT.program)
    host = {"prior": TILT.language_model()}
    bound = [model(beta=beta, **host) for beta in (0.5, 2.0)]
    target = bind_target(bound, None, None)
    whole = at_once(Importance(num_samples=80, batch_size=40), target)
    parts = in_parts(Importance(num_samples=40), target, (0, 1))
    for some, others in zip(parts, whole, strict=True):
        assert_alike(some, others)


def test_parts_of_rejection_are_draws_of_the_posterior_and_count_their_attempts() -> None:
    target = MIXED.target()
    settings = Rejection(num_samples=700, max_attempts=100_000, batch_size=5_000)
    draws = in_parts(settings, target, (0, 1, 2))[0]
    assert draws.traces.num_rows == 2100
    assert p_value_of_draws(MIXED, rows_of(MIXED, target, draws.traces)) > ALPHA
    assert draws.log_evidence is not None
    off = draws.log_evidence.value - MIXED.log_z
    assert abs(off) < 4.5 * draws.log_evidence.standard_error
    alone = [in_parts(settings, target, (shard,))[0] for shard in (0, 1, 2)]
    attempts = sum(each.diagnostics["num_attempts"] for each in alone)
    assert draws.diagnostics["num_attempts"] == attempts
    assert draws.diagnostics["acceptance_rate"] == 2100 / attempts


def test_parts_of_chains_are_more_chains() -> None:
    target = TILT.target()
    settings = MCMC(num_chains=300, num_samples=2, warmup_steps=10)
    draws = in_parts(settings, target, (0, 1, 2))[0]
    alone = [in_parts(settings, target, (shard,))[0] for shard in (0, 1, 2)]
    assert draws.num_chains == 900
    values = [each.traces.values["text"] for each in alone]
    assert not bool(draws.traces.values["text"].differs(values[0].concatenate(values[1:])).any())
    assert bool(values[0].differs(values[1]).any())
    last = rows_of(TILT, target, draws.traces).reshape(900, -1)[:, -1]
    assert p_value_of_draws(TILT, last) > ALPHA
    counted = [each.diagnostics["num_chains_that_never_moved"] for each in alone]
    assert draws.diagnostics["num_chains_that_never_moved"] == sum(counted)


def test_merging_a_part_with_itself_is_seen() -> None:
    """The criterion of the tests above, by hand: the same part twice is no larger run."""
    target = TILT.target()
    twice = in_parts(Importance(num_samples=30), target, (0, 0))[0]
    whole = at_once(Importance(num_samples=60, batch_size=30), target)[0]
    with pytest.raises(AssertionError):
        assert_alike(twice, whole)


def test_only_an_enumeration_and_what_is_fitted_have_no_parts() -> None:
    target = TILT.target()
    whole = {m for m in METHODS if not isinstance(engine_of(m(), target, STREAM), Sharded)}
    assert whole == {Exact, SVI, Twist}


@pytest.mark.parametrize("case", [TILT, HARD], ids=lambda case: case.name)
def test_parts_of_smc_are_one_run_with_more_runs(case: Case) -> None:
    """Texts of one length: the parts resample at the same steps, with the same numbers."""
    target = case.target()
    settings = SMC(num_particles=16, num_runs=4, ess_threshold=0.9, lookahead_every=1)
    parts = in_parts(settings, target, (0, 1, 2))[0]
    whole = at_once(replace(settings, num_runs=12), target)[0]
    assert parts.diagnostics["num_runs"] == 12
    # What the weights of one part were when another was resampled is not asked of parts.
    seen = {"max_weight", "pareto_k"}
    for each in (parts, whole):
        assert any(each.diagnostics["num_resamplings"])
    assert_alike(without(parts, seen), without(whole, seen))


def without(draws: Draws, names: set[str]) -> Draws:
    kept = {name: x for name, x in draws.diagnostics.items() if name not in names}
    return replace(draws, diagnostics=kept)


def test_parts_of_smc_are_without_bias_where_texts_end_at_different_steps() -> None:
    target = ENDS.target()
    settings = SMC(num_particles=8, num_runs=50, ess_threshold=0.9, lookahead_every=1)
    draws = in_parts(settings, target, range(8))[0]
    log_z = np.array(draws.diagnostics["log_evidence_runs"])
    assert len(log_z) == 400
    assert p_value_of_means(np.exp(log_z - ENDS.log_z), 1.0) > ALPHA
    assert draws.log_evidence is not None and draws.unseen is not None
    off = abs(draws.log_evidence.value - ENDS.log_z)
    assert off < 4.5 * draws.log_evidence.standard_error


def test_parts_that_have_not_ended_alike_do_not_merge() -> None:
    target = TILT.target()
    engine: Any = engine_of(SMC(num_particles=8), target, STREAM)
    half, _ = engine.step(engine.init(Shard(1)))
    with pytest.raises(ValueError, match="the same end"):
        engine.merge([ended(engine), half])
