"""Steering towards powers of a text's own probability changes no answer, and finds what they weigh.

All seeds are fixed; each criterion has a false-alarm rate of 1e-5 over the choice of the seed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lmppl
from lmppl.density import Target, TextRun, TextStage
from lmppl.density.steering import expecting
from lmppl.density.steering.lookahead import PrefixLookahead
from lmppl.density.steering.power import Power, power
from lmppl.evaluation.powers import exponent, reads_value
from lmppl.finite.columns import ColumnLevels
from lmppl.finite.known import KnownStates
from lmppl.inference.smc import SMC
from lmppl.inference.smc import ahead as looking_ahead
from lmppl.inference.smc.engine import SMCEngine
from lmppl.inference.smc.priors import FinitePrior
from lmppl.inference.starting import population
from lmppl.rng import Stream
from lmppl.sequences.weights import log_mean_exp
from tests.exactness.test_log_prob import BOTH, OPEN
from tests.exactness.test_sampling import ALPHA, run_to_the_end, smc_p_value

FEW = SMC(num_particles=3, num_runs=4_000, ess_threshold=0.7, lookahead="prefix")
NUM_TOKENS, LENGTH = 6, 5


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain over six tokens that may end after each."""
    folder = tmp_path_factory.mktemp("chain")
    rows = np.random.default_rng(5).dirichlet(np.full(NUM_TOKENS + 1, 0.6), size=NUM_TOKENS + 1)
    described = {
        "tokens": [*"abcdef", "<eos>"],
        "eos": "<eos>",
        "initial": rows[-1].tolist(),
        "transition": [*rows[:-1].tolist(), [0.0] * (NUM_TOKENS + 1)],
    }
    (folder / "chain.json").write_text(json.dumps(described), encoding="utf-8")
    return folder


def program(chain: Path, alpha: float, extra: str = "", length: int = LENGTH) -> lmppl.BoundModel:
    return lmppl.compile(
        f"""
        model sharp(alpha: real<lower=0> = {alpha}) {{
            text ~ markov("chain.json", max_tokens={length})
            factor sharp: (alpha - 1) * log_prob(text)
            {extra}
            return text
        }}
        """,
        base_dir=chain,
    )()


def log_z(chain: Path, alpha: float, length: int = LENGTH) -> float:
    """log Σ p(x)^alpha over all texts, from their ends, by NumPy."""
    described = json.loads((chain / "chain.json").read_text(encoding="utf-8"))
    with np.errstate(divide="ignore"):
        rows = alpha * np.log([*described["transition"][:-1], described["initial"]])
    value = np.zeros(NUM_TOKENS)
    for _ in range(length - 1):
        going = np.logaddexp.reduce(rows[:-1, :-1] + value, axis=1)
        value = np.logaddexp(going, rows[:-1, -1])
    going = np.logaddexp.reduce(rows[-1, :-1] + value)
    return float(np.logaddexp(going, rows[-1, -1]))


def runs(target: Target, settings: SMC = FEW, seed: int = 1) -> Tensor:
    """Ẑ of every run."""
    state = run_to_the_end(SMCEngine(settings, target, Stream.from_seed(seed)))
    return (state.log_evidence + log_mean_exp(state.log_weight)).exp()


def p_value(target: Target, log_truth: float, settings: SMC = FEW) -> float:
    """Of E[Ẑ] = Z, by the mean over independent runs."""
    from scipy import stats

    found = runs(target, settings) / math.exp(log_truth)
    error = float(found.std()) / math.sqrt(found.shape[0])
    return float(2 * stats.norm.sf(abs(float(found.mean()) - 1.0) / error))


@pytest.mark.parametrize("alpha", [4.0, 2.0, 0.5])
def test_the_evidence_is_unbiased_with_three_particles(chain: Path, alpha: float) -> None:
    assert p_value(program(chain, alpha).target(), log_z(chain, alpha)) > ALPHA


