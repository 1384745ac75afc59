"""Sequence classifiers against direct calls of transformers, on tiny random models."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from lmppl.builtins.loading import load_reward
from lmppl.errors import InferenceError, Span
from lmppl.ir.model import Parameter, Reward, RewardSource
from lmppl.ir.types import REAL, STRING, UNCERTAIN, Interval, Type
from lmppl.rewards import Scorer
from lmppl.rewards.ensemble import EnsembleSource
from lmppl.rewards.huggingface import ClassifierSource, load_sequence_classifier
from lmppl.rewards.uncertain import UncertainScores

SPAN = Span(None, 0, 1, 1, 1, 1, 2)
WORDS = "the cat sat on a mat and was very happy but then it rained all day . ! ?".split()
TEXTS = [
    "the cat sat",
    "it rained all day . . .",
    "happy",
    "the cat sat on a mat and was very happy but then it rained",
    "a a",
    "unknown things",
]
TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} . {% endfor %}"

ENCODERS = ("bert", "roberta", "distilbert")
DECODERS = ("gpt2", "llama")


def tokenizer(style: str) -> transformers.PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocab = {token: i for i, token in enumerate([*special, *WORDS, "user", "assistant"])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if style in ENCODERS:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        eos_token="[SEP]" if style in DECODERS else None,
        model_input_names=["input_ids", "attention_mask"]
        + (["token_type_ids"] if style == "bert" else []),
    )


def build(style: str, num_labels: int, **options: object) -> transformers.PreTrainedModel:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    common = {"vocab_size": 40, "num_labels": num_labels, "initializer_range": 0.5, **options}
    common.setdefault("pad_token_id", 0)
    match style:
        case "bert":
            config = transformers.BertConfig(
                **shape, intermediate_size=24, max_position_embeddings=32, **common
            )
        case "roberta":
            common["pad_token_id"] = 1
            config = transformers.RobertaConfig(
                **shape, intermediate_size=24, max_position_embeddings=34, **common
            )
        case "distilbert":
            config = transformers.DistilBertConfig(
                dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=32, **common
            )
        case "gpt2":
            config = transformers.GPT2Config(
                n_embd=16, n_layer=2, n_head=2, n_positions=32, eos_token_id=3, **common
            )
        case _:
            config = transformers.LlamaConfig(
                **shape,
                intermediate_size=24,
                num_key_value_heads=1,
                max_position_embeddings=32,
                eos_token_id=3,
                **common,
            )
    torch.manual_seed(len(style) + num_labels)
    return transformers.AutoModelForSequenceClassification.from_config(config).eval()


def save(path: Path, style: str, num_labels: int, *, chat: bool = False, **options: object) -> Path:
    build(style, num_labels, **options).save_pretrained(path)
    words = tokenizer(style)
    if chat:
        words.chat_template = TEMPLATE
    words.save_pretrained(path)
    return path


def direct(path: Path, *inputs: str, add_special_tokens: bool = True) -> np.ndarray:
    """The logits by the shortest way through transformers, one input at a time."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()
    words = transformers.AutoTokenizer.from_pretrained(path)
    encoding = words(*inputs, return_tensors="pt", add_special_tokens=add_special_tokens)
    with torch.no_grad():
        return model(**encoding).logits[0].double().numpy()


def reward(
    kind: str, model: str, *, type: Type = REAL, parameters: int = 1, **arguments: object
) -> Reward:
    names = ("question", "answer") if parameters == 2 else ("t",)
    declared = tuple(Parameter(name, STRING, SPAN) for name in names)
    source = RewardSource(kind, {"model": model, **arguments}, span=SPAN)
    return Reward("score", declared, type, source, SPAN)


def load(path: Path, kind: str, **options: object) -> Scorer:
    return load_reward(reward(kind, path.name, **options), base_dir=str(path.parent))  # type: ignore[arg-type]


