"""The spelling of a special token: the token itself as a stop string, a mistake elsewhere."""

from __future__ import annotations

import pytest
import tiny_models
import torch

import lmppl
from lmppl.errors import InferenceError
from lmppl.lm.huggingface import HuggingFaceLM

PROGRAM = """
model turns() {{
    text ~ lm("{source}", prompt="the dog", max_tokens=24{options})
    {require}
    return text
}}
"""


def chat_model(place) -> str:
    """A model that ends turns by a token of its own, mostly."""
    model, tokenizer = tiny_models.tiny_model("llama")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    turn = tokenizer.convert_tokens_to_ids("<|turn|>")
    assert turn < model.config.vocab_size
    with torch.no_grad():
        model.lm_head.weight.mul_(0.1)
        model.lm_head.weight[turn] = 0.2 * model.lm_head.weight[5].sign()
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place.as_posix()


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    return chat_model(tmp_path_factory.mktemp("chat") / "model")


def bound(source, *, options="", require=""):
    return lmppl.compile(PROGRAM.format(source=source, options=options, require=require))()


def draws(source, options, method="importance"):
    size = {"num_particles": 200} if method == "smc" else {"num_samples": 200}
    bind = bound(source, options=options)
    post = lmppl.infer(bind, method=method, seed=1, progress=False, **size)
    ids, lengths = post.tokens("text"), post.lengths("text")
    lm = bind.target().stages[0].lm
    assert isinstance(lm, HuggingFaceLM)
    return post, ids, lengths, lm.special_tokens["<|turn|>"]


def test_a_text_runs_on_past_a_special_token_that_is_no_stop(source):
    _, ids, lengths, turn = draws(source, "")
    past = [turn in row[: length - 1].tolist() for row, length in zip(ids, lengths, strict=True)]
    assert sum(past) > 10


@pytest.mark.parametrize("method", ["importance", "smc", "rejection"])
@pytest.mark.parametrize("options", [', stop=["<|turn|>"]', ', stop=["qqq", "<|turn|>"]'])
def test_a_stop_string_that_spells_a_special_token_means_it(source, method, options):
    post, ids, lengths, turn = draws(source, options, method)
    ended = 0
    for row, length, text in zip(ids, lengths, post.texts, strict=True):
        assert turn not in row[: length - 1].tolist()
        ended += int(row[length - 1]) == turn
        assert "<|turn|>" not in text
    assert ended > 10


def test_another_site_of_the_same_model_does_not_end_there(source):
    stopped = bound(source, options=', stop=["<|turn|>"]').target().stages[0].lm
    plain = bound(source).target().stages[0].lm
    turn = plain.special_tokens["<|turn|>"]
    assert turn in stopped.vocab.eos_ids
    assert turn not in plain.vocab.eos_ids


@pytest.mark.parametrize(
    "require",
    [
        'require never(text, "<|turn|>")',
        'require contains(text, "<|turn|>")',
        'require never(text, ["bad", "so <|turn|>"])',
        'require not ends_with(text, "<|turn|>")',
        r'require matches(text, r"[a-z]*<\|turn\|>")',
    ],
)
def test_a_requirement_that_spells_a_special_token_is_refused_at_binding(source, require):
    with pytest.raises(InferenceError, match=r"(?s)LMP942.*<\|turn\|>.*stop=\["):
        lmppl.infer(bound(source, require=require), method="smc", seed=0, progress=False)
