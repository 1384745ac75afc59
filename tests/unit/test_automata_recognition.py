"""Finished texts and counts, decided without backtracking, agree with `re` and never hang."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lmppl
from lmppl.automata import recognition, searching
from lmppl.automata.dfa import TooManyStates
from lmppl.automata.predicates import Asked, holds
from lmppl.automata.recognition import recognise
from lmppl.automata.regex import NotRegular
from lmppl.automata.searching import Counter
from tests.predicates import contains, ends_with, matches, never, starts_with

ATOMS = ["a", "b", "ab", ".", "[ab]", r"\b", r"\B", "^", "$", r"\Z", r"\w", r"\s", "c?", "\n", ""]
REPEATS = ["*", "+", "?", "*?", "+?", "??", "{2}", "{0,2}", "{1,3}?", "{2,}", "{2,}?", "{3}?"]


def patterns() -> st.SearchStrategy[str]:
    return st.recursive(
        st.sampled_from(ATOMS),
        lambda part: st.one_of(
            st.tuples(part, part).map("".join),
            st.tuples(part, part).map(lambda two: f"(?:{two[0]}|{two[1]})"),
            st.tuples(part, st.sampled_from(REPEATS)).map(lambda two: f"(?:{two[0]}){two[1]}"),
        ),
        max_leaves=6,
    )


TEXTS = st.text("aabbc \nA", max_size=9)
LETTERS = st.text("abßẞA é.\n\ud800", max_size=8)


@settings(max_examples=600, deadline=None)
@given(patterns(), st.lists(TEXTS, min_size=1, max_size=4), st.booleans())
def test_counts_are_those_of_re(pattern: str, texts: list[str], ignore_case: bool) -> None:
    counter = Counter(pattern, ignore_case)
    flags = re.IGNORECASE if ignore_case else 0
    for text in texts:
        assert counter.count(text) == len(re.findall(pattern, text, flags))


@settings(max_examples=600, deadline=None)
@given(patterns(), st.lists(TEXTS, min_size=1, max_size=4))
def test_counts_without_the_help_of_re_are_those_of_re(pattern: str, texts: list[str]) -> None:
    quick = searching._is_quick
    searching._is_quick = lambda tree: False
    try:
        counter = Counter(pattern)
    finally:
        searching._is_quick = quick
    for text in texts:
        assert counter.count(text) == len(re.findall(pattern, text))


WORDS = st.lists(st.text("abßA .", max_size=3), max_size=4).map(tuple)
PREDICATES = st.one_of(
    st.builds(matches, patterns(), st.booleans()),
    st.builds(contains, WORDS, st.booleans(), st.booleans()),
    st.builds(never, WORDS, st.booleans(), st.booleans()),
    st.builds(starts_with, WORDS, st.booleans()),
    st.builds(ends_with, WORDS, st.booleans()),
)


@settings(max_examples=300, deadline=None)
@given(PREDICATES, st.lists(LETTERS, max_size=8))
def test_predicates_hold_of_the_texts_of_which_they_are_defined_to(
    predicate: Asked, texts: list[str]
) -> None:
    wanted = [holds(predicate, text) for text in texts]
    assert recognise(predicate, texts).tolist() == wanted
    language = predicate.language()
    assert language is not None
    lazy = recognition._Lazy(language)
    assert [lazy.accepts(text) for text in texts] == wanted


def test_a_pattern_that_hangs_re_is_answered_at_once(shared: Path) -> None:
    began = time.monotonic()
    post = lmppl.infer(lmppl.load(shared / "faults" / "regex_hang.lmp"))
    assert len(post["text"]) == 1
    for pattern in ("(a+)+b", "(a|a)*b", "(a|aa)+$b", "(?:a*)*c", "(a?){30}a{30}b"):
        text = "a" * 5000
        assert not recognise(matches(pattern), [text] * 8).any()
        assert Counter(pattern).count(text) == 0
    assert Counter("(?:a.*)?b|a").count("a" * 3000) == 3000
    assert time.monotonic() - began < 60


def test_an_automaton_that_is_too_large_is_made_while_it_runs() -> None:
    predicate = matches("(?:a|b)*a(?:a|b){20}")
    with pytest.raises(TooManyStates):
        recognition.predicate_dfa(predicate)
    text = "ab" * 3000
    assert recognise(predicate, [text, text + "b", "a" * 21]).tolist() == [False, True, True]


@pytest.mark.parametrize("pattern", [r"(a)\1", "a(?=b)", "(?<!a)b", "(?>a*)b", "a*+b"])
def test_what_no_automaton_follows_is_refused_in_the_file(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(NotRegular):
        Counter(pattern)
    (tmp_path / "p.json").write_text('{"tokens": ["a"], "initial": [1], "transition": [[1]]}')
    for used in (
        f'reward n(t: string): int = count(r"{pattern}")',
        f'let bad = r"{pattern}"',
    ):
        factor = "n(text)" if "count" in used else "if matches(text, bad) then 1 else 0"
        source = f'{used}\nmodel m() {{ text ~ markov("p.json", max_tokens=2) factor {factor} }}'
        with pytest.raises(lmppl.LmpError, match="LMP301"):
            lmppl.compile(source, base_dir=tmp_path)


def test_a_long_list_of_whole_words_is_followed_while_a_text_grows(shared: Path) -> None:
    from lmppl.automata import compile_constraint
    from lmppl.lm.protocol import Vocabulary

    path = shared / "data" / "reward" / "ldnoobw_en.txt"
    words = tuple(line for line in path.read_text(encoding="utf-8").split("\n") if line.strip())
    assert len(words) >= 400
    letters = sorted({*"".join(words), *"xyz.,!?"})
    tokens = (*(letter.encode() for letter in letters), b" the", b"\xc3", b"\xa9", b"")
    vocab = Vocabulary(len(tokens), tokens, frozenset({len(tokens) - 1}))
    for flags in ((False, True), (True, True)):
        automaton = compile_constraint([never(words, *flags)], vocab, max_tokens=8)
        assert automaton.is_exact and automaton.left_out == ()


def test_words_of_thousands_of_characters_are_fine() -> None:
    word = "ab" * 3000
    for predicate in (never((word,)), never((word,), True, True), contains((word, word + "c"))):
        texts = [word, f" {word} ", word[:-1], f"c{word}c"]
        assert recognise(predicate, texts).tolist() == [holds(predicate, text) for text in texts]


def test_automata_that_multiply_have_a_budget_and_the_posterior_stays(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"tokens": ["a"], "initial": [1], "transition": [[1]]}')
    primes = (2, 3, 5, 7, 11, 13, 17, 19, 23)
    lines = "\n".join(f'require matches(text, r"(.{{{prime}}})*|a")' for prime in primes)
    source = f'model m() {{ text ~ markov("p.json", max_tokens=1)\n{lines}\nreturn text }}'
    began = time.process_time()
    compiled = lmppl.compile(source, base_dir=tmp_path)
    post = lmppl.infer(compiled, method="smc", num_particles=8, seed=0)
    assert set(post["text"]) == {"a"}
    assert time.process_time() - began < 60


def test_a_requirement_whose_automaton_is_too_large_is_said_when_it_is_checked(
    tmp_path: Path,
) -> None:
    (tmp_path / "p.json").write_text('{"tokens": ["a"], "initial": [1], "transition": [[1]]}')
    any_of = " or ".join(f'matches(text, r"(.{{{size}}})*")' for size in (97, 101, 103))
    source = f'model m() {{ text ~ markov("p.json", max_tokens=97) require {any_of} }}'
    compiled = lmppl.compile(source, base_dir=tmp_path)
    assert [each.code for each in compiled.warnings] == ["LMP310"]
    post = lmppl.infer(compiled, method="smc", num_particles=4, seed=0)
    assert set(post["text"]) == {"a" * 97}


def test_many_requirements_are_compared_within_a_budget(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"tokens": ["a"], "initial": [1], "transition": [[1]]}')
    lines = "\n".join(f'require matches(text, r"(?:.{{{n}}})*a?b?")' for n in range(60, 100))
    source = f'model m() {{ text ~ markov("p.json", max_tokens=4)\n{lines}\nreturn text }}'
    began = time.process_time()
    lmppl.compile(source, base_dir=tmp_path)
    assert time.process_time() - began < 60
