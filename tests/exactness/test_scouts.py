"""Scouts find what runs that are steered by a wrong surrogate have lost, and nothing else.

Which texts a run has lost is known where all of the posterior is (`tests.exactness.coverage`); how
often scouts find it, over many more surrogates and seeds, is counted in the guide on coverage.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import binomtest

import lmppl
from lmppl.density.stages.scoring import weight_of
from lmppl.inference.loop import WHOLE, Shard
from lmppl.inference.smc import SMC, scouting
from lmppl.inference.smc.engine import SMCEngine
from lmppl.inference.smc.plain import PlainDraws
from lmppl.inference.smc.scouting import CODE, Missing, missing
from lmppl.inference.smc.state import State
from lmppl.inference.smc.watching import Watch
from lmppl.models import bind_target
from lmppl.rng import Stream
from tests.exactness.coverage.brute_force import Case
from tests.exactness.coverage.cases import FAR_APART, KEYWORD, TWO_MODES
from tests.exactness.coverage.counting import Runner, Setting, judged, looking_ahead_by, surrogate

# Surrogates of the case whose errors lose the half of the posterior that starts with a, or b.
LOSING = (1, 4, 9)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(tmp_path_factory.mktemp("scouts"))


def drawn(engine: SMCEngine, shard: Shard = WHOLE) -> State:
    state = engine.init(shard)
    while not engine.is_done(state):
        state, _ = engine.step(state)
    return state


def test_scouts_know_what_they_would_have_weighed_in_the_run(runner: Runner) -> None:
    """Every one of them, forced through the steps of the run, without any chance."""
    target = bind_target([runner.model(KEYWORD)()], None, None)
    # Nothing is resampled, so that no weight is forgotten.
    settings = SMC(num_particles=64, ess_threshold=0.0)
    with looking_ahead_by(surrogate(KEYWORD, 2.0)):
        engine = SMCEngine(settings, target, Stream.from_seed(1))
        state = drawn(engine)
    assert state.watch is not None and state.scouts is not None
    own = state.watch.gained.double().sum(-1)
    torch.testing.assert_close(own, state.log_weight.view(-1), atol=1e-4, rtol=0)
    scouts = state.scouts
    assert scouts.watch is not None
    alive = (scouts.log_weight.view(-1) > -math.inf).nonzero().squeeze(-1)
    found = scouts.watch.gained.double().sum(-1)[alive]
    assert not torch.allclose(found, scouts.log_weight.view(-1)[alive], atol=1e-2)
    traces = scouts.traces.select(alive)
    (lead,) = state.aheads
    rows = target.rows(0, traces)
    assert lead.expected is not None and lead.prior is not None
    same = lead.expected.of_rows(target, rows, lead.prior.model, lead.prior.encode)
    stage = target.stages[0].text
    assert stage is not None
    run = stage.start(rows, *target.steering(rows), same.steering((*lead.powers, 1.0)))
    text = traces.values["t"]
    expected = weight_of(stage, run, text) + traces.total_log_potential()
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def found_by(runner: Runner, case: Case, nats: float, seed: int, **options: object) -> Any:
    with looking_ahead_by(surrogate(case, nats, seed)):
        model = runner.model(case)
        return lmppl.infer(model, method="smc", seed=seed, progress=False, **options)


def is_told(post: lmppl.Posterior) -> bool:
    return any(CODE in words for words in post.warnings)


def has_lost_half(post: lmppl.Posterior) -> bool:
    """Of far apart, whose two beginnings are as likely: a fortieth or less is on one of them."""
    return not 0.025 < post.probability('starts_with(t, "a")').value < 0.975


@pytest.mark.parametrize("seed", LOSING)
def test_a_lost_mode_is_found_and_told_and_intervals_reach_to_it(runner: Runner, seed: int) -> None:
    post = found_by(runner, FAR_APART, 2.0, seed)
    assert has_lost_half(post) and is_told(post)
    found = post.diagnostics["scouts"]
    assert 0.05 < found["least_beyond"] < found["share_beyond"] < found["most_beyond"] < 0.9
    run = judged(Setting(FAR_APART, "smc"), seed, post)
    assert not any(each.missed for each in run.intervals)
    alone = found_by(runner, FAR_APART, 2.0, seed, scouts=0.0)
    assert not is_told(alone) and "scouts" not in alone.diagnostics
    # A check changes no draw, and without it the intervals miss.
    assert alone.texts == post.texts and alone.log_evidence.value == post.log_evidence.value
    run = judged(Setting(FAR_APART, "smc"), seed, alone)
    assert any(each.missed for each in run.intervals)


def test_scouts_that_trust_the_surrogate_as_much_find_nothing(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it is the other ψ, and no rule that always speaks, that finds it."""
    monkeypatch.setattr(scouting, "DEGREES", (1.0, 1.0))
    assert not any(is_told(found_by(runner, FAR_APART, 2.0, seed)) for seed in LOSING)


