"""Checkpoints that are not all of a model and nothing else are refused, by name."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from lmppl.errors import Diagnostic, InferenceError
from lmppl.factors.rewards.huggingface import load_sequence_classifier
from lmppl.lm.loading import load_language_model

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "laws"))

from tiny_models import _config, byte_level_tokenizer, save_tiny_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("models")
    for style in ("llama", "qwen2", "gpt2"):
        save_tiny_model(style, place / style)
    tokenizer = byte_level_tokenizer()
    config = _config("llama", len(tokenizer))
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(place / "reward")
    tokenizer.save_pretrained(place / "reward")
    return place


def drop(name):
    return lambda weights: weights.pop(name)


def put(name, value):
    return lambda weights: weights.update({name: value})


def poison(value):
    def change(weights):
        weights["model.norm.weight"][3] = value

    return change


DOWN = "model.layers.1.mlp.down_proj.weight"
NORM = "model.norm.weight"
FAULTS = {
    "lacks a tensor": (drop(DOWN), {}, f"lacks {DOWN}"),
    "lacks its last norm": (drop(NORM), {}, f"lacks {NORM}"),
    "has one too many": (put("extra.weight", torch.ones(3)), {}, "no place for extra.weight"),
    "has fewer layers": (None, {"num_hidden_layers": 3}, "lacks model.layers.2."),
    "has more layers": (None, {"num_hidden_layers": 1}, "no place for model.layers.1."),
    "has another shape": (
        put(NORM, torch.ones(31)),
        {},
        rf"does not fit config.json: {NORM} \(\[31\] for \[32\]\)",
    ),
    "has another width": (None, {"intermediate_size": 64}, r"mlp.*\[48, 32\] for \[64, 32\]"),
    "is NaN": (poison(torch.nan), {}, f"not finite: {NORM}"),
    "is infinite": (poison(-torch.inf), {}, f"not finite: {NORM}"),
}


def damaged(original: Path, place: Path, change, config) -> Path:
    shutil.copytree(original, place)
    weights = load_file(place / "model.safetensors")
    if change is not None:
        change(weights)
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    described = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(described | config))
    return place


def refused(load, place: Path) -> Diagnostic:
    state = torch.random.get_rng_state()
    with pytest.raises(InferenceError) as caught:
        load(str(place))
    assert torch.equal(torch.random.get_rng_state(), state)
    (diagnostic,) = caught.value.diagnostics
    return diagnostic


def reward_model(source: str):
    return load_sequence_classifier(source, head="score")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    ("style", "load", "code"),
    [("llama", load_language_model, "LMP940"), ("reward", reward_model, "LMP919")],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(
    saved, tmp_path, fault, style, load, code
):
    change, config, named = FAULTS[fault]
    diagnostic = refused(load, damaged(saved / style, tmp_path / "damaged", change, config))
    assert diagnostic.code == code
    (note,) = diagnostic.notes
    assert re.search(named, note), note


def test_an_untied_head_that_is_missing_is_refused(saved, tmp_path):
    place = damaged(saved / "llama", tmp_path / "headless", drop("lm_head.weight"), {})
    assert "lacks lm_head.weight" in refused(load_language_model, place).notes[0]


@pytest.mark.parametrize("style", ["qwen2", "gpt2"])
def test_a_tied_head_need_not_be_in_the_file(saved, style):
    assert "lm_head.weight" not in load_file(saved / style / "model.safetensors")
    load_language_model(saved / style)


def test_buffers_that_older_versions_saved_are_no_fault(saved, tmp_path):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    load_language_model(damaged(saved / "llama", tmp_path / "old", put(name, torch.ones(4)), {}))


def test_a_cast_that_overflows_is_refused(saved, tmp_path):
    change = poison(1e6)
    place = damaged(saved / "llama", tmp_path / "large", change, {})
    load_language_model(place)
    found = refused(lambda source: load_language_model(source, dtype="float16"), place)
    assert "not finite" in found.notes[0]


@pytest.mark.parametrize("number", [-1, 10_000, [0, 323]])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_an_end_token_outside_the_vocabulary_is_refused(saved, tmp_path, file, number):
    place = damaged(saved / "llama", tmp_path / "endless", None, {})
    described = json.loads((place / file).read_text())
    (place / file).write_text(json.dumps(described | {"eos_token_id": number}))
    diagnostic = refused(load_language_model, place)
    assert diagnostic.code == "LMP941"
    worst = number if isinstance(number, int) else number[1]
    assert str(worst) in diagnostic.message


def test_an_end_token_of_the_tokenizer_outside_the_vocabulary_is_refused(saved, tmp_path):
    place = damaged(saved / "llama", tmp_path / "endless", None, {})
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|{n}|>" for n in range(8)]})
    tokenizer.eos_token = "<|7|>"
    tokenizer.save_pretrained(place)
    diagnostic = refused(load_language_model, place)
    assert diagnostic.code == "LMP941"
    assert "Tokenizer" in diagnostic.notes[0]


@pytest.mark.parametrize(
    ("style", "load", "code"),
    [("llama", load_language_model, "LMP911"), ("reward", reward_model, "LMP919")],
)
def test_a_pickle_is_never_read(saved, tmp_path, style, load, code):
    place = tmp_path / "pickled"
    shutil.copytree(saved / style, place)
    weights = load_file(place / "model.safetensors")
    (place / "model.safetensors").unlink()
    torch.save(weights, place / "pytorch_model.bin")
    diagnostic = refused(load, place)
    assert diagnostic.code == code
    assert "pytorch_model.bin" in diagnostic.message and "safetensors" in diagnostic.message
