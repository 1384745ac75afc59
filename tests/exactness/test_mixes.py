"""Mixes of moves that warm-up finds: what they leave as it is, and when they are found.

All seeds are fixed; each criterion has a false-alarm rate of 1e-5 over the choice of the seed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lmppl
from lmppl.inference.mcmc import MCMC
from lmppl.inference.mcmc.engine import MCMCEngine
from lmppl.inference.mcmc.mix import KINDS, Mix
from lmppl.rng import Stream
from tests.exactness.cases import ENDS, HARD, MIXED, Case
from tests.exactness.statistics import p_value_of_draws, rows_of
from tests.exactness.test_sampling import ALPHA, exact_states, run_to_the_end

ADAPTIVE = MCMC(
    num_chains=1_000,
    num_samples=8,
    warmup_steps=20,
    num_particles=3,
    joints=1,
    start="prior",
    adapt=True,
)


@pytest.mark.parametrize("case", [ENDS, HARD, MIXED], ids=lambda case: case.name)
def test_chains_that_start_cold_reach_the_posterior_by_all_kinds_of_moves(case: Case) -> None:
    target = case.target()
    settings = replace(ADAPTIVE, warmup_steps=40, num_samples=1)
    state = run_to_the_end(MCMCEngine(settings, target, Stream.from_seed(6)))
    assert len(state.mix.report()) == len(KINDS), "some kind was not tried"
    assert p_value_of_draws(case, rows_of(case, target, state.kept[-1])) > ALPHA


def shares_by_step(engine: MCMCEngine) -> tuple[Any, list[tuple[float, ...]]]:
    """The state after warm-up, and the shares after every step."""
    state, after_warmup, found = engine.init(), None, []
    while not engine.is_done(state):
        state, _ = engine.step(state)
        found.append(state.mix.shares)
        if state.num_steps == engine.settings.warmup_steps:
            after_warmup = state
    return after_warmup, found


def test_the_kernel_that_warm_up_leaves_keeps_to_the_posterior() -> None:
    """Exact draws in the place of the chains after warm-up are still draws of the posterior after
    its moves, whose shares do not change any more."""
    target = ENDS.target()
    engine = MCMCEngine(ADAPTIVE, target, Stream.from_seed(3))
    state, shares = shares_by_step(engine)
    assert len(set(shares[: ADAPTIVE.warmup_steps])) > 1, "nothing was found in warm-up"
    assert set(shares[ADAPTIVE.warmup_steps :]) == {state.mix.shares}
    state = replace(state, traces=exact_states(target, ADAPTIVE.num_chains))
    while not engine.is_done(state):
        state, _ = engine.step(state)
    assert p_value_of_draws(ENDS, rows_of(ENDS, target, state.traces)) > ALPHA


def test_a_mix_that_goes_on_adapting_is_seen() -> None:
    class Restless(MCMCEngine):
        def _adapted(self, state: Any) -> Any:
            return replace(state, mix=state.mix.adapted())

    engine = Restless(replace(ADAPTIVE, num_chains=50), ENDS.target(), Stream.from_seed(3))
    _, shares = shares_by_step(engine)
    assert len(set(shares[ADAPTIVE.warmup_steps :])) > 1


def test_shares_that_are_given_stay_and_are_picked_as_often() -> None:
    settings = MCMC(block_probability=0.2, infill_probability=0.1, particle_probability=0.05)
    mix = Mix.begin(settings)
    assert mix.shares == pytest.approx((0.2, 0.1, 0.05, 0.65))
    picks = [mix.picked(pick) for pick in (np.arange(1000) + 0.5) / 1000]
    assert np.bincount(picks).tolist() == [200, 100, 50, 650]
    crowded = Mix.begin(MCMC(block_probability=1.0, infill_probability=1.0))
    assert crowded.shares == pytest.approx((0.5, 0.5, 0.0, 0.0))


def test_tokens_go_to_the_kind_that_brings_most_for_them_and_some_to_every_kind() -> None:
    mix = Mix.begin(ADAPTIVE)
    column = mix.tried.new_tensor
    mix = replace(
        mix,
        tried=column([100.0, 100.0, 100.0, 100.0]),
        computed=column([1_000.0, 2_000.0, 30_000.0, 2_000.0]),
        jumped=column([0.0, 0.0, 0.0, 4_000.0]),
    ).adapted()
    tokens = np.array(mix.shares) * np.array([10.0, 20.0, 300.0, 20.0])
    tokens /= tokens.sum()
    assert tokens[:3] == pytest.approx([0.05] * 3, abs=0.002)
    assert tokens[3] == pytest.approx(0.85, abs=0.005)
    assert Mix.begin(ADAPTIVE).adapted().shares == Mix.begin(ADAPTIVE).shares


def test_what_the_moves_did_is_reported_saved_and_read_back(tmp_path: Path) -> None:
    post = lmppl.infer(
        ENDS.bound(),
        method="mcmc",
        num_chains=4,
        num_samples=20,
        warmup_steps=20,
        adapt=True,
        seed=0,
        progress=False,
    )
    moves = post.diagnostics["moves"]
    assert set(moves) == set(KINDS)
    assert sum(of["share"] for of in moves.values()) == pytest.approx(1.0)
    assert all(0.0 <= of["acceptance"] <= 1.0 and of["tokens"] > 0.0 for of in moves.values())
    assert "particles" in post.summary()
    post.save(tmp_path / "post")
    assert lmppl.load_posterior(tmp_path / "post").diagnostics["moves"] == moves
