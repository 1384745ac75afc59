"""Moves of texts in the making keep what particles stand for, and wrong ones do not.

Runs of 3 particles, 4,000 of them, are judged by the criteria of `test_sampling`, whose
false-alarm rate is 1e-5 over the choice of the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lmppl
from lmppl.density import SiteRows, TextStage
from lmppl.density.stages.run import TextRun
from lmppl.density.steering.protocol import Steering
from lmppl.inference.smc import SMC
from lmppl.inference.smc import engine as smc_engine
from lmppl.inference.smc.engine import SMCEngine
from lmppl.inference.smc.rejuvenating import Moved, Rejuvenation
from lmppl.inference.smc.state import State
from lmppl.rng import Stream
from tests.exactness.cases import CASES, HARD, LIFTED, STOP, WARP, Case
from tests.exactness.test_log_prob import OPEN
from tests.exactness.test_sampling import ALPHA, run_to_the_end, smc_p_value
from tests.exactness.test_steering import table
from tests.laws.tiny_models import tiny_lm

# Both kinds of moves, scores of unfinished texts that are older than the last token.
MOVING = SMC(
    num_particles=3,
    num_runs=4000,
    ess_threshold=0.9,
    lookahead_every=2,
    num_moves=2,
    move_every=2,
    block_size=2,
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_moves_leave_answers_right(case: Case) -> None:
    """Texts that end, stop strings, earlier choices, a warped prior, requirements."""
    few = MOVING if case is WARP else replace(MOVING, num_particles=12, num_runs=200)
    assert smc_p_value(case, few) > ALPHA


def test_moves_know_powers_that_hang_on_choices() -> None:
    assert smc_p_value(OPEN, replace(MOVING, num_particles=12, num_runs=300)) > ALPHA


def twisted(case: Case) -> type[SMCEngine]:
    """Steered by a random table as well, and compared at the ends of words or not at all."""

    class Twisted(SMCEngine):
        def steering(self, rows: SiteRows) -> tuple[Steering, ...]:
            return (*super().steering(rows), table(case, 0.7))

    return Twisted


@pytest.mark.parametrize("at", ["token", "end"])
def test_moves_under_an_absurd_twist_leave_answers_right(at: str) -> None:
    settings = replace(MOVING, num_runs=500, move_every=1, resample_at=at)
    assert smc_p_value(STOP, settings, twisted(STOP)) > ALPHA


# ----------------------------------------------------------------------------- wrong ones rejected

Wrong = Callable[[pytest.MonkeyPatch], None]


def without_twist(patch: pytest.MonkeyPatch) -> None:
    """ψ is left out of the acceptance: moves keep the prior."""

    def log_target(run: TextRun, which: Tensor | None) -> Tensor:
        return run.log_prior if which is None else run.log_prior[which]

    patch.setattr(Rejuvenation, "_log_target", staticmethod(log_target))


def without_proposal(patch: pytest.MonkeyPatch) -> None:
    """How likely the tokens were to be drawn is left out of the acceptance."""
    drawn = Rejuvenation._drawn

    def forgetful(self, side, run, which, span, counters, uniforms, trail):  # type: ignore[no-untyped-def]
        new, alive, _, *rest = drawn(self, side, run, which, span, counters, uniforms, trail)
        own = trail.log_q[which, span.start : span.start + span.size].sum(-1)
        return (new, alive, own.masked_fill(own.isinf(), 0.0), *rest)

    patch.setattr(Rejuvenation, "_drawn", forgetful)


def always(patch: pytest.MonkeyPatch) -> None:
    """What is proposed is taken."""

    def log_target(run: TextRun, which: Tensor | None) -> Tensor:
        high = torch.full_like(run.log_prior, 1e9)
        return high if which is None else torch.zeros_like(high)[which]

    patch.setattr(Rejuvenation, "_log_target", staticmethod(log_target))


def weighed(patch: pytest.MonkeyPatch) -> None:
    """Particles that have moved weigh what they have gained by it."""
    true_moved = smc_engine.moved

    def moved(state: State, *args):  # type: ignore[no-untyped-def]
        new, info = true_moved(state, *args)
        before, after = (run.unsteered(run.log_prior * 0) for run in (state.run, new.run))
        gain = before - after
        return replace(new, log_weight=new.log_weight + gain.view_as(new.log_weight)), info

    patch.setattr(smc_engine, "moved", moved)


def where_resampled(patch: pytest.MonkeyPatch) -> None:
    """Only populations that were just resampled move: which those are hangs on the particles."""
    before: dict[int, Tensor] = {}
    moved = Rejuvenation.moved
    resample = SMCEngine._resample

    def noted(self, state, ess):  # type: ignore[no-untyped-def]
        new = resample(self, state, ess)
        low = new.num_resamplings > state.num_resamplings
        before[0] = low.repeat_interleave(new.log_weight.shape[1])
        return new

    def some(self, run, trail, which, span, counters, stream) -> Moved:  # type: ignore[no-untyped-def]
        chosen = before[0][which]
        if not bool(chosen.any()):
            return Moved(run, trail, torch.zeros_like(which, dtype=torch.bool), 0)
        found = moved(self, run, trail, which[chosen], span, counters[chosen], stream)
        accepted = torch.zeros_like(which, dtype=torch.bool)
        accepted[chosen] = found.accepted
        return replace(found, accepted=accepted)

    patch.setattr(SMCEngine, "_resample", noted)
    patch.setattr(Rejuvenation, "moved", some)


@pytest.mark.parametrize(
    "wrong", [without_twist, without_proposal, always, weighed, where_resampled]
)
def test_wrong_moves_are_rejected(wrong: Wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong(monkeypatch)
    assert smc_p_value(WARP, replace(MOVING, num_runs=2000, num_moves=1, move_every=1)) < ALPHA


# ------------------------------------------------------------------------------- on a network

PROGRAM = """
extern lm prior
reward vowels(t: string): real<lower=0, upper=60> = count("[aeiou]")
model moving(opener: string) {
    topic ~ categorical(["a", "bc"])
    text ~ prior(prompt=f"{opener}{topic}", max_tokens=6)
    factor tone: 0.7 * vowels(text)
    require clean: never(text, ["z"])
    again ~ prior(prompt=text, max_tokens=4)
    factor more: 0.7 * vowels(again)
    return topic, text, again
}
"""
NETWORK: dict[str, Any] = {
    "num_particles": 5,
    "num_runs": 2,
    "lookahead_every": 1,
    "num_moves": 2,
    "move_every": 2,
    "block_size": 2,
    "ess_threshold": 0.9,
}


def found(*openers: str, group: int = 0) -> lmppl.Posterior:
    model = lmppl.compile(PROGRAM)
    lm = tiny_lm("llama")
    bound = [model(prior=lm, opener=opener) for opener in openers]
    return lmppl.infer(bound, method="smc", seed=3, **NETWORK)[group]


def test_what_is_kept_in_caches_changes_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bindings, a choice, two texts: as alone, and as when everything is computed anew."""
    both = found("O", "Once upon")
    assert 0.0 < both.diagnostics["acceptance_rate"] < 1.0
    alone = found("O")
    assert np.allclose(alone.log_weights, both.log_weights, atol=1e-4)
    monkeypatch.setattr(TextStage, "memory", lambda self, num_rows: None)
    anew = found("O")
    assert anew.texts == alone.texts == both.texts
    assert np.allclose(alone.log_weights, anew.log_weights, atol=1e-4)


