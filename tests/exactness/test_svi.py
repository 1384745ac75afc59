"""svi against enumeration: fit, gradient, bounds, masks, refusals; and wrong variants of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import lmppl
from lmppl.density import Target, TextStage
from lmppl.density.stages.completing import generate
from lmppl.inference.svi import SVI
from lmppl.inference.svi.engine import State, SVIEngine
from lmppl.lm.huggingface import HuggingFaceLM
from lmppl.lm.loading import load_language_model
from lmppl.lowering import Guide, LeaveOneOutELBO, PyroGuide
from lmppl.lowering.fitted import FittedGuide
from lmppl.lowering.isolation import isolated
from lmppl.lowering.objective import Batch
from lmppl.rng import Stream
from tests.exactness.cases import CASES, ENDS, HARD, MIXED, TILT, Case
from tests.exactness.statistics import p_value_of_means
from tests.exactness.svi_cases import Fit, Perturbed, fit_of, log_prob_at, values_of
from tests.laws.tiny_models import tiny_lm


def _trained(
    target: Target, objective: LeaveOneOutELBO | None = None, **settings: object
) -> tuple[SVIEngine, State]:
    engine = SVIEngine(
        SVI(**settings),  # type: ignore[arg-type]
        target,
        Stream.from_seed(0),
        *([objective] if objective is not None else []),
    )
    state = engine.init()
    while not engine.is_done(state):
        state, _ = engine.step(state)
    return engine, state


def _fit(case: Case, target: Target, guide: Guide) -> Fit:
    return fit_of(case, log_prob_at(PyroGuide(guide), values_of(case, target)))


# --- the fit ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_guide_comes_close_to_the_posterior_both_ways(case: Case) -> None:
    target = case.target()
    engine, state = _trained(target, num_steps=60, num_particles=100, table_lr=0.2)
    fit = _fit(case, target, engine.guide(state))
    assert fit.total_mass == pytest.approx(1.0, abs=1e-9)
    assert 0.0 <= fit.kl_guide_posterior < 0.05
    assert fit.kl_posterior_guide < 0.1
    assert fit.elbo <= case.log_z


def test_the_guide_reaches_a_hundredth_of_a_nat() -> None:
    target = ENDS.target()
    engine, state = _trained(target, num_steps=150, num_particles=64, table_lr=0.1)
    fit = _fit(ENDS, target, engine.guide(state))
    assert fit.kl_guide_posterior < 0.01
    assert fit.kl_posterior_guide < 0.01


def test_without_steps_the_guide_is_the_masked_prior() -> None:
    target = HARD.target()
    engine, state = _trained(target, num_steps=0)
    trained = log_prob_at(PyroGuide(engine.guide(state)), values_of(HARD, target)).detach()
    untrained = log_prob_at(HARD.bound().pyro_guide, values_of(HARD, target)).detach()
    assert torch.equal(trained, untrained)


# --- the gradient ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def perturbed() -> Perturbed:
    return Perturbed(ENDS)


def _p_value(perturbed: Perturbed, objective: LeaveOneOutELBO) -> float:
    return p_value_of_means(perturbed.projections(objective, 40_000, 4), perturbed.squared_norm)


class _DividesByDeviation(LeaveOneOutELBO):
    """Advantages standardised by the batch, as GRPO does."""

    def advantage(self, log_weight: Tensor) -> Tensor:
        centred = super().advantage(log_weight)
        return centred / (log_weight.std(-1, keepdim=True) + 1e-6)


class _OwnSampleInBaseline(LeaveOneOutELBO):
    """The baseline is the mean of all rows, the row's own included."""

    def advantage(self, log_weight: Tensor) -> Tensor:
        return log_weight - log_weight.mean(-1, keepdim=True)


class _K3InLoss(LeaveOneOutELBO):
    """The reward by the score function, the divergence by differentiating Schulman's k3."""

    def surrogate(self, batch: Batch) -> Tensor:
        log_prior: Tensor = batch.guide_trace  # type: ignore[assignment]
        reward = batch.log_density - log_prior
        log_ratio = log_prior - batch.log_guide
        k3 = log_ratio.exp() - 1.0 - log_ratio
        return (k3 - self.advantage(reward) * batch.log_guide).mean()


class _NoDivergence(LeaveOneOutELBO):
    """The reward alone: plain reinforcement learning."""

    def surrogate(self, batch: Batch) -> Tensor:
        log_prior: Tensor = batch.guide_trace  # type: ignore[assignment]
        return -(self.advantage(batch.log_density - log_prior) * batch.log_guide).mean()


