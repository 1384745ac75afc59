"""The spelling of a special token: the token itself as a stop string, a mistake elsewhere."""

from __future__ import annotations

import pytest
import tiny_models
import torch

import lmppl
from lmppl.automata.stopping import NO_STOPPING, Stopping
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


ANYWHERE = {
    "a factor": 'factor if contains(text, "<|turn|>") then 1.0 else 0.0',
    "a count in a factor": "factor 0.1 * turns_in(text)",
    "a let": 'let ended = ends_with(text, "<|turn|>")\n factor if ended then 1.0 else 0.0',
    "a count in a requirement": "require turns_in(text) >= 1",
    "what is judged at the end only": 'require not contains(text, "<|turn|>") or r(text) > 0.1',
    "after when": 'require finished(text) when contains(text, "<|turn|>")',
    "expect": 'expect probability(contains(text, "<|turn|>")) >= 0.5',
    "expect of a count": "expect mean(turns_in(text)) >= 0.5",
    "a class in a pattern": r'require matches(text, r"[a-z]*[<]\|(turn|end)\|>.*")',
    "a repeat in a pattern": r'require matches(text, r"[a-z ]*(<\|turn\|>)?")',
    "equality": 'require text != "<|turn|>"',
    "one of": 'require text in ["a", "b<|turn|>"]',
    "a text within a text": 'require never(f"{text}.", "<|turn|>")',
    "another case": 'require never(text, "<|TURN|>", ignore_case=true)',
    "padding": 'require never(text, "<pad>")',
    "the end": 'require contains(text, "</s>")',
    "a choice": 'mark ~ categorical(["a", "<|turn|>"])\n require never(text, mark)',
    "a later prompt's condition": (
        'more ~ bernoulli(if contains(text, "<|turn|>") then 0.9 else 0.1)\n require more'
    ),
}
WIDER = """
reward turns_in(t: string): int<lower=0, upper=100> = count(r"<\\|turn\\|>")
extern reward r(t: string): real<lower=0, upper=1>

model turns(words: string[] = ["bad"]) {{
    text ~ lm("{source}", prompt="the dog", max_tokens=24)
    {line}
    factor 0.1 * r(text)
    return text{more}
}}
"""


def wider(source, line, more=""):
    def r(text: str) -> float:
        return 0.5

    program = lmppl.compile(WIDER.format(source=source, line=line, more=more))
    return lambda **values: program(r=r, **values)


@pytest.mark.parametrize("place", ANYWHERE)
def test_a_spelling_that_nothing_can_see_is_refused_wherever_it_stands(source, place):
    with pytest.raises(InferenceError, match="LMP942") as caught:
        wider(source, ANYWHERE[place])().target()
    assert all(each.span is not None for each in caught.value.diagnostics)


def test_a_spelling_in_what_is_returned_or_given_by_the_host_is_refused(source):
    with pytest.raises(InferenceError, match="LMP942"):
        wider(source, "", ', contains(text, "<|turn|>")')().target()
    never = wider(source, "require never(text, words)")
    never().target()
    with pytest.raises(InferenceError, match="LMP942"):
        never(words=["so", "a <|turn|>"]).target()


def test_a_spelling_asked_for_after_the_run_is_refused(source):
    bind = wider(source, "")()
    post = lmppl.infer(bind, method="importance", num_samples=20, seed=0, progress=False)
    assert 0.0 <= post.expectation('contains(text, "dog")').value <= 1.0
    with pytest.raises(InferenceError, match="LMP942"):
        post.expectation('contains(text, "<|turn|>")')


@pytest.mark.parametrize(
    "line",
    [
        # What matches a spelling by a wildcard does not spell it.
        r'require matches(text, r".*")',
        r'require matches(text, r"[^a-z]*|[ -~\s]*|(?s:.*)")',
        'require never(text, ["<", "turn", "|>"])',
        # A prompt has its spelling in it, and is looked into with the text.
        'let all = f"<|turn|>{text}"\n require contains(all, "<|turn|>")',
    ],
)
def test_what_can_be_seen_is_not_refused(source, line):
    wider(source, line)().target()


@pytest.mark.parametrize("stop", ["\\n<|turn|>", "<|turn|> ", "<|turn|><|turn|>"])
def test_a_stop_string_with_a_spelling_in_it_is_refused(source, stop):
    with pytest.raises(InferenceError, match=r"(?s)LMP942.*no text would end there.*stop=\["):
        bound(source, options=f', stop=["{stop}"]').target()


@pytest.mark.parametrize("style", ["gpt2", "qwen2", "mistral", "gemma2"])
def test_every_special_token_of_a_tokenizer_stops_and_added_words_are_text(tmp_path, style):
    model, tokenizer = tiny_models.tiny_model(style)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.add_tokens(["zebra"])
    place = (tmp_path / style).as_posix()
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    plain = bound(place).target().stages[0].lm
    assert isinstance(plain, HuggingFaceLM)
    zebra = tokenizer.convert_tokens_to_ids("zebra")
    assert plain.vocab.token_bytes[zebra] == b"zebra"
    special = plain.special_tokens
    assert {"<|turn|>", "</s>", "<pad>"} <= special.keys()
    assert "zebra" not in special
    for spelling, number in special.items():
        stage = bound(place, options=f', stop=["{spelling}"]').target().stages[0]
        assert number in stage.lm.vocab.eos_ids
        assert stage.stopping == NO_STOPPING
    stage = bound(place, options=', stop=["zebra"]').target().stages[0]
    assert stage.stopping == Stopping(("zebra",))
    bound(place, require='require never(text, "zebra")').target()


def test_a_stop_string_that_spells_a_token_beyond_the_model_is_refused(tmp_path):
    model, tokenizer = tiny_models.tiny_model("llama")
    many = [f"<|{number}|>" for number in range(8)]
    tokenizer.add_special_tokens({"additional_special_tokens": many})
    place = (tmp_path / "extended").as_posix()
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    bound(place, options=', stop=["<|0|>"]').target()
    with pytest.raises(InferenceError, match=r"(?s)LMP941.*<\|7\|>"):
        bound(place, options=', stop=["<|7|>"]').target()
    with pytest.raises(InferenceError, match="LMP942"):
        bound(place, require='require never(text, "<|7|>")').target()
    program = PROGRAM.replace('"the dog"', '"the <|7|> dog"')
    with pytest.raises(InferenceError, match=r"(?s)LMP918.*<\|7\|>.*extended"):
        lmppl.infer(
            lmppl.compile(program.format(source=place, options="", require="")),
            method="importance",
            num_samples=4,
            progress=False,
        )
