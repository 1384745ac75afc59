"""Automata of regular expressions accept exactly what `re.fullmatch` matches."""

from __future__ import annotations

import os
import re
import sys
import tarfile
import tomllib
import warnings
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmppl.automata import characters
from lmppl.automata.alphabet import (
    NUM_CODE_POINTS,
    charset,
    difference,
)
from lmppl.automata.characters import (
    ask_python,
    cased_characters,
    category,
    scanned_characters,
)
from lmppl.automata.dfa import (
    TooManyStates,
    complement,
    intersection,
    minimise,
    shortest_accepted,
)
from lmppl.automata.nfa import determinise
from lmppl.automata.regex import NotRegular, regex_dfa, words_dfa, words_nfa

DATA = Path(os.environ.get("LMPPL_SHARED", Path(__file__).parents[3] / "shared")) / "data"
RUST_TESTS = DATA / "constraints" / "rust_regex_testdata.tar.gz"

LETTERS = "ab\n A1_é.\u212a\U0001f600\ufffd"


def assert_same_language(pattern: str, texts: list[str], ignore_case: bool = False) -> None:
    dfa = regex_dfa(pattern, ignore_case)
    engine = re.compile(pattern, re.IGNORECASE if ignore_case else 0)
    for text in texts:
        expected = engine.fullmatch(text) is not None
        assert dfa.accepts(text) == expected, (pattern, text, expected)


SHORT_TEXTS = ["".join(letters) for n in range(5) for letters in product("ab\n ", repeat=n)]


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "a*b",
        "$",
        "a$\n?",
        r"$\n$\n",
        r"\n$\n",
        r"(a|b*?)*a",
        r"(?m)(^a$\n?)*",
        r"(?m)a$|^b\n^$",
        r"(^|a)(b|$)*",
        r"(^a|b)*",
        r"\A(a|b|\n)+\Z",
        r"\b\w+\b( \b\w+\b)*",
        r"\B",
        r"\b",
        r"(\b|a)(\B|b)*",
        r"(?:a{2,3}){1,2}",
        r"(?:a?){2,}b",
        r"(?s).{2,3}",
        r".{0,2}",
        r"[^a]*",
        r"(?x) a  b # c",
        r"(?:a*)*(?:b*)+",
        r"(?:|a)+?b",
        "(?!)|a",
        r"(?a:\b.)+\b",
    ],
)
def test_short_texts_are_accepted_exactly_as_python_matches_them(pattern: str) -> None:
    assert_same_language(pattern, SHORT_TEXTS)


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?i)s",
        r"(?i)k",
        r"(?i)ß",
        r"(?i)[à-ö]",
        r"(?i)[^a-z]",
        r"(?i)[\u0130\u0131i]",
        r"(?ia)[k-s]",
        r"(?i)[\U00010400-\U00010427x]",
        r"(?i)[\dk]",
        r"(?i)[^\W\d_]",
        r"\w",
        r"\W",
        r"(?a)\w",
        r"[\s\d]",
        r"(?a)[^\s\d]",
        r".",
        r"(?s).",
        r"(?i)\u1e9e|\u01c5|\u0345|\u03c2",
        r"(?i)σ",
        r"(?i:k)",
    ],
)
def test_every_character_is_classified_as_python_does(pattern: str) -> None:
    dfa = regex_dfa(pattern)
    engine = re.compile(pattern)
    rows, alphabet = dfa.rows, dfa.alphabet
    ends = [*alphabet.starts[1:], sys.maxunicode + 1]
    for start, end, cls in zip(alphabet.starts, ends, alphabet.classes, strict=True):
        accepted = bool(dfa.outputs[rows[0][cls]])
        block = "".join(map(chr, range(start, end)))
        found = len(engine.findall(block))
        assert found == (len(block) if accepted else 0), (pattern, hex(start), hex(end))


def test_no_category_or_letter_case_lies_in_the_planes_that_are_not_scanned() -> None:
    for start in range(0x40000, sys.maxunicode + 1, 0x10000):
        plane = "".join(map(chr, range(start, start + 0x10000)))
        assert re.search(r"[\w\s\d]", plane) is None
        assert plane.lower() == plane.upper() == plane
    assert category(r"\w")[-1][1] < 0x40000
    assert set(cased_characters()) >= set("sSſkK\u212aßẞ")