def test_the_gradient_has_no_bias_along_the_true_gradient(perturbed: Perturbed) -> None:
    assert _p_value(perturbed, LeaveOneOutELBO()) > 1e-4


@pytest.mark.parametrize(
    "wrong",
    [_DividesByDeviation, _OwnSampleInBaseline, _K3InLoss, _NoDivergence],
    ids=lambda wrong: wrong.__name__.lstrip("_"),
)
def test_a_wrong_gradient_is_rejected(perturbed: Perturbed, wrong: type[LeaveOneOutELBO]) -> None:
    assert _p_value(perturbed, wrong()) < 1e-6


def test_a_step_differentiates_the_guide_that_it_draws_from(perturbed: Perturbed) -> None:
    objective = LeaveOneOutELBO()
    batch = isolated(lambda: objective.draw(perturbed.model, perturbed.program, 400), Stream(11))
    groups = batch.log_weight.reshape(100, 4), batch.log_guide.reshape(100, 4)
    projections = []
    for part in range(20):
        log_weight, log_guide = (each[5 * part : 5 * part + 5] for each in groups)
        surrogate = (objective.advantage(log_weight) * log_guide).mean(-1).sum() / 5
        gradient = torch.autograd.grad(surrogate, perturbed.parameters, retain_graph=True)
        pairs = zip(gradient, perturbed.direction, strict=True)
        projections.append(float(sum((a * b).sum() for a, b in pairs)))
    assert stats.ttest_1samp(projections, perturbed.squared_norm).pvalue > 1e-4


def test_loss_and_gradient_are_those_of_the_same_draw(perturbed: Perturbed) -> None:
    objective = LeaveOneOutELBO()
    batch = isolated(lambda: objective.draw(perturbed.model, perturbed.program, 16), Stream(5))
    expected = torch.autograd.grad(objective.surrogate(batch), perturbed.parameters)
    loss = isolated(
        lambda: objective.loss_and_grads(perturbed.model, perturbed.program, 16), Stream(5)
    )
    found = [p.grad for p in perturbed.parameters]
    for parameter in perturbed.parameters:
        parameter.grad = None
    assert loss == pytest.approx(-float(batch.log_weight.mean()))
    assert all(torch.allclose(a, b) for a, b in zip(found, expected, strict=True) if a is not None)


# --- the result -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed_posterior() -> lmppl.Posterior:
    return lmppl.infer(
        MIXED.bound(),
        method="svi",
        num_steps=40,
        num_particles=64,
        table_lr=0.15,
        num_samples=400,
        seed=0,
    )


def test_the_log_evidence_is_a_lower_bound_and_says_so(mixed_posterior: lmppl.Posterior) -> None:
    estimate = mixed_posterior.log_evidence
    assert estimate is not None and estimate.kind == "lower bound"
    assert estimate.value - 4 * estimate.standard_error <= MIXED.log_z
    weighted = mixed_posterior.diagnostics["log_evidence_importance"]
    error = mixed_posterior.diagnostics["log_evidence_importance_standard_error"]
    assert abs(weighted - MIXED.log_z) < 5 * error
    assert weighted >= estimate.value


def test_the_elbo_rises_from_that_of_the_prior(mixed_posterior: lmppl.Posterior) -> None:
    curve = mixed_posterior.info["elbo"]
    errors = mixed_posterior.info["elbo_standard_error"]
    assert curve.shape == errors.shape == (40,)
    assert curve[-5:].mean() > curve[0] + 3 * errors[0]
    assert curve[-5:].mean() < MIXED.log_z + 0.05


def test_weighted_draws_give_the_posterior_mean(mixed_posterior: lmppl.Posterior) -> None:
    truth = sum(
        p * (e.choices[0] == "a") for e, p in zip(MIXED.table, MIXED.posterior(), strict=True)
    )
    estimate = mixed_posterior.expectation('topic == "a"')
    assert abs(estimate.value - truth) < 5 * estimate.standard_error


def test_fresh_draws_meet_every_requirement_and_follow_their_seed(
    mixed_posterior: lmppl.Posterior,
) -> None:
    fresh = mixed_posterior.sample(200, seed=3)
    for topic, mood, text in zip(fresh["topic"], fresh["mood"], fresh["text"], strict=True):
        assert not mood or topic in text
    again = mixed_posterior.sample(200, seed=3)
    assert fresh["text"] == again["text"]
    assert fresh["text"] != mixed_posterior.sample(200, seed=4)["text"]


