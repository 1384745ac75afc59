"""Tempered SMC and annealed importance sampling against exact answers, and wrong variants.

All seeds are fixed; each criterion has a false-alarm rate of 1e-5 over the choice of the seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

import lmppl
from lmppl.density import Target, Traces
from lmppl.density.tempered import CORRECTION, Tempered, untempered
from lmppl.inference import tempered as tempered_method
from lmppl.inference.ais import AIS
from lmppl.inference.ais.engine import AISEngine
from lmppl.inference.annealing import moving, run
from lmppl.inference.annealing.path import conditional_ess, finished, next_power
from lmppl.inference.annealing.run import Annealing
from lmppl.inference.annealing.state import State
from lmppl.inference.loop import Shard
from lmppl.inference.tempered.engine import TemperedEngine
from lmppl.lm.huggingface.forward_pass import ForwardPass
from lmppl.rng import Stream
from lmppl.sequences.weights import log_mean_exp
from tests.exactness.cases import ENDS, HARD, MIXED, STOP, TILT, Case, Execution
from tests.exactness.statistics import p_value_of_weighted_runs, rows_of
from tests.exactness.test_sampling import (
    ALPHA,
    block_kernel,
    gibbs_kernel,
    invariance_p_value,
    resized_kernel,
    restart_kernel,
    run_to_the_end,
    suffix_kernel,
)

every_case = pytest.mark.parametrize(
    "case", [TILT, ENDS, HARD, MIXED, STOP], ids=lambda case: case.name
)
SMALL = tempered_method.Tempered(
    num_particles=8, num_runs=160, num_moves=1, stage_ess=0.8, ess_threshold=0.9
)
CHAINS = AIS(num_samples=8 * 160, num_moves=1, stage_ess=0.9)


def p_value(case: Case, state: State, target: Target, size: int) -> float:
    """Of runs of `size` particles each, or of chains put together by so many."""
    assert state.traces is not None
    total = (state.log_evidence.unsqueeze(-1) + state.log_weight).view(-1, size)
    rows = np.zeros(state.traces.num_rows, dtype=int)
    alive = (total.view(-1) > -math.inf).nonzero().squeeze(-1)
    rows[alive.numpy()] = rows_of(case, target, state.traces.select(alive))
    log_z = log_mean_exp(total).tolist()
    weights = total.softmax(-1).nan_to_num(0.0).numpy()
    return p_value_of_weighted_runs(
        case,
        [
            (z, here[own > 0], own[own > 0])
            for z, here, own in zip(log_z, rows.reshape(-1, size), weights, strict=True)
        ],
    )


def tempered_p_value(
    case: Case, settings: tempered_method.Tempered = SMALL, seed: int = 5
) -> float:
    target = case.target()
    engine = TemperedEngine(settings, target, Stream.from_seed(seed))
    return p_value(case, run_to_the_end(engine), target, settings.num_particles)


def ais_p_value(case: Case, settings: AIS = CHAINS, seed: int = 5) -> float:
    target = case.target()
    state = run_to_the_end(AISEngine(settings, target, Stream.from_seed(seed)))
    return p_value(case, state, target, 8)


@every_case
def test_tempered_is_unbiased_at_any_number_of_particles(case: Case) -> None:
    assert tempered_p_value(case) > ALPHA


@every_case
def test_ais_is_unbiased(case: Case) -> None:
    assert ais_p_value(case) > ALPHA


# ------------------------------------------------------------------------- the target at a power


@dataclass
class AtPower(Case):
    """A case whose factors are raised to a power; requirements stay."""

    power: float = 1.0

    @classmethod
    def of(cls, case: Case, power: float) -> AtPower:
        def executions(_: Case) -> list[Execution]:
            # −inf stays −inf.
            return [replace(e, log_phi=power * e.log_phi) for e in case.executions(case)]

        known = {name: x for name, x in vars(case).items() if not name.startswith("_")}
        return cls(**known | {"executions": executions}, power=power)

    def target(self) -> Tempered:
        return Tempered.of(super().target(), torch.tensor([self.power], dtype=torch.float64))


@pytest.mark.parametrize(
    "kernel", [suffix_kernel, block_kernel, resized_kernel], ids=["suffix", "block", "infill"]
)
def test_moves_of_a_stage_keep_its_target(
    kernel: Callable[[Target, Traces, Stream], Traces],
) -> None:
    for case, power in ((ENDS, 0.25), (HARD, 0.7)):
        assert invariance_p_value(AtPower.of(case, power), kernel, 1_500) > ALPHA


def test_choices_and_restarts_keep_the_target_of_a_stage() -> None:
    for kernel in (gibbs_kernel, restart_kernel):
        assert invariance_p_value(AtPower.of(MIXED, 0.4), kernel, 1_500) > ALPHA


def test_moves_at_another_power_do_not_keep_the_target_of_a_stage() -> None:
    def at_the_end(target: Target, traces: Traces, stream: Stream) -> Traces:
        assert isinstance(target, Tempered)
        other = Tempered.of(target, torch.ones(1, dtype=torch.float64))
        return target.corrected(suffix_kernel(other, other.corrected(traces), stream))

    assert invariance_p_value(AtPower.of(ENDS, 0.25), at_the_end, 1_500) < ALPHA


def test_the_density_at_a_power_is_by_hand_what_it_should_be() -> None:
    target = MIXED.target()
    traces = TemperedEngine(
        replace(SMALL, num_runs=1, num_particles=50), target, Stream.from_seed(0)
    ).result(run_to_the_end(TemperedEngine(SMALL, target, Stream.from_seed(0))), complete=True)
    draws = traces[0].traces
    assert CORRECTION not in draws.log_potential
    at = Tempered.of(target, torch.tensor([0.3], dtype=torch.float64))
    warm = at.corrected(draws)
    by_hand = draws.total_log_prior() + 0.3 * draws.log_potential["fit"]
    assert torch.allclose(warm.log_density(), by_hand, atol=1e-12, rtol=0)
    assert torch.equal(untempered(warm).log_density(), draws.log_density())
    # A factor of weight zero rules out at every power.
    dead = draws.with_potentials({"fit": torch.full_like(by_hand, -math.inf)})
    for power in (0.0, 0.3, 1.0):
        at = Tempered.of(target, torch.tensor([power], dtype=torch.float64))
        assert bool((at.corrected(dead).log_density() == -math.inf).all())


# ------------------------------------------------------------------------------- wrong variants


def test_weighing_by_the_new_power_instead_of_the_difference_is_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = run.log_gain
    monkeypatch.setattr(
        run, "log_gain", lambda before, after, factors: right(0.0 * before, after, factors)
    )
    assert tempered_p_value(ENDS) < ALPHA
    assert ais_p_value(ENDS) < ALPHA


def test_moving_at_the_power_of_the_stage_before_is_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = run.moved

    def late(state: State, stream: Stream) -> State:
        def at(number: int, traces: Traces | None) -> Traces:
            assert state.afoot is not None and traces is not None
            return Tempered.of(state.afoot.target, state.powers(number)).corrected(traces)

        number = state.num_stages
        before = replace(state, num_stages=number - 1, traces=at(number - 1, state.traces))
        new = right(before, stream)
        return replace(new, num_stages=number, traces=at(number, new.traces))

    monkeypatch.setattr(run, "moved", late)
    settings = replace(SMALL, stage_ess=0.5, num_moves=2)
    assert tempered_p_value(TILT, settings) < ALPHA


def test_weights_that_are_not_reset_by_resampling_are_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = Annealing._resampled

    def keeps(self: Annealing, state: State) -> State:
        return replace(right(self, state), log_weight=state.log_weight)

    monkeypatch.setattr(Annealing, "_resampled", keeps)
    assert tempered_p_value(ENDS) < ALPHA


def test_forgetting_what_resampling_was_worth_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Annealing._resampled

    def forgets(self: Annealing, state: State) -> State:
        return replace(right(self, state), log_evidence=state.log_evidence)

    monkeypatch.setattr(Annealing, "_resampled", forgets)
    assert tempered_p_value(ENDS) < ALPHA


def test_taking_what_is_dead_for_what_lives_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Annealing._settled

    def cheerful(self: Annealing, state: State, drawn: Any) -> State:
        new = right(self, state, drawn)
        return replace(new, log_weight=new.log_weight.clamp(min=0.0))

    monkeypatch.setattr(Annealing, "_settled", cheerful)
    assert ais_p_value(LATE) < ALPHA


def _parity(text: str) -> float:
    return float((text.count("b") + text.count("c")) % 2)


# A requirement that no automaton follows: many draws die at the end.
LATE = replace(
    TILT,
    name="late",
    program=TILT.program.replace(
        "return text", "require odd: parity(text) > 0\n return text"
    ).replace("model", "extern reward parity(t: string): real<lower=0, upper=1>\n model"),
    rewards={"parity": lambda texts: [_parity(text) for text in texts]},
    executions=lambda case: [
        e if _parity(e.text) else replace(e, log_phi=-math.inf) for e in TILT.executions(case)
    ],
    _table=None,
)


def test_draws_that_break_what_is_judged_at_the_end_count_as_nothing() -> None:
    assert ais_p_value(LATE) > ALPHA
    assert tempered_p_value(LATE) > ALPHA


# ------------------------------------------------------------------------------------- the path


def test_a_step_of_the_path_leaves_the_share_that_was_asked_for() -> None:
    generator = torch.Generator().manual_seed(0)
    factors = 40.0 * torch.randn(200, generator=generator, dtype=torch.float64)
    weights = torch.randn(200, generator=generator, dtype=torch.float64)
    weights[:20] = -math.inf
    factors[:10] = -math.inf
    power, path, num_judged = 0.0, [], 0
    while power < 1.0:
        new = next_power(weights, factors, power, 0.6)
        assert new > power
        # Where a share is left by no step, the step is small.
        if 1.06 * power < new < 1.0:
            gain = torch.where(weights == -math.inf, 0.0, (new - power) * factors)
            assert conditional_ess(weights, gain) == pytest.approx(0.6, abs=0.02)
            by_hand = weights.exp() / weights.exp().sum()
            w = gain.exp()
            expected = float((by_hand * w).sum() ** 2 / (by_hand * w**2).sum())
            assert conditional_ess(weights, gain) == pytest.approx(expected, rel=1e-9)
            num_judged += 1
        power = new
        path.append(new)
    assert len(path) < 120 and num_judged > 2
    assert finished((0.1, 0.3))[-1] == 1.0 and finished(())[-1] == 1.0


def test_factors_of_a_million_nats_have_a_path_that_ends() -> None:
    factors = torch.linspace(-1e6, 1e6, 30, dtype=torch.float64)
    power, number = 0.0, 0
    while power < 1.0:
        power = next_power(torch.zeros(30, dtype=torch.float64), factors, power, 0.9)
        number += 1
    assert number < 400


# ------------------------------------------------------------------------- bindings, parts, ends


def test_bindings_draw_together_what_they_draw_alone() -> None:
    """By other paths: the warm one waits for the cold one, and is not moved meanwhile."""
    model = lmppl.compile(TILT.program)
    prior = TILT.language_model()
    bound = [model(beta=beta, prior=prior) for beta in (0.1, 5.0, 0.4)]
    options: dict[str, Any] = {"method": "tempered", "num_particles": 32, "seed": 3}
    together = lmppl.infer(bound, progress=False, **options)
    for binding, post in zip(bound, together, strict=True):
        alone = lmppl.infer(binding, progress=False, **options)
        assert post.texts == alone.texts
        assert np.allclose(post.log_weights, alone.log_weights, atol=1e-9)
        assert post.diagnostics["path"] == alone.diagnostics["path"]
    assert len(together[0].diagnostics["path"]) > len(together[1].diagnostics["path"])


def test_parts_are_one_run_with_more_runs() -> None:
    target = ENDS.target()
    settings = replace(SMALL, num_runs=3)

    def ended(settings: tempered_method.Tempered, shard: int) -> State:
        engine = TemperedEngine(settings, target, Stream.from_seed(4))
        state = engine.init(Shard(shard))
        while not engine.is_done(state):
            state, _ = engine.step(state)
        return state

    engine = TemperedEngine(settings, target, Stream.from_seed(4))
    merged = engine.merge([ended(settings, shard) for shard in range(3)])
    draws = engine.result(merged, complete=True)[0]
    assert draws.diagnostics["num_runs"] == 9 and len(draws.diagnostics["log_evidence_runs"]) == 9
    log_z = torch.tensor(draws.diagnostics["log_evidence_runs"])
    assert draws.log_evidence is not None
    assert draws.log_evidence.value == pytest.approx(float(log_mean_exp(log_z)), abs=1e-5)
    assert len(set(draws.diagnostics["log_evidence_runs"])) == 9
    with pytest.raises(ValueError, match="the same end"):
        engine.merge([merged, ended(replace(settings, stage_ess=0.3), 1)])


@pytest.mark.parametrize("at", ["draws", "moves"])
def test_runs_that_must_end_sooner_are_without_bias_with_fewer_particles(at: str) -> None:
    """Hurried while texts are drawn, or between two moves."""
    stream, target = Stream.from_seed(2), ENDS.target()
    assert hurried_p_value(TemperedEngine(SLOW, target, stream), at) > ALPHA
    settings = replace(CHAINS, num_samples=8 * 200)
    assert hurried_p_value(AISEngine(settings, target, stream), at) > ALPHA


# Weights differ when the run is hurried.
SLOW = replace(SMALL, num_particles=16, ess_threshold=0.2)


def hurried_p_value(engine: Any, at: str) -> float:
    """Of runs on `ENDS` that are told to end with half of what is to come, as soon as can be."""
    state, is_hurried = engine.init(), False
    while not engine.is_done(state):
        now = "moves" if state.num_stages and not state.is_pilot else "draws"
        if now == at and not is_hurried and not state.is_pilot:
            whole = state.size
            state = engine.hurry(state, spent=math.inf, left=_left(engine, state) / 2)
            assert 0.4 * whole < state.size < 0.6 * whole
            is_hurried = True
        state, _ = engine.step(state)
    size = state.size if isinstance(engine, TemperedEngine) else 8
    kept = (state.log_weight.numel() // size) * size
    if kept < state.log_weight.numel():
        rows = torch.arange(kept)
        assert state.traces is not None
        state = replace(
            state,
            traces=state.traces.select(rows),
            log_weight=state.log_weight.view(1, -1)[:, :kept],
        )
    return p_value(ENDS, state, engine.target, size)


def _left(engine: Any, state: State) -> float:
    """What the engine itself thinks is to come."""
    return float(engine.annealing._tokens_to_come(state))


def test_a_hurried_run_that_keeps_its_heaviest_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    right = run.systematic_resample

    def heaviest(weights: torch.Tensor, points: torch.Tensor, size: int | None = None) -> Any:
        if size is None:
            return right(weights, points)
        return weights.argsort(-1, descending=True)[:, :size].sort(-1).values

    monkeypatch.setattr(run, "systematic_resample", heaviest)
    settings = replace(SLOW, num_runs=800)
    engine = TemperedEngine(settings, ENDS.target(), Stream.from_seed(2))
    assert hurried_p_value(engine, "moves") < ALPHA


def test_a_pilot_that_is_hurried_ends_its_path_at_once() -> None:
    engine = TemperedEngine(SMALL, ENDS.target(), Stream.from_seed(2))
    state = engine.init()
    assert engine.hurry(state, spent=1.0, left=2.0) is state
    while state.num_stages < 1:
        state, _ = engine.step(state)
    found = engine.hurry(state, spent=math.inf, left=math.inf)
    assert not found.is_pilot and found.paths[0][-1] == 1.0
    assert found.paths[0][0] == state.paths[0][0]


STORY = """
reward vowels(t: string): real<lower=0, upper=40> = count("[aeiou]")
model story() {
    text ~ lm("builtin:stories", prompt="Once", max_tokens=6)
    factor tone: vowels(text)
    return text
}
"""


def _story(seed: int) -> tuple[TemperedEngine, State]:
    """A small run on a network, at its first move of the run itself."""
    settings = tempered_method.Tempered(
        num_particles=6, num_moves=2, stage_ess=0.8, ess_threshold=1.0
    )
    target = lmppl.compile(STORY)().target()
    engine = TemperedEngine(settings, target, Stream.from_seed(seed))
    state = engine.init()
    while state.is_pilot or state.num_stages < 1:
        state, _ = engine.step(state)
    return engine, state


def test_moves_compute_nothing_twice_also_where_resampling_came_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(moving, "_BLOCKS", 0.0)
    engine, state = _story(0)
    widths = []
    logits = ForwardPass.logits

    def counted(passes, storage, first_row, last_row, first, last, *rest, **options):  # type: ignore[no-untyped-def]
        widths.append(last - first)
        return logits(passes, storage, first_row, last_row, first, last, *rest, **options)

    monkeypatch.setattr(ForwardPass, "logits", counted)
    before = int(state.num_resamplings)
    while not engine.is_done(state):
        state, _ = engine.step(state)
    assert int(state.num_resamplings) > before
    assert widths and set(widths) == {1}


def test_a_step_that_is_broken_off_is_made_again() -> None:
    engine, state = _story(1)
    undisturbed = engine.result(run_on(engine, state), complete=True)[0]
    engine, state = _story(1)
    while not engine.is_done(state):
        engine.step(state)
        state, _ = engine.step(engine.recover(state))
    assert not bool(
        state.traces.values["text"].differs(undisturbed.traces.values["text"]).any()  # type: ignore[union-attr]
    )


def run_on(engine: TemperedEngine, state: State) -> State:
    while not engine.is_done(state):
        state, _ = engine.step(state)
    return state


def test_a_program_without_factors_is_told_that_there_is_nothing_to_bring_in() -> None:
    program = STORY.replace("factor tone: vowels(text)", "require short: length(text) <= 9")
    for method in ("tempered", "ais"):
        plan = lmppl.explain(lmppl.compile(program)(), method=method)
        assert [each.code for each in plan.warnings] == ["LMP414"]
        assert not plan.refusals
        assert not lmppl.explain(lmppl.compile(STORY)(), method=method).warnings
