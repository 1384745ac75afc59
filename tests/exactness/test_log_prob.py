"""`log_prob(x)` under every method, against enumeration by plain Python.

All seeds are fixed; each criterion has a false-alarm rate of 1e-5 over the choice of the seed.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pyro import poutine
from torch import Tensor

import lmppl
from lmppl.density import Target, TextStage, Traces
from lmppl.density.steering.likely import Likely
from lmppl.evaluation.environment import Environment
from lmppl.evaluation.powers import floors
from lmppl.inference.importance import Importance
from lmppl.inference.smc import engine as smc_engine
from lmppl.lm.function import FunctionLM
from lmppl.lowering import PyroModel
from lmppl.lowering.isolation import isolated
from tests.exactness.cases import Case, Execution, random_markov, texts_of
from tests.exactness.svi_cases import log_prob_at, values_of
from tests.exactness.test_sampling import (
    ALPHA,
    SMALL,
    choice_kernel,
    gibbs_kernel,
    importance_p_value,
    invariance_p_value,
    rejection_p_value,
    smc_p_value,
    suffix_kernel,
)

PROGRAM = """
    extern lm prior
    model powered() {{
        topic ~ categorical(["a", "b"], probs=[0.3, 0.7])
        mood ~ bernoulli(if topic == "b" then 0.9 else 0.4)
        text ~ prior(max_tokens=4)
        let alpha = if mood then 2.5 else {low}
        let same = text
        factor sharp: (alpha - 1) * log_prob(same)
        factor rare: {rare} * log_prob(mood)
        {required}
        return topic, mood, text
    }}
"""
NEXT = random_markov(3, 12)
SIZE = 3_000  # chains


class _Quick(Case):
    """A case whose language model looks its probabilities up for a whole batch."""

    def language_model(self) -> lmppl.FunctionLM:
        after = [NEXT((0,)), NEXT((1,)), [0.0, 0.0, 1.0], NEXT(())]
        rows = torch.tensor(after, dtype=torch.float64).log()

        def next_log_probs(prefixes: Tensor) -> Tensor:
            last = prefixes[:, -1] if prefixes.shape[1] else torch.full((len(prefixes),), 3)
            return rows[last]

        return lmppl.FunctionLM(tokens=self.tokens, eos=self.eos, next_log_probs=next_log_probs)


LIKELY = "require likely: log_prob(text) + log_prob(topic) > -6.5"


def powered(low: float, rare: float = -0.5, most: float = math.inf) -> Case:
    """Texts of which another power is taken with every mood; none less likely than e^−most."""

    def executions(case: Case) -> list[Execution]:
        found = []
        for topic, p_topic in (("a", 0.3), ("b", 0.7)):
            for mood in (False, True):
                p_true = 0.9 if topic == "b" else 0.4
                log_mood = math.log(p_true if mood else 1.0 - p_true)
                for tokens, text, finished, log_text in texts_of(case):
                    log_phi = ((2.5 if mood else low) - 1) * log_text + rare * log_mood
                    if not log_text + math.log(p_topic) > -most:
                        log_phi = -math.inf
                    log_prior = math.log(p_topic) + log_mood + log_text
                    choices = (topic, mood)
                    found.append(Execution(choices, tokens, text, finished, log_prior, log_phi))
        return found

    return _Quick(
        name="powered",
        tokens=("x", "y", "<eos>"),
        eos="<eos>",
        max_tokens=4,
        next_probs=NEXT,
        choice_names=("topic", "mood"),
        program=PROGRAM.format(low=low, rare=rare, required="" if math.isinf(most) else LIKELY),
        executions=executions,
    )


BOTH = powered(low=0.6, most=6.5)
# Powers from 1 up have a bound.
BOUNDED = powered(low=1.5, rare=0.5, most=6.5)
# No requirement that a guide cannot see.
OPEN = powered(low=0.6)


def test_enumeration_agrees() -> None:
    post = lmppl.infer(BOTH.bound(), method="exact")
    assert post.log_evidence.value == pytest.approx(BOTH.log_z, abs=1e-12)
    assert post.expectation("log_prob(text)").value == pytest.approx(
        sum(p * text_log_prob(e) for p, e in zip(BOTH.posterior(), BOTH.table, strict=True))
    )


def text_log_prob(execution: Execution) -> float:
    """What the text of an execution cost, by the chain that it was drawn from."""
    tokens = execution.tokens
    return sum(math.log(NEXT(tokens[:t])[token]) for t, token in enumerate(tokens))


def test_importance_is_unbiased() -> None:
    assert importance_p_value(BOTH, Importance(num_samples=40, proposal="prior")) > ALPHA


@pytest.mark.parametrize("lookahead", ["prefix", "none"])
def test_smc_is_unbiased(lookahead: str) -> None:
    assert smc_p_value(BOTH, replace(SMALL, lookahead=lookahead)) > ALPHA


FLOORS = [
    ("require log_prob(text) > -4.1", -4.1, True),
    ("require -2 * log_prob(text) <= 7.3 when mood", -3.65, False),
    ('require 1.2 + log_prob(text) >= log_prob(topic) - 1 and topic in ["a", "b"]', None, True),
]


@pytest.mark.parametrize("required, least, always", FLOORS, ids=["text", "when", "choice"])
def test_no_token_is_drawn_after_which_a_text_is_too_unlikely(
    required: str, least: float | None, always: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three particles are unbiased, and none whose text is complete has broken the requirement."""

    def phi(execution: Execution) -> float:
        topic = math.log(0.3 if execution.choices[0] == "a" else 0.7)
        floor = topic - 2.2 if least is None else least
        meets = text_log_prob(execution) > floor or not (always or execution.choices[1])
        return execution.log_phi if meets else -math.inf

    case = replace(
        OPEN,
        program=PROGRAM.format(low=0.6, rare=-0.5, required=required),
        executions=lambda case: [replace(e, log_phi=phi(e)) for e in OPEN.executions(case)],
        _table=None,
    )
    settings = replace(SMALL, num_particles=3, num_runs=1000, ess_threshold=0.9)
    assert smc_p_value(case, settings) > ALPHA
    assert smc_p_value(case, replace(settings, num_moves=1, move_every=1, block_size=2)) > ALPHA
    found = Target.apply_potentials

    def judged(target: Target, traces: Traces, stage: int) -> Traces:
        new = found(target, traces, stage)
        if "text" in new.log_prior:
            drawn = new.log_prior["text"] > -math.inf
            assert bool((new.total_log_potential()[drawn] > -math.inf).all())
        return new

    monkeypatch.setattr(Target, "apply_potentials", judged)
    smc_p_value(case, replace(settings, num_runs=50))


