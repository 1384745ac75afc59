"""The fast path of the engine against a slow one: same uniforms, same texts, same evidence.

The slow path lives here only. It keeps every particle by itself, computes every prefix from
scratch without a cache, looks at the text to see which tokens are allowed, and inverts the CDF of
each draw in a Python loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch

import lmppl
from lmppl.inference.mcmc import MCMC
from lmppl.inference.mcmc.engine import MCMCEngine
from lmppl.lm.decoding import LlamaDecoder
from lmppl.lm.huggingface import HuggingFaceLM
from lmppl.lm.huggingface.forward_pass import ForwardPass
from lmppl.lm.loading import load_language_model
from lmppl.posterior import Posterior
from lmppl.rng import Stream
from lmppl.sequences.drawing import draw_tokens

MAX_TOKENS = 7
PROMPT = "The dog"
FORBIDDEN = ("e", "on")
# Rounding of float32 networks, in nats for a whole text.
TOLERANCE = 2e-4

PROGRAM = """
reward vowels(t: string): real<lower=0, upper=1000> = count("[aeiou]")
model m(beta: real<lower=0> = 2.5) {{
    text ~ lm("{path}", prompt="{prompt}", max_tokens={max_tokens})
    factor tone: {score} * beta
    {constraint}
    return text
}}
"""
NEVER = 'require clean: never(text, words=["e", "on"])'


@pytest.fixture(scope="module", params=["llama", "gpt2", "mamba"])
def directory(request, tmp_path_factory) -> Path:  # type: ignore[no-untyped-def]
    """A decoder of our own, the general forward pass, and a model without a cache."""
    return tiny_models.save_tiny_model(
        request.param, tmp_path_factory.mktemp("engine") / request.param
    )


def program(
    path: Path | str, constraint: str = "", score: str = "vowels(text)"
) -> lmppl.CompiledModel:
    return lmppl.compile(
        PROGRAM.format(
            path=path, prompt=PROMPT, max_tokens=MAX_TOKENS, constraint=constraint, score=score
        )
    )


@dataclass
class Particle:
    tokens: list[int] = field(default_factory=list)
    log_weight: float = 0.0
    log_prior: float = 0.0
    twist: float = 0.0
    done: bool = False


class SlowSMC:
    """Token-level SMC with nothing shared, nothing kept and nothing batched."""

    def __init__(self, path: Path, *, never: bool, lookahead: bool, beta: float = 2.5) -> None:
        self.lm = load_language_model(path)
        self.never, self.lookahead, self.beta = never, lookahead, beta
        self.vocab = self.lm.vocab

    def log_probs(self, tokens: list[int]) -> np.ndarray:
        ids = [*self.lm.prompts.ids(PROMPT), *tokens]
        with torch.no_grad():
            logits = self.lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        return logits.double().log_softmax(-1).numpy()

    def text(self, tokens: list[int]) -> str:
        return self.vocab.decode([t for t in tokens if t not in self.vocab.eos_ids])

    def is_allowed(self, tokens: list[int]) -> bool:
        # A text without these words can always go on, or end, without them.
        return not self.never or not any(word in self.text(tokens) for word in FORBIDDEN)

    def score(self, tokens: list[int]) -> float:
        return self.beta * sum(letter in "aeiou" for letter in self.text(tokens))

    def draw(self, particle: Particle, uniform: float) -> None:
        log_probs = self.log_probs(particle.tokens)
        probs = np.exp(log_probs)
        allowed = np.array(
            [self.is_allowed([*particle.tokens, token]) for token in range(self.vocab.size)]
        )
        mass = float(probs[allowed].sum())
        reached, chosen = 0.0, -1
        for token in np.flatnonzero(allowed):
            reached += probs[token]
            if uniform * mass < reached:
                chosen = int(token)
                break
        assert chosen >= 0
        particle.tokens.append(chosen)
        particle.log_prior += float(log_probs[chosen])
        particle.log_weight += math.log(mass)
        particle.done = chosen in self.vocab.eos_ids or len(particle.tokens) == MAX_TOKENS

    def run(self, num_particles: int, seed: int) -> tuple[list[str], float, int]:
        """The texts, the log evidence and how often particles were resampled."""
        stream = Stream.from_seed(seed)
        rows = torch.arange(num_particles)
        particles = [Particle() for _ in range(num_particles)]
        log_evidence, num_resamplings = 0.0, 0
        for position in range(MAX_TOKENS):
            uniforms = stream.child("site", 0).uniforms(rows, position).tolist()
            for particle, uniform in zip(particles, uniforms, strict=True):
                if not particle.done:
                    self.draw(particle, uniform)
                    if self.lookahead:
                        twist = self.score(particle.tokens)
                        particle.log_weight += twist - particle.twist
                        particle.twist = twist
            if all(particle.done for particle in particles):
                break
            weights = np.array([p.log_weight for p in particles])
            weights = np.exp(weights - weights.max())
            if weights.sum() ** 2 / (weights**2).sum() >= 0.5 * num_particles:
                continue
            log_evidence += log_mean(particles)
            # The engine has taken position + 1 steps when it resamples.
            start = float(stream.child("resample").uniforms(torch.zeros(1).long(), position + 1)[0])
            particles = resampled(particles, weights / weights.sum(), start)
            num_resamplings += 1
        for particle in particles:
            particle.log_weight += self.score(particle.tokens) - particle.twist
        texts = [self.text(particle.tokens) for particle in particles]
        return texts, log_evidence + log_mean(particles), num_resamplings


def log_mean(particles: list[Particle]) -> float:
    return float(np.logaddexp.reduce([p.log_weight for p in particles])) - math.log(len(particles))


def resampled(particles: list[Particle], weights: np.ndarray, start: float) -> list[Particle]:
    chosen, reached, ancestor = [], float(weights[0]), 0
    for i in range(len(particles)):
        while (i + start) / len(particles) >= reached:
            ancestor += 1
            reached += float(weights[ancestor])
        old = particles[ancestor]
        chosen.append(Particle(list(old.tokens), 0.0, old.log_prior, old.twist, old.done))
    return chosen


@pytest.mark.parametrize("never", [False, True], ids=["free", "never"])
@pytest.mark.parametrize("lookahead", [False, True], ids=["blind", "lookahead"])
def test_the_fast_path_draws_what_the_slow_path_draws(
    directory: Path, never: bool, lookahead: bool
) -> None:
    post = lmppl.infer(
        program(directory, NEVER if never else "")(),
        method="smc",
        num_particles=12,
        seed=3,
        lookahead="prefix" if lookahead else "none",
        lookahead_every=1,
        progress=False,
    )
    slow = SlowSMC(directory, never=never, lookahead=lookahead)
    texts, log_evidence, num_resamplings = slow.run(12, seed=3)
    assert post.texts == texts
    assert abs(post.log_evidence.value - log_evidence) < TOLERANCE
    assert post.diagnostics["num_resamplings"] == [num_resamplings]
    if lookahead and not never:
        assert num_resamplings > 0, "rows were never shared: the test shows nothing"


def test_the_slow_path_notices_a_twist_that_is_not_divided_out(tmp_path: Path) -> None:
    path = tiny_models.save_tiny_model("llama", tmp_path / "llama")
    slow = SlowSMC(path, never=False, lookahead=True)
    _, right, _ = slow.run(12, seed=3)
    slow.score = lambda tokens: 2.5 * len(slow.text(tokens))  # type: ignore[method-assign]
    _, wrong, _ = slow.run(12, seed=3)
    assert abs(right - wrong) > 100 * TOLERANCE


def same(one: Posterior, other: Posterior) -> bool:
    return (
        one.texts == other.texts
        and bool(np.allclose(one.log_weights, other.log_weights, atol=TOLERANCE))
        and bool(np.allclose(one.log_prior, other.log_prior, atol=TOLERANCE))
    )


RUNS = {
    "smc": {"num_particles": 20, "lookahead_every": 2},
    "importance": {"num_samples": 20},
    "rejection": {"num_samples": 3, "max_attempts": 40},
    "mcmc": {"num_chains": 6, "num_samples": 4, "warmup_steps": 2},
}


def of_stories(method: str, max_rows: int | None) -> Posterior:
    clean = 'require clean: never(text, words=["the"])'
    # Bounded above, as rejection asks.
    compiled = program("builtin:stories", clean, "-vowels(text)")
    return lmppl.infer(
        compiled(beta=0.2),
        method=method,
        seed=5,
        max_rows=max_rows,
        progress=False,
        **RUNS[method],
    )


@pytest.mark.parametrize("method", RUNS)
def test_draws_do_not_depend_on_the_micro_batch(method: str) -> None:
    whole = of_stories(method, None)
    assert same(whole, of_stories(method, 7))
    assert load_language_model("builtin:stories").max_rows is None


def test_draws_one_row_at_a_time_are_the_same() -> None:
    assert same(of_stories("smc", None), of_stories("smc", 1))


def test_running_out_of_memory_halves_the_micro_batch_and_keeps_the_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = of_stories("smc", None)
    lm = load_language_model("builtin:stories")
    monkeypatch.setattr(lm.memory, "max_rows", None)
    step, refused = LlamaDecoder.step, []

    def small_memory(self, storage, first_row, last_row, *rest):  # type: ignore[no-untyped-def]
        if last_row - first_row > 6:
            refused.append(last_row - first_row)
            raise torch.OutOfMemoryError("simulated")
        return step(self, storage, first_row, last_row, *rest)

    monkeypatch.setattr(LlamaDecoder, "step", small_memory)
    post = of_stories("smc", None)
    assert refused and lm.max_rows is not None and lm.max_rows <= 6
    assert same(whole, post)
    notes = post.manifest["language_models"][0]["notes"]
    assert any("out of memory" in note for note in notes)


def test_bindings_of_one_run_are_independent_of_each_other() -> None:
    """A binding keeps its evidence and its draws whatever else is in the batch."""
    compiled = program("builtin:stories")
    bound = [compiled(beta=0.0), compiled(beta=0.3), compiled(beta=0.0)]
    posts = lmppl.infer(
        bound, method="smc", num_particles=8, lookahead="none", seed=2, progress=False
    )
    # Without a factor the evidence is 1 exactly, also next to bindings that have one.
    assert posts[0].log_evidence.value == pytest.approx(0.0, abs=1e-12)
    assert posts[2].log_evidence.value == pytest.approx(0.0, abs=1e-12)
    assert posts[1].log_evidence.value > 0.0
    assert posts[0].texts == posts[2].texts


def test_texts_of_equal_tokens_share_one_forward() -> None:
    """Two hundred particles of a peaked prior are a few physical rows."""
    lm = load_language_model("builtin:stories")
    prefixes = lm.start([PROMPT] * 200, max_new_tokens=4)
    assert (prefixes.num_rows, prefixes.num_physical) == (200, 1)
    tokens = torch.arange(200) % 3
    prefixes = lm.extend(prefixes, tokens)
    assert prefixes.num_physical == 3
    again = lm.extend(prefixes.select(torch.arange(0, 200, 3)), torch.zeros(67).long())
    assert again.num_physical == 1


@pytest.mark.parametrize("masked", [False, True], ids=["free", "masked"])
def test_a_large_batch_draws_what_its_rows_draw_alone(masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(700, 1024, generator=generator)
    uniforms = torch.rand(700, generator=generator, dtype=torch.float64)
    index = torch.randperm(700, generator=generator)
    mask = torch.rand(700, 1024, generator=generator) < 0.5 if masked else None
    whole = draw_tokens(logits, uniforms, index=index, mask=mask)
    for row in range(0, 700, 23):
        at = slice(row, row + 1)
        alone = draw_tokens(
            logits[index[at]], uniforms[at], mask=None if mask is None else mask[at]
        )
        assert torch.equal(whole.tokens[at], alone.tokens)
        assert torch.equal(whole.log_prob[at], alone.log_prob)
        assert torch.equal(whole.log_mass[at], alone.log_mass)


@pytest.mark.parametrize(
    "moves",
    [
        {"block_probability": 0.0},
        {"block_probability": 0.5},
        {"infill_probability": 0.4, "particle_probability": 0.2, "num_particles": 3, "joints": 1},
    ],
    ids=["suffixes", "blocks", "all"],
)
def test_chains_that_keep_what_they_computed_draw_what_others_draw(
    directory: Path, moves: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> Posterior:
        return lmppl.infer(
            program(directory)(),
            method="mcmc",
            num_chains=6,
            num_samples=12,
            warmup_steps=2,
            seed=4,
            progress=False,
            **moves,
        )

    kept = run()
    assert kept.diagnostics["acceptance_rate"] > 0
    monkeypatch.setattr(HuggingFaceLM, "archive", lambda lm, num_rows, max_tokens: None)
    assert same(kept, run())


def test_kept_prefixes_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a chain has computed its text, suffix moves compute one token at a time."""
    target = program("builtin:stories")().target()
    engine = MCMCEngine(
        MCMC(num_chains=6, num_samples=40, block_probability=0.0), target, Stream.from_seed(0)
    )
    state = engine.init()
    for _ in range(25):
        state, _ = engine.step(state)
    widths = []
    logits = ForwardPass.logits

    def counted(passes, storage, first_row, last_row, first, last, *rest, **options):  # type: ignore[no-untyped-def]
        widths.append(last - first)
        return logits(passes, storage, first_row, last_row, first, last, *rest, **options)

    monkeypatch.setattr(ForwardPass, "logits", counted)
    for _ in range(6):
        state, _ = engine.step(state)
    assert widths and set(widths) == {1}