def test_scouts_compared_by_their_own_weights_are_rejected(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a scout has gained where it was drawn is nothing that the run would have gained."""
    monkeypatch.setattr(Watch, "looking", lambda self, ahead, rows: self)
    posts = [found_by(runner, case, 0.5, 1) for case in (FAR_APART, KEYWORD, TWO_MODES)]
    assert any(post.diagnostics["scouts"]["share_beyond"] > 0.0 for post in posts)


@pytest.mark.parametrize("case", [FAR_APART, KEYWORD, TWO_MODES], ids=lambda case: case.name)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_that_has_lost_nothing_is_not_warned_of(
    runner: Runner, case: Case, seed: int
) -> None:
    post = found_by(runner, case, 0.5, seed)
    assert post.diagnostics["scouts"]["share_beyond"] < 0.02 and not is_told(post)


def test_scouts_of_parts_are_those_of_one_run(runner: Runner) -> None:
    """Their shares are means over all of them, and the run's own draws are what they were."""
    target = bind_target([runner.model(FAR_APART)()], None, None)
    settings = SMC(num_particles=128, scouts=0.5)
    with looking_ahead_by(surrogate(FAR_APART, 2.0, LOSING[0])):
        engine = SMCEngine(settings, target, Stream.from_seed(3))
        parts = [drawn(engine, Shard(index)) for index in range(3)]
        merged = engine.merge(parts)
    assert merged.scouts is not None
    shares = [missing(each, each.scouts, 0, 1, 0.0) for each in parts if each.scouts is not None]
    found = missing(merged, merged.scouts, 0, 1, 0.0)
    assert found.num_scouts == sum(each.num_scouts for each in shares)
    (draws,) = engine.result(merged, complete=True)
    assert draws.diagnostics["scouts"]["num_scouts"] == found.num_scouts


TWO_TEXTS = """
model both(word: string = "cb") {
    first ~ categorical(["cb", "bc"])
    t ~ markov("prior.json", max_tokens=9)
    require contains(t, first)
    u ~ markov("prior.json", max_tokens=6, stop=["cc"])
    require contains(u, word)
    return t, u
}
"""


def test_scouts_follow_choices_and_several_texts_and_each_binding_alone(tmp_path: Path) -> None:
    KEYWORD.prior.write(tmp_path / "prior.json")
    model = lmppl.compile(TWO_TEXTS, base_dir=tmp_path)
    bound = [model(word=word) for word in ("cb", "bb")]
    options: dict[str, Any] = {"method": "smc", "num_particles": 64, "seed": 1, "progress": False}
    with looking_ahead_by(surrogate(KEYWORD, 2.0, 1)):
        together = lmppl.infer(bound, **options)
        alone = [lmppl.infer(each, **options) for each in bound]
    for one, other in zip(together, alone, strict=True):
        for name in ("scouts", "prior_draws"):
            assert one.diagnostics[name] == other.diagnostics[name]
        assert one["u"] == other["u"]


def plain_draws(runner: Runner, num_runs: int, size: int) -> PlainDraws:
    """Of so many runs, as if they were bindings."""
    target = bind_target([runner.model(KEYWORD)()], None, None)
    draws = PlainDraws.begin(target, num_runs * size)
    while not draws.is_done:
        draws, _ = draws.stepped(target, Stream.from_seed(4))
    return PlainDraws(draws.log_weight.view(num_runs, size))


def test_draws_of_the_prior_bound_the_evidence_as_often_as_they_say(runner: Runner) -> None:
    """Over 300 runs the bound is below the evidence no more often than at 2.5 %; the criterion
    has a false-alarm rate of 1e-4, and rejects what takes the estimate itself for the bound."""
    draws = plain_draws(runner, 300, 32)
    found = [draws.evidence(run, 0.0) for run in range(300)]
    above = binomtest(
        sum(e.upper < KEYWORD.log_evidence for e in found), 300, 0.025, alternative="greater"
    )
    assert above.pvalue > 1e-4
    wrong = binomtest(
        sum(e.value < KEYWORD.log_evidence for e in found), 300, 0.025, alternative="greater"
    )
    assert wrong.pvalue < 1e-4
    # Far from the prior it says that much, and no more.
    nothing = PlainDraws(torch.full((1, 32), -math.inf, dtype=torch.float64))
    assert nothing.evidence(0, 0.0).upper == pytest.approx(math.log(1 - 0.025 ** (1 / 32)))


def test_the_evidence_of_a_steered_run_ends_where_the_prior_says(runner: Runner) -> None:
    post = found_by(runner, KEYWORD, 0.5, 1)
    most = post.diagnostics["prior_draws"]
    assert most["num_draws"] == 32
    assert post.log_evidence.upper == most["log_evidence_at_most"] < 0.0
    assert found_by(runner, KEYWORD, 0.5, 1, scouts=0.0).log_evidence.upper == 0.0


def test_what_was_found_by_few_may_be_more() -> None:
    """And is told where it is surely more than a twentieth: one heavy scout may be chance."""
    found = Missing(0.1, 0.04, 0.2, 1.0, 64)
    assert found.log_missing(-3.0) == pytest.approx(-3.0 + math.log(0.25))
    assert found.warning() is None and Missing(0.1, 0.06, 0.2, 5.0, 64).warning() is not None


def test_a_run_out_of_time_waits_for_no_scouts(runner: Runner) -> None:
    with looking_ahead_by(surrogate(KEYWORD, 0.5)):
        whole = lmppl.infer(runner.model(KEYWORD), method="smc", seed=1, progress=False)
        tokens = whole.manifest["num_tokens"] - 96 * KEYWORD.max_tokens
        post = lmppl.infer(
            runner.model(KEYWORD),
            method="smc",
            seed=1,
            progress=False,
            budget=f"{tokens} tokens",
        )
    assert "scouts" in whole.diagnostics and "scouts" not in post.diagnostics
    assert post.texts == whole.texts and not post.complete