@pytest.mark.parametrize("style", ENCODERS + DECODERS)
def test_a_batch_is_its_texts_one_by_one_as_transformers_scores_them(
    style: str, tmp_path: Path
) -> None:
    path = save(tmp_path / style, style, 3)
    scorer = load(path, "classifier", label=1)
    logits = np.stack([direct(path, text) for text in TEXTS])
    expected = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True))[:, 1]
    assert np.ptp(expected) > 0.01
    assert np.allclose(scorer.score(TEXTS), expected, atol=1e-5)
    assert scorer.num_scored == len(TEXTS) and scorer.seconds > 0 and scorer.cost == "model"


@pytest.mark.parametrize("style", ENCODERS + DECODERS)
def test_a_reward_model_gives_its_single_output(style: str, tmp_path: Path) -> None:
    path = save(tmp_path / style, style, 1)
    expected = [direct(path, text)[0] for text in TEXTS]
    assert np.allclose(load(path, "reward_model").score(TEXTS), expected, atol=1e-5)


def test_small_groups_give_the_scores_of_one_large_group(tmp_path: Path) -> None:
    path = save(tmp_path / "rm", "llama", 1)
    whole = load_sequence_classifier(str(path), head="score")
    expected = whole.scores([TEXTS], None)
    whole.classifier.token_budget = 8
    assert np.allclose(whole.scores([TEXTS], None), expected, atol=1e-5)
    whole.classifier.token_budget = 1
    assert np.allclose(whole.scores([TEXTS], None), expected, atol=1e-5)


def test_out_of_memory_halves_the_groups_and_goes_on_with_the_same_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "rm", "llama", 1)
    source = load_sequence_classifier(str(path), head="score")
    expected = source.scores([TEXTS], None)
    assert source.notes == ()
    forward, sizes = ClassifierSource._forward, []

    def small_device(self: ClassifierSource, encoded: list[dict[str, list[int]]]) -> np.ndarray:
        sizes.append(len(encoded))
        if len(encoded) > 2:
            raise torch.OutOfMemoryError("as a device would")
        return forward(self, encoded)

    monkeypatch.setattr(ClassifierSource, "_forward", small_device)
    scorer = Scorer(reward("reward_model", "rm"), EnsembleSource((source, source)))
    found = source.scores([TEXTS], None)
    assert np.allclose(found, expected, atol=1e-5)
    assert sizes[0] == len(TEXTS) > 2 and max(sizes[-2:]) <= 2
    assert sum(size > 2 for size in sizes) <= 4, "halved from the size of the group"
    assert len(source.notes) == 1 and "out of memory" in source.notes[0]
    assert scorer.notes == source.notes

    def no_device(self: ClassifierSource, encoded: list[dict[str, list[int]]]) -> np.ndarray:
        raise torch.OutOfMemoryError("as a device would")

    monkeypatch.setattr(ClassifierSource, "_forward", no_device)
    with pytest.raises(torch.OutOfMemoryError):
        source.scores([TEXTS], None)


@pytest.mark.parametrize("style", DECODERS)
def test_a_decoder_without_a_padding_token_reads_the_last_token_of_every_row(
    style: str, tmp_path: Path
) -> None:
    path = save(tmp_path / style, style, 1, pad_token_id=None)
    expected = [direct(path, text)[0] for text in TEXTS]
    source = load_sequence_classifier(str(path), head="score")
    assert np.allclose(source.scores([TEXTS], None), expected, atol=1e-5)
    assert source.classifier.model.config.pad_token_id is None


def test_two_threads_do_not_take_each_others_padding_token(tmp_path: Path) -> None:
    path = save(tmp_path / "rm", "llama", 1, pad_token_id=None)
    source = load_sequence_classifier(str(path), head="score")
    expected = source.scores([TEXTS], None)
    entered, left = threading.Event(), threading.Event()

    def wait(module: torch.nn.Module, inputs: object) -> None:
        # The first is held until the second has come in, and that one until the first is gone.
        if entered.is_set():
            left.wait(2.0)
        else:
            entered.set()
            time.sleep(0.3)

    def score() -> np.ndarray:
        found = source.scores([TEXTS], None)
        left.set()
        return found

    handle = source.classifier.model.register_forward_pre_hook(wait)
    try:
        with ThreadPoolExecutor(2) as threads:
            first = threads.submit(score)
            entered.wait(5.0)
            second = threads.submit(score)
            found = first.result(), second.result()
    finally:
        handle.remove()
    assert all(np.allclose(scores, expected, atol=1e-5) for scores in found)
    assert source.classifier.model.config.pad_token_id is None


