"""The embedded model `builtin:stories` is what its card says: small, lossless, literate."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "lmppl" / "lm" / "builtin" / "stories"
SCRIPT = ROOT / "training" / "stories" / "train.py"
END = "<|end|>"

ASSORTED = [
    "",
    "Once upon a time",
    "  two  spaces,\n\n\ta tab and a trailing blank ",
    "don ' t , do n't . \"quoted\"",
    "naïve café, ÆØÅ, ß, ﬁ, e\u0301",
    "🎈 👩‍👩‍👧 🏳️‍🌈 a balloon",
    "日本語 العربية हिन्दी עברית",
    "\r\n\x00\x7f\u2028\ufeff\U0010ffff",
    "<|en d|> < | end | > <s> </s>",
]

# Written for this test; in no training data.
SENTENCES = [
    "Once upon a time, there was a little girl named Mia. She had a red ball and a small dog.",
    "The dog ran to the park and saw a big tree. He was very happy and wagged his tail.",
    'Mia said, "I want to play with you!" Her mom smiled and gave her a big hug.',
    "One day, a boy found a shiny key under his bed. He wanted to know what it could open.",
    "They were sad because the rain did not stop. Then the sun came out and they played outside.",
]


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The training script as a module: its evaluation is the one that the card reports."""
    spec = importlib.util.spec_from_file_location("stories_train", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_is_small_and_stored_in_half_precision(model: Any) -> None:
    assert sum(p.numel() for p in model.parameters()) <= 1_500_000
    assert sum(f.stat().st_size for f in MODEL.rglob("*") if f.is_file()) <= 4_000_000
    with safe_open(MODEL / "model.safetensors", framework="pt") as weights:
        assert {weights.get_tensor(key).dtype for key in weights.keys()} == {torch.float16}
        assert all(weights.get_tensor(key).isfinite().all() for key in weights.keys())


def test_one_token_begins_and_ends(model: Any, tokenizer: Any) -> None:
    assert tokenizer.bos_token == tokenizer.eos_token == END
    ids = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    assert ids == {model.config.bos_token_id} == {model.config.eos_token_id}
    assert tokenizer("").input_ids == [tokenizer.bos_token_id]
    assert tokenizer("Once").input_ids[0] == tokenizer.bos_token_id
    assert len(tokenizer) == model.config.vocab_size


@pytest.mark.parametrize("text", ASSORTED)
def test_any_text_survives_the_tokenizer(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.decode(ids[1:]) == text


def test_all_bytes_are_tokens() -> None:
    from tokenizers import pre_tokenizers

    vocabulary = json.loads((MODEL / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    assert len(alphabet) == 256 and set(alphabet) <= set(vocabulary["vocab"])


def test_stories_end(model: Any, tokenizer: Any) -> None:
    torch.manual_seed(0)
    prompt = tokenizer(["Once upon a time"] * 32, return_tensors="pt")
    with torch.no_grad():
        out = model.generate(
            input_ids=prompt.input_ids,
            attention_mask=prompt.attention_mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_length=256,
        )
    ended = (out[:, 1:] == tokenizer.eos_token_id).any(-1)
    assert ended.sum() >= 20, f"{int(ended.sum())} of 32 ended"


def test_prefers_english_to_scrambled_english(model: Any, tokenizer: Any) -> None:
    def logprob(text: str) -> float:
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            logp = model(ids).logits[0, :-1].log_softmax(-1)
        return float(logp.gather(1, ids[0, 1:, None]).sum())

    for text in SENTENCES:
        words = text.split()
        assert logprob(text) > logprob(" ".join(words[::-1])) + 20


def test_few_bits_per_character(model: Any, script: ModuleType) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    bits = script.bits_per_character(lambda ids: model(ids).logits, tokenizer, SENTENCES)
    assert bits < 1.0


def test_windows_score_every_token_once(script: ModuleType) -> None:
    for length in (1, 255, 256, 257, 384, 385, 1000):
        spans = list(script.windows(length))
        assert [t for _, scored, stop in spans for t in range(scored, stop)] == list(range(length))
        for start, scored, stop in spans:
            assert stop - start <= 256
            assert start == 0 or scored - start >= 128


def test_held_out_stories_as_on_the_card(script: ModuleType) -> None:
    shared = Path(os.environ.get("LMPPL_SHARED", ROOT.parent / "shared"))
    stories = shared / "data" / "text" / "tinystories_sample.json"
    if not stories.is_file():
        pytest.skip("needs tinystories_sample.json: set LMPPL_SHARED to the shared data")
    held_out = script.load_real(stories)[1]
    assert len(held_out) == 300
    assert script.evaluate(MODEL, held_out) < 1.0
