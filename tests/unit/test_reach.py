"""How far counts, lengths and word scores can reach in so many tokens, against all texts there are.

A bound that is declared nowhere follows from `max_tokens` and the vocabulary, at binding.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path

import pytest
import torch

import lmppl
from lmppl.automata.reach import Reach
from lmppl.lm.sizes import TokenSizes
from lmppl.rewards.texts import CountSource, LexiconSource

_LETTERS = (b"a", b"b", b"c", b" ")
_WORDS = (b" ha", b"haha", b"a", b"!!", b"h", b"\n")
_BYTES = ("é".encode(), b"\xc3", b"\xa9", b"e", "İ".encode(), b"\xe2\x82")
_VOCABULARIES = (_LETTERS, _WORDS, _BYTES)


def texts(tokens: tuple[bytes, ...], most: int) -> list[str]:
    """Every text of at most so many tokens."""
    return [
        b"".join(chosen).decode(errors="replace")
        for length in range(most + 1)
        for chosen in itertools.product(tokens, repeat=length)
    ]


def reach(tokens: tuple[bytes, ...], num_tokens: int) -> Reach:
    return Reach(TokenSizes.of(tokens), num_tokens)


_ATTAINED = [
    (_LETTERS, "[ab]"),
    (_LETTERS, "ab"),
    (_LETTERS, "abc?"),
    (_LETTERS, "a[bc]a"),
    (_LETTERS, "ab|ca"),
    (_LETTERS, "(ab)+c"),
    (_LETTERS, "^a"),
    (_LETTERS, r"a\Z"),
    (_LETTERS, "A"),
    (_LETTERS, "d"),
    (_LETTERS, "(?i)A|b"),
    (_LETTERS, ""),
    (_WORDS, "ha"),
    (_WORDS, " ha"),
    (_WORDS, "!"),
    (_WORDS, "[a\n]$"),
    (_BYTES, "é"),
    (_BYTES, "e"),
    (_BYTES, "."),
]
_BOUNDED = [
    "a+", "a*", "|a", "a|b*", "a{2}", "(a|bb)c", r"\b", r"\w+", r"\s", "^", "$", "^a*$", "(?m)^a",
    "(?m)a$", "[^a]", "a.?a", "b(a|c)?b", r"\bh", "ah|!", "\ufffd", "i", "(?i)İ", "(?i)é",
]  # fmt: skip


@pytest.mark.parametrize(("tokens", "pattern"), _ATTAINED)
def test_the_bound_of_a_count_is_attained(tokens: tuple[bytes, ...], pattern: str) -> None:
    counts = [len(re.findall(pattern, text)) for text in texts(tokens, 4)]
    found = reach(tokens, 4).count(pattern, False)
    most = max(counts)
    if pattern == "":
        # An empty match at every place; that another may lie behind each is not ruled out.
        assert (most, found.upper) == (5, 9)
    elif tokens is _BYTES:
        # A byte that is no character by itself counts as one of any kind: "é" by two of them.
        assert most <= found.upper <= 2 * most
    else:
        assert found.upper == most
    assert found.lower == 0


@pytest.mark.parametrize("tokens", _VOCABULARIES)
@pytest.mark.parametrize("pattern", [*_BOUNDED, *(pattern for _, pattern in _ATTAINED)])
@pytest.mark.parametrize("ignore_case", [False, True])
def test_no_text_has_more_matches(
    tokens: tuple[bytes, ...], pattern: str, ignore_case: bool
) -> None:
    source = CountSource(pattern, ignore_case)
    scored = source.scores([texts(tokens, 4)], None)
    assert scored.max() <= source.range(reach(tokens, 4)).upper < math.inf
    assert source.range(None).upper == math.inf


@pytest.mark.parametrize("tokens", _VOCABULARIES)
@pytest.mark.parametrize("unit", ["words", "characters"])
def test_no_text_is_longer(tokens: tuple[bytes, ...], unit: str) -> None:
    measured = [len(text.split() if unit == "words" else text) for text in texts(tokens, 4)]
    found = reach(tokens, 4).length(unit)
    assert max(measured) <= found.upper
    if tokens is not _BYTES and unit == "characters":
        assert max(measured) == found.upper
    assert reach(tokens, 4).length("tokens").upper == 4


@pytest.mark.parametrize("tokens", _VOCABULARIES)
@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_no_text_scores_beyond_its_words(tokens: tuple[bytes, ...], reduce: str) -> None:
    source = LexiconSource({"a": 1.5, "ha": 2.0, "b": -0.5, "haha": -3.0, "é": 1.0}, reduce)
    scored = source.scores([texts(tokens, 4)], None)
    found = source.range(reach(tokens, 4))
    assert found.lower <= scored.min() and scored.max() <= found.upper
    if reduce == "mean":
        assert (found.lower, found.upper) == (-3.0, 2.0)
    if tokens is _WORDS and reduce == "sum":
        # " ha" four times.
        assert found.upper == scored.max() == 8.0


# In programs ------------------------------------------------------------------------------------

_TOKENS = ("a", "b", " ", "ab", "</s>")


def language_model() -> lmppl.FunctionLM:
    def uniform(prefixes: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(prefixes), len(_TOKENS)).log_softmax(-1)

    return lmppl.FunctionLM(tokens=list(_TOKENS), eos="</s>", next_log_probs=uniform)


def bound(factor: str, *, max_tokens: int = 5, claims: str = "") -> lmppl.BoundModel:
    program = f"""
        reward n(t: string): int<lower=0> = count("b")
        reward pairs(t: string): int<lower=0> = count("[ab] [ab]")
        extern lm prior
        model m(k: real = 1.0) {{
            t ~ prior(max_tokens={max_tokens})
            let same = t
            let scaled = k * n(same)
            factor f: {factor}
            {claims}
            return t
        }}"""
    return lmppl.compile(program)(prior=language_model())


@pytest.mark.parametrize(
    ("factor", "largest"),
    [
        ("n(t)", 5.0),
        ("0.5 * n(same) - 1", 1.5),
        ("scaled", 5.0),
        ("log(1 + n(t))", math.log(6)),
        ("min(n(t), 2) + abs(n(t) - 2)", 5.0),
        ("0.1 * length(t)", 0.5),
        ('length(t, unit="characters") / 10', 1.0),
        ("-n(t)", 0.0),
        # Of three characters each, in ten at most.
        ("pairs(t)", 3.0),
    ],
)
def test_factors_of_texts_are_bounded_once_the_vocabulary_is_known(
    factor: str, largest: float
) -> None:
    target = bound(factor).target()
    (potential,) = target.model.potentials
    assert target.number_range(potential.expr, 0).upper == pytest.approx(largest)
    exact = lmppl.infer(bound(factor), method="exact", progress=False)
    assert exact.log_potential("f").max() <= largest + 1e-12
    if factor != "pairs(t)" and "abs" not in factor:
        assert exact.log_potential("f").max() == pytest.approx(largest)


@pytest.mark.parametrize("method", ["importance", "smc", "mcmc"])
def test_a_bound_from_the_vocabulary_settles_claims(method: str) -> None:
    claims = """
        expect mean(n(t)) <= 3.5
        expect mean(n(t)) >= 0.2
        expect probability(n(t) <= 4) > 0.5"""
    model = bound("0.3 * n(t)", claims=claims)
    exact = lmppl.infer(model, method="exact", progress=False)
    sizes = {"importance": {"num_samples": 1000}, "smc": {"num_particles": 1000}}
    options = sizes.get(method, {"num_samples": 250})
    post = lmppl.infer(model, method=method, seed=1, progress=False, **options)
    assert [each.verdict for each in post.expectations] == ["holds"] * 3
    assert not any("upper bound" in each or "declare" in each for each in post.warnings)
    if method != "mcmc":
        assert post.log_evidence.upper < math.inf
        assert post.log_evidence.lower <= exact.log_evidence.value <= post.log_evidence.upper


@pytest.mark.parametrize("method", ["importance", "smc"])
def test_a_bound_that_says_nothing_is_named_and_settles_nothing(method: str) -> None:
    model = bound("n(t)", max_tokens=40, claims="expect mean(n(t)) <= 30")
    post = lmppl.infer(model, method=method, seed=1, progress=False)
    (claim,) = post.expectations
    assert claim.verdict == "undecided"
    said = [each for each in post.warnings if "declare the range of its reward" in each]
    assert said and "factor f" in said[0] and "40 nats" in said[0]
    # What is known of the evidence is not thrown away.
    assert post.log_evidence.value < post.log_evidence.upper <= 40.0
    # Means show what the draws say, as where nothing is known.
    assert post.expectation("n(t)").upper < 40.0


def test_a_declared_bound_is_taken_as_it_is() -> None:
    program = """
        reward n(t: string): int<lower=0, upper=50> = count("b")
        extern lm prior
        model m() { t ~ prior(max_tokens=40) factor f: n(t) return t }"""
    model = lmppl.compile(program)(prior=language_model())
    post = lmppl.infer(model, method="importance", seed=1, progress=False)
    assert not any("no range is declared" in each for each in post.warnings)
    assert post.unseen is not None and math.isfinite(post.unseen.log_further)


def test_a_reward_of_something_else_than_a_text_keeps_its_declared_range() -> None:
    program = """
        reward n(t: string): int<lower=0> = count("b")
        extern lm prior
        model m() { t ~ prior(max_tokens=2) factor f: n(f"{t} bbbb") - n(t) return t }"""
    target = lmppl.compile(program)(prior=language_model()).target()
    (potential,) = target.model.potentials
    assert target.number_range(potential.expr, 0).upper == math.inf


def test_a_loaded_posterior_knows_the_same_ranges(tmp_path: Path) -> None:
    (tmp_path / "words.tsv").write_text("b\t1.5\na\t-0.5\n")
    (tmp_path / "prior.json").write_text(
        json.dumps(
            {
                "tokens": ["a", "b ", "."],
                "initial": [1, 1, 0],
                "transition": [[1, 2, 1], [2, 1, 1], [0, 0, 1]],
                "eos": ".",
            }
        )
    )
    (tmp_path / "m.lmp").write_text(
        """
        reward n(t: string): int<lower=0> = count("b")
        reward warm(t: string): real = lexicon("words.tsv")
        model m() { t ~ markov("prior.json", max_tokens=4) factor f: 0.5 * warm(t) return t }"""
    )
    post = lmppl.infer(lmppl.load(tmp_path / "m.lmp"), method="smc", seed=2, progress=False)
    post.save(tmp_path / "result")
    again = lmppl.load_posterior(tmp_path / "result")
    for asked in ("n(t)", "warm(t)", "length(t)", 'length(t, unit="characters")', "2 * n(t)"):
        assert again.expectation(asked) == post.expectation(asked)
        assert math.isfinite(post.expectation(asked).upper)
    assert post.log_evidence.upper < math.inf
