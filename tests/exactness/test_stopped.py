"""What methods return where they are stopped before their end is right all the same."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import lmppl
from lmppl.density import Target
from lmppl.errors import InferenceError
from lmppl.inference import loop
from lmppl.inference.batches import Batch
from lmppl.inference.exact import Exact
from lmppl.inference.exact.engine import ExactEngine
from lmppl.inference.exact.engine import State as ExactState
from lmppl.inference.importance import Importance
from lmppl.inference.importance.engine import ImportanceEngine
from lmppl.inference.importance.engine import State as ImportanceState
from lmppl.inference.loop import Budget, Info
from lmppl.inference.rejection import Rejection
from lmppl.inference.rejection.engine import RejectionEngine
from lmppl.inference.rejection.engine import State as RejectionState
from lmppl.inference.remainder import with_remainder
from lmppl.inference.smc import SMC, ahead
from lmppl.inference.smc.engine import SMCEngine
from lmppl.inference.smc.engine import State as SMCState
from lmppl.inference.smc.priors import FinitePrior
from lmppl.inference.smc.state import selected
from lmppl.posterior import Posterior
from lmppl.progress import ProgressEvent
from lmppl.rng import Stream
from lmppl.sequences.weights import log_mean_exp
from tests.exactness.cases import CASES, ENDS, HARD, MIXED, TILT, Case
from tests.exactness.statistics import p_value_of_weighted_runs, rows_of
from tests.exactness.test_sampling import rows_of_living
from tests.exactness.test_surrogate import markov, no_prompt
from tests.laws.tiny_models import tiny_lm

ALPHA = 1e-3 / 60

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


# ------------------------------------------------------------------------------------------- smc

# So many runs, because Ẑ of a few particles is skewed, and the tests of means are normal.
STOPPED = SMC(num_particles=12, num_runs=3000, ess_threshold=0.7, lookahead_every=1)


def stopped_p_value(
    case: Case,
    at: int,
    left: float,
    engine_class: type[SMCEngine] = SMCEngine,
    settings: SMC = STOPPED,
) -> float:
    """Runs that are told to hurry before step `at`, with `left` tokens for each."""
    target = case.target()
    engine = engine_class(settings, target, Stream.from_seed(105 + at))
    state = engine.init()
    for _ in range(at):
        state, _ = engine.step(state)
    state = engine.hurry(state, spent=math.inf, left=left * settings.num_runs)
    while not engine.is_done(state):
        state, _ = engine.step(state)
    rows = rows_of_living(case, target, state)
    size = state.log_weight.shape[1]
    log_z = (state.log_evidence + log_mean_exp(state.log_weight)).tolist()
    runs = []
    for run in range(settings.num_runs):
        weights = state.log_weight[run].softmax(-1).nan_to_num(0.0).numpy()
        alive = weights > 0
        runs.append((log_z[run], rows[run * size : (run + 1) * size][alive], weights[alive]))
    return p_value_of_weighted_runs(case, runs)


@every_case
def test_smc_that_is_hurried_at_any_step_stays_unbiased(case: Case) -> None:
    assert stopped_p_value(case, 1, 18.0) > ALPHA
    assert stopped_p_value(case, 3, 0.0) > ALPHA


def test_smc_that_drops_particles_by_weight_and_forgets_it_is_rejected() -> None:
    class Forgets(SMCEngine):
        def _shrink(self, state: SMCState, size: int) -> SMCState:
            return replace(super()._shrink(state, size), log_evidence=state.log_evidence)

    assert stopped_p_value(TILT, 3, 0.0, Forgets) < ALPHA


def test_smc_that_keeps_the_heaviest_particles_is_rejected() -> None:
    class Keeps(SMCEngine):
        def _shrink(self, state: SMCState, size: int) -> SMCState:
            best = state.log_weight.argsort(dim=-1, descending=True)[:, :size]
            numbers = torch.arange(self.num_populations).unsqueeze(-1)
            moved = selected(state, (best + numbers * state.log_weight.shape[1]).view(-1))
            return replace(moved, log_weight=state.log_weight.gather(1, best))

    settings = replace(STOPPED, ess_threshold=0.0)
    assert stopped_p_value(TILT, 3, 0.0, settings=settings) > ALPHA
    assert stopped_p_value(TILT, 3, 0.0, Keeps, settings) < ALPHA


def test_a_hurried_run_needs_no_more_tokens_than_there_are() -> None:
    for left in (60, 150, 400):
        engine = SMCEngine(SMC(num_particles=200), TILT.target(), Stream.from_seed(left))
        state, spent = engine.init(), 0
        state, _ = engine.step(state)
        state = engine.hurry(state, spent=math.inf, left=left)
        while not engine.is_done(state):
            state, info = engine.step(state)
            spent += info.num_tokens
        assert 0.5 * left < spent <= left


def test_a_step_that_is_broken_off_is_made_again() -> None:
    """A host that raises KeyboardInterrupt itself leaves caches in any state."""
    program = "extern lm prior\nmodel m() { text ~ prior(max_tokens=8)\nreturn text }"
    target = lmppl.compile(program)(prior=tiny_lm("gpt2")).target()
    settings = SMC(num_particles=8, seed=0)
    engine = SMCEngine(settings, target, Stream.from_seed(3))
    state = engine.init()
    for _ in range(5):
        state, _ = engine.step(state)
    engine.step(state)  # spends the prefixes that the state holds
    again, info = engine.step(engine.recover(state))
    assert info.num_tokens == 8 and again.run is not None and state.run is not None
    kept = again.run.tokens[:, : state.run.position]
    assert torch.equal(kept, state.run.tokens[:, : state.run.position])


# ----------------------------------------------------------------------- importance and rejection


Run = tuple[float, np.ndarray, np.ndarray]


def hurried_runs(case: Case, method: str, at: int, num_runs: int) -> list[Run]:
    """Runs of 12 draws that are told to hurry before step `at`, with time for half of the tokens.

    How many draws stay hangs on how many texts have ended, which is what a bias would come of.
    """
    target, runs = case.target(), []
    for seed in range(num_runs):
        stream = Stream.from_seed(1_000 * at + seed)
        if method == "importance":
            engine = ImportanceEngine(Importance(num_samples=12), target, stream)
        else:
            settings = Rejection(num_samples=12, max_attempts=12)
            engine = RejectionEngine(settings, target, stream)
        state = engine.init()
        for _ in range(at):
            state, _ = engine.step(state)
        left = 0.5 * state.batch.unfinished.most_tokens_to_come(target) if state.batch else 0.0
        state = engine.hurry(state, spent=math.inf, left=left)
        while not engine.is_done(state):
            state, _ = engine.step(state)
        if method == "importance":
            runs.append(run_of_importance(case, target, state))
        else:
            runs.append(run_of_rejection(case, target, state, engine))
    return runs


def run_of_importance(case: Case, target: Target, state: ImportanceState) -> Run:
    (batch,) = state.batches
    rows = rows_of(case, target, batch.traces) if batch.rows.numel() else np.zeros(0, int)
    log_z = float(torch.logsumexp(batch.log_weight, 0)) - math.log(state.num_done)
    return log_z, rows, batch.log_weight.softmax(-1).numpy()


def run_of_rejection(
    case: Case, target: Target, state: RejectionState, engine: RejectionEngine
) -> Run:
    (traces,), (numbers,) = state.accepted, state.attempts
    assert all(0 <= number < state.num_attempts for number in numbers)
    if not numbers:
        return -math.inf, np.zeros(0, int), np.zeros(0)
    share = len(numbers) / state.num_attempts
    weights = np.full(len(numbers), 1.0 / len(numbers))
    return math.log(share) + float(state.log_bound[0]), rows_of(case, target, traces), weights


@pytest.mark.parametrize("case", [TILT, ENDS, HARD, MIXED], ids=lambda case: case.name)
def test_draws_of_importance_that_are_hurried_stay_unbiased(case: Case) -> None:
    assert p_value_of_weighted_runs(case, hurried_runs(case, "importance", 3, 200)) > ALPHA


@pytest.mark.parametrize("case", [TILT, ENDS], ids=lambda case: case.name)
def test_attempts_of_rejection_that_are_hurried_stay_unbiased(case: Case) -> None:
    assert p_value_of_weighted_runs(case, hurried_runs(case, "rejection", 3, 200)) > ALPHA


def test_a_batch_that_keeps_what_ended_first_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended_first(
        self: Batch, target: Target, stream: Stream, left: float, proposal: object = None
    ) -> Batch:
        needed = self.unfinished.most_tokens_to_come(target)
        fewer = max(int(0.9 * self.size * left / needed), 4)
        order = self.unfinished.run.positions.argsort(stable=True)
        kept = self.unfinished.rows[order[:fewer]].sort().values
        return replace(self, unfinished=self.unfinished.thinned(kept), size=kept.shape[0])

    monkeypatch.setattr(Batch, "hurried", ended_first)
    assert p_value_of_weighted_runs(ENDS, hurried_runs(ENDS, "importance", 3, 300)) < ALPHA


@pytest.mark.parametrize("method", ["importance", "rejection"])
def test_a_batch_needs_no_more_tokens_than_there_are(
    letters: lmppl.CompiledModel, method: str
) -> None:
    for tokens in (1000, 5000):
        post = lmppl.infer(
            letters(tone=lambda texts: [6.0 - each for each in tone(texts)]),
            method=method,
            num_samples=200,
            seed=3,
            budget=f"{tokens} tokens",
        )
        assert not post.complete and all(len(text) == 30 for text in post.texts)
        assert 0.5 * tokens <= post.manifest["num_tokens"] <= tokens
        assert any(f"the budget of {tokens} tokens was spent" in w for w in post.warnings)
    with pytest.raises(InferenceError, match=r"(?s)LMP930.*(draws: 0 of 200|none of 0 complete)"):
        lmppl.infer(letters(tone=tone), method=method, num_samples=200, budget="9 tokens")


def test_batches_that_are_complete_are_kept_and_another_is_not_begun(
    letters: lmppl.CompiledModel,
) -> None:
    events: list[int] = []

    def impatient(event: ProgressEvent) -> None:
        events.append(event.done)
        if event.stage == "draws" and events.count(40) == 1 and event.done == 40:
            signal.raise_signal(signal.SIGINT)

    post = lmppl.infer(
        letters(tone=tone),
        method="importance",
        num_samples=200,
        batch_size=20,
        seed=3,
        progress=impatient,
    )
    whole = lmppl.infer(letters(tone=tone), method="importance", num_samples=40, seed=3)
    assert not post.complete and post.texts == whole.texts
    assert post.log_evidence == whole.log_evidence


def test_every_binding_of_a_hurried_batch_keeps_the_draws_it_would_keep_alone(
    letters: lmppl.CompiledModel,
) -> None:
    post, same = lmppl.infer(
        [letters(tone=tone)] * 2, method="importance", num_samples=60, seed=3, budget="1200 tokens"
    )
    assert 4 <= len(post) < 60 and post.texts == same.texts
    whole = lmppl.infer(letters(tone=tone), method="importance", num_samples=60, seed=3)
    assert set(post.texts) <= set(whole.texts)


def test_a_batch_that_is_broken_off_is_gone_on_with() -> None:
    program = "extern lm prior\nmodel m() { text ~ prior(max_tokens=8)\nreturn text }"
    target = lmppl.compile(program)(prior=tiny_lm("gpt2")).target()
    engine = ImportanceEngine(Importance(num_samples=8), target, Stream.from_seed(3))
    state, ahead = engine.init(), engine.init()
    for _ in range(5):
        state, _ = engine.step(state)
    engine.step(state)  # spends the prefixes that the state holds
    again = engine.recover(state)
    while not engine.is_done(again):
        again, _ = engine.step(again)
    while not engine.is_done(ahead):
        ahead, _ = engine.step(ahead)
    texts = [each.batches[0].traces.values["text"].strings for each in (again, ahead)]
    assert texts[0] == texts[1]


def test_a_chain_in_its_warmup_says_how_far_it_is(letters: lmppl.CompiledModel) -> None:
    def impatient(event: ProgressEvent) -> None:
        if event.stage == "warmup" and event.done == 30:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(InferenceError, match="LMP930") as caught:
        lmppl.infer(letters(tone=tone), method="mcmc", warmup_steps=100, seed=1, progress=impatient)
    (diagnostic,) = caught.value.diagnostics
    assert "30 steps were done, of which warmup is 100" in diagnostic.notes[0].replace("29", "30")
    assert diagnostic.help is not None and "warmup_steps=1" in diagnostic.help


# ----------------------------------------------------------------------------------------- exact


def exact_stopped(target: Target, at: int, num_draws: int, seed: int) -> ExactState | None:
    engine = ExactEngine(Exact(), target, Stream.from_seed(seed))
    state = engine.init()
    for _ in range(at):
        state, _ = engine.step(state)
        if engine.is_done(state):
            return None
    state, _ = engine.step(replace(state, num_draws=num_draws))
    assert engine.is_done(state)
    return state


@every_case
def test_exact_that_is_stopped_at_any_step_estimates_the_rest_without_bias(case: Case) -> None:
    """Many runs of 16 draws each, cut from one run of many independent draws."""
    size, num_runs, p_values, target = 16, 400, [], case.target()
    for at in range(7):
        state = exact_stopped(target, at, size * num_runs, seed=at)
        if state is None:
            break
        assert state.remainder is not None
        drawn = state.remainder.drawn
        found = rows_of(case, target, state.traces) if state.traces.num_rows else np.zeros(0, int)
        rest = rows_of(case, target, drawn.traces) if drawn.traces.num_rows else np.zeros(0, int)
        run_of = (drawn.rows // size).numpy()
        runs = []
        for run in range(num_runs):
            mine = run_of == run
            rows = np.concatenate([found, rest[mine]])
            log_weight = torch.cat(
                [state.traces.log_density(), drawn.log_weight[mine] + math.log(num_runs)]
            )
            log_z = float(torch.logsumexp(log_weight, 0))
            runs.append((log_z, rows, log_weight.softmax(-1).numpy()))
        p_values.append(p_value_of_weighted_runs(case, runs))
    assert p_values and min(p_values) > ALPHA


@pytest.mark.parametrize("case", [TILT, ENDS, HARD, MIXED], ids=lambda case: case.name)
def test_the_interval_of_a_stopped_enumeration_holds_the_evidence(case: Case) -> None:
    missed, total, target = 0, 0, case.target()
    for at in range(1, 5):
        for seed in range(25):
            state = exact_stopped(target, at, 40, seed)
            if state is None or state.remainder is None:
                continue
            draws = with_remainder(target, state.traces, state.remainder, 0)
            estimate = draws.log_evidence
            assert estimate is not None and estimate.kind == "unbiased"
            assert not draws.exact and not draws.complete and "not exact" in draws.warnings[0]
            total += 1
            missed += not estimate.lower - 1e-9 <= case.log_z <= estimate.upper + 1e-9
    # 95 % intervals: more misses have a probability below 1e-3 at 50 runs and below 2e-3 at 100.
    assert total >= 50 and missed <= 0.1 * total + 3


# --------------------------------------------------------------------------------- the whole loop

LETTERS = """
extern reward tone(t: string): real<lower=0, upper=6>
model letters() {
    text ~ markov("letters.json", max_tokens=30)
    factor sweet: tone(text)
    return text
}
"""


@pytest.fixture
def letters(tmp_path: Path) -> lmppl.CompiledModel:
    (tmp_path / "letters.json").write_text(
        '{"tokens": ["a", "b"], "initial": [1, 1], "transition": [[1, 2], [2, 1]], "eos": null}'
    )
    (tmp_path / "letters.lmp").write_text(LETTERS)
    return lmppl.load(tmp_path / "letters.lmp")


def tone(texts: list[str]) -> list[float]:
    return [0.2 * text.count("a") for text in texts]


def test_a_budget_that_suffices_changes_nothing(letters: lmppl.CompiledModel) -> None:
    settings = {"method": "smc", "num_particles": 20, "seed": 3}
    free = lmppl.infer(letters(tone=tone), **settings)
    for budget in ("600 tokens", "1h"):
        bound = lmppl.infer(letters(tone=tone), budget=budget, **settings)
        assert bound.complete and bound.texts == free.texts
        assert bound.log_evidence == free.log_evidence


@pytest.mark.parametrize("tokens", [90, 150, 400])
def test_smc_with_too_few_tokens_has_fewer_particles(
    letters: lmppl.CompiledModel, tokens: int
) -> None:
    post = lmppl.infer(
        letters(tone=tone), method="smc", num_particles=20, seed=3, budget=f"{tokens} tokens"
    )
    size = post.diagnostics["num_particles"]
    assert not post.complete and 4 <= size < 20
    assert any(f"only {size} of 20 particles" in warning for warning in post.warnings)
    assert any(f"the budget of {tokens} tokens was spent" in w for w in post.warnings)
    assert all(len(text) == 30 for text in post.texts)
    # Four particles at the least cost 120 tokens.
    assert post.manifest["num_tokens"] <= max(tokens, 240)


def test_a_budget_that_is_not_enough_for_the_fewest_is_no_result(
    letters: lmppl.CompiledModel,
) -> None:
    with pytest.raises(InferenceError, match="LMP930"):
        lmppl.infer(letters(tone=tone), method="smc", num_particles=20, budget="9 tokens")


def test_smc_keeps_a_budget_of_seconds(letters: lmppl.CompiledModel) -> None:
    def slow(texts: list[str]) -> list[float]:
        time.sleep(0.004 * len(texts))
        return tone(texts)

    began = time.perf_counter()
    post = lmppl.infer(
        letters(tone=slow),
        method="smc",
        num_particles=64,
        lookahead_every=1,
        seed=1,
        budget=2.0,
    )
    # Unhurried it would take 64 · 30 · 4 ms = 7.7 s.
    assert time.perf_counter() - began < 6.0
    assert not post.complete and post.diagnostics["num_particles"] < 64


@pytest.fixture
def tuned(letters: lmppl.CompiledModel) -> Posterior:
    """A guide that has taken a few steps."""
    return lmppl.infer(letters(tone=tone), method="svi", num_steps=3, num_samples=8, seed=1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("method", ["smc", "importance"])
def test_ctrl_c_in_a_guided_run_returns_what_can_be_finished(
    letters: lmppl.CompiledModel, tuned: Posterior, method: str
) -> None:
    steps: list[int] = []

    def impatient(event: ProgressEvent) -> None:
        steps.append(event.done)
        if len(steps) == 6:
            signal.raise_signal(signal.SIGINT)

    post = lmppl.infer(
        letters(tone=tone), method=method, seed=2, proposal=tuned.guide, progress=impatient
    )
    assert not post.complete and any("interrupted" in warning for warning in post.warnings)
    assert post.log_evidence is not None and post.log_evidence.kind == "unbiased"
    assert all(len(text) == 30 for text in post.texts)
    assert post.log_evidence.lower <= exact_evidence() <= post.log_evidence.upper


@pytest.mark.parametrize("method", ["smc", "importance"])
def test_a_guided_run_keeps_a_budget_of_tokens(
    letters: lmppl.CompiledModel, tuned: Posterior, method: str
) -> None:
    size = {"num_particles": 40} if method == "smc" else {"num_samples": 40}
    post = lmppl.infer(
        letters(tone=tone),
        method=method,
        seed=3,
        proposal=tuned.guide,
        budget="900 tokens",
        **size,
    )
    assert not post.complete and 4 <= len(post) < 40
    assert 450 < post.manifest["num_tokens"] <= 900


WORD = """
model word() {
    text ~ markov("letters.json", max_tokens=12)
    require contains(text, "aaaaaaaa")
    return text
}
"""


@pytest.mark.parametrize("how", ["ctrl-c", "budget"])
def test_a_pilot_that_is_cut_short_leaves_a_right_result(
    letters: lmppl.CompiledModel, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pilot is given up, and particles are begun with what is known so far."""
    model = lmppl.compile(WORD, base_dir=letters.model.base_dir)()
    # A surrogate that knows of the letters only how many there are.
    alike = markov(torch.zeros(3, 2))
    monkeypatch.setattr(
        ahead, "finite_prior", lambda *_, **__: FinitePrior(alike, no_prompt, False, "alike")
    )
    truth = lmppl.infer(model, method="exact").log_evidence.value
    whole: list[str] = []
    lmppl.infer(model, method="smc", seed=1, progress=lambda event: whole.append(event.stage))
    looking = next(stage for stage in whole if stage.startswith("looking ahead"))
    stages: list[str] = []

    def impatient(event: ProgressEvent) -> None:
        stages.append(event.stage)
        if how == "ctrl-c" and stages.count(looking) == 3 and event.stage == looking:
            signal.raise_signal(signal.SIGINT)

    budget = "400 tokens" if how == "budget" else None
    post = lmppl.infer(model, method="smc", seed=1, progress=impatient, budget=budget)
    assert 0 < stages.count(looking) < whole.count(looking)
    assert not post.complete and all("aaaaaaaa" in text for text in post.texts)
    assert post.log_evidence.lower <= truth <= post.log_evidence.upper


