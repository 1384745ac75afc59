"""Steering and proposals change which texts are drawn and never what they weigh.

Two kinds of evidence. Every text of a case is forced, token by token, through the same steps that
draw: its weight times the probability of proposing it must be its prior probability, and these
probabilities must add up to one; no chance is involved. And draws, SMC's among them, are judged as
in `test_sampling`, with fixed seeds and a false-alarm rate of 1e-5 over their choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

import lmppl
from lmppl.density import SiteRows, Target, TextBatch, TextRun, TextStage, Traces
from lmppl.density.stages.beside import Proposed
from lmppl.density.stages.completing import complete, generate
from lmppl.density.stages.run import Step
from lmppl.density.steering.protocol import Steering
from lmppl.errors import InternalError
from lmppl.inference.smc.engine import SMCEngine
from lmppl.lm.protocol import Prompt
from lmppl.rng import Stream
from lmppl.sequences.weights import log_mean_exp
from tests.exactness.cases import ENDS, HARD, TILT, Case
from tests.exactness.statistics import p_value_of_weighted_runs, rows_of
from tests.exactness.test_sampling import ALPHA, SMALL, run_to_the_end, smc_p_value

PLAIN = [TILT, ENDS, HARD]
every_case = pytest.mark.parametrize("case", PLAIN, ids=lambda case: case.name)


@dataclass(frozen=True, slots=True)
class Table(Steering):
    """A twist read from a table: log ψ of each token, `[vocab + 1, vocab]`, by the token before."""

    log_factors: Tensor

    def begin(self, rows: Tensor) -> Tensor:
        return torch.full_like(rows, self.log_factors.shape[0] - 1)

    def log_next(self, run: TextRun, states: Tensor) -> Tensor:
        return self.log_factors[states]

    def advance(self, states: Tensor, tokens: Tensor) -> Tensor:
        return tokens


def table(case: Case, scale: float, seed: int = 0) -> Table:
    """Random log factors with a standard deviation of `scale` nats."""
    size = len(case.tokens)
    return Table(
        torch.from_numpy(scale * np.random.default_rng(seed).normal(size=(size + 1, size)))
    )


def site(case: Case, num_rows: int) -> tuple[Target, TextStage, Traces, list[Prompt], Steering]:
    """The one text site of a case, for that many rows, with its automata."""
    target = case.target()
    stage = target.stages[0]
    assert isinstance(stage, TextStage) and len(target.stages) == 1
    traces = target.start(torch.zeros(num_rows, dtype=torch.long))
    prompts = target.rows(0, traces).prompts
    return target, stage, traces, prompts, target.requirements.automata(0, traces, prompts)


def other_lm(case: Case) -> Proposed:
    """Another distribution over the same tokens: the case's own, mixed with uniform draws."""
    size = len(case.tokens)

    def next_log_probs(prefixes: Tensor) -> Tensor:
        own = torch.tensor([case.next_probs(tuple(prefix)) for prefix in prefixes.tolist()])
        return (0.4 * own.double() + 0.6 / size).log()

    lm = lmppl.FunctionLM(tokens=list(case.tokens), eos=case.eos, next_log_probs=next_log_probs)
    return Proposed(lm)


# ------------------------------------------------------------------------- every text, forced


