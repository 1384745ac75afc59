"""Twists that are learned: any head, fitted or random, leaves weights exact, and fitting pays.

False-alarm rates of the tests of draws are 1e-5 over the choice of their fixed seeds.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import lmppl
from lmppl import LmpError
from lmppl.density import SiteRows, Target
from lmppl.density.stages.run import Step
from lmppl.density.steering.learned import Head, LearnedTwist
from lmppl.density.steering.protocol import Steering
from lmppl.inference.smc import SMC
from lmppl.inference.smc.engine import SMCEngine
from lmppl.inference.twist.objectives import (
    Objective,
    Scored,
    contrastive,
    fudge,
    log_ratio,
    paths,
    sixo,
    soft_q,
)
from tests.exactness.cases import ENDS, HARD, TILT, Case
from tests.exactness.test_sampling import ALPHA, smc_p_value
from tests.exactness.test_steering import EXACT, error_of_weights
from tests.laws.tiny_models import tiny_lm

every_case = pytest.mark.parametrize("case", [TILT, ENDS, HARD], ids=lambda case: case.name)


def head(case: Case, scale: float) -> Head:
    """A head of random numbers over a case's tokens, as if these had hidden states of three."""
    generator = torch.Generator().manual_seed(3)
    size = len(case.tokens)
    found = Head.fresh(torch.randn(size, 3, generator=generator), 1, 8, generator)
    outer = scale * torch.randn(found.outer.shape, generator=generator)
    return replace(found, outer=outer, time=torch.randn(8, generator=generator))


def twist(case: Case, scale: float, num_rows: int) -> LearnedTwist:
    return LearnedTwist(head(case, scale), torch.zeros(num_rows, dtype=torch.long))


def twisted(case: Case, scale: float) -> type[SMCEngine]:
    class Twisted(SMCEngine):
        def steering(self, rows: SiteRows) -> tuple[Steering, ...]:
            return (*self.target.steering(rows), twist(case, scale, rows.num_rows))

    return Twisted


THREE = SMC(num_particles=3, num_runs=4000, ess_threshold=0.9)


@every_case
@pytest.mark.parametrize("scale", [0.0, 1.0, 50.0])
def test_every_text_weighs_prior_over_proposal_whatever_the_head(case: Case, scale: float) -> None:
    assert error_of_weights(case, twist(case, scale, len(case.table))) < EXACT


def test_log_psi_is_bounded() -> None:
    found = head(TILT, 1000.0)
    log_psi = found.log_psi(torch.ones(5, 3), torch.zeros(5), torch.zeros(5, dtype=torch.long))
    assert float(log_psi.abs().max()) <= 8.0


@pytest.mark.parametrize("case", [TILT, HARD], ids=lambda case: case.name)
def test_three_particles_under_a_random_head_are_unbiased(case: Case) -> None:
    # Wilder heads have tails so heavy that means of 4,000 runs are far from normal.
    assert smc_p_value(case, THREE, twisted(case, 0.4)) > ALPHA


def test_weights_by_the_token_that_was_drawn_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twist is summed over the vocabulary; the drawn token's alone would count it twice."""

    def of_the_token(self: Step) -> Tensor:
        return self.log_mass if self.log_ratio is None else self.log_mass + self.log_ratio

    monkeypatch.setattr(Step, "log_weight", property(of_the_token))
    assert smc_p_value(HARD, THREE, twisted(HARD, 0.4)) < ALPHA


def test_a_head_that_was_not_trained_changes_no_bit() -> None:
    plain = SMC(num_particles=50, num_runs=2, lookahead="none")
    from lmppl.rng import Stream

    states = []
    for engine in (SMCEngine, twisted(HARD, 0.0)):
        run = engine(plain, HARD.target(), Stream.from_seed(2))
        state = run.init()
        while not run.is_done(state):
            state, _ = run.step(state)
        states.append(state)
    one, other = states
    assert torch.equal(one.log_weight, other.log_weight)
    assert torch.equal(one.traces.values["text"].tokens, other.traces.values["text"].tokens)


# -------------------------------------------------------------------------------------- objectives