@pytest.mark.parametrize("method", ["smc", "exact", "importance", "rejection"])
def test_ctrl_c_returns_what_can_be_finished(letters: lmppl.CompiledModel, method: str) -> None:
    calls = 0

    def impatient(event: ProgressEvent) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    options = {"num_particles": 50} if method == "smc" else {}
    post = lmppl.infer(letters(tone=tone), method=method, seed=2, progress=impatient, **options)
    kind = "consistent" if method == "rejection" else "unbiased"
    assert signal.getsignal(signal.SIGINT) is before
    assert not post.complete and any("interrupted" in warning for warning in post.warnings)
    assert post.log_evidence is not None and post.log_evidence.kind == kind
    assert not post.enumerated and all(len(text) == 30 for text in post.texts)
    assert post.log_evidence.lower <= exact_evidence() <= post.log_evidence.upper


@pytest.mark.parametrize("method", ["smc", "importance", "mcmc"])
def test_an_interrupt_after_the_last_step_takes_nothing_away(
    letters: lmppl.CompiledModel, method: str
) -> None:
    calls = 0

    def late(event: ProgressEvent) -> None:
        nonlocal calls
        if event.stage == "judging":
            calls += 1
            signal.raise_signal(signal.SIGINT)

    def too_late(event: ProgressEvent) -> None:
        if event.stage == "judging":
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    options = {"num_chains": 4, "num_samples": 20, "warmup_steps": 5} if method == "mcmc" else {}
    bound = letters(tone=tone)
    post = lmppl.infer(bound, method=method, seed=2, progress=late, **options)
    assert calls == 1 and post.complete
    whole = lmppl.infer(bound, method=method, seed=2, **options)
    assert np.array_equal(post.log_weights, whole.log_weights) and post.texts == whole.texts
    with pytest.raises(KeyboardInterrupt):
        lmppl.infer(bound, method=method, seed=2, progress=too_late, **options)
    assert signal.getsignal(signal.SIGINT) is before