def test_two_strings_are_a_pair_without_a_chat_template(tmp_path: Path) -> None:
    path = save(tmp_path / "pair", "bert", 1)
    answers = TEXTS[::-1]
    expected = [direct(path, q, a)[0] for q, a in zip(TEXTS, answers, strict=True)]
    scorer = load(path, "reward_model", parameters=2)
    assert np.allclose(scorer.score(TEXTS, answers), expected, atol=1e-5)
    assert abs(direct(path, *TEXTS[:2])[0] - direct(path, *TEXTS[1::-1])[0]) > 1e-3


def test_two_strings_are_two_turns_with_a_chat_template(tmp_path: Path) -> None:
    path = save(tmp_path / "chat", "llama", 1, chat=True)
    scorer = load(path, "reward_model", parameters=2)
    rendered = "user the cat . assistant sat on . "
    expected = direct(path, rendered, add_special_tokens=False)[0]
    assert math.isclose(scorer.score(["the cat"], ["sat on"])[0], expected, abs_tol=1e-5)


def test_a_chat_template_that_fails_is_refused_in_words(tmp_path: Path) -> None:
    scorer = load(save(tmp_path / "chat", "llama", 1, chat=True), "reward_model", parameters=2)
    scorer.source.classifier.tokenizer.chat_template = "{{ raise_exception('no turns') }}"
    with pytest.raises(InferenceError, match="fails: TemplateError: no turns"):
        scorer.score(["the cat"], ["sat on"])


def test_labels_are_names_or_numbers_and_the_last_class_without_one(tmp_path: Path) -> None:
    path = save(tmp_path / "named", "distilbert", 2, id2label={0: "unkind", 1: "kind"},
                label2id={"unkind": 0, "kind": 1})  # fmt: skip
    by_name = load(path, "classifier", label="kind").score(TEXTS)
    assert np.array_equal(by_name, load(path, "classifier", label=1).score(TEXTS))
    assert np.array_equal(by_name, load(path, "classifier").score(TEXTS))
    assert np.allclose(by_name + load(path, "classifier", label="unkind").score(TEXTS), 1.0)
    with pytest.raises(InferenceError) as caught:
        load(path, "classifier", label="kint")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "LMP919" and diagnostic.help == "did you mean 'kind'?"


def test_multi_label_classes_are_independent_probabilities(tmp_path: Path) -> None:
    path = save(tmp_path / "multi", "bert", 3, problem_type="multi_label_classification")
    logits = np.stack([direct(path, text) for text in TEXTS])
    scores = load(path, "classifier", label=0).score(TEXTS)
    assert np.allclose(scores, 1 / (1 + np.exp(-logits[:, 0])), atol=1e-5)


def test_a_token_that_the_model_never_had_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path / "extended", "llama", 1)
    words = transformers.AutoTokenizer.from_pretrained(path)
    words.add_tokens([f"zebra{number}" for number in range(20)])
    words.save_pretrained(path)
    scorer = load(path, "reward_model")
    assert np.isfinite(scorer.score(["the cat"])).all()
    with pytest.raises(InferenceError, match="knows 40 tokens only") as caught:
        scorer.score(["the cat", "the zebra19"])
    assert caught.value.diagnostics[0].code == "LMP929"