def exact_twist(case: Case) -> Scored:
    """All texts of a case of one length under its best twist."""
    phi = {e.tokens: e.log_phi for e in case.table}

    def value(prefix: tuple[int, ...]) -> float:
        """log E[φ | beginning]."""
        if len(prefix) == case.max_tokens:
            return phi[prefix]
        probs = case.next_probs(prefix)
        after = [math.log(p) + value((*prefix, v)) for v, p in enumerate(probs) if p > 0]
        return float(np.logaddexp.reduce(after))

    rows = [e.tokens for e in case.table]
    psi = [[value(row[: t + 1]) for t in range(len(row))] for row in rows]
    values = [[value(row[:t]) for t in range(len(row))] for row in rows]
    inside = torch.ones(len(rows), case.max_tokens, dtype=torch.bool)
    zeros = torch.zeros(len(rows), case.max_tokens, dtype=torch.float64)
    log_phi = torch.tensor([phi[row] for row in rows], dtype=torch.float64)
    return Scored(
        torch.tensor(psi, dtype=torch.float64),
        torch.tensor(values, dtype=torch.float64),
        zeros,
        inside,
        log_phi,
    )


def test_the_best_twist_makes_paths_soft_q_and_the_log_ratio_zero() -> None:
    best = exact_twist(TILT)
    assert float(soft_q(best, best)) < 1e-10 and float(log_ratio(best, best)) < 1e-10
    log_z = best.log_value[0, 0]
    scaled = replace(best, log_psi=best.log_psi - log_z, log_value=best.log_value - log_z)
    assert float(paths(scaled, scaled)) < 1e-10 < 1e-2 < float(paths(best, best))
    wrong = replace(best, log_psi=best.log_psi + torch.linspace(0, 1, TILT.max_tokens).double())
    tilted = replace(best, log_psi=best.log_psi * torch.rand(best.log_psi.shape).double())
    assert float(soft_q(wrong, wrong)) > 1e-2 and float(log_ratio(tilted, tilted)) > 1e-2


def test_the_contrastive_loss_is_lowest_at_the_best_twist() -> None:
    """Texts of the posterior by weight, and those of the prior, in the numbers that they should be:
    at the first token, log Σ p ψ less the mean of log ψ is −KL(posterior ‖ prior) at its lowest."""
    best = exact_twist(TILT)
    posterior = TILT.posterior()
    times = np.round(posterior * 20000).astype(int)
    drawn = torch.from_numpy(np.repeat(np.arange(len(times)), times))
    positive = Scored(*(getattr(best, n)[drawn] for n in best.__dataclass_fields__))
    prior = np.exp([e.log_prior for e in TILT.table])
    spread = torch.from_numpy(np.repeat(np.arange(len(prior)), np.round(prior * 20000).astype(int)))
    before = Scored(*(getattr(best, n)[spread] for n in best.__dataclass_fields__))

    def loss(power: float) -> float:
        """With log ψ of every first token times a power."""
        first = torch.tensor([TILT.next_probs(())], dtype=torch.float64).log()
        by_token = {row.tokens[0]: n for n, row in enumerate(TILT.table)}
        log_psi = torch.stack([best.log_psi[by_token[v], 0] for v in range(3)])
        total = (first + power * log_psi).logsumexp(-1)
        one = replace(
            positive,
            log_psi=power * positive.log_psi[:, :1],
            inside=positive.inside[:, :1],
            log_before=positive.log_before[:, :1],
        )
        two = replace(
            before,
            log_value=total.expand(before.log_value.shape[0], 1),
            inside=before.inside[:, :1],
            log_before=before.log_before[:, :1],
        )
        return float(contrastive(one, two))

    assert loss(1.0) < loss(0.8) and loss(1.0) < loss(1.2)


def test_the_ratio_of_posterior_and_prior_is_best_for_sixo_and_fudge() -> None:
    """Up to a constant, which sixo fixes: over all texts, each as often as it should be."""
    best = exact_twist(TILT)
    posterior, prior = TILT.posterior(), np.exp([e.log_prior for e in TILT.table])

    def drawn(shares: np.ndarray) -> Scored:
        rows = np.repeat(np.arange(len(shares)), np.round(4000 * shares).astype(int))
        index = torch.from_numpy(rows)
        return Scored(*(getattr(best, n)[index] for n in best.__dataclass_fields__))

    ours, theirs = drawn(posterior), drawn(prior)
    log_z = float(np.logaddexp.reduce([e.log_prior + e.log_phi for e in TILT.table]))
    base = float((theirs.log_phi - theirs.log_phi.max()).exp().mean())
    constants = {sixo: -log_z, fudge: -float(theirs.log_phi.max()) - math.log(base)}
    for objective, constant in constants.items():

        def loss(power: float, objective: Objective = objective, c: float = constant) -> float:
            return float(objective(*(bent(each, power, c) for each in (ours, theirs))))

        assert loss(1.0) < loss(0.85) and loss(1.0) < loss(1.15)


