"""Looking ahead by a surrogate changes which texts are drawn and never what they weigh.

Any surrogate, any power, any table of expectations leaves the evidence unbiased and weighted draws
right: judged over 4,000 runs of 3 particles by the criteria of `test_sampling`, whose false-alarm
rate is 1e-5 over the choice of the seed. The prior itself as its own surrogate leaves no variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import lmppl
from lmppl.density import SiteRows, TextRun
from lmppl.density.steering import expecting
from lmppl.density.steering.correcting import Moves
from lmppl.density.steering.expecting import Expectations, Expected, expectations
from lmppl.density.steering.protocol import Steering
from lmppl.density.steering.surrogate import Outlook
from lmppl.finite.columns import ColumnLevels
from lmppl.finite.known import KnownStates
from lmppl.inference.smc import SMC
from lmppl.inference.smc import ahead as looking_ahead
from lmppl.inference.smc.engine import SMCEngine
from lmppl.inference.smc.priors import FinitePrior
from lmppl.lm.function import FunctionLM
from lmppl.models import bind_target
from lmppl.rng import Stream
from lmppl.sequences.weights import log_mean_exp
from tests.exactness import test_sampling
from tests.exactness.cases import CASES, HARD, LIFTED, STOP, Case
from tests.exactness.statistics import p_value_of_means
from tests.exactness.test_sampling import ALPHA, run_to_the_end, smc_p_value
from tests.exactness.test_steering import EXACT, error_of_weights, site
from tests.laws.tiny_models import tiny_lm

MANY = SMC(num_particles=3, num_runs=4000, lookahead="none")


def markov(log_rows: Tensor) -> KnownStates:
    """A Markov chain: `[V + 1, V]` logs, not normalised, the last row for what begins a text."""
    size = log_rows.shape[1]
    return KnownStates.of(log_rows.double().log_softmax(-1), torch.arange(size), size)


def absurd(case: Case, seed: int = 0) -> KnownStates:
    """A random chain, with a standard deviation of 2 nats."""
    size = len(case.tokens)
    rows = 2.0 * np.random.default_rng(seed).normal(size=(size + 1, size))
    return markov(torch.from_numpy(rows))


def right(case: Case) -> KnownStates:
    """The prior of a case that is a Markov chain."""
    before = [(token,) for token in range(len(case.tokens))]
    rows = [case.next_probs(prefix) for prefix in (*before, ())]
    return markov(torch.tensor(rows, dtype=torch.float64).log())


def no_prompt(prompt: object) -> tuple[int, ...]:
    return ()


def expected(engine: SMCEngine, rows: SiteRows, prior: KnownStates) -> Expectations:
    return expectations(engine.target, rows, prior, no_prompt, likely=0.0)


def looking(
    prior: KnownStates,
    power: float = 1.0,
    change: Callable[[Expected], Expected] = lambda each: each,
    masked: bool = True,
) -> type[SMCEngine]:
    """SMC that looks ahead by a surrogate whose expectations may be changed."""

    class Looking(SMCEngine):
        def steering(self, rows: SiteRows) -> tuple[Steering, ...]:
            found = super().steering(rows)
            if self.target.stages[rows.number].text is None:
                return found
            all_of = expected(self, rows, prior)
            each = tuple(None if one is None else change(one) for one in all_of.each)
            twist = replace(all_of, each=each).steering([power] * len(each))
            return (*found, twist) if masked else (twist,)

    return Looking


def randomly(one: Expected) -> Expected:
    """Expectations that have nothing to do with anything."""
    assert isinstance(one.log_value, Tensor)
    noise = np.random.default_rng(5).normal(size=tuple(one.log_value.shape))
    return replace(one, log_value=torch.from_numpy(noise).float())


def some_columns(one: Expected) -> Expected:
    """As of a large automaton: tables of every other state, and nothing like it of the others."""
    assert isinstance(one.log_value, Tensor)
    num_levels, _, size = one.log_value.shape
    columns = tuple(torch.arange(level % 2, size, 2) for level in range(num_levels))
    values = tuple(level[:, kept] for level, kept in zip(one.log_value, columns, strict=True))
    elsewhere = torch.from_numpy(np.random.default_rng(6).normal(size=(num_levels, size))).float()
    return replace(one, log_value=ColumnLevels(columns, values, elsewhere))


@pytest.mark.parametrize(
    ("case", "power"), [(HARD, 0.5), (LIFTED, 1.2), (STOP, 0.5)], ids=["hard", "lifted", "stop"]
)
def test_an_absurd_surrogate_leaves_answers_right(case: Case, power: float) -> None:
    assert smc_p_value(case, MANY, looking(absurd(case), power)) > ALPHA


def test_the_right_surrogate_leaves_answers_right() -> None:
    assert smc_p_value(HARD, replace(MANY, num_runs=1000), looking(right(HARD))) > ALPHA


def test_random_expectations_leave_answers_right() -> None:
    assert smc_p_value(LIFTED, MANY, looking(absurd(LIFTED), change=randomly)) > ALPHA


def test_tables_of_some_columns_leave_answers_right() -> None:
    assert smc_p_value(LIFTED, MANY, looking(absurd(LIFTED), 0.7, some_columns)) > ALPHA


def test_what_is_said_of_columns_is_what_is_said_of_whole_tables() -> None:
    """Token by token, whatever else a step asks for."""
    target, _, traces, _, _ = site(HARD, len(HARD.table))
    engine = looking(absurd(HARD))(MANY, target, Stream.from_seed(0))
    (one,) = expected(engine, target.rows(0, traces), absurd(HARD)).each
    assert one is not None
    split = some_columns(one)
    assert isinstance(split.log_value, ColumnLevels)
    levels = [split.log_value[remaining] for remaining in range(len(split.log_value))]
    start = torch.tensor([len(HARD.tokens)])
    by_column = split.outlook(start, 0.7)
    whole = replace(split, log_value=torch.stack(levels)).outlook(start, 0.7)
    assert by_column.floor == whole.floor
    states = (~one.automaton.ended).nonzero().squeeze(-1).repeat(len(HARD.tokens))
    beliefs = torch.arange(len(states)) % len(HARD.tokens)
    dead = torch.cat([states[:3], torch.full((2,), -1)])
    for remaining in range(1, len(levels)):
        torch.testing.assert_close(
            by_column.ahead(beliefs, states, remaining), whole.ahead(beliefs, states, remaining)
        )
        torch.testing.assert_close(
            by_column.log_expected(beliefs[:5], dead, remaining),
            whole.log_expected(beliefs[:5], dead, remaining),
        )


@pytest.mark.parametrize("change", [lambda one: one, randomly, some_columns])
@pytest.mark.parametrize("power", [0.3, 1.0, 2.0])
def test_every_text_weighs_prior_over_proposal(
    change: Callable[[Expected], Expected], power: float
) -> None:
    """Without any chance: every text of a case is forced through the steps that draw."""
    target, _, traces, _, _ = site(HARD, len(HARD.table))
    engine = looking(absurd(HARD), power, change)(MANY, target, Stream.from_seed(0))
    *_, twist = engine.steering(target.rows(0, traces))
    assert error_of_weights(HARD, twist) < EXACT


# ----------------------------------------------------------------------------- wrong ones rejected


def test_a_surrogate_that_is_not_divided_out_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TextRun, "unsteered", lambda self, log_weight: log_weight)
    # The right one with a power leaves ψ = 1 at the end of a text, and the start to be noticed.
    assert smc_p_value(HARD, MANY, looking(absurd(HARD), 0.5)) < ALPHA


def test_dead_mass_that_is_dropped_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without masks a surrogate alone lets some texts die, which count as zero."""
    unmasked = looking(absurd(LIFTED), change=randomly, masked=False)
    assert smc_p_value(LIFTED, MANY, unmasked) > ALPHA

    def of_the_living(log_weight: Tensor) -> Tensor:
        alive = (log_weight > -math.inf).sum(-1).clamp_min(1)
        return log_weight.logsumexp(-1) - alive.double().log()

    monkeypatch.setattr(test_sampling, "log_mean_exp", of_the_living)
    assert smc_p_value(LIFTED, MANY, unmasked) < ALPHA