def test_moves_are_counted_in_tokens_and_end_in_time() -> None:
    engine = SMCEngine(replace(MOVING, num_runs=50), HARD.target(), Stream.from_seed(1))
    state, moved = engine.init(), 0
    while not engine.is_done(state):
        before = state
        state, info = engine.step(state)
        if before.moves_left:
            assert torch.equal(state.log_weight, before.log_weight)
            moved += info.num_tokens
    assert moved > 0 and int(state.proposed.sum()) > 0
    few = engine.init()
    for _ in range(3):
        few, _ = engine.step(few)
    hurried = engine.hurry(few, spent=2.0, left=1.0)
    assert hurried.log_weight.shape[1] <= few.log_weight.shape[1]
    assert run_to_the_end_of(engine, hurried).trail is None


def run_to_the_end_of(engine: SMCEngine, state: State) -> State:
    while not engine.is_done(state):
        state, _ = engine.step(state)
    return state


def test_a_run_without_moves_keeps_no_trail() -> None:
    state = run_to_the_end(SMCEngine(SMC(num_particles=4), LIFTED.target(), Stream.from_seed(0)))
    assert not int(state.proposed.sum())


def test_where_a_guide_proposes_moves_are_refused() -> None:
    model = HARD.bound().model
    (refusal,) = SMC(num_moves=1, proposal="tuned").unsupported(model, {})
    assert refusal.code == "LMP403" and "guide" in refusal.message
    assert not SMC(num_moves=1).unsupported(model, {})