def forced(
    case: Case,
    *twists: Steering,
    proposal: Proposed | None = None,
    constrained: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log q, log weight and log prior of every text of a case, `[texts]` each."""
    size = len(case.table)
    _, stage, _, prompts, automata = site(case, size)
    steering = (automata, *twists) if constrained else twists
    run = stage.begin(prompts, *steering, proposal=proposal)
    tokens = torch.full((size, case.max_tokens), -1)
    for row, execution in enumerate(case.table):
        tokens[row, : len(execution.tokens)] = torch.tensor(execution.tokens)
    log_q = torch.zeros(size, dtype=torch.float64)
    log_weight = torch.zeros_like(log_q)
    for position in range(case.max_tokens):
        if not run.num_open:
            break
        run, step = stage.step(run, None, forced=tokens[:, position])
        log_q = log_q.index_add(0, step.rows, step.log_proposal)
        log_weight = log_weight.index_add(0, step.rows, step.log_weight)
    assert run.num_open == 0
    return log_q.numpy(), run.unsteered(log_weight).numpy(), run.log_prior.numpy()


def error_of_weights(case: Case, *twists: Steering, **options: object) -> float:
    """How far q·w is from the prior at most, in nats, and Σ q from 1."""
    log_q, log_weight, log_prior = forced(case, *twists, **options)  # type: ignore[arg-type]
    meets = np.array([e.log_phi > -math.inf for e in case.table])
    # Texts that meet the requirements can be drawn; what cannot be drawn has weight zero.
    assert (log_q[meets] > -math.inf).all()
    assert (log_weight[log_q == -math.inf] == -math.inf).all()
    drawn = log_q > -math.inf
    error = np.abs(log_q[drawn] + log_weight[drawn] - log_prior[drawn]).max()
    return max(float(error), abs(float(np.logaddexp.reduce(log_q))))


EXACT = 1e-9


@every_case
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_the_weight_of_every_steered_text_is_prior_over_proposal(case: Case, scale: float) -> None:
    """Also where the twist is wildly wrong, and together with automata."""
    assert error_of_weights(case, table(case, scale)) < EXACT


@every_case
def test_several_twists_multiply(case: Case) -> None:
    one, other = table(case, 1.0, seed=1), table(case, 2.0, seed=2)
    both = Table(one.log_factors + other.log_factors)
    assert error_of_weights(case, one, other) < EXACT
    for apart, together in zip(forced(case, one, other), forced(case, both), strict=True):
        assert np.allclose(apart, together)


@every_case
@pytest.mark.parametrize("steered", [False, True], ids=["alone", "steered"])
def test_the_weight_of_every_text_of_another_language_model_is_prior_over_proposal(
    case: Case, steered: bool
) -> None:
    twists = (table(case, 1.0),) if steered else ()
    assert error_of_weights(case, *twists, proposal=other_lm(case)) < EXACT


def test_a_twist_that_is_not_divided_out_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert error_of_weights(HARD, table(HARD, 1.0)) < EXACT
    monkeypatch.setattr(TextRun, "unsteered", lambda self, log_weight: log_weight)
    assert error_of_weights(HARD, table(HARD, 1.0)) > 0.1


def test_a_mask_written_as_numbers_is_the_mask() -> None:
    @dataclass(frozen=True, slots=True)
    class AsNumbers(Steering):
        mask: Steering

        def begin(self, rows: Tensor) -> Tensor:
            return self.mask.begin(rows)

        def log_next(self, run: TextRun, states: Tensor) -> Tensor | None:
            allowed = self.mask.log_next(run, states)
            return None if allowed is None else allowed.double().log()

        def advance(self, states: Tensor, tokens: Tensor) -> Tensor:
            return self.mask.advance(states, tokens)

    *_, automata = site(HARD, len(HARD.table))
    as_mask = forced(HARD)
    as_numbers = forced(HARD, AsNumbers(automata), constrained=False)
    for one, other in zip(as_mask, as_numbers, strict=True):
        assert np.allclose(one, other, atol=1e-12)


# ---------------------------------------------------------------------------------------- draws


def drawn_p_value(case: Case, *twists: Steering, proposal: Proposed | None = None) -> float:
    """300 runs of 60 weighted draws each, by stepping the text stage."""
    num_runs, size = 300, 60
    target, stage, traces, prompts, automata = site(case, num_runs * size)
    run = stage.begin(prompts, automata, *twists, proposal=proposal)
    run, log_weight = complete(stage, run, Stream.from_seed(9).uniforms)
    alive = (log_weight > -math.inf).nonzero().squeeze(-1)
    run = run.select(alive)
    traces = traces.select(alive).with_value(stage.name, stage.finish(run), run.log_prior)
    traces = target.apply_potentials(traces, 0)
    weight = log_weight.clone()
    weight[alive] += traces.total_log_potential()
    rows = np.full(num_runs * size, -1)
    possible = weight[alive] > -math.inf
    rows[alive[possible].numpy()] = rows_of(
        case, target, traces.select(possible.nonzero().squeeze(-1))
    )
    runs = []
    for number in range(num_runs):
        here = slice(number * size, (number + 1) * size)
        seen = rows[here] >= 0
        weights = weight[here].softmax(-1).nan_to_num(0.0).numpy()
        runs.append((float(log_mean_exp(weight[here])), rows[here][seen], weights[seen]))
    return p_value_of_weighted_runs(case, runs)


@every_case
@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_steered_draws_are_exactly_weighted(case: Case, scale: float) -> None:
    assert drawn_p_value(case, table(case, scale)) > ALPHA


@every_case
def test_draws_of_another_language_model_are_exactly_weighted(case: Case) -> None:
    assert drawn_p_value(case, proposal=other_lm(case)) > ALPHA
    assert drawn_p_value(case, table(case, 0.5), proposal=other_lm(case)) > ALPHA


def test_draws_whose_twist_is_not_divided_out_are_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TextRun, "unsteered", lambda self, log_weight: log_weight)
    assert drawn_p_value(HARD, table(HARD, 1.0)) < ALPHA


def test_draws_of_another_language_model_that_count_as_the_priors_are_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Step, "log_weight", property(lambda self: self.log_mass))
    assert drawn_p_value(HARD, proposal=other_lm(HARD)) < ALPHA


# ------------------------------------------------------------------------------------------- smc


def steered_by(case: Case, scale: float) -> type[SMCEngine]:
    """SMC with a table beside what steers it already."""
    twist = table(case, scale)

    class Twisted(SMCEngine):
        def steering(self, rows: SiteRows) -> tuple[Steering, ...]:
            return (*super().steering(rows), twist)

    return Twisted


@every_case
@pytest.mark.parametrize(
    "settings",
    [SMALL, replace(SMALL, lookahead="none"), replace(SMALL, ess_threshold=0.0)],
    ids=["lookahead", "none", "never resampling"],
)
def test_smc_with_a_soft_twist_is_unbiased(case: Case, settings: lmppl.inference.smc.SMC) -> None:
    assert smc_p_value(case, settings, steered_by(case, 0.7)) > ALPHA


def test_smc_that_does_not_divide_out_its_soft_twist_is_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TextRun, "unsteered", lambda self, log_weight: log_weight)
    settings = replace(SMALL, lookahead="none")
    assert smc_p_value(HARD, settings, steered_by(HARD, 0.7)) < ALPHA


def test_a_twist_that_is_wildly_wrong_costs_only_precision() -> None:
    """Ẑ stays unbiased, and its variance over runs grows many times."""
    settings = replace(SMALL, lookahead="none", num_runs=2000)

    def runs(scale: float) -> np.ndarray:
        engine = steered_by(TILT, scale)(settings, TILT.target(), Stream.from_seed(3))
        state = run_to_the_end(engine)
        log_z = state.log_evidence + log_mean_exp(state.log_weight)
        return np.exp(log_z.numpy() - TILT.log_z)

    right, wrong = runs(0.0), runs(2.0)
    assert wrong.var() > 3.0 * right.var()
    assert smc_p_value(TILT, settings, steered_by(TILT, 2.0)) > ALPHA


def test_a_soft_twist_leaves_no_bound_of_weights() -> None:
    """A text that the twist makes rare can weigh more than its factors say."""
    engine = steered_by(TILT, 0.7)(SMALL, TILT.target(), Stream.from_seed(1))
    plain = SMCEngine(SMALL, TILT.target(), Stream.from_seed(1))
    (steered,) = engine.result(run_to_the_end(engine), complete=True)
    (masked,) = plain.result(run_to_the_end(plain), complete=True)
    assert steered.unseen.log_further == math.inf
    assert "not drawn as the prior draws" in steered.unseen.reason
    assert masked.unseen.log_further < math.inf


# ----------------------------------------------------------------------------------- forced rows


def test_forced_rows_change_nothing_for_the_others() -> None:
    _, stage, _, prompts, automata = site(HARD, 40)
    uniforms = Stream.from_seed(2)
    rows = torch.arange(40)
    free = stage.begin(prompts, automata, table(HARD, 1.0), record=True)
    mixed = stage.begin(prompts, automata, table(HARD, 1.0), record=True)
    texts = HARD.table
    while free.num_open:
        position = int(free.position or 0)
        at = uniforms.uniforms(rows, position)
        given = torch.full((40,), -1)
        for row in range(0, 40, 3):
            tokens = texts[row].tokens
            given[row] = tokens[position] if position < len(tokens) else 0
        free, one = stage.step(free, at)
        mixed, other = stage.step(mixed, at, forced=given)
        mine = {int(row): n for n, row in enumerate(other.rows)}
        for n, row in enumerate(one.rows.tolist()):
            if row % 3:
                assert other.log_prior[mine[row]] == one.log_prior[n]
                assert other.log_mass[mine[row]] == one.log_mass[n]
    drawn = (rows % 3 > 0).nonzero().squeeze(-1)
    assert torch.equal(free.tokens[drawn], mixed.tokens[drawn])
    for row in range(0, 40, 3):
        length = int(mixed.positions[row])
        assert tuple(mixed.tokens[row, :length].tolist()) == texts[row].tokens[:length]


def test_tokens_cost_the_same_whether_they_are_drawn_or_forced() -> None:
    _, stage, _, prompts, automata = site(HARD, 50)
    twist = table(HARD, 1.0)
    run = stage.begin(prompts, automata, twist)
    again = stage.begin(prompts, automata, twist)
    uniforms = Stream.from_seed(4)
    while run.num_open:
        at = uniforms.uniforms(torch.arange(50), int(run.position or 0))
        run, drawn = stage.step(run, at)
        again, given = stage.step(again, None, forced=run.tokens[:, int(run.position or 0) - 1])
        for one, other in (
            (drawn.log_prior, given.log_prior),
            (drawn.log_mass, given.log_mass),
            (drawn.log_proposal, given.log_proposal),
            (drawn.log_weight, given.log_weight),
        ):
            assert torch.allclose(one, other, atol=1e-6)
    assert run.log_prior.tolist() == pytest.approx(again.log_prior.tolist(), abs=1e-6)


def test_a_forced_token_that_the_mask_forbids_has_no_weight_and_cannot_be_proposed() -> None:
    _, stage, _, prompts, automata = site(HARD, 1)
    forbidden = HARD.tokens.index("c")  # the text has to begin with an a
    _, step = stage.step(stage.begin(prompts, automata), None, forced=torch.tensor([forbidden]))
    assert step.log_prior.item() > -math.inf
    assert step.log_proposal.item() == -math.inf and step.log_weight.item() == -math.inf


def test_an_exact_steering_never_lets_a_text_die() -> None:
    _, stage, _, prompts, automata = site(HARD, 500)
    assert all(machine is None or machine.is_exact for machine in automata.machines)
    _, log_weight = generate(stage, prompts, automata, Stream.from_seed(6).uniforms)
    assert bool((log_weight > -math.inf).all())


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_steering_that_is_not_a_number_is_an_internal_error(wrong: float) -> None:
    _, stage, _, prompts, _ = site(HARD, 3)
    twist = Table(torch.full((len(HARD.tokens) + 1, len(HARD.tokens)), wrong))
    with pytest.raises(InternalError, match="steering"):
        generate(stage, prompts, twist, Stream.from_seed(1).uniforms)


def test_what_is_kept_of_a_text_is_steered_from_there_on() -> None:
    """The state of a twist follows kept tokens; ψ counts from where the text is taken up."""
    size = 30
    _, stage, _, prompts, automata = site(ENDS, size)
    twist = table(ENDS, 1.0)
    run, _ = complete(
        stage, stage.begin(prompts, automata, twist, record=True), Stream.from_seed(5).uniforms
    )
    text: TextBatch = stage.finish(run)
    lengths = (text.lengths - 1).clamp(max=2)
    again = stage.begin(prompts, automata, twist, kept=text, kept_lengths=lengths, record=True)
    last = text.tokens.gather(1, (lengths - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1)
    expected = torch.where(lengths > 0, last, len(ENDS.tokens))
    assert torch.equal(again.steered.states[-1], expected)
    assert again.steered.log_psi is None
