"""Conditions that are regular and do not look it: their automata agree with what they mean."""

from __future__ import annotations

import itertools
import random
import re

import numpy as np
import pytest

from lmppl.automata.counting import count_dfa
from lmppl.automata.dfa import TooManyStates
from lmppl.automata.language import predicate_dfa
from lmppl.automata.predicates import OneOf, holds
from lmppl.automata.regex import NotRegular
from lmppl.builtins.loading import load_reward
from lmppl.checker import check
from lmppl.errors import LmpError
from lmppl.evaluation.columns import TextColumn
from lmppl.evaluation.constraints import as_predicate, required_predicate
from lmppl.evaluation.environment import Environment
from lmppl.evaluation.values import evaluate
from lmppl.ir.model import Model
from lmppl.syntax import parse
from tests.predicates import counted

TEXTS = ["".join(letters) for n in range(7) for letters in itertools.product("ab ", repeat=n)]
TEXTS += ["aab abab aaa b", "ba " * 5]


def model_of(condition: str, parameters: str = "k: int = 2, w: string[] = ['ab', 'b']") -> Model:
    program = f"""
        reward n(t: string): int = count("ab?|b")
        reward words(t: string): real = count("\\\\bA\\\\w*", ignore_case=true)
        reward empty(t: string): int = count("a*")
        reward last(t: string): int = count("a$")
        model m({parameters.replace("'", '"')}) {{
            mood ~ bernoulli(0.5)
            text ~ lm("builtin:stories", prompt="", max_tokens=8)
            let c = n(text)
            require {condition}
            return mood, text
        }}
    """
    return check(parse(program))[0]


def values_of(model: Model) -> dict[str, object]:
    return {"mood": True, **{p.name: p.default.value for p in model.parameters}}  # type: ignore[union-attr]


def truth_of(model: Model) -> np.ndarray:
    """Whether the requirement holds of each of the texts, by the evaluator."""
    scorers = {
        name: load_reward(reward, base_dir=".", device="cpu", dtype=None, host=None)
        for name, reward in model.rewards.items()
    }
    counts = np.array([len(text) for text in TEXTS])
    column = TextColumn(TEXTS, counts, np.ones(len(TEXTS), dtype=bool))
    environment = Environment(
        num_rows=len(TEXTS),
        values=values_of(model),
        columns={"text": column},
        scorers=scorers,
        lets={let.name: let.expr for let in model.lets},
    )
    return np.broadcast_to(
        np.asarray(evaluate(model.potentials[0].expr, environment), dtype=bool), len(TEXTS)
    )


@pytest.mark.parametrize(
    "condition",
    [
        'text == "ab"',
        '"ab" == text',
        'text != "ab"',
        'text == ""',
        'text in ["ab", "a b", ""]',
        'text not in ["ab", "b"]',
        "text in w",
        "text == w[0]",
        'text == f"a{k}"',
        'text == (if mood then "ab" else "b")',
        'text == (if contains(text, "a") then "ab" else "b")',
        'not (text == "ab" or starts_with(text, "b"))',
        'starts_with(text, ["a", "b"]) and not ends_with(text, " ")',
        'contains(text, "a") == contains(text, "b")',
        "(n(text) >= 2) != mood",
        "n(text) >= 3",
        "n(text) > 3",
        "n(text) < 3",
        "n(text) <= 2.5",
        "n(text) == 2",
        "n(text) != k",
        "3 <= n(text)",
        "k < n(text)",
        "n(text) in [1, 3]",
        "n(text) not in [0, k]",
        "c >= 2 and c <= 4",
        "n(text) - 1 >= 1",
        "2 * n(text) + 1 > 4",
        "-n(text) / 2 > -1.5",
        "5 - n(text) == k",
        "0 * n(text) == 0",
        "n(text) < 0 or n(text) >= 0",
        "words(text) == 1",
        'length(text, unit="words") * 2 >= 3',
        'length(text, unit="characters") in [0, 2, 5]',
        "length(text) - 1 <= k",
        "(if mood then n(text) else k) == 2",
        "abs(n(text) - 2) <= 1",
        "abs(n(text) - k) > 1",
        "abs(n(text) - 2) == 1",
        "abs(n(text)) == -1 or abs(n(text)) != -2 and abs(n(text) - 3) != 1",
        '2 > abs(3 - length(text, unit="characters"))',
        "min(n(text), 3) >= 2",
        "max(n(text), 1, k) == 2",
        "max(n(text), words(text)) > 1",
        "min(n(text), words(text)) < k",
        "k == clamp(n(text), lower=1, upper=3)",
        "clamp(abs(n(text) - 2), lower=1, upper=2) != 2",
        "mood and c >= 1 or text == ' '".replace("'", '"'),
    ],
)
def test_a_lifted_condition_holds_of_exactly_the_texts_that_it_holds_of(condition: str) -> None:
    model = model_of(condition)
    found = as_predicate(model, model.potentials[0].expr, "text", values_of(model))
    assert found is not None
    lifted = [holds(found, text, num_tokens=len(text), finished=True) for text in TEXTS]
    assert lifted == truth_of(model).tolist()
    if not condition.startswith("length(text) "):
        dfa = predicate_dfa(found)
        assert [dfa.accepts(text) for text in TEXTS] == lifted