def random_chain() -> KnownStates:
    """A chain over the tokens that has nothing to do with the prior."""
    rows = 2.0 * np.random.default_rng(3).normal(size=(NUM_TOKENS + 2, NUM_TOKENS + 1))
    log_rows = torch.from_numpy(rows).log_softmax(-1)
    return KnownStates.of(log_rows, torch.arange(NUM_TOKENS + 1), NUM_TOKENS + 1)


@pytest.mark.parametrize("alpha", [3.0, 0.5])
def test_an_absurd_surrogate_of_a_power_leaves_the_evidence_right(
    chain: Path, alpha: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the power is in at once, and what the surrogate expects of the rest, both wrong."""

    def surrogate(*args: object, **kwargs: object) -> FinitePrior:
        return FinitePrior(random_chain(), lambda prompt: (), True, "an absurd surrogate")

    monkeypatch.setattr(looking_ahead, "finite_prior", surrogate)
    bound = program(chain, alpha, "factor more: 0.5 * length(text)")
    target, exact = bound.target(), lmppl.infer(bound, method="exact").log_evidence
    assert exact is not None
    assert p_value(target, exact.value, replace(FEW, lookahead="auto")) > ALPHA
    monkeypatch.setattr(TextRun, "unsteered", lambda self, log_weight: log_weight)
    assert p_value(target, exact.value, replace(FEW, lookahead="auto", num_runs=500)) < ALPHA


@pytest.mark.parametrize("alpha", [2.0, 0.5])
def test_powers_are_looked_ahead_to_by_tables_of_some_states(
    chain: Path, alpha: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an automaton is too large for tables of all, by a surrogate that is fitted: unbiased,
    and of likely texts far more certain than by the masks and the power alone."""
    described = json.loads((chain / "chain.json").read_text(encoding="utf-8"))
    rows = torch.tensor([*described["transition"][:-1], [1.0] * 7, described["initial"]]).log()

    def next_log_probs(prefixes: Tensor) -> Tensor:
        last = prefixes[:, -1] if prefixes.shape[1] else torch.full((len(prefixes),), 7)
        return rows[last].double().log_softmax(-1)

    lm = lmppl.FunctionLM(tokens=described["tokens"], eos="<eos>", next_log_probs=next_log_probs)
    bound = lmppl.compile(
        f"""
        extern lm prior
        model sharp() {{
            text ~ prior(max_tokens=6)
            factor sharp: ({alpha} - 1) * log_prob(text)
            require contains(text, "fa")
            return text
        }}
        """
    )(prior=lm)
    exact = lmppl.infer(bound, method="exact").log_evidence
    assert exact is not None
    settings = replace(FEW, num_runs=400, num_particles=16)
    plain = runs(bound.target(), replace(settings, lookahead="prefix"))
    monkeypatch.setattr(expecting, "_MOST_CORRECTED", 500)
    made: list[ColumnLevels] = []
    true_levels = expecting.column_levels

    def levels(*args: Any, **options: Any) -> ColumnLevels:
        made.append(true_levels(*args, **options | {"budget": 1 << 20}))
        return made[-1]

    monkeypatch.setattr(expecting, "column_levels", levels)
    ahead = replace(settings, lookahead="surrogate")
    assert p_value(bound.target(), exact.value, ahead) > ALPHA and made
    if alpha > 1.0:
        assert float(runs(bound.target(), ahead).var()) < 0.1 * float(plain.var())


@pytest.mark.parametrize("alpha", [2.0, 0.5])
@pytest.mark.parametrize("extra", ["", 'require contains(text, "ab")'])
def test_a_prior_that_is_its_own_surrogate_leaves_powers_no_variance(
    chain: Path, alpha: float, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where most of the weight is on texts that end early; not without the power in full."""
    bound = program(chain, alpha, extra, length=12)
    exact = lmppl.infer(bound, method="exact").log_evidence
    assert exact is not None
    settings = SMC(num_particles=3, num_runs=30)
    found = runs(bound.target(), settings).log()
    assert float((found - exact.value).abs().max()) < 1e-4
    monkeypatch.setattr(Power, "without", lambda self, labels: self)
    assert float((runs(bound.target(), settings).log() - exact.value).abs().max()) > 1e-2


def test_texts_that_end_at_once_are_found_where_a_power_is_of_them() -> None:
    """Texts of probability above 3e-6 sum to between −10.382 and −10.356, by listing them."""
    bound = lmppl.compile(
        """model sharp() {
            text ~ lm("builtin:stories", prompt="They were happy and went home.", max_tokens=40)
            factor log_prob(text)
            return text
        }"""
    )
    post = lmppl.infer(bound, method="smc", num_particles=64, seed=4)
    assert post.log_evidence.value == pytest.approx(-10.37, abs=0.15)
    without = lmppl.infer(bound, method="smc", num_particles=64, seed=4, lookahead="prefix")
    assert without.log_evidence.value < -30.0


def test_the_sum_over_texts_is_that_of_enumeration(chain: Path) -> None:
    post = lmppl.infer(program(chain, 4.0), method="exact")
    assert post.log_evidence.value == pytest.approx(log_z(chain, 4.0), abs=1e-12)


@pytest.mark.parametrize("alpha", [4.0, 0.5])
def test_exact_sums_over_powers_of_texts_that_are_too_many_to_list(
    chain: Path, alpha: float
) -> None:
    post = lmppl.infer(program(chain, alpha, length=40), method="exact")
    assert post.log_evidence.value == pytest.approx(log_z(chain, alpha, 40), abs=1e-9)


@pytest.mark.parametrize("case", [BOTH, OPEN], ids=["required", "open"])
def test_powers_that_hang_on_choices_give_the_posterior(case) -> None:  # type: ignore[no-untyped-def]
    settings = SMC(num_particles=12, num_runs=500, ess_threshold=0.7)
    assert smc_p_value(case, settings) > ALPHA


Wrong = Callable[[pytest.MonkeyPatch], None]


def tempered(patch: pytest.MonkeyPatch) -> None:
    """Every token from its own power, renormalised, which is what a temperature does."""
    true_step = TextStage.step

    def step(stage, run, uniforms, **options):  # type: ignore[no-untyped-def]
        new, found = true_step(stage, run, uniforms, **options)
        return new, replace(found, log_mass=torch.zeros_like(found.log_mass))

    patch.setattr(TextStage, "step", step)
    patch.setattr(TextRun, "unsteered", lambda self, log_weight: log_weight - self.steered.log_psi)


def kept(patch: pytest.MonkeyPatch) -> None:
    """ψ is not divided out."""
    patch.setattr(TextRun, "unsteered", lambda self, log_weight: log_weight)


def endless(patch: pytest.MonkeyPatch) -> None:
    """The probability of the end token is left out."""
    true_environment = Target.environment

    def environment(target, traces, instead=None):  # type: ignore[no-untyped-def]
        found = true_environment(target, traces, instead)
        if "text" not in traces.values:
            return found
        text, rows = traces.values["text"], target.stages[0].lm._table
        before = text.tokens.gather(1, (text.lengths - 2).clamp(min=0).unsqueeze(-1)).squeeze(-1)
        before = torch.where(text.lengths > 1, before, rows.shape[0] - 1)
        end = torch.where(text.finished, rows[before, NUM_TOKENS], 0.0)
        return replace(found, log_prior=lambda name: (traces.log_prior[name] - end).numpy())

    patch.setattr(Target, "environment", environment)


@pytest.mark.parametrize("wrong", [tempered, kept, endless])
def test_wrong_powers_are_rejected(
    chain: Path, wrong: Wrong, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong(monkeypatch)
    assert p_value(program(chain, 2.0).target(), log_z(chain, 2.0)) < ALPHA


def test_moves_that_go_on_from_steered_texts_know_the_masses_of_the_masks(chain: Path) -> None:
    bound = program(chain, 3.0, 'require clean: never(text, ["ab", "ca"])')
    target = bound.target()
    found = population("smc", target, Stream.from_seed(2), num_runs=1, size=40).traces
    rows = target.rows(0, found)
    text = found.values["text"]
    retraced, log_prior = target.stages[0].retraced(rows, target.steering(rows), text)
    assert torch.allclose(text.log_mass(), retraced.log_mass(), atol=1e-6)
    assert torch.allclose(found.log_prior["text"], log_prior)
    assert float(text.log_mass().min()) < -0.01


def test_the_power_of_a_text_is_a_long_run_of_importance() -> None:
    """On the embedded model, at a length at which plain draws still find what weighs."""
    bound = lmppl.compile(
        """
        model sharp(alpha: real<lower=0> = 4.0) {
            text ~ lm("builtin:stories", prompt="Once upon a time", max_tokens=4)
            factor sharp: (alpha - 1) * log_prob(text)
            return text
        }
        """
    )()
    plain = lmppl.infer(bound, method="importance", num_samples=600, seed=1).log_evidence
    settings = SMC(num_particles=16, num_runs=9)
    found = runs(bound.target(), settings)
    error = float(found.std() / found.mean()) / 3.0
    distance = math.log(float(found.mean())) - plain.value
    # 4.4 standard errors: a false alarm in 1e5 seeds.
    assert abs(distance) < 4.4 * math.hypot(error, plain.standard_error)
    assert error < 0.05


# ------------------------------------------------------------------------------ what is a power

FACTORS = {
    "3 * log_prob(text)": 3.0,
    "-log_prob(text) / 2": -0.5,
    "(alpha - 1) * log_prob(same) + 0.1 * length(text)": 1.5,
    "2 * (log_prob(text) - log_prob(topic)) - 0.5 * log_prob(text)": 1.5,
    "if topic == 1 then log_prob(text) else 0": 1.0,
    "length(text) * log_prob(text)": None,
    "max(log_prob(text), -20)": None,
    "log_prob(text) * log_prob(text)": None,
    "1 / log_prob(text)": None,
    "length(text)": None,
    "if length(text) > 2 then log_prob(text) else 0": None,
}


@pytest.mark.parametrize("factor", FACTORS)
def test_a_factor_is_a_power_where_it_is_affine_in_the_log_probability(factor: str) -> None:
    model = lmppl.compile(
        f"""
        extern lm prior
        model asked(alpha: real = 2.5) {{
            topic ~ categorical([1, 2])
            text ~ prior(max_tokens=4)
            let same = text
            factor {factor}
        }}
        """
    ).model
    from lmppl.evaluation.constants import constant_value

    (potential,) = model.potentials
    found = exponent(model, potential.expr, "text")
    if FACTORS[factor] is None:
        assert found is None and reads_value(model, potential.expr, "text")
        return
    assert found is not None
    assert constant_value(found, model, {"alpha": 2.5, "topic": 1}) == FACTORS[factor]
    assert reads_value(model, potential.expr, "text") == ("length" in factor or "same" in factor)


def test_what_is_no_power_is_read_on_unfinished_texts(chain: Path) -> None:
    """The rest of a factor, without its power; and a function of the probability so far."""
    for extra, value in (
        ("", None),
        ("factor rest: 2 * log_prob(text) + 0.5 * length(text)", lambda n, lp: 0.5 * n),
        ("factor odd: max(log_prob(text), -3)", lambda n, lp: np.maximum(lp, -3.0)),
    ):
        target = program(chain, 4.0, extra).target()
        traces = target.start(torch.zeros(50, dtype=torch.long))
        stage = target.stages[0]
        assert isinstance(stage, TextStage)
        ahead = PrefixLookahead(target, 0, stage, traces)
        assert ahead.is_trivial == (value is None)
        run = stage.start(target.rows(0, traces), power(target, 0, stage, traces))
        uniforms = Stream.from_seed(4)
        for number in range(3):
            run, _ = stage.step(run, uniforms.uniforms(torch.arange(50), number))
        assert isinstance(run.steered.parts[0], Power)
        if value is not None:
            found, _ = ahead.log_value(run, torch.arange(50), torch.arange(50))
            last = run.tokens[torch.arange(50), run.positions - 1]
            ended = run.finished & stage.is_eos[last]
            assert 0 < int(ended.sum()) < 50
            # An end token is none of a text's tokens, while others go on as in the end.
            wanted = value((run.positions - ended.long()).numpy(), run.log_prior.numpy())
            assert np.allclose(found.numpy(), wanted)