def bent(texts: Scored, power: float, constant: float) -> Scored:
    """With ψ times a constant, to a power."""
    return replace(texts, log_psi=power * (texts.log_psi + constant))


def test_a_head_that_does_not_pay_is_no_twist(
    model: lmppl.BoundModel, fitted: lmppl.Posterior
) -> None:
    """Power 0 is tried too: a run by that is one of smc by default."""
    options = {"num_particles": 8, "num_runs": 1, "seed": 2, "method": "smc"}
    nothing = fitted.guide.scaled(0.0)
    plain = lmppl.infer(model, lookahead="auto", **options)
    same = lmppl.infer(model, lookahead=nothing, **options)
    assert np.array_equal(plain.log_weights, same.log_weights)


# ------------------------------------------------------------------------------------------ fitting


def test_what_was_seen_of_texts_is_what_is_read_of_them(model: lmppl.BoundModel) -> None:
    """A round of the fit by a twist: hidden states, and prior over proposal of every beginning."""
    from lmppl.inference.twist import Twist
    from lmppl.inference.twist.engine import TwistEngine
    from lmppl.rng import Stream

    settings = Twist(num_steps=4, num_rounds=2, num_particles=16, width=8, lr=0.1)
    engine = TwistEngine(settings, model.target(), Stream.from_seed(3))
    state = engine.init()
    while state.num_done < 2:
        state, _ = engine.step(state)
    head, target = state.heads[0], model.target()
    drawn, _ = engine._by_twist(state, replace(engine.fitted(state).on(target), seen={}))
    found = drawn[0].texts
    assert drawn[0].is_draw.all() and float(found.log_before[:, -1].abs().max()) > 1e-3
    stage = target.stages[0].text
    assert stage is not None
    log_p = stage.lm.token_log_probs([""] * 16, found.tokens, found.lengths)
    scored = found.scored(head, engine_weight(target), torch.arange(16))
    # The first token's: prior over proposal is what p ψ was divided by, over ψ.
    ratio = scored.log_value - scored.log_psi
    assert torch.allclose(found.log_before[:, 1], ratio[:, 0], atol=1e-5)
    again = found.hidden @ engine_weight(target).float().t()
    chosen = again.log_softmax(-1).gather(-1, found.tokens.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(torch.where(scored.inside, chosen, 0.0), log_p, atol=1e-3)


def engine_weight(target: Target) -> Tensor:
    from lmppl.inference.twists import unembedding_of

    stage = target.stages[0].text
    assert stage is not None
    return unembedding_of(stage)


PROGRAM = """
extern lm prior
reward letters(t: string): int<lower=0, upper=40> = count("[aeiou]")
model vowels(gain: real<lower=0> = 2.0) {
    text ~ prior(max_tokens=6)
    factor gain * letters(text) - 12
    return text
}
infer smc(lookahead=ahead, num_particles=16, seed=1)
infer twist(num_steps=20, num_rounds=2, num_particles=32, width=16) as ahead
"""


@pytest.fixture(scope="module")
def model() -> lmppl.BoundModel:
    return lmppl.compile(PROGRAM)(prior=tiny_lm("llama"))


@pytest.fixture(scope="module")
def fitted(model: lmppl.BoundModel, tmp_path_factory: pytest.TempPathFactory) -> lmppl.Posterior:
    return lmppl.infer(model, infer="ahead", seed=4)


STORIES = """
reward loves(t: string): int<lower=0, upper=40> = count("love|happy|fun|play")
model merry() {
    text ~ lm("builtin:stories", prompt="Once upon a time", max_tokens=12)
    factor 3 * loves(text) - 6
    return text
}
infer smc(lookahead=ahead, num_particles=12, num_runs=100, seed=1)
infer smc(lookahead="none", num_particles=12, num_runs=100, seed=1) as plain
infer twist(num_steps=60, num_rounds=2, num_particles=96, batch_size=24, seed=4) as ahead
"""


def test_fitting_lowers_the_variance_of_the_evidence() -> None:
    """100 runs of 12 particles each, with the twist and without one."""
    model = lmppl.compile(STORIES)
    plain, ahead = lmppl.infer(model, infer="plain"), lmppl.infer(model)

    def spread(post: lmppl.Posterior) -> float:
        return float(np.var(post.diagnostics["log_evidence_runs"]))

    # Were both the same and normal, a ratio below 0.46 would come for one choice of seeds in 1e4.
    assert spread(ahead) < 0.46 * spread(plain)
    found = ahead.manifest["lookahead"]
    assert found["line"] == "ahead" and found["num_tokens"] > 0 and len(found["digest"]) == 64
    assert abs(ahead.log_evidence.value - plain.log_evidence.value) < 0.5


def test_a_twist_is_one_by_its_seed_given_saved_or_loaded(
    model: lmppl.BoundModel, fitted: lmppl.Posterior, tmp_path: Path
) -> None:
    again = lmppl.infer(model, infer="ahead", seed=4)
    assert again.guide.digest == fitted.guide.digest
    assert np.array_equal(again.log_weights, fitted.log_weights)
    fitted.save(tmp_path / "saved")
    fitted.guide.save_pretrained(tmp_path / "twist")
    options = {"method": "smc", "num_particles": 20, "num_runs": 1, "seed": 2}
    ways = (fitted, fitted.guide, tmp_path / "saved", str(tmp_path / "twist"))
    found = [lmppl.infer(model, lookahead=way, **options) for way in ways]
    for post in found[1:]:
        assert np.array_equal(post.log_weights, found[0].log_weights)
    other = lmppl.infer(model, lookahead="none", **options)
    assert not np.array_equal(other.log_weights, found[0].log_weights)


def test_a_word_fits_a_twist_first(model: lmppl.BoundModel) -> None:
    post = lmppl.infer(
        model, method="smc", lookahead="learned", num_particles=16, seed=1, budget="5000 tokens"
    )
    found = post.manifest["lookahead"]
    assert found["line"] == "learned" and found["method"] == "twist"
    assert 0 < found["num_tokens"] <= 5000


@pytest.mark.parametrize("objective", ["contrastive", "soft-q", "log-ratio", "sixo", "fudge"])
def test_other_objectives_fit_too(model: lmppl.BoundModel, objective: str) -> None:
    post = lmppl.infer(
        model, infer="ahead", objective=objective, num_steps=40, lr=0.02, num_particles=32, seed=1
    )
    losses = post.info["loss"]
    assert losses[-5:].mean() < losses[:5].mean()


def test_what_has_no_state_to_read_is_refused_and_so_is_a_twist_of_another_model(
    model: lmppl.BoundModel, fitted: lmppl.Posterior
) -> None:
    def code(call: object) -> str:
        with pytest.raises(LmpError) as error:
            call()  # type: ignore[operator]
        return error.value.diagnostics[0].code

    coin = "model coin() { x ~ bernoulli(0.5) return x }"
    assert code(lambda: lmppl.infer(lmppl.compile(coin), method="twist")) == "LMP419"
    large = lmppl.FunctionLM(
        tokens=[f"t{i}" for i in range(2000)],
        eos=None,
        next_log_probs=lambda prefixes: torch.zeros(prefixes.shape[0], 2000) - math.log(2000),
    )
    assert code(lambda: lmppl.infer(model.compiled(prior=large), method="twist")) == "LMP419"
    smc = {"method": "smc", "num_particles": 8, "seed": 0}
    assert code(lambda: lmppl.infer(TILT.bound(), lookahead=fitted.guide, **smc)) == "LMP408"
    assert (
        code(lambda: lmppl.infer(model, lookahead="none", proposal=fitted.guide, **smc)) == "LMP408"
    )
    assert code(lambda: lmppl.infer(model, lookahead="ahed", **smc)) == "LMP407"
    with pytest.raises(LmpError, match='lookahead="learned"'):
        lmppl.infer(model, twist="learned", **smc)
    both = {"lookahead": fitted.guide, "proposal": fitted.guide}
    assert code(lambda: lmppl.infer(model, **both, **smc)) == "LMP407"