def regexes() -> st.SearchStrategy[str]:
    letters = ["a", "b", "A", " ", "é", r"\n", "\U0001f600", "\ufffd", "(?i:k)"]
    sets = [".", "(?s:.)", r"\w", r"\W", r"\s", r"\d", "[ab]", "[^a]", "[a-z ]", "(?i:[^a])"]
    assertions = ["^", "$", r"\b", r"\B", r"\A", r"\Z", "(?m:^)", "(?m:$)", r"(?a:\b)"]
    atoms = st.sampled_from([*letters, *sets, *assertions])
    return st.recursive(
        atoms,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=4).map("".join),
            st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
            st.tuples(
                inner, st.sampled_from(["*", "+", "?", "*?", "+?", "??", "{2}", "{1,3}", "{0,2}?"])
            ).map(lambda pair: f"({pair[0]}){pair[1]}"),
        ),
        max_leaves=8,
    )


@settings(max_examples=250, deadline=None)
@given(regexes(), st.lists(st.text(LETTERS, max_size=7), min_size=5, max_size=30), st.booleans())
def test_random_patterns_accept_what_python_matches(
    pattern: str, texts: list[str], ignore_case: bool
) -> None:
    assert_same_language(pattern, texts, ignore_case)


@settings(max_examples=100, deadline=None)
@given(regexes())
def test_the_witness_of_a_pattern_matches_and_none_is_shorter(pattern: str) -> None:
    dfa = regex_dfa(pattern)
    witness = shortest_accepted(dfa)
    engine = re.compile(pattern)
    if witness is None:
        assert not any(engine.fullmatch(text) for text in SHORT_TEXTS)
        assert not any(dfa.outputs)
    else:
        assert engine.fullmatch(witness)
        assert not any(engine.fullmatch(text) for text in SHORT_TEXTS if len(text) < len(witness))


@settings(max_examples=80, deadline=None)
@given(regexes(), regexes(), st.lists(st.text(LETTERS, max_size=6), max_size=20))
def test_intersection_is_conjunction_and_subset_is_inclusion(
    left: str, right: str, texts: list[str]
) -> None:
    first, second = regex_dfa(left), regex_dfa(right)
    both = intersection([first, second])
    for text in texts:
        assert both.accepts(text) == (first.accepts(text) and second.accepts(text))
    # What both accept is minimal, so that one is in the other exactly where both are the one.
    assert intersection([both, first]) == both == intersection([both, second])
    assert (not any(intersection([first, complement(second)]).outputs)) == (both == first)


@settings(max_examples=80, deadline=None)
@given(regexes())
def test_minimal_automata_of_one_language_are_equal(pattern: str) -> None:
    dfa = regex_dfa(pattern)
    assert minimise(dfa) == dfa
    assert regex_dfa(f"(?:{pattern}|{pattern})") == dfa
    assert len(set(zip(dfa.rows, dfa.outputs, strict=True))) == dfa.num_states


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (r"(a)\1", "backreference"),
        (r"a(?=b)", "lookahead"),
        (r"(?<!a)b", "lookbehind"),
        (r"(a)?(?(1)b|c)", "conditional"),
        (r"(?>a*)a", "atomic"),
        (r"a*+a", "possessive"),
        (r"a(", "not a regular expression"),
    ],
)
def test_what_is_not_regular_is_refused_with_a_reason(pattern: str, reason: str) -> None:
    with pytest.raises(NotRegular, match=reason):
        regex_dfa(pattern)


def test_too_many_states_are_refused_and_long_repeats_are_not() -> None:
    with pytest.raises(TooManyStates):
        regex_dfa("(?:a|b)*a(?:a|b){20}")
    assert regex_dfa("(?s).{0,500}").num_states == 502
    assert regex_dfa(r"(?:\w+ ){0,200}\w+").accepts("so many words")


WORDS = st.lists(st.text("abk é.", min_size=0, max_size=3), max_size=4).map(tuple)