# ------------------------------------------------------------------------------------ no variance


# Nothing but what automata follow.
STRICT = """
extern lm prior
model strict() {
    text ~ prior(max_tokens=5, stop=["cc"])
    require word: contains(text, "abc")
    require end: ends_with(text, ["a", "b"])
    return text
}
"""


def log_evidences(prior: KnownStates) -> tuple[np.ndarray, float]:
    """Those of 50 runs, and what enumeration says."""
    tokens = list("abcd")
    lm = FunctionLM(
        tokens=tokens, eos="d", next_log_probs=lambda prefixes: prior.log_probs(_last(prefixes))
    )
    bound = lmppl.compile(STRICT)(prior=lm)
    exact = lmppl.infer(bound, method="exact").log_evidence
    assert exact is not None
    settings = SMC(num_particles=4, num_runs=50, lookahead="none")
    engine = looking(prior)(settings, bind_target([bound], None, None), Stream.from_seed(3))
    state = run_to_the_end(engine)
    return (state.log_evidence + log_mean_exp(state.log_weight)).numpy(), exact.value


def _last(prefixes: Tensor) -> Tensor:
    size = prefixes.shape[1]
    return prefixes[:, -1] if size else torch.full((prefixes.shape[0],), 4)


def test_the_prior_as_its_own_surrogate_leaves_no_variance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the expectation for another number of tokens to come does, so that it is noticed."""
    prior = markov(torch.from_numpy(np.random.default_rng(8).normal(size=(5, 4))))
    found, exact = log_evidences(prior)
    assert np.abs(found - exact).max() < 1e-5
    log_psi = Outlook.log_psi
    monkeypatch.setattr(
        Outlook,
        "log_psi",
        lambda self, remaining: log_psi(self, min(remaining + 1, len(self.floor) - 1)),
    )
    assert log_evidences(prior)[0].std() > 0.01


HALF = """
extern lm prior
model half() {
    text ~ prior(max_tokens=2)
    require contains(text, "a")
    factor 0.5 * log_prob(text)
    return text
}
"""


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("lookahead", ["auto", "prefix", "none"])
def test_a_model_in_half_precision_is_looked_ahead_of_without_a_bias(
    dtype: torch.dtype, lookahead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network in 16 bits, its powers and requirements, against all of its texts: what is wrong
    by rounding is the model and not the weights, whose sums are of float64."""
    bound = lmppl.compile(HALF)(prior=tiny_lm("gpt2", dtype))
    size = bound.target().stages[0].text.lm.vocab.size
    alike = FinitePrior(markov(torch.zeros(size + 1, size)), no_prompt, False, "alike")
    monkeypatch.setattr(looking_ahead, "finite_prior", lambda *_, **__: alike)
    log_z = lmppl.infer(bound, method="exact").log_evidence.value
    post = lmppl.infer(
        bound, method="smc", num_particles=64, num_runs=24, seed=1, lookahead=lookahead
    )
    assert post.log_weights.dtype == post.log_prior.dtype == np.float64
    runs = np.exp(np.array(post.diagnostics["log_evidence_runs"]) - log_z)
    assert p_value_of_means(runs, 1.0) > ALPHA
    if lookahead == "auto":
        assert "surrogate" in post.diagnostics["lookahead"]["text"]
        assert abs(runs.mean() - 1.0) < 0.1