@pytest.mark.parametrize(
    "condition",
    [
        "n(text) == words(text)",
        "2 * abs(n(text) - 2) > 1",
        "n(text) ^ 2 > 3",
        'n(f"a{text}") > 3',
        "6 / (n(text) + 1) > 2",
        "n(text) * 1e30 > 1e31 + 1",
        "n(text) > 100_000",
        "empty(text) >= 2",
        "last(text) == 1",
    ],
)
def test_what_is_not_simple_enough_is_left_to_the_finished_text(condition: str) -> None:
    model = model_of(condition)
    found = as_predicate(model, model.potentials[0].expr, "text", values_of(model))
    assert found is None or model.potentials[0].facts.decidable == "end"


def test_a_condition_after_when_about_the_text_itself_is_lifted_too() -> None:
    model = model_of('starts_with(text, "b") when n(text) > 1')
    found = required_predicate(model, model.potentials[0], "text", values_of(model))
    assert found is not None
    for text in TEXTS:
        expected = len(re.findall("ab?|b", text)) <= 1 or text.startswith("b")
        assert holds(found, text) == expected


ATOMS = ["a", "b", "[ab]", ".", r"\b", "ab", r"\w", "^", "(?m:^)", "(?m:$)", r"\B", r"\Z", " "]
REPEATS = ["*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{0,2}?", "{2,}"]


def random_pattern(random_: random.Random, depth: int = 4) -> str:
    kind = random_.randrange(10)
    if depth == 0 or kind < 3:
        return random_.choice(ATOMS)
    inner = random_pattern(random_, depth - 1)
    if kind < 5:
        return inner + random_pattern(random_, depth - 1)
    if kind < 7:
        return f"(?:{inner}|{random_pattern(random_, depth - 1)})"
    return f"(?:{inner}){random_.choice(REPEATS)}"


def test_counts_of_random_patterns_are_those_of_findall() -> None:
    random_ = random.Random(7)
    texts = ["".join(t) for n in range(5) for t in itertools.product("ab \n", repeat=n)]
    texts += ["".join(random_.choices("aabb \n", k=random_.randrange(5, 13))) for _ in range(80)]
    admits = (False, True, False, True)
    num_compared = 0
    for _ in range(600):
        pattern = random_pattern(random_)
        try:
            dfa = count_dfa(pattern, False, admits, 3000)
        except (NotRegular, TooManyStates):
            continue
        num_compared += 1
        for text in texts:
            count = len(re.findall(pattern, text))
            assert dfa.accepts(text) == admits[min(count, 3)], (pattern, text)
    assert num_compared > 150


@pytest.mark.parametrize("pattern", ["a*", "a|", "(?:a?){2,}b", "a$", r"(a)\1", "a(?=b)", "(", ""])
def test_patterns_whose_matches_are_counted_in_other_ways_are_refused(pattern: str) -> None:
    with pytest.raises(NotRegular):
        predicate_dfa(counted(pattern, ">=", 2))


def test_nothing_is_one_of_no_words() -> None:
    assert not any(predicate_dfa(OneOf(())).outputs)


def test_a_count_that_was_refused_is_reported_once() -> None:
    program = """
        reward n(t: string): int<lower=0> = count("!", f"x")
        model m() {
            text ~ lm("builtin:stories", prompt="", max_tokens=8)
            require n(text) >= 2
            return text
        }
    """
    with pytest.raises(LmpError) as error:
        check(parse(program))
    assert len(error.value.diagnostics) == 1


def test_largest_numbers_of_largest_numbers_are_no_tower() -> None:
    lets = "let a0 = n(text)\n"
    lets += "".join(f"let a{i} = max(a{i - 1}, a{i - 1})\n" for i in range(1, 40))
    program = f"""
        reward n(t: string): int = count("a")
        model m() {{
            text ~ lm("builtin:stories", prompt="", max_tokens=8)
            {lets}
            require a39 >= 2
            require n(text) >= 2
            return text
        }}
    """
    model = check(parse(program))[0]
    largest, plain = (as_predicate(model, each.expr, "text", {}) for each in model.potentials)
    assert largest is not None and largest == plain
