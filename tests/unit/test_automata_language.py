"""What can be said of constraints before a model is loaded, and that it agrees with `holds`."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmppl.automata.dfa import TooManyStates
from lmppl.automata.language import (
    contradiction,
    is_always_true,
    is_never_true,
    predicate_dfa,
    relax,
    shortest_text,
    when_decidable,
)
from lmppl.automata.predicates import (
    And,
    False_,
    Not,
    Or,
    Predicate,
    True_,
    holds,
    leaves,
)
from lmppl.automata.stopping import Stopping
from tests.predicates import (
    contains,
    ends_with,
    finished,
    length,
    matches,
    never,
    predicates,
    starts_with,
)

SHORT_TEXTS = ["".join(letters) for n in range(5) for letters in product("aB .", repeat=n)]
SENTENCE = matches(r"[A-Z][a-z ]*\.")


PREDICATES = predicates(
    alphabet="aB .é",
    patterns=["a*", ".*b", r"\w+( \w+)*", "(aB)*", "$"],
    units=["characters", "words"],
    bounds=[-1, 0, 1, 2.5, 3, float("inf"), float("-inf"), float("nan")],
    others=[True_(), False_()],
)


@settings(max_examples=250, deadline=None)
@given(PREDICATES, st.lists(st.text("aAbB .\n\u2003é_", max_size=8), min_size=5, max_size=20))
def test_a_predicate_and_its_automaton_agree_on_every_text(
    predicate: Predicate, texts: list[str]
) -> None:
    dfa = predicate_dfa(predicate)
    for text in texts:
        assert dfa.accepts(text) == holds(predicate, text), (predicate, text)


@settings(max_examples=150, deadline=None)
@given(PREDICATES)
def test_what_is_said_of_all_texts_is_true_of_short_ones(predicate: Predicate) -> None:
    satisfied = [text for text in SHORT_TEXTS if holds(predicate, text)]
    shortest = shortest_text(predicate)
    if shortest is None:
        assert is_never_true(predicate) and not satisfied
    else:
        assert holds(predicate, shortest) and not is_never_true(predicate)
        assert len(shortest) <= min(map(len, satisfied), default=len(shortest))
    if is_always_true(predicate):
        assert len(satisfied) == len(SHORT_TEXTS)


@settings(max_examples=100, deadline=None)
@given(st.lists(PREDICATES, max_size=4))
def test_a_contradiction_is_one_and_is_minimal(chosen: list[Predicate]) -> None:
    core = contradiction(chosen)
    if core is None:
        assert not is_never_true(And(tuple(chosen)))
        return
    assert is_never_true(And(tuple(chosen[i] for i in core)))
    for left_out in core:
        rest = tuple(chosen[i] for i in core if i != left_out)
        assert not rest or not is_never_true(And(rest))


def test_the_contradiction_named_is_the_pair_to_blame() -> None:
    brief = length("words", "<=", 20)
    assert contradiction([brief, SENTENCE, never((".",))]) == (1, 2)
    assert contradiction([brief, SENTENCE, contains((".",))]) is None
    three = [starts_with(("a",)), ends_with(("b",)), length("characters", "<", 2)]
    assert contradiction([brief, *three]) == (1, 2, 3)
    assert contradiction([brief, False_(), SENTENCE]) == (1,)


@pytest.mark.parametrize(
    ("predicate", "kind"),
    [
        (never(("bad",)), "safety"),
        (never(("bad",), whole_words=True), "automaton"),
        (contains(("good",)), "liveness"),
        (SENTENCE, "automaton"),
        (starts_with(("A",)), "automaton"),
        (ends_with((".",)), "liveness"),
        (length("words", "<=", 20), "safety"),
        (length("characters", ">=", 20), "liveness"),
        (length("tokens", "<", 20), "safety"),
        (length("tokens", ">", 20), "liveness"),
        (length("tokens", "==", 20), "automaton"),
        (finished(), "liveness"),
        (matches("(?:a|b)*a(?:a|b){20}"), "end"),
        (True_(), "safety"),
    ],
)
def test_it_is_known_when_a_predicate_is_decided(predicate: Predicate, kind: str) -> None:
    assert when_decidable(predicate) == kind


def test_conditions_on_tokens_are_relaxed_to_what_the_text_alone_implies() -> None:
    predicate = And((SENTENCE, finished(), Not(And((finished(), SENTENCE)))))
    relaxed = relax(predicate)
    assert finished() not in list(leaves(relaxed))
    assert holds(relaxed, "Yes.")
    assert not holds(relaxed, "no")
    assert is_never_true(Or((False_(), And((finished(), False_())))))
    assert not is_always_true(Or((finished(), Not(finished()))))


def test_what_needs_more_than_the_text_asks_for_it() -> None:
    with pytest.raises(ValueError, match="number of tokens"):
        holds(length("tokens", "<", 3), "a")
    with pytest.raises(ValueError, match="ended"):
        holds(finished(), "a")
    with pytest.raises(ValueError, match="text alone"):
        predicate_dfa(finished())
    with pytest.raises(TooManyStates):
        predicate_dfa(length("characters", "<", 50_000))


def test_a_string_is_a_list_of_one_word_and_not_of_letters() -> None:
    assert never("bad") == never(["bad"]) != never(("b", "a", "d"))


def test_a_predicate_is_shown_in_one_line_as_it_would_be_called() -> None:
    assert repr(never("bad", True)) == (
        "never(words=('bad',), ignore_case=True, whole_words=False)"
    )
    assert repr(length("words", "<=", 3)) == "length(unit='words') <= 3"
    assert repr(Not(finished())) == "Not(part=finished())"


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one. two", (". ",), ("one", True)),
        ("one", (".",), ("one", False)),
        ("abc", ("abc", "b"), ("a", True)),
        ("xaab", ("ab", "aab"), ("x", True)),
        ("", ("a",), ("", False)),
        ("a\n\n", ("\n\n", "\n"), ("a", True)),
    ],
)
def test_the_stop_string_that_is_completed_first_ends_the_text(
    text: str, stops: tuple[str, ...], expected: tuple[str, bool]
) -> None:
    assert Stopping(stops).cut(text) == expected


def test_constraints_are_checked_without_torch_and_numpy() -> None:
    program = (
        "import sys; from lmppl.automata.language import shortest_text;"
        "from lmppl.builtins.predicates.matches import MATCHES;"
        "assert shortest_text(MATCHES.asked(pattern='[a-c]+')) == 'a';"
        "print(sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