# ------------------------------------------------------------------------------------- with pilots


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_pilots_leave_answers_right(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything that a run does by itself: choices, stop strings, warps and all."""

    def surrogate(*args: object, **kwargs: object) -> FinitePrior:
        return FinitePrior(absurd(case), no_prompt, False, "an absurd surrogate")

    monkeypatch.setattr(looking_ahead, "finite_prior", surrogate)
    settings = SMC(num_particles=64, num_runs=60)
    assert smc_p_value(case, settings) > ALPHA


def test_an_automaton_too_large_for_all_tables_has_those_that_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the surrogate as it is, then of one with shorter contexts, then none."""

    def next_log_probs(prefixes: Tensor) -> Tensor:
        """By the sum of the last two tokens."""
        last = torch.cat([torch.full((len(prefixes), 2), 3), prefixes], 1)[:, -2:].sum(1)
        weights = torch.arange(4) + torch.tensor([2, 0, 3, 1])[last % 4].unsqueeze(-1)
        return torch.where(weights % 4 == 0, 2.0, 0.0).double().log_softmax(-1)

    lm = FunctionLM(tokens=list("abcd"), eos="d", next_log_probs=next_log_probs)
    bound = lmppl.compile(STRICT)(prior=lm)
    words = []
    for most in (1 << 26, 1000, 500, 10):
        monkeypatch.setattr(expecting, "_MOST_CORRECTED", most)
        post = lmppl.infer(bound, num_particles=64, seed=0, lookahead="surrogate")
        told = post.diagnostics["lookahead"]["text"]
        words.append(told["surrogate"] or told["why"])
        assert post.complete
    assert words[0] == words[1] and words[2] == words[0] + ", by the last token alone"
    assert words[3].startswith("the tables of values would take")
    # Where every token is of a kind of its own, tables take long.
    monkeypatch.setattr(expecting, "_MOST_CLASSES", 3)
    post = lmppl.infer(bound, num_particles=64, seed=0, lookahead="surrogate")
    told = post.diagnostics["lookahead"]["text"]
    assert told["surrogate"] is None and "kinds of tokens apart" in told["why"]


def test_a_pilot_mends_a_surrogate() -> None:
    """What it has seen of the moves of the automaton makes expectations those of the prior."""
    engine = looking(absurd(LIFTED))(MANY, LIFTED.target(), Stream.from_seed(0))
    rows = engine.target.rows(0, engine.init().traces.select(torch.arange(1)))
    (wrong,) = expected(engine, rows, absurd(LIFTED, 2)).each
    (true,) = expected(engine, rows, right(LIFTED)).each
    assert wrong is not None and true is not None
    start = torch.tensor([len(LIFTED.tokens)])
    moves = Moves.none(wrong.automaton)
    for _ in range(200):
        states = torch.arange(wrong.automaton.num_states)[~wrong.automaton.ended]
        beliefs = torch.arange(len(LIFTED.tokens)).repeat(len(states))
        states = states.repeat_interleave(len(LIFTED.tokens))
        probs = true.prior.log_probs(beliefs).exp().float()
        moves = moves.seen(wrong.outlook(start), states, beliefs, probs)
    mended = wrong.corrected(moves.correction())
    error = abs(wrong.log_start(start) - true.log_start(start))
    assert abs(mended.log_start(start) - true.log_start(start)) < 0.5 * error
