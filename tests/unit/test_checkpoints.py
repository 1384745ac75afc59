"""Checkpoints that are not all of a model and nothing else are refused, by name."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import lmppl
from lmppl.errors import Diagnostic, InferenceError
from lmppl.lm.huggingface import HuggingFaceLM
from lmppl.lm.loading import load_language_model
from lmppl.rewards.huggingface import load_sequence_classifier

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


def test_a_rotation_that_is_no_number_is_refused(saved, tmp_path):
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 0.0}}
    diagnostic = refused(load_language_model, damaged(saved / "llama", tmp_path / "r", None, rope))
    assert diagnostic.code == "LMP940" and "inv_freq" in diagnostic.notes[0]


@pytest.mark.parametrize("wrong", [{"rms_norm_eps": -1.0}, "overflow"])
def test_a_forward_pass_that_gives_no_numbers_is_refused(saved, tmp_path, wrong):
    change = put("lm_head.weight", torch.full((323, 32), 3e38))
    change, config = (change, {}) if wrong == "overflow" else (None, wrong)
    place = damaged(saved / "llama", tmp_path / "overflowing", change, config)
    diagnostic = refused(load_language_model, place)
    assert diagnostic.code == "LMP940" and "not finite" in diagnostic.message


def as_type(dtype):
    return lambda weights: weights.update({NORM: weights[NORM].to(dtype)})


def without_body(weights):
    weights.update({NORM.removeprefix("model."): torch.zeros(32)})


@pytest.mark.parametrize(
    ("style", "load"), [("llama", load_language_model), ("reward", reward_model)]
)
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (as_type(torch.int8), rf"not floating point: {NORM} \(I8\)"),
        (as_type(torch.bool), rf"not floating point: {NORM} \(BOOL\)"),
        (as_type(torch.complex64), rf"not floating point: {NORM} \(C64\)"),
        (without_body, r"twice: norm\.weight"),
    ],
)
def test_weights_that_would_be_cast_or_that_are_there_twice_are_refused(
    saved, tmp_path, style, load, change, named
):
    (note,) = refused(load, damaged(saved / style, tmp_path / "cast", change, {})).notes
    assert re.search(named, note), note


def test_half_precision_in_a_file_is_cast_without_loss_of_a_bit(saved, tmp_path):
    place = damaged(saved / "llama", tmp_path / "half", as_type(torch.bfloat16), {})
    load_language_model(place)


def sharded(place: Path, where: str) -> None:
    weights = load_file(place / "model.safetensors")
    (place / "model.safetensors").unlink()
    save_file(weights, place / where, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, where)}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))


def moved(place: Path, name: str, elsewhere: Path) -> None:
    elsewhere.mkdir()
    shutil.move(place / name, elsewhere / name)
    (place / name).symlink_to(elsewhere / name)


def adapted(place: Path) -> None:
    described = {"peft_type": "LORA", "base_model_name_or_path": str(place.parent / "other")}
    (place / "adapter_config.json").write_text(json.dumps(described))


def piped(place: Path) -> None:
    (place / "generation_config.json").unlink(missing_ok=True)
    os.mkfifo(place / "generation_config.json")


@pytest.mark.parametrize(
    ("style", "load", "code"),
    [("llama", load_language_model, "LMP911"), ("reward", reward_model, "LMP919")],
)
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda place: sharded(place, "../outside.safetensors"), "'../outside.safetensors'"),
        (lambda place: sharded(place, str(place.parent / "x.safetensors")), "x.safetensors'"),
        (lambda place: moved(place, "model.safetensors", place.parent / "w"), "is a link"),
        (lambda place: moved(place, "tokenizer.json", place.parent / "t"), "is a link"),
        (adapted, "adapter"),
        pytest.param(
            piped,
            "is a pipe",
            marks=pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here"),
        ),
    ],
)
def test_nothing_outside_the_directory_is_read(saved, tmp_path, style, load, code, change, named):
    place = tmp_path / "leading"
    shutil.copytree(saved / style, place)
    change(place)
    diagnostic = refused(load, place)
    assert diagnostic.code == code
    assert named in diagnostic.notes[0]


def test_shards_and_the_links_of_the_hub_are_read(saved, tmp_path):
    place = tmp_path / "models--acme--tiny" / "snapshots" / "0123"
    shutil.copytree(saved / "llama", place)
    sharded(place, "model-00001-of-00001.safetensors")
    blobs = tmp_path / "models--acme--tiny" / "blobs"
    for name in ("tokenizer.json", "model-00001-of-00001.safetensors"):
        blobs.mkdir(exist_ok=True)
        shutil.move(place / name, blobs / name)
        (place / name).symlink_to(Path("../../blobs") / name)
    load_language_model(place)


def with_tokenizer(original: Path, place: Path, change) -> Path:
    shutil.copytree(original, place)
    described = json.loads((place / "tokenizer.json").read_text())
    change(described)
    (place / "tokenizer.json").write_text(json.dumps(described))
    return place


def renumbered(string: str, number: int):
    return lambda described: described["model"]["vocab"].update({string: number})


@pytest.mark.parametrize(("number", "named"), [(5_000, "another model"), (70, "is both")])
def test_a_tokenizer_of_another_model_is_refused(saved, tmp_path, number, named):
    place = with_tokenizer(saved / "llama", tmp_path / "t", renumbered("he", number))
    diagnostic = refused(load_language_model, place)
    assert diagnostic.code == "LMP914"
    assert named in diagnostic.notes[0]


def test_an_added_token_beyond_the_model_is_refused_in_a_prompt_and_nowhere_else(saved):
    lm = load_language_model(saved / "llama")
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.add_tokens([f"<|{number}|>" for number in range(320, 324)])
    larger = HuggingFaceLM(lm.model, tokenizer, name="larger")
    larger.start(["The dog", "The <|322|>"])
    with pytest.raises(InferenceError, match=r"the token 323 \(.*larger knows 323 tokens"):
        larger.start(["The <|323|>"])


METHODS = ["importance(num_samples=20)", "smc(num_particles=20)", "mcmc(num_chains=2)", "exact()"]
METHODS += ["rejection(num_samples=5)", "svi(num_steps=2, num_particles=4)"]


@pytest.mark.parametrize("method", METHODS)
def test_probabilities_that_are_not_numbers_are_no_probabilities_of_zero(saved, method):
    class Overflows(torch.nn.Module):
        """Gives NaN for some tokens, as a forward pass in half precision does."""

        def __init__(self, head):
            super().__init__()
            self.head, self.weight = head, head.weight

        def forward(self, states):
            logits = self.head(states)
            return torch.where(logits[..., 40:41] > 0.5, torch.nan, logits)

    lm = load_language_model(saved / "llama")
    broken = HuggingFaceLM(copy.deepcopy(lm.model), lm.tokenizer, name="overflowing")
    broken.model.lm_head = Overflows(broken.model.lm_head)
    broken.calling.decoder = None
    length = 2 if method == "exact()" else 6
    model = lmppl.compile(
        f"""
        extern lm prior
        reward letters(t: string): real<lower=0, upper=6> = count("a")
        model m() {{
            text ~ prior(prompt="The", max_tokens={length})
            factor letters(text)
            return text
        }}
        infer {method}
        """
    )
    with pytest.raises(InferenceError) as caught:
        lmppl.infer(model(prior=broken), seed=0)
    # svi tries the copy that it will train before it draws.
    code = "LMP940" if method.startswith("svi") else "LMP985"
    assert [each.code for each in caught.value.diagnostics] == [code]
