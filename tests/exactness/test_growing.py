"""Populations that grow on the way keep what particles stand for, and wrong ones do not.

Runs of 3 particles, 1,500 of them, are judged by the criteria of `test_sampling`, whose
false-alarm rate is 1e-5 over the choice of the seed.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lmppl.density import Stage
from lmppl.inference.loop import Shard
from lmppl.inference.smc import SMC, resizing
from lmppl.inference.smc.engine import SMCEngine
from lmppl.inference.smc.growing import Growth, growth_of
from lmppl.inference.smc.state import State, side_by_side
from lmppl.rng import Stream
from tests.exactness.cases import HARD, STOP, WARP, Case
from tests.exactness.test_sampling import ALPHA, smc_p_value

MANY = SMC(num_particles=3, num_runs=1500)


def growing(step: int, factor: int) -> type[SMCEngine]:
    """SMC whose populations grow after so many tokens of every text."""

    class Growing(SMCEngine):
        def _draw(self, state: State, stage: Stage) -> tuple[State, bool, int]:
            new, changed, num_drawn = SMCEngine._draw(self, state, stage)
            if state.run is None and new.run is not None and stage.text is not None:
                new = replace(new, growth=Growth(step, factor))
            return new, changed, num_drawn

    return Growing


@pytest.mark.parametrize(("case", "step"), [(HARD, 1), (STOP, 2), (WARP, 1)])
def test_a_population_that_grows_leaves_answers_right(case: Case, step: int) -> None:
    """Requirements, texts that end before and after, other choices beside the text."""
    assert smc_p_value(case, MANY, growing(step, 4)) > ALPHA


def test_one_that_loses_what_it_weighed_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing, "log_mean_exp", lambda weight: weight.logsumexp(-1) * 0.0)
    assert smc_p_value(HARD, replace(MANY, num_runs=500), growing(1, 4)) < ALPHA


def test_one_whose_copies_count_as_more_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the sum of all weights and not their mean, as if there were as many as before."""
    monkeypatch.setattr(
        resizing, "log_mean_exp", lambda weight: weight.logsumexp(-1) - math.log(3.0)
    )
    assert smc_p_value(HARD, replace(MANY, num_runs=500), growing(1, 4)) < ALPHA


def test_particles_have_random_numbers_of_their_own() -> None:
    """No two of a step draw by the same one, and a run draws what it would draw in another part."""
    target, settings = HARD.target(), SMC(num_particles=4, num_runs=3)
    engine = growing(1, 4)(settings, target, Stream.from_seed(5))
    state = engine.init()
    sizes = []
    while not engine.is_done(state):
        state, _ = engine.step(state)
        sizes.append(state.log_weight.shape[1])
        assert len(state.counters.unique()) == state.counters.shape[0] == 3 * sizes[-1]
    assert max(sizes) == 16 and sizes[-1] == 4
    assert state.counters.tolist() == list(range(12))
    weight = state.log_evidence + state.log_weight.logsumexp(-1)
    parts = []
    for index in range(3):
        one = growing(1, 4)(replace(settings, num_runs=1), target, Stream.from_seed(5))
        part = one.init(Shard(index))
        while not one.is_done(part):
            part, _ = one.step(part)
        parts.append(part)
    merged = side_by_side(parts, target.num_groups)
    torch.testing.assert_close(weight, merged.log_evidence + merged.log_weight.logsumexp(-1))


def test_populations_grow_where_that_pays() -> None:
    """Before the tokens that weights come apart in, and nowhere where they do so all along."""
    even = torch.full((40,), -0.3)
    assert growth_of(even) is None and growth_of(torch.zeros(40)) is None
    late = torch.cat([torch.full((36,), -0.02), torch.full((4,), -1.5)])
    found = growth_of(late)
    assert found is not None and 25 <= found.step <= 35 and found.factor >= 3
    assert (found.factor - 1) * (40 - found.step) <= 20
