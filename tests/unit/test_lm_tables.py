"""Markov chains, n-grams and host functions: exact numbers, and errors that name the place."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch

import lmppl
from lmppl.errors import InferenceError
from lmppl.lm.function import FunctionLM
from lmppl.lm.hmm import load_hmm
from lmppl.lm.markov import load_markov
from lmppl.lm.ngram import load_ngram
from lmppl.lm.protocol import Chat

SPEC = {
    "tokens": ["a", "b", "."],
    "initial": [1, 3, 0],
    "transition": [[0, 1, 1], [2, 1, 1], [0, 0, 0]],
    "eos": ".",
}


def write(path, **changes):
    path.write_text(json.dumps({**SPEC, **changes}), encoding="utf-8")
    return path


def probs(lm, *tokens):
    ids = torch.tensor([tokens], dtype=torch.long).reshape(1, len(tokens))
    return lm.log_probs(ids, torch.zeros(1, dtype=torch.long))[0].exp().tolist()


def test_a_markov_chain_has_the_probabilities_of_its_file(tmp_path):
    lm = load_markov("chain.json", base_dir=write(tmp_path / "chain.json").parent)
    assert probs(lm) == pytest.approx([0.25, 0.75, 0.0], abs=1e-15)
    assert probs(lm, 0) == pytest.approx([0.0, 0.5, 0.5], abs=1e-15)
    assert probs(lm, 0, 1) == pytest.approx([0.5, 0.25, 0.25], abs=1e-15)
    text = torch.tensor([[1, 0, 2], [0, 0, 0]])
    found = lm.token_log_probs(["", ""], text, torch.tensor([3, 2]))
    assert found[0].exp().tolist() == pytest.approx([0.75, 0.5, 0.5], abs=1e-15)
    assert found[1].tolist() == [math.log(0.25), -math.inf, 0.0]
    assert lm.vocab.eos_ids == {2}
    assert lm.vocab.decode([0, 1, 2]) == "ab"


def test_a_markov_chain_without_an_end_never_ends(tmp_path):
    lm = load_markov(write(tmp_path / "m.json", eos=None, transition=[[1, 1, 1]] * 3))
    assert lm.vocab.eos_ids == frozenset()
    assert lm.vocab.decode([2]) == "."


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"tokens": []}, '"tokens"'),
        ({"tokens": ["a", "b", "a"]}, "'a' is listed twice"),
        ({"eos": "c"}, "\"eos\": 'c' is not one of the tokens"),
        ({"initial": [1, 2]}, '"initial": expected a list of 3 weights'),
        ({"initial": [1, -2, 1]}, '"initial", weight 1: -2 is not'),
        ({"initial": [1, True, 1]}, '"initial", weight 1: True is not'),
        ({"initial": [0, 0, 0]}, '"initial": all weights are zero'),
        ({"transition": [[1, 1, 1]]}, '"transition": expected 3 rows'),
        ({"transition": [[1, 1, 1], [0, 0, 0], [1, 1, 1]]}, "row 1 ('b'): all weights are zero"),
        ({"transition": [[1, 1, 1], [1, 1, math.nan], [1, 1, 1]]}, "row 1 ('b'), weight 2: nan"),
        ({"teleport": 1}, "'teleport': there is no such entry"),
    ],
)
def test_a_bad_markov_file_is_refused_at_its_place(tmp_path, changes, place):
    with pytest.raises(InferenceError) as caught:
        load_markov(write(tmp_path / "m.json", **changes))
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "LMP916"
    assert place in diagnostic.notes[0]
    assert "m.json" in diagnostic.message


@pytest.mark.parametrize(
    ("content", "place"),
    [(b'{"tokens": [', "line 1, column 13"), (b"\xff", "not UTF-8"), (b"[]", "an object")],
)
def test_a_file_that_is_no_json_object_is_refused(tmp_path, content, place):
    (tmp_path / "m.json").write_bytes(content)
    with pytest.raises(InferenceError, match="LMP916") as caught:
        load_markov(tmp_path / "m.json")
    assert place in str(caught.value)
    with pytest.raises(InferenceError, match="LMP916"):
        load_markov(tmp_path / "absent.json")


HIDDEN = {
    "tokens": ["a", "b", "."],
    "initial": [1, 3],
    "transition": [[1, 1], [0, 1]],
    "emission": [[4, 0, 1], [1, 3, 1]],
    "eos": ".",
}


def write_hidden(path, **changes):
    path.write_text(json.dumps({**HIDDEN, **changes}), encoding="utf-8")
    return path


def test_a_hidden_markov_model_has_the_probabilities_of_its_file(tmp_path):
    lm = load_hmm("h.json", base_dir=write_hidden(tmp_path / "h.json").parent)
    # p(a) = 1/4 · 4/5 + 3/4 · 1/5, p(b) = 3/4 · 3/5.
    assert probs(lm) == pytest.approx([0.35, 0.45, 0.2], abs=1e-15)
    # After a: states 4/7 and 3/7; then 2/7 and 5/7.
    expected = [2 / 7 * 0.8 + 5 / 7 * 0.2, 5 / 7 * 0.6, 0.2]
    assert probs(lm, 0) == pytest.approx(expected, abs=1e-15)
    # After b only the second state is left.
    assert probs(lm, 1) == pytest.approx([0.2, 0.6, 0.2], abs=1e-15)
    text = torch.tensor([[1, 0, 2], [0, 1, 0]])
    found = lm.token_log_probs(["", ""], text, torch.tensor([3, 2])).exp()
    assert found[0].tolist() == pytest.approx([0.45, 0.2, 0.2], abs=1e-15)
    assert found[1].tolist() == pytest.approx([0.35, 3 / 7, 1.0], abs=1e-15)
    assert lm.vocab.eos_ids == {2}


def test_a_belief_that_is_tiny_is_not_zero(tmp_path):
    """Of two topics that never change the first falls behind by 900 nats, and then must be it."""
    lm = load_hmm(
        write_hidden(
            tmp_path / "h.json",
            initial=[1, 1],
            transition=[[1, 0], [0, 1]],
            emission=[[1e-200, 1, 1e-9], [1, 1e-9, 0]],
        )
    )
    two = torch.tensor([[0, 0, 2]])
    found = lm.token_log_probs([""], two, torch.tensor([3]))[0]
    assert found.sum().item() == pytest.approx(-math.log(2) - 400 * math.log(10) - 9 * math.log(10))


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"tokens": None}, '"tokens"'),
        ({"initial": []}, '"initial": expected a list of at least one weight'),
        ({"initial": [1, "x"]}, "\"initial\", weight 1: 'x' is not"),
        ({"transition": [[1, 1]]}, '"transition": expected 2 rows'),
        ({"transition": [[1, 1], [1]]}, '"transition", row 1: expected a list of 2 weights'),
        ({"emission": [[1, 1, 1], [0, 0, 0]]}, '"emission", row 1: all weights are zero'),
        ({"emission": [[1, 1], [1, 1]]}, '"emission", row 0: expected a list of 3 weights'),
        ({"eos": "c"}, "\"eos\": 'c' is not one of the tokens"),
        ({"states": 2}, "'states': there is no such entry"),
    ],
)
def test_a_bad_file_of_a_hidden_markov_model_is_refused_at_its_place(tmp_path, changes, place):
    with pytest.raises(InferenceError) as caught:
        load_hmm(write_hidden(tmp_path / "h.json", **changes))
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "LMP916"
    assert place in diagnostic.notes[0]


def test_an_ngram_model_is_witten_bell_by_hand(tmp_path):
    (tmp_path / "corpus.txt").write_text("ab\n\nab\na\n", encoding="utf-8")
    lm = load_ngram(tmp_path / "corpus.txt", order=2)
    assert lm.vocab.token_bytes == (b"a", b"b", b"")
    # Unigrams: a 3, b 2, end 3, of 3 kinds; then p = (c + 3/3) / (8 + 3).
    a, b, end = 4 / 11, 3 / 11, 4 / 11
    # Every text starts with a: c = 3 of 1 kind.
    assert probs(lm) == pytest.approx([(3 + a) / 4, b / 4, end / 4], abs=1e-15)
    # After a: b 2, end 1, 2 kinds.
    expected = [2 * a / 5, (2 + 2 * b) / 5, (1 + 2 * end) / 5]
    assert probs(lm, 1, 0) == pytest.approx(expected, abs=1e-15)
    # A context that the corpus does not have says nothing: order 3 after "bb" is order 2 after b.
    longer = load_ngram(tmp_path / "corpus.txt", order=3)
    assert probs(longer, 1, 1) == pytest.approx(probs(lm, 1), abs=1e-15)
    assert load_ngram(tmp_path / "corpus.txt", order=1).log_probs(
        torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    ).exp().tolist() == [pytest.approx([a, b, end], abs=1e-15)]


def test_an_ngram_model_of_words_keeps_the_spaces(tmp_path):
    (tmp_path / "c.txt").write_text("the dog ran\nthe  dog sat\n", encoding="utf-8")
    lm = load_ngram(tmp_path / "c.txt", unit="word")
    ids = lm.encode_prompt("the dog sat")
    assert lm.vocab.decode(ids) == "the dog sat"
    assert (
        max(probs(lm, *lm.encode_prompt("the dog")))
        == probs(lm, *lm.encode_prompt("the dog"))[lm.encode_prompt("the dog ran")[2]]
    )


def test_an_ngram_prompt_outside_the_corpus_is_refused(tmp_path):
    (tmp_path / "c.txt").write_text("abc\n", encoding="utf-8")
    lm = load_ngram(tmp_path / "c.txt")
    assert lm.start(["ab"]).num_rows == 1
    for prompt in ("abz", Chat(user="ab")):
        with pytest.raises(InferenceError, match="LMP918"):
            lm.start([prompt])


def test_an_empty_corpus_is_refused(tmp_path):
    (tmp_path / "c.txt").write_text("\n  \n", encoding="utf-8")
    for path, order in (("c.txt", 3), ("absent.txt", 3), ("c.txt", 0)):
        with pytest.raises(InferenceError, match="LMP916"):
            load_ngram(tmp_path / path, order=order)


def uniform(prefixes):
    return torch.full((prefixes.shape[0], 2), math.log(0.5))


def test_a_function_sees_each_distinct_prefix_once():
    seen = []

    def watched(prefixes):
        seen.append(prefixes.tolist())
        return uniform(prefixes)

    lm = FunctionLM(tokens=["a", "b"], eos=None, next_log_probs=watched)
    prefixes = lm.start([""] * 3)
    lm.extend(prefixes, torch.tensor([1, 0, 1]))
    assert seen == [[[]], [[0], [1]]]


def test_a_slightly_unnormalised_row_is_renormalised_in_float64():
    lm = FunctionLM(
        tokens=["a", "b"], eos="b", next_log_probs=lambda prefixes: uniform(prefixes) + 5e-5
    )
    assert float(lm.start([""]).logits.logsumexp(-1).abs()) < 1e-12


@pytest.mark.parametrize(
    ("returned", "what"),
    [
        (lambda p: torch.zeros(p.shape[0], 3), r"shape \[1, 3\] for 1 prefixes, not \[1, 2\]"),
        (lambda p: torch.zeros(p.shape[0], 2), "sum to 2, not 1"),
        (lambda p: torch.full((p.shape[0], 2), -math.inf), "sum to 0, not 1"),
        (lambda p: torch.tensor([[0.0, math.nan]]), "returned nan for the token 'b'"),
        (lambda p: torch.tensor([[math.inf, 0.0]]), "returned inf for the token 'a'"),
    ],
)
def test_a_function_that_is_no_distribution_is_refused_with_the_prefix(returned, what):
    def sometimes(prefixes):
        return returned(prefixes) if prefixes.shape[1] == 2 else uniform(prefixes)

    lm = FunctionLM(tokens=["a", "b"], eos=None, next_log_probs=sometimes, name="prior")
    prefixes = lm.extend(lm.start([""]), torch.tensor([1]))
    with pytest.raises(InferenceError, match=what) as caught:
        lm.extend(prefixes, torch.tensor([0]))
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "LMP917" and "prior" in diagnostic.message
    assert not diagnostic.notes or diagnostic.notes == ("after the prefix 'b' 'a'",)


def test_a_function_takes_no_prompt_and_needs_distinct_tokens():
    lm = FunctionLM(tokens=["a", "b"], eos=None, next_log_probs=uniform)
    with pytest.raises(InferenceError, match="LMP918"):
        lm.start(["a"])
    with pytest.raises(InferenceError, match="LMP917"):
        FunctionLM(tokens=["a", "a"], eos=None, next_log_probs=uniform)
    with pytest.raises(InferenceError, match="LMP917"):
        FunctionLM(tokens=["a", "b"], eos="c", next_log_probs=uniform)


# --- what is read, and what only looks like it --------------------------------------------------


def refused(load) -> str:
    with pytest.raises(InferenceError) as caught:
        load()
    (diagnostic,) = caught.value.diagnostics
    return f"{diagnostic.code} {diagnostic.message} {' '.join(diagnostic.notes)}"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ('{"tokens": ["a"], "tokens": ["b"], "initial": [1], "transition": [[1]]}', "twice"),
        ('{"tokens": ["a", "\\ud800"], "initial": [1, 1], "eos": null}', r"U\+D800"),
        ('{"tokens": ["a"], "initial": [1' + "0" * 400 + "]}", "weight 0: 1000.*is not a finite"),
        ('{"tokens": ["a"], "initial": [1' + "0" * 5000 + "]}", "digits"),
        ("[" * 100_000, "nested too deeply"),
        ("\ufeff{}", "BOM"),
        (
            '{"tokens": ["a", "b"], "initial": [1.7e308, 1.7e308], "transition": [[1, 1], [1, 1]]}',
            '"initial": the weights are too large',
        ),
    ],
)
def test_a_markov_file_that_says_two_things_or_too_much_is_refused(tmp_path, content, what):
    path = tmp_path / "m.json"
    path.write_text(content, encoding="utf-8")
    assert re.search(f"LMP916.*{what}", refused(lambda: load_markov(path)))


@pytest.mark.parametrize("unit", ["character", "word"])
@pytest.mark.parametrize("content", ["\ufeffone two\n", "one\n\ufefftwo\n"])
def test_a_byte_order_mark_is_no_token(tmp_path, content, unit):
    path = tmp_path / "corpus.txt"
    path.write_text(content, encoding="utf-8")
    found = refused(lambda: load_ngram(path, unit=unit))
    assert "LMP916" in found and "U+FEFF" in found


@pytest.mark.parametrize("order", [0, 101, 10**9])
def test_an_order_that_no_corpus_fills_is_refused(tmp_path, order):
    (tmp_path / "corpus.txt").write_text("one two", encoding="utf-8")
    assert f"order {order}" in refused(lambda: load_ngram(tmp_path / "corpus.txt", order=order))


def test_a_network_behind_a_function_needs_no_care_of_gradients():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scores = torch.nn.Parameter(torch.tensor([0.3, 0.1, -0.2]))

        def forward(self, ids):
            with torch.enable_grad():
                return self.scores.log_softmax(-1).expand(ids.shape[0], -1)

    lm = FunctionLM(tokens=["a", "b", "."], eos=".", next_log_probs=Network())
    prefixes = lm.extend(lm.start(["", ""]), torch.tensor([0, 1]))
    assert not prefixes.logits.requires_grad
    model = lmppl.compile("""
        extern lm prior
        model small() {
            text ~ prior(max_tokens=3)
            return text
        }
    """)
    post = lmppl.infer(model(prior=lm), method="smc", num_particles=8, seed=0, progress=False)
    assert len(post.texts) == 8


def raises(ids):
    raise ZeroDivisionError("no tokens")


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (raises, "raised ZeroDivisionError: no tokens"),
        (lambda: None, "raised TypeError"),
        (lambda ids: None, "returned None that cannot be read"),
        (lambda ids: "abc", "returned a? ?str that cannot be read"),
        (lambda ids: [[0.1], [0.1, 0.2]], "returned a list that cannot be read"),
        (lambda ids: torch.zeros(1, 2, dtype=torch.complex64), "returned a Tensor that cannot"),
        (lambda ids: [[object(), 0.5]], "returned a list that cannot be read"),
    ],
)
def test_a_function_that_fails_is_refused_in_words(function, what):
    lm = FunctionLM(tokens=["a", "b"], eos=None, next_log_probs=function)
    assert re.search(f"LMP917.*{what}", refused(lambda: lm.start([""])))


def test_a_function_may_change_what_it_is_given():
    def careless(ids):
        ids += 7
        return torch.full((ids.shape[0], 2), 0.5).log()

    lm = FunctionLM(tokens=["a", "b"], eos=None, next_log_probs=careless)
    prefixes = lm.extend(lm.start([""]), torch.tensor([1]))
    assert prefixes.state.tokens.tolist() == [[1]]


@pytest.mark.parametrize("tokens", [["a", "\ud800"], ["a", 1], ["a", b"b"]])
def test_tokens_are_strings_of_whole_characters(tokens):
    found = refused(lambda: FunctionLM(tokens=tokens, eos=None, next_log_probs=raises))
    assert "LMP917" in found and "whole characters" in found