@settings(max_examples=150, deadline=None)
@given(
    WORDS,
    st.booleans(),
    st.booleans(),
    st.lists(st.text("abkK\u212aA é._", max_size=7), min_size=5, max_size=20),
)
def test_words_are_found_as_by_search(
    words: tuple[str, ...], ignore_case: bool, whole_words: bool, texts: list[str]
) -> None:
    from lmppl.builtins.predicates.contains import words_pattern

    engine = re.compile(
        words_pattern(words, whole_words=whole_words), re.IGNORECASE if ignore_case else 0
    )
    dfa = words_dfa(words, ignore_case=ignore_case, whole_words=whole_words)
    for text in texts:
        assert dfa.accepts(text) == (engine.search(text) is not None), (words, text)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text("abkKsſİiıé", min_size=1, max_size=5), max_size=6).map(tuple),
    st.booleans(),
    st.booleans(),
)
def test_words_are_looked_for_as_by_the_subset_construction(
    words: tuple[str, ...], ignore_case: bool, at_end: bool
) -> None:
    slow = determinise(*words_nfa(words, ignore_case=ignore_case, at_end=at_end))
    assert words_dfa(words, ignore_case=ignore_case, at_end=at_end).digest() == slow.digest()


@pytest.mark.skipif(not RUST_TESTS.exists(), reason="the Rust regex test data is not here")
def test_the_tests_of_the_rust_regex_crate_agree() -> None:
    compared = agreed_with_rust = 0
    with tarfile.open(RUST_TESTS) as archive:
        for member in archive:
            if not member.name.endswith(".toml"):
                continue
            file = archive.extractfile(member)
            assert file is not None
            for case in tomllib.loads(file.read().decode())["test"]:
                pattern, haystack = case["regex"], case["haystack"]
                if not isinstance(pattern, str) or case.get("unescape"):
                    continue
                ignore_case = bool(case.get("case-insensitive"))
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        re.compile(pattern)
                    dfa = regex_dfa(pattern, ignore_case)
                except (re.error, NotRegular, TooManyStates, OverflowError):
                    continue  # Rust's syntax, not Python's; or refused, which is tested above
                ends = range(len(haystack) + 1) if len(haystack) < 40 else [0, len(haystack)]
                assert_same_language(
                    pattern, [haystack[i:j] for i in ends for j in ends if i <= j], ignore_case
                )
                compared += 1
                # Rust's own verdict, where both read the pattern alike.
                found = [m for m in case.get("matches", []) if isinstance(m, list)]
                spans = [m[0] if isinstance(m[0], list) else m for m in found]
                same_syntax = not re.search(r"\\[pPzdwsbB]|&&|\[\[|\[.*--|~~|\$|\(\?", pattern)
                if same_syntax and not set(case) - {"name", "regex", "haystack", "matches"}:
                    for start, end in spans if "^" not in pattern else ():
                        matched = haystack.encode()[start:end].decode()
                        assert dfa.accepts(matched), case
                        agreed_with_rust += 1
    assert compared > 300
    assert agreed_with_rust > 50


def test_every_character_that_has_a_case_is_among_the_cased() -> None:
    every = [chr(code) for code in range(NUM_CODE_POINTS)]
    cased = {each for each in every if each.lower() != each or each.upper() != each}
    others = {char for each in cased for char in (*each.lower(), *each.upper())}
    assert set(cased_characters()) == cased | others


def test_the_characters_that_are_scanned_are_the_first_ones_in_order() -> None:
    scanned = scanned_characters()
    assert [ord(each) for each in scanned] == list(range(len(scanned)))


def test_what_the_cache_says_of_characters_is_what_python_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMPPL_CACHE_DIR", str(tmp_path / "cache"))
    asked = ask_python()
    for _ in ("made", "read"):
        assert characters._table.__wrapped__() == asked
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert characters._table.__wrapped__() == asked
    # Another Python, or one that cannot read it, would not find it.
    assert f"{sys.hexversion:x}" in file.name


@pytest.mark.parametrize("escape", [r"\w", r"\d", r"\s"])
def test_what_an_escape_matches_among_ascii_is_what_python_matches(escape: str) -> None:
    every = "".join(map(chr, range(0x40000)))
    for ascii_only, flag in ((True, re.ASCII), (False, 0)):
        found = {
            code for low, high in category(escape, ascii_only) for code in range(low, high + 1)
        }
        assert found == {match.start() for match in re.finditer(escape, every, flag)}


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6)), max_size=8), st.data())
def test_the_difference_of_sets_is_what_it_says(
    some: list[tuple[int, int]], data: st.DataObject
) -> None:
    ranges = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6)), max_size=8)
    first, other = (
        charset((low, low + more) for low, more in each) for each in (some, data.draw(ranges))
    )

    def members(chars: tuple[tuple[int, int], ...]) -> set[int]:
        return {code for low, high in chars for code in range(low, high + 1)}

    found = difference(first, other)
    assert members(found) == members(first) - members(other) and found == charset(found)
