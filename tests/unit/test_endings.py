"""Answers of unequal lengths in tokens, whose shorter ones only an end token ends."""

from __future__ import annotations

import pytest

import lmppl
from lmppl.automata.language import few_texts, predicate_dfa
from lmppl.automata.predicates import OneOf
from tests.predicates import matches

PROGRAM = """
model m(mood: bool = true) {{
    feeling ~ lm("builtin:stories", prompt="The dog was", max_tokens={budget}{options})
    require {require}
    return feeling
}}
"""


def warnings_of(require: str, budget: int = 4, options: str = "") -> list[str]:
    program = PROGRAM.format(require=require, budget=budget, options=options)
    post = lmppl.infer(lmppl.compile(program), method="smc", num_particles=16, seed=0)
    return [each for each in post.warnings if "only an end token ends" in each]


@pytest.mark.parametrize(
    ("require", "budget", "options", "warned"),
    [
        # " happy" and " sad" are a token each, " scared" is another; the text goes on after them.
        ('matches(feeling, r" (happy|elephant)")', 4, "", True),
        # Five characters each, and not as many tokens.
        ('feeling in [" sad.", " xqz."]', 5, "", True),
        # Unequal in characters, but a token each, which fill all that there is.
        ('matches(feeling, r" (happy|sad)")', 1, "", False),
        ('starts_with(feeling, [" happy", " elephant"])', 4, "", False),
        ('matches(feeling, r" (happy|elephant)")', 4, ', stop=["."]', False),
        ('never(feeling, "x")', 4, "", False),
    ],
)
def test_what_is_warned_of_is_counted_in_tokens(
    require: str, budget: int, options: str, warned: bool
) -> None:
    assert bool(warnings_of(require, budget, options)) is warned


def test_few_texts_are_all_texts() -> None:
    assert few_texts(predicate_dfa(matches("a[bc]?|d{2}")), 10) == ["a", "ab", "ac", "dd"]
    assert few_texts(predicate_dfa(OneOf(("é", "", "xyz"))), 10) == ["", "é", "xyz"]
    assert few_texts(predicate_dfa(matches("a[bc]?|d{2}")), 3) is None
    assert few_texts(predicate_dfa(matches("a+")), 1000) is None
    assert few_texts(predicate_dfa(matches("a.")), 1000) is None
