"""Finding and loading language models: once, silently, and with errors that help."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import transformers

from lmppl.errors import InferenceError
from lmppl.lm.loading import load_language_model
from lmppl.lm.names import builtin_models
from lmppl.lm.protocol import Chat

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "laws"))

from tiny_models import CORPUS, save_tiny_model, tiny_lm


def only_diagnostic(caught):
    (diagnostic,) = caught.value.diagnostics
    return diagnostic


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return save_tiny_model("llama", tmp_path_factory.mktemp("models") / "llama")


def test_a_model_is_loaded_once_per_process(llama):
    first = load_language_model(llama)
    assert load_language_model(str(llama)) is first
    assert load_language_model("llama", base_dir=llama.parent) is first
    assert load_language_model(llama, dtype="bfloat16") is not first


def test_a_changed_directory_is_loaded_again(tmp_path):
    directory = save_tiny_model("gpt2", tmp_path / "gpt2")
    first = load_language_model(directory)
    config = json.loads((directory / "generation_config.json").read_text())
    config["eos_token_id"] = [0, 5]
    (directory / "generation_config.json").write_text(json.dumps(config))
    second = load_language_model(directory)
    assert second is not first
    assert second.vocab.eos_ids == {0, 5}
    assert second.digest != first.digest


def test_the_digest_of_a_directory_is_that_of_its_files_and_not_of_its_place(llama, tmp_path):
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for file in llama.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert load_language_model(copy).digest == load_language_model(llama).digest


def test_dtype_and_default_dtype(llama):
    assert load_language_model(llama, dtype="bfloat16").start(["a"]).logits.dtype == torch.bfloat16
    assert load_language_model(llama).start(["a"]).logits.dtype == torch.float32
    with pytest.raises(InferenceError, match="no dtype 'int3'") as caught:
        load_language_model(llama, dtype="int3")
    assert only_diagnostic(caught).code == "LMP911"


def test_a_model_spread_over_all_devices_draws_what_one_on_a_device_draws(llama, monkeypatch):
    pytest.importorskip("accelerate", reason="spreading a model needs accelerate")
    asked = []
    load = transformers.AutoModelForCausalLM.from_pretrained

    def recorded(*source, **options):
        asked.append(options["device_map"])
        return load(*source, **options)

    here = load_language_model(llama)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", recorded)
    spread = load_language_model(llama, device="auto")
    assert spread is not here and asked == ["auto"]
    if spread.device.type == "cpu":
        tokens = torch.tensor([[5, 6, 7], [8, 9, 10]])
        prefixes, others = spread.start(["a", "a b c"]), here.start(["a", "a b c"])
        for step in range(3):
            assert torch.equal(prefixes.row_logits(), others.row_logits())
            prefixes = spread.extend(prefixes, tokens[:, step])
            others = here.extend(others, tokens[:, step])


def test_loading_prints_nothing_and_moves_no_random_state(llama, tmp_path, capfd, recwarn):
    directory = tmp_path / "quiet"
    directory.mkdir()
    for file in llama.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    before = torch.get_rng_state()
    verbosity = transformers.logging.get_verbosity()
    load_language_model(directory)
    assert torch.equal(torch.get_rng_state(), before)
    assert transformers.logging.get_verbosity() == verbosity
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_a_misspelt_builtin_gets_a_suggestion():
    if "builtin:stories" not in builtin_models():
        pytest.skip("the embedded model is not in this checkout")
    with pytest.raises(InferenceError, match="builtin:storys") as caught:
        load_language_model("builtin:storys")
    assert only_diagnostic(caught).code == "LMP910"
    assert "builtin:stories" in str(caught.value)


def test_an_unknown_hub_id_says_what_was_tried(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InferenceError, match="nobody/nothing") as caught:
        load_language_model("nobody/nothing", revision="v1")
    diagnostic = only_diagnostic(caught)
    assert diagnostic.code == "LMP910"
    assert "revision v1" in diagnostic.message
    assert "a directory of that name" in diagnostic.notes[0]


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(InferenceError, match=r"no config\.json") as caught:
        load_language_model(tmp_path)
    assert only_diagnostic(caught).code == "LMP911"


def test_a_directory_with_missing_weights_is_refused(llama, tmp_path):
    for file in llama.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InferenceError, match="cannot be loaded") as caught:
        load_language_model(tmp_path)
    assert only_diagnostic(caught).code == "LMP911"


def test_remote_code_is_not_run_unless_asked_for(llama, tmp_path):
    for file in llama.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_type"] = "their-own"
    config["auto_map"] = {
        "AutoConfig": "code.TheirConfig",
        "AutoModelForCausalLM": "code.TheirModel",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "code.py").write_text("raise SystemExit('this code was run')")
    with pytest.raises(InferenceError, match="its own Python code") as caught:
        load_language_model(tmp_path)
    assert only_diagnostic(caught).code == "LMP911"
    assert "trust_remote_code=True" in str(caught.value)


def test_a_text_longer_than_the_context_is_refused_before_the_first_token(llama):
    lm = load_language_model(llama)
    assert lm.max_context == 96
    lm.start(["a"], max_new_tokens=95)
    with pytest.raises(InferenceError, match="do not fit the 96 tokens") as caught:
        lm.start(["a"], max_new_tokens=96)
    diagnostic = only_diagnostic(caught)
    assert diagnostic.code == "LMP912"
    assert "max_tokens=95" in diagnostic.help
    with pytest.raises(InferenceError, match="leaves no room for a text in the 96") as caught:
        lm.start(["a" * 300], max_new_tokens=1)
    assert only_diagnostic(caught).help == "use a shorter prompt"
    with pytest.raises(InferenceError):
        lm.token_log_probs(["a"], torch.zeros(1, 96, dtype=torch.long), torch.tensor([96]))
    prefixes = lm.start(["a" * 3])
    with pytest.raises(InferenceError) as caught:
        for _ in range(96):
            prefixes = lm.extend(prefixes, torch.tensor([4]))
    assert only_diagnostic(caught).code == "LMP912"


def test_a_chat_uses_the_template_of_the_tokenizer():
    lm = tiny_lm("qwen2")
    chat = Chat(user="the dog", system="be kind")
    rendered = "[system] be kind\n[user] the dog\n[assistant]"
    assert torch.equal(lm.start([chat]).logits, lm.start([rendered]).logits)
    assert lm.tokenizer.decode(lm.prompts.ids(Chat("the dog"))) == "[user] the dog\n[assistant]"


def test_a_chat_without_a_template_is_refused():
    with pytest.raises(InferenceError, match="none") as caught:
        tiny_lm("gpt2").start([Chat(user="hello")])
    assert only_diagnostic(caught).code == "LMP913"


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('no system') }}", "{% for", "{{ nothing.x }}"],
)
def test_a_template_that_fails_is_refused_in_words(template):
    lm = tiny_lm("qwen2")
    lm.tokenizer.chat_template = template
    with pytest.raises(InferenceError, match="the chat template of this") as caught:
        lm.start([Chat(user="hello", system="be kind")])
    assert only_diagnostic(caught).code == "LMP913"


def test_a_prompt_of_megabytes_is_refused_before_it_is_read(monkeypatch):
    lm = tiny_lm("gpt2")

    def never(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr(lm.prompts.encoder, "_tokenizer", never)
    with pytest.raises(InferenceError, match="a prompt of 2,000,000 characters") as caught:
        lm.start(["ab" * 1_000_000])
    assert only_diagnostic(caught).code == "LMP912"


def test_a_file_is_no_language_model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InferenceError, match="is not a directory") as caught:
        load_language_model(tmp_path / "config.json")
    assert only_diagnostic(caught).code == "LMP911"


def test_an_empty_prompt_is_the_start_token_or_else_the_end_token():
    assert tiny_lm("mistral").prompts.ids("") == (1,)
    assert tiny_lm("gpt2").prompts.ids("") == (0,)


def test_an_empty_prompt_without_any_start_token_is_refused():
    lm = tiny_lm("gpt2")
    lm.prompts.encoder._start_id = None
    with pytest.raises(InferenceError, match="no tokens") as caught:
        lm.start([""])
    assert only_diagnostic(caught).code == "LMP915"


def test_corpus_words_are_not_all_single_bytes():
    assert max(len(text) for text in tiny_lm("gpt2").vocab.token_bytes) > 2, CORPUS