def test_a_floor_that_is_a_little_too_high_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    true_likely = smc_engine.likely

    def strict(target: Target, number: int, stage: TextStage, traces: Traces) -> Likely:
        found = true_likely(target, number, stage, traces)
        return replace(found, least=found.least + 1.0)

    monkeypatch.setattr(smc_engine, "likely", strict)
    assert smc_p_value(BOTH, replace(SMALL, num_runs=1000)) < ALPHA


def test_what_a_requirement_asks_of_a_texts_probability_is_read_from_it(tmp_path: Path) -> None:
    (tmp_path / "chain.json").write_text(
        json.dumps({"tokens": ["a"], "initial": [1], "transition": [[1]], "eos": None})
    )

    def read(condition: str) -> int:
        program = f"""extern reward odd(t: string): real<lower=0, upper=1>
        model m() {{ k ~ bernoulli(0.5) t ~ markov("chain.json", max_tokens=2)
                     require {condition} return t }}"""
        model = lmppl.compile(program, base_dir=tmp_path).model
        return len(floors(model, model.potentials[0].expr, "t"))

    assert read("log_prob(t) > -3 and 2 < 9 + log_prob(t) * 3") == 2
    assert read("log_prob(t) * log_prob(k) > -3") == 1
    for other in ("log_prob(t) > -3 or k", "log_prob(t) > odd(t)", "abs(log_prob(t)) < 3"):
        assert read(other) == 0
    assert read("log_prob(t) == -3 and log_prob(k) > -1") == 0


def test_rejection_draws_from_the_posterior() -> None:
    assert rejection_p_value(BOUNDED) > ALPHA


def test_rejection_refuses_a_power_below_1() -> None:
    with pytest.raises(lmppl.InferenceError, match="LMP410") as error:
        lmppl.infer(BOTH.bound(), method="rejection")
    assert "power" in str(error.value)


@pytest.mark.parametrize("kernel", [suffix_kernel, choice_kernel, gibbs_kernel])
def test_moves_leave_the_posterior_invariant(kernel: object) -> None:
    # The topic moves, and with it what the mood after it cost.
    assert invariance_p_value(BOTH, kernel, SIZE) > ALPHA  # type: ignore[arg-type]


def test_moves_that_keep_what_later_choices_cost_are_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    true_environment = Target.environment

    def stale(target: Target, traces: Traces, instead: object = None) -> Environment:
        # As if every mood had come after the topic "a".
        found = true_environment(target, traces, instead)  # type: ignore[arg-type]
        if "mood" not in traces.log_prior:
            return found
        mood = torch.where(traces.values["mood"].index == 1, 0.4, 0.6).log()
        wrong = {**traces.log_prior, "mood": mood}
        return replace(found, log_prior=lambda name: wrong[name].numpy())

    monkeypatch.setattr(Target, "environment", stale)
    assert invariance_p_value(BOTH, gibbs_kernel, SIZE) < ALPHA