def test_the_guide_scores_its_own_draws_as_it_drew_them(mixed_posterior: lmppl.Posterior) -> None:
    draws = mixed_posterior.guide.sample(50, seed=1)
    np.testing.assert_allclose(
        mixed_posterior.guide.log_prob(draws), draws.log_prob, rtol=0, atol=1e-9
    )
    assert mixed_posterior.guide.log_prob(
        {"topic": ["a"], "mood": [True], "text": torch.tensor([[1, 1, 1, 1]])}
    ) == [-np.inf]


def test_the_same_seed_gives_the_same_result() -> None:
    options = {"method": "svi", "num_steps": 4, "num_particles": 16, "num_samples": 20}
    first = lmppl.infer(TILT.bound(), seed=5, **options)
    second = lmppl.infer(TILT.bound(), seed=5, **options)
    other = lmppl.infer(TILT.bound(), seed=6, **options)
    assert first["text"] == second["text"]
    assert np.array_equal(first.log_weights, second.log_weights)
    assert first["text"] != other["text"]


def test_several_bindings_are_fitted_together_each_to_its_own_posterior() -> None:
    model = lmppl.compile(TILT.program)
    prior = TILT.language_model()
    bound = [model(prior=prior, beta=beta) for beta in (0.7, 5.0)]
    posts = lmppl.infer(
        bound,
        method="svi",
        num_steps=40,
        num_particles=64,
        table_lr=0.2,
        num_samples=100,
        seed=0,
    )
    for post, each in zip(posts, bound, strict=True):
        exact = lmppl.infer(each, method="exact")
        assert post.log_evidence.value == pytest.approx(exact.log_evidence.value, abs=0.15)


# --- refusals -------------------------------------------------------------------------------------

_PROGRAM = """
    extern lm prior
    extern reward score(t: string): real<lower=0, upper=1>
    reward count_a(t: string): int<lower=0, upper=5> = count("a")
    model m() {{
        topic ~ categorical(["x", "y"])
        text ~ prior(max_tokens=5)
        {line}
        return text
    }}
"""


def _of(line: str, host: lmppl.FunctionLM | None = None) -> lmppl.BoundModel:
    model = lmppl.compile(_PROGRAM.format(line=line))
    return model(
        prior=host or TILT.language_model(), score=lambda texts: [len(t) / 10 for t in texts]
    )


@pytest.mark.parametrize(
    "line",
    [
        "require high: score(text) > 0.3",
        "require few: 2 * score(text) <= 0.7",
        "factor rare: log(count_a(text))",
    ],
)
def test_a_posterior_that_is_zero_where_no_prefix_tells_is_refused(line: str) -> None:
    with pytest.raises(lmppl.LmpError, match="LMP411"):
        lmppl.infer(_of(line), method="svi", num_steps=2)


def test_a_dead_end_of_the_prior_itself_is_refused_when_it_is_met() -> None:
    def only_b_after_a(prefixes: Tensor) -> Tensor:
        rows = torch.tensor([[0.0, 1.0, 0.0], [0.3, 0.4, 0.3], [0.3, 0.4, 0.3]]).log()
        return rows[prefixes[:, -1]] if prefixes.shape[1] else rows[1:2].expand(len(prefixes), -1)

    host = lmppl.FunctionLM(tokens=["a", "b", "c"], eos=None, next_log_probs=only_b_after_a)
    with pytest.raises(lmppl.InferenceError, match="LMP411"):
        lmppl.infer(
            _of('require no_ab: never(text, words=["ab"])', host), method="svi", num_steps=2
        )


def test_choices_whose_texts_would_be_dead_are_never_drawn() -> None:
    line = 'require none: length(text, unit="characters") > 9 when topic == "x"'
    post = lmppl.infer(_of(line), method="svi", num_steps=2, num_particles=16, num_samples=30)
    assert set(post["topic"]) == {"y"}


# --- neural language models ---------------------------------------------------------------------


def _tiny_program(options: str = "") -> str:
    return f"""
        extern lm prior
        reward vowels(t: string): int<lower=0> = count("[aeiou]")
        model m(prompt: string = "Once upon") {{
            text ~ prior(prompt=prompt, max_tokens=3{options})
            factor tone: 3 * vowels(text)
            require clean: never(text, words=["x"])
            return text
        }}
    """


@pytest.fixture(scope="module")
def tiny() -> HuggingFaceLM:
    return tiny_lm("llama")


def _drawn_and_scored(target: Target, guide: Guide) -> tuple[np.ndarray, np.ndarray]:
    """log q of 20 draws as they were drawn, token by token, and as scored in one pass."""
    stage = guide.part(0).stage_of(torch.zeros(20, dtype=torch.long))
    log_q, rows = _draws(target, stage)
    return log_q, FittedGuide(guide).log_prob({"text": rows})