def exact_evidence() -> float:
    """log E exp(0.2 · number of a's) for the chain of `letters`, by the transfer matrix."""
    tilt = np.diag([math.exp(0.2), 1.0])
    forward = np.array([0.5, 0.5]) @ tilt
    step = np.array([[1, 2], [2, 1]]) / 3.0 @ tilt
    return math.log((forward @ np.linalg.matrix_power(step, 29)).sum())


def test_a_second_ctrl_c_stops_at_once(letters: lmppl.CompiledModel) -> None:
    def mashing(texts: list[str]) -> list[float]:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second one raises")

    with pytest.raises(KeyboardInterrupt):
        lmppl.infer(letters(tone=mashing), method="smc", seed=2, budget="3s")


def test_a_host_that_raises_keyboard_interrupt_ends_the_run_as_ctrl_c_does(
    letters: lmppl.CompiledModel,
) -> None:
    raised = False

    def stops(texts: list[str]) -> list[float]:
        nonlocal raised
        if not raised:
            raised = True
            raise KeyboardInterrupt
        return tone(texts)

    post = lmppl.infer(letters(tone=stops), method="smc", num_particles=50, seed=2)
    assert raised and not post.complete and len(post) > 0


def test_exact_with_too_few_tokens_estimates_the_rest(letters: lmppl.CompiledModel) -> None:
    post = lmppl.infer(letters(tone=tone), method="exact", seed=1, budget="40000 tokens")
    assert not post.complete and not post.enumerated
    assert post.diagnostics["num_executions"] == 0 and post.diagnostics["num_draws"] >= 16
    assert post.log_evidence is not None
    assert post.log_evidence.lower <= exact_evidence() <= post.log_evidence.upper
    assert any("not exact" in warning for warning in post.warnings)