@pytest.mark.parametrize(("dtype", "nats"), [("bfloat16", 0.5), ("float16", 0.0625)])
def test_weights_of_a_half_precision_model_are_accumulated_in_float64(
    dtype: str, nats: float
) -> None:
    """The prior of a text is the sum of what its tokens cost, up to the logits' rounding."""
    bound = program("builtin:stories")()
    post = lmppl.infer(
        bound, method="smc", num_particles=16, seed=6, dtype=dtype, lookahead="none", progress=False
    )
    assert post.log_weights.dtype == post.log_prior.dtype == np.float64
    lm = load_language_model("builtin:stories", dtype=dtype)
    again = []
    for ids, length in zip(post.tokens(), post.lengths(), strict=True):
        prefixes, total = lm.start([PROMPT]), 0.0
        for token in ids[:length]:
            total += float(prefixes.row_logits().double().log_softmax(-1)[0, int(token)])
            prefixes = lm.extend(prefixes, torch.tensor([int(token)]))
        again.append(total)
    assert np.abs(np.asarray(again) - post.log_prior).max() <= nats


def test_texts_that_have_ended_are_not_computed_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = lmppl.compile(
        'model m() { text ~ lm("builtin:stories", prompt="The dog", max_tokens=30, stop=["."])\n'
        "return text }"
    )
    rows = []
    logits = ForwardPass.logits

    def counted(passes, storage, first_row, last_row, first, last, *rest, **options):  # type: ignore[no-untyped-def]
        rows.append((last_row - first_row) * (last - first if last - first == 1 else 0))
        return logits(passes, storage, first_row, last_row, first, last, *rest, **options)

    monkeypatch.setattr(ForwardPass, "logits", counted)
    post = lmppl.infer(compiled(), method="importance", num_samples=32, seed=1, progress=False)
    lengths = post.lengths()
    assert lengths.min() < lengths.max()
    # The last token of a text is never fed, and equal texts are fed once.
    assert 0 < sum(rows) <= int((lengths - 1).sum()) < 32 * int(lengths.max() - 1)


@pytest.mark.parametrize("num_rows", [16, 64])
@pytest.mark.parametrize("num_tokens", [8, 24])
def test_storage_is_linear_in_particles_and_tokens(num_rows: int, num_tokens: int) -> None:
    lm = load_language_model("builtin:stories")
    prefixes = lm.start([PROMPT] * num_rows, max_new_tokens=num_tokens)
    generator = torch.Generator().manual_seed(2)
    for _ in range(num_tokens):
        tokens = torch.randint(0, lm.vocab.size, (num_rows,), generator=generator)
        prefixes = lm.extend(prefixes, tokens)
    config = lm.model.config
    held = sum(layer.keys.numel() + layer.values.numel() for layer in prefixes.state.storage.kept)
    columns = len(lm.prompts.ids(PROMPT)) + num_tokens
    width = config.num_key_value_heads * config.head_dim
    assert held == 2 * config.num_hidden_layers * width * num_rows * columns