def _draws(target: Target, stage: TextStage) -> tuple[np.ndarray, list[list[int]]]:
    """log q and tokens of 20 masked draws of a text stage, always with the same numbers."""
    traces = target.start(torch.zeros(20, dtype=torch.long))
    prompts = target.rows(0, traces).prompts
    automata = target.requirements.automata(0, traces, prompts)
    run, log_mass = generate(stage, prompts, automata, Stream.from_seed(1).uniforms)
    text = stage.finish(run)
    rows = [text.tokens[i, : text.lengths[i]].tolist() for i in range(20)]
    return (run.log_prior - log_mass).numpy(), rows


@pytest.mark.parametrize("guide", ["full", "lora"])
@pytest.mark.parametrize("options", ["", ", temperature=0.8", ", top_k=12, top_p=0.95"])
def test_a_neural_guide_starts_as_the_masked_prior(
    tiny: HuggingFaceLM, guide: str, options: str
) -> None:
    target = lmppl.compile(_tiny_program(options))(prior=tiny).target()
    engine, state = _trained(target, num_steps=0, guide=guide)
    drawn, scored = _drawn_and_scored(target, engine.guide(state))
    np.testing.assert_allclose(drawn, scored, rtol=0, atol=1e-3)
    stage = target.stages[0]
    assert isinstance(stage, TextStage)
    np.testing.assert_allclose(drawn, _draws(target, stage)[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("guide", "options"), [("full", ""), ("full", ", top_k=12"), ("lora", "")])
def test_a_neural_guide_draws_and_scores_alike_after_training(
    tiny: HuggingFaceLM, guide: str, options: str
) -> None:
    before = [p.clone() for p in tiny.model.parameters()]
    target = lmppl.compile(_tiny_program(options))(prior=tiny).target()
    lr = 1e-3 if guide == "full" else 1e-2
    engine, state = _trained(target, num_steps=25, num_particles=64, lr=lr, guide=guide)
    drawn, scored = _drawn_and_scored(target, engine.guide(state))
    np.testing.assert_allclose(drawn, scored, rtol=0, atol=1e-3)
    curve = [float(value) for value in state.elbo]
    assert np.mean(curve[-3:]) > curve[0] + 3 * float(state.elbo_error[0])
    assert all(torch.equal(a, b) for a, b in zip(before, tiny.model.parameters(), strict=True))


@pytest.mark.parametrize("guide", ["full", "lora"])
def test_a_saved_guide_is_a_hugging_face_model_with_the_same_log_probs(
    tiny: HuggingFaceLM, guide: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bound = lmppl.compile(_tiny_program())(prior=tiny)
    post = lmppl.infer(
        bound,
        method="svi",
        guide=guide,
        num_steps=3,
        num_particles=8,
        num_samples=8,
        seed=0,
        lr=1e-2,
    )
    capfd.readouterr()
    post.guide.save_pretrained(tmp_path / "guide")
    assert capfd.readouterr() == ("", "")
    description = json.loads((tmp_path / "guide" / "lmppl_guide.json").read_text("utf-8"))
    assert description["sites"][0]["name"] == "text"
    loaded = load_language_model(tmp_path / "guide")
    tokens, lengths = torch.tensor([[5, 9, 30, 7]] * 2), torch.tensor([4, 3])
    mine = post.guide.module.part(0).lm
    prompts = ["Once upon", "Once"]
    np.testing.assert_allclose(
        loaded.token_log_probs(prompts, tokens, lengths).numpy(),
        mine.token_log_probs(prompts, tokens, lengths).numpy(),
        rtol=0,
        atol=1e-4,
    )
    moved = tiny.token_log_probs(prompts, tokens, lengths)
    assert not torch.allclose(loaded.token_log_probs(prompts, tokens, lengths), moved, atol=1e-3)


@pytest.mark.parametrize("style", ["gpt2", "qwen2", "gemma3", "mamba"])
def test_logits_of_whole_texts_are_those_of_stepping(style: str) -> None:
    lm = tiny_lm(style)
    prompts = ["Once upon a time", "The dog"]
    tokens, lengths = torch.tensor([[5, 9, 30, 7], [11, 40, 2, 0]]), torch.tensor([4, 3])
    logits = lm.sequence_logits(prompts, tokens, lengths).float().log_softmax(-1)
    found = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    expected = lm.token_log_probs(prompts, tokens, lengths)
    inside = torch.arange(4) < lengths.unsqueeze(-1)
    torch.testing.assert_close(found[inside], expected[inside], rtol=0, atol=1e-3)