def test_other_methods_stop_where_they_are() -> None:
    class Slow:
        def init(self) -> int:
            return 0

        def is_done(self, state: int) -> bool:
            return False

        def step(self, state: int) -> tuple[int, Info]:
            return state + 1, Info("steps", state, None, num_tokens=10)

        def result(self, state: int, *, complete: bool) -> list[loop.Draws]:
            raise RuntimeError(str(state))

    with pytest.raises(RuntimeError, match="11"):
        loop.run(Slow(), budget=Budget(num_tokens=100))


def test_a_real_ctrl_c_on_the_command_line_saves_a_partial_result(
    letters: lmppl.CompiledModel, tmp_path: Path
) -> None:
    # The reward says when the run is on its way, and takes 30 times 0.3 s where nobody hurries.
    (tmp_path / "host.py").write_text(
        "import pathlib, time\n"
        "def tone(texts):\n"
        f"    pathlib.Path({str(tmp_path / 'begun')!r}).touch()\n"
        "    time.sleep(0.3)\n"
        "    return [0.2 * t.count('a') for t in texts]\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-m", "lmppl", "run", str(tmp_path / "letters.lmp")]
    command += ["--extern", f"tone={tmp_path / 'host.py'}:tone", "--method", "smc"]
    command += ["--out", str(out), "--num-samples", "64", "--set", "lookahead_every=1"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "begun").exists() and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    output, errors = running.communicate(timeout=120)
    assert running.returncode == 130, errors
    assert "INCOMPLETE" in output and f"saved to {out}" in errors
    post = lmppl.load_posterior(out)
    assert not post.complete and len(post) > 0
