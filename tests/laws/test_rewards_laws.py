"""Laws of rewards and risk rules, for arguments that hypothesis thinks of."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from lmppl.errors import Span
from lmppl.ir.model import Parameter, Reward, RewardSource
from lmppl.ir.types import REAL, STRING, Interval
from lmppl.rewards.scorer import Scorer, Source
from lmppl.rewards.texts import CountSource, LexiconSource
from lmppl.rewards.uncertain import UncertainScores
from lmppl.rewards.vader import VaderSource
from tests.rules import RULES, apply_rule, rule_range

SPAN = Span(None, 0, 1, 1, 1, 1, 2)

LEVELS = {
    "lcb": st.floats(-3, 3),
    "quantile": st.floats(0.001, 0.999),
    "cvar": st.floats(0.001, 1.0),
    "entropic": st.floats(-20, 20),
    "preferred": st.floats(-12, 12),
}

members = st.integers(1, 6).flatmap(
    lambda size: arrays(np.float64, (3, size), elements=st.floats(-10, 10))
)


@st.composite
def ruled(draw: st.DrawFn) -> tuple[str, float | None]:
    rule = draw(st.sampled_from(sorted(RULES)))
    return rule, draw(LEVELS[rule]) if rule in LEVELS else None


@given(ruled(), members)
def test_a_rule_stays_inside_the_range_that_the_checker_was_told(
    case: tuple[str, float | None], values: np.ndarray
) -> None:
    rule, argument = case
    box = Interval(float(values.min()), float(values.max()))
    parameter = RULES[rule].parameter
    arguments = {} if parameter is None or argument is None else {parameter.name: argument}
    scores = UncertainScores.ensemble(values)
    found = apply_rule(rule, scores, argument)
    for may_be_gaussian in (False, True):
        bounds = rule_range(rule, box, arguments, may_be_gaussian=may_be_gaussian)
        slack = 1e-12 * (1 + np.abs(values).max()) if rule in ("lcb", "std") else 0.0
        assert (found >= bounds.lower - slack).all() and (found <= bounds.upper + slack).all()


@given(ruled(), st.floats(-10, 10), st.floats(0, 10))
def test_a_gaussian_rule_stays_inside_its_range(
    case: tuple[str, float | None], centre: float, spread: float
) -> None:
    rule, argument = case
    if rule == "worst":
        return
    parameter = RULES[rule].parameter
    arguments = {} if parameter is None or argument is None else {parameter.name: argument}
    (found,) = apply_rule(rule, UncertainScores.gaussian([centre], [spread]), argument)
    assert rule_range(rule, Interval(centre, centre), arguments).lower <= found
    assert found <= rule_range(rule, Interval(centre, centre), arguments).upper


@given(ruled(), members, arrays(np.float64, 3, elements=st.floats(0, 5)))
def test_a_better_member_never_makes_a_reward_worse(
    case: tuple[str, float | None], values: np.ndarray, gain: np.ndarray
) -> None:
    rule, argument = case
    if rule in ("std", "lcb"):
        return  # spread can grow with the gain: these two are not monotone, by their definition
    better = values.copy()
    better[:, 0] += gain
    before = apply_rule(rule, UncertainScores.ensemble(values), argument)
    after = apply_rule(rule, UncertainScores.ensemble(better), argument)
    assert (after >= before - 1e-9).all()


@given(ruled(), members, st.floats(-5, 5))
def test_a_constant_added_to_a_reward_is_added_to_the_rule(
    case: tuple[str, float | None], values: np.ndarray, shift: float
) -> None:
    rule, argument = case
    moved = UncertainScores.ensemble(values + shift)
    found = apply_rule(rule, UncertainScores.ensemble(values), argument)
    if rule == "std":
        assert np.allclose(apply_rule(rule, moved, argument), found, atol=1e-7)
    elif rule != "preferred":
        assert np.allclose(apply_rule(rule, moved, argument), found + shift, atol=1e-7)


@given(ruled(), members, st.integers(2, 3))
def test_members_written_twice_change_nothing(
    case: tuple[str, float | None], values: np.ndarray, times: int
) -> None:
    rule, argument = case
    if rule == "preferred":
        return  # more members are more evidence there
    once = apply_rule(rule, UncertainScores.ensemble(values), argument)
    often = apply_rule(rule, UncertainScores.ensemble(np.tile(values, times)), argument)
    assert np.allclose(once, often, atol=1e-6)


@given(members, st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_more_caution_is_never_more_reward(values: np.ndarray, a: float, b: float) -> None:
    scores = UncertainScores.ensemble(values)
    low, high = min(a, b), max(a, b)
    for rule in ("quantile", "cvar"):
        assert (apply_rule(rule, scores, low) <= apply_rule(rule, scores, high) + 1e-9).all()
    for rule in ("lcb", "entropic"):
        assert (apply_rule(rule, scores, high) <= apply_rule(rule, scores, low) + 1e-9).all()
    assert (apply_rule("cvar", scores, low) <= apply_rule("quantile", scores, low) + 1e-9).all()
    assert (apply_rule("worst", scores) <= apply_rule("cvar", scores, low)).all()
    assert (apply_rule("cvar", scores, 1.0) - scores.mean() < 1e-9).all()


texts = st.lists(st.text(alphabet="ab !?né\n'-", max_size=30), min_size=1, max_size=8)

PACKAGE = SentimentIntensityAnalyzer()

SOURCES: tuple[Source, ...] = (
    VaderSource(),
    VaderSource("pos"),
    CountSource("a+"),
    CountSource("A", ignore_case=True),
    LexiconSource({"ab": 1.0, "a": -2.0, "né": 0.5}),
    LexiconSource({"ab": 1.0, "a": -2.0}, "mean"),
)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.digest[:8])
@settings(max_examples=30)
@given(batch=texts)
def test_a_batch_is_scored_as_its_texts_one_by_one(source: Source, batch: list[str]) -> None:
    declared = Reward("r", (Parameter("t", STRING, SPAN),), REAL, RewardSource("vader"), SPAN)
    together = Scorer(declared, source).score(batch)
    alone = [float(Scorer(declared, source).score([text])[0]) for text in batch]  # type: ignore[index]
    assert together.tolist() == alone  # type: ignore[union-attr]
    assert all(math.isfinite(score) for score in alone)


# Everything that a rule of VADER looks at: capitals, boosters, negations, idioms, emojis, signs.
vader_words = st.sampled_from(
    "good GOOD bad Terrible happy kind of sort very VERY hardly not NOT never so this without "
    "doubt least at but BUT no or nor isn't the shit bomb bus stop yeah right to die for beating "
    "heart cat dog, (great!) :) :( :D ok!!! why?? why???? lol ... ! ? 😀 ❤️ naïve 💩great É I A "
    "just enough kiss death badass bad-ass wonDERn't".split()
)
vader_texts = st.lists(vader_words, max_size=14).flatmap(
    lambda words: st.sampled_from([" ", "  ", "\n", ", "]).map(lambda gap: gap.join(words))
)


@settings(max_examples=1500)
@given(vader_texts)
def test_vader_is_the_package_to_the_last_digit(text: str) -> None:
    expected = PACKAGE.polarity_scores(text)
    for component, value in expected.items():
        assert VaderSource(component).scores([[text]], None).tolist() == [value]


@given(st.text(max_size=40))
def test_vader_is_the_package_on_any_text(text: str) -> None:
    expected = PACKAGE.polarity_scores(text)["compound"]
    assert VaderSource().scores([[text]], None).tolist() == [expected]


def test_sources_that_differ_have_different_digests() -> None:
    assert len({source.digest for source in SOURCES}) == len(SOURCES)
