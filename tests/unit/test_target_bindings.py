"""What a batch of rows or of bindings must not change."""

from __future__ import annotations

import itertools

import pytest
import torch

import lmppl
from lmppl.density.stages.scoring import retrace
from lmppl.inference.moves import gibbs_move
from lmppl.inference.proposing import propose
from lmppl.rng import Stream


def _prior() -> lmppl.FunctionLM:
    log_probs = torch.tensor([[0.5, 0.3, 0.2]]).log()
    return lmppl.FunctionLM(
        tokens=["a", "b", "c"],
        eos=None,
        next_log_probs=lambda prefixes: log_probs.repeat(prefixes.shape[0], 1),
    )


def test_the_mass_of_a_mask_does_not_depend_on_the_other_rows() -> None:
    """More values than automata: chains would compare masses of a mask with masses of none."""
    source = """
        extern lm prior
        model m(topics: string[]) {
            topic ~ categorical(topics)
            text ~ prior(max_tokens=3)
            require contains(text, topic)
            return topic, text
        }
    """
    words = ["".join(p) for size in (1, 2, 3) for p in itertools.product("abc", repeat=size)]
    topics = [*words, *(f"z{i}" for i in range(40))]
    target = lmppl.compile(source)(prior=_prior(), topics=topics).target()
    stream = Stream.from_seed(1)
    few = propose(target, torch.zeros(40, dtype=torch.long), torch.arange(40), stream, record=True)
    traces = few.traces.select(torch.arange(min(2, few.traces.num_rows)))
    every = target.stages[0].alternatives(target.rows(0, traces))
    alone = gibbs_move(target, traces, 0, every, Stream.from_seed(2)).traces
    prompts = target.rows(1, alone).prompts
    stage = target.stages[1]
    automata = target.requirements.automata(1, alone, prompts)
    again, possible = retrace(stage, prompts, automata, alone.values["text"])
    assert bool(possible.all())
    assert torch.equal(again.token_log_mass, alone.values["text"].token_log_mass)


def test_bindings_with_different_host_functions_are_not_run_with_the_first_one() -> None:
    source = """
        extern lm prior
        extern reward q(t: string): real<lower=0, upper=1>
        model m() {
            text ~ prior(max_tokens=1)
            factor q(text)
            return text
        }
    """
    model = lmppl.compile(source)
    prior = _prior()

    def low(texts: list[str]) -> list[float]:
        return [0.1] * len(texts)

    def high(texts: list[str]) -> list[float]:
        return [0.9] * len(texts)

    with pytest.raises(lmppl.LmpError, match=r"LMP926.*extern `q`"):
        lmppl.infer([model(prior=prior, q=low), model(prior=prior, q=high)], method="exact")
    same = lmppl.infer([model(prior=prior, q=low), model(prior=prior, q=low)], method="exact")
    assert [post.log_evidence.value for post in same] == pytest.approx([0.1, 0.1])


def test_what_is_no_model_is_refused_by_infer_with_a_sentence() -> None:
    for wrong in (3, "model m() {}", None):
        with pytest.raises(TypeError, match="infer takes a loaded model"):
            lmppl.infer(wrong)  # type: ignore[arg-type]


def test_a_device_that_is_not_there_is_a_diagnostic() -> None:
    source = "model m() { heads ~ bernoulli(0.5) return heads }"
    with pytest.raises(lmppl.InferenceError, match="LMP932"):
        lmppl.infer(lmppl.compile(source), method="smc", device="nowhere")


def test_chains_without_a_text_are_not_said_to_refuse_proposals() -> None:
    model = lmppl.compile("model m() { heads ~ bernoulli(0.5) return heads }")
    post = lmppl.infer(model, method="mcmc", num_chains=4, num_samples=5, warmup_steps=1, seed=0)
    assert "acceptance_rate" not in post.diagnostics
    assert not any("accepted" in warning for warning in post.warnings)