def test_the_log_masses_of_a_choice_are_its_range() -> None:
    target = BOTH.target()
    sharp, rare, _ = target.model.potentials
    topic = lmppl.compile(
        """
        model known(p: real<lower=0, upper=1> = 0.2) {
            topic ~ categorical(["cat", "dog", "fox"], probs=[p, 0.8 - p, 0.2])
            factor -2 * log_prob(topic)
        }
        """
    )
    for p in (0.2, 0.05, 0.0):
        (factor,) = topic(p=p).target().model.potentials
        found = topic(p=p).target().number_range(factor.expr, 0)
        masses = [mass for mass in (p, 0.8 - p, 0.2) if mass]
        assert (found.lower, found.upper) == pytest.approx(
            (-2 * math.log(max(masses)), -2 * math.log(min(masses)))
        )
        post = lmppl.infer(topic(p=p), method="rejection", num_samples=200, seed=1)
        assert post.diagnostics["log_bound"] == pytest.approx(found.upper)
    # The masses of the mood hang on the topic, and those of a text are as many as there are texts.
    assert target.number_range(rare.expr, 0).upper == math.inf
    assert target.number_range(sharp.expr, 0).upper == math.inf
    assert BOUNDED.target().number_range(sharp.expr, 0).upper == 0.0


# ------------------------------------------------------------------------------------- lowering


def test_a_pyro_program_has_the_density_of_the_target() -> None:
    target = OPEN.target()
    values = values_of(OPEN, target)
    found = log_prob_at(PyroModel(target), values).numpy()
    wanted = np.array([e.log_prior + e.log_phi for e in OPEN.table])
    assert np.abs(found - wanted).max() < 1e-12


def test_a_text_is_scored_once_by_its_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    target, calls = OPEN.target(), []
    true_scores = FunctionLM.token_log_probs

    def counted(lm: FunctionLM, *args: object) -> Tensor:
        calls.append(1)
        return true_scores(lm, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(FunctionLM, "token_log_probs", counted)
    program = poutine.condition(PyroModel(target), data=values_of(OPEN, target))
    isolated(lambda: poutine.trace(program).get_trace(len(OPEN.table)).compute_log_prob())
    assert len(calls) == 1


def test_draws_of_a_guide_are_asked_what_the_prior_gives_them() -> None:
    post = lmppl.infer(OPEN.bound(), method="svi", num_steps=40, num_samples=60, seed=1)
    log_phi = {e.key: e.log_phi for e in OPEN.table}
    tokens, lengths = post.tokens("text").tolist(), post.lengths("text").tolist()
    found = post.log_potential("sharp") + post.log_potential("rare")
    for row, value in enumerate(found.tolist()):
        key = (post["topic"][row], bool(post["mood"][row]), tuple(tokens[row][: lengths[row]]))
        assert value == pytest.approx(log_phi[key], abs=1e-9)


# ----------------------------------------------------------------- the whole distribution of a text


def test_it_counts_what_makes_the_prior(tmp_path: Path) -> None:
    """Temperature, top_k, top_p, a stop string: the mass of all texts is 1, and `log_prob` is of
    that. Summing over texts x of p(x) · exp(−log p(x)) counts them."""
    program = """
        model counted() {
            text ~ markov("chain.json", max_tokens=3, temperature=0.7, top_k=3, stop=["ba"])
            factor -log_prob(text)
            return text, log_prob(text)
        }
    """
    rows = np.random.default_rng(3).dirichlet(np.ones(4), size=5)
    chain = {
        "tokens": ["a", "b", "c", "<eos>"],
        "eos": "<eos>",
        "initial": rows[4].tolist(),
        "transition": [*rows[:3].tolist(), [0, 0, 0, 0]],
    }
    (tmp_path / "chain.json").write_text(json.dumps(chain), encoding="utf-8")
    post = lmppl.infer(lmppl.compile(program, base_dir=tmp_path)(), method="exact")
    assert math.exp(post.log_evidence.value) == pytest.approx(len(post))
    assert np.allclose(post["log_prob(text)"], post.log_prior)


def test_a_loaded_posterior_is_asked_as_before(tmp_path: Path) -> None:
    case = lmppl.compile(
        """
        model kept() {
            topic ~ categorical(["cat", "dog"], probs=[0.2, 0.8])
            text ~ lm("builtin:stories", prompt=f"The {topic}", max_tokens=5)
            factor sharp: log_prob(text)
            return text
        }
        """
    )()
    post = lmppl.infer(case, method="importance", num_samples=16, seed=1)
    post.save(tmp_path / "kept")
    loaded = lmppl.load_posterior(tmp_path / "kept")
    for asked in ("log_prob(text)", "log_prob(topic) - log_prob(text)"):
        assert loaded.expectation(asked).value == post.expectation(asked).value
    assert np.array_equal(post.log_potential("sharp"), post.data.log_priors["text"])