def test_a_text_that_is_too_long_is_an_error_unless_truncation_is_asked_for(
    tmp_path: Path,
) -> None:
    path = save(tmp_path / "short", "roberta", 1)
    long, cut = " ".join(["cat"] * 31), " ".join(["cat"] * 30)
    scorer = load(path, "reward_model")
    assert np.isfinite(scorer.score([cut])).all()
    with pytest.raises(InferenceError) as caught:
        scorer.score(["the cat", long])
    (diagnostic,) = caught.value.diagnostics
    assert (
        diagnostic.code == "LMP929" and "at most 32 tokens and was given 33" in diagnostic.message
    )
    truncating = load(path, "reward_model", truncate=True)
    assert np.allclose(truncating.score([long]), scorer.score([cut]), atol=1e-6)


def test_the_empty_text_has_a_score(tmp_path: Path) -> None:
    for style in ("bert", "gpt2"):
        path = save(tmp_path / style, style, 1)
        assert np.isfinite(load(path, "reward_model").score([""])).all()


def test_a_checkpoint_without_a_head_is_refused_and_nothing_random_happens(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, pad_token_id=0,
    )  # fmt: skip
    path = tmp_path / "lm"
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    tokenizer("llama").save_pretrained(path)
    capfd.readouterr()
    before = torch.random.get_rng_state()
    with pytest.raises(InferenceError, match=r"score\.weight") as caught:
        load(path, "reward_model")
    assert caught.value.diagnostics[0].code == "LMP919"
    assert torch.equal(before, torch.random.get_rng_state())
    assert capfd.readouterr() == ("", "")


def test_the_number_of_outputs_must_fit_the_source(tmp_path: Path) -> None:
    with pytest.raises(InferenceError, match=r"has 3 outputs; a reward model has one"):
        load(save(tmp_path / "three", "bert", 3), "reward_model")
    with pytest.raises(InferenceError, match="a score and not a probability"):
        load(save(tmp_path / "one", "bert", 1), "classifier")


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InferenceError, match="cannot be loaded as a sequence classifier"):
        load(tmp_path / "empty", "classifier")
    (tmp_path / "file").write_text("{}")
    with pytest.raises(InferenceError, match="is not a directory"):
        load(tmp_path / "file", "classifier")


def test_a_model_is_loaded_once_and_again_when_its_files_change(tmp_path: Path) -> None:
    path = save(tmp_path / "m", "bert", 1)
    first = load_sequence_classifier(str(path), head="score")
    assert load_sequence_classifier(str(path), head="score").classifier is first.classifier
    build("bert", 1, hidden_dropout_prob=0.3).save_pretrained(path)
    again = load_sequence_classifier(str(path), head="score")
    assert again.classifier is not first.classifier and again.digest != first.digest


def test_scoring_is_deterministic_and_moves_no_global_random_state(tmp_path: Path) -> None:
    path = save(tmp_path / "m", "bert", 1, hidden_dropout_prob=0.5)
    before = torch.random.get_rng_state()
    source = load_sequence_classifier(str(path), head="score")
    assert np.array_equal(source.scores([TEXTS], None), source.scores([TEXTS], None))
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_ensemble_is_its_members_side_by_side(tmp_path: Path) -> None:
    paths = [save(tmp_path / style, style, 1) for style in ("bert", "llama", "gpt2")]
    members = tuple(RewardSource("reward_model", {"model": path.name}) for path in paths)
    declared = Reward(
        "score", (Parameter("t", STRING, SPAN),), UNCERTAIN,
        RewardSource("ensemble", members=members), SPAN,
    )  # fmt: skip
    scores = load_reward(declared, base_dir=str(tmp_path)).score(TEXTS)
    assert isinstance(scores, UncertainScores) and scores.members is not None
    alone = [load(path, "reward_model").score(TEXTS) for path in paths]
    assert np.allclose(scores.members, np.stack(alone, axis=1), atol=1e-6)


def test_a_member_outside_the_declared_range_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path / "rm", "bert", 1)
    narrow = Type("real", range=Interval(-1e-4, 1e-4))
    with pytest.raises(InferenceError, match=r"outside its declared range \[-0.0001, 0.0001\]"):
        load(path, "reward_model", type=narrow).score(TEXTS)
