"""Factors and requirements as weighted automata, against their own definition on every text."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import lmppl
from lmppl.density import Target, Traces
from lmppl.density.text_automaton import weighted_automaton
from lmppl.evaluation.text_weight import NotFollowed, TextWeight, text_weight
from lmppl.inference.exact import Exact
from lmppl.inference.exact.engine import ExactEngine
from lmppl.rng import Stream

TOKENS = ["a", "b ", "ab", "é", "<eos>"]
CHAIN = {
    "tokens": TOKENS,
    "initial": [1, 1, 1, 1, 1],
    "transition": [[1, 2, 1, 1, 1]] * 5,
    "eos": "<eos>",
}
PROGRAM = """
reward num(t: string): int<lower=0> = count("a")
reward abs_(t: string): int<lower=0> = count("ab", ignore_case=true)

reward warm(t: string): real = lexicon("words.tsv")
reward cased(t: string): real = lexicon("words.tsv", ignore_case=false)
reward usual(t: string): real = lexicon("words.tsv", reduce="mean")

extern reward odd(t: string): real<lower=0, upper=9>

model m(beta: real<lower=0> = 0.5, k: int = 2, long: bool = false) {{
    c ~ categorical(["a", "b"], probs=[0.5, 0.5])
    text ~ markov("chain.json", max_tokens=4{stop})
    {body}
    return text
}}
"""

# What the body says, and whether automata follow it.
BODIES = [
    "factor f: num(text) / beta",
    "factor f: -2 * (num(text) - 3 * length(text)) + 1",
    'let n = length(text, unit="words")\n    factor f: n * k - length(text, unit="characters") / 3',
    'factor f: if contains(text, "ab") then 2 else -1',
    'factor f: if contains(text, c) then 1.5 * k else 0\n    require num(text) < 3 when c == "b"',
    "factor f: -0.5 * (length(text) - 2)^2",
    "let d = num(text) - abs_(text)\n    factor f: abs(d - 1) + max(num(text), 2)",
    "factor f: log(num(text))",
    "factor f: num(text) * (if long then 1 else -1)\n"
    '    require num(text) <= 2 or ends_with(text, "é")',
    "factor f: if finished(text) and not (num(text) == 1) then 0.3 else length(text) / 7",
    'require contains(text, "b") when num(text) > 1\n    factor f: exp(-num(text))',
    "factor f: if num(text) in [0, 2] then 1 else if length(text) > 2 then num(text) else 3",
    "factor f: 2 * warm(text) - 0.7 * cased(text) / beta",
    'let w = warm(text)\n    factor f: if c == "a" then w + w - 1 else 0.1 * num(text)',
    'require length(text) >= 2\n    factor f: 0 * num(text) + (if c == "a" then num(text) else 0)',
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("weights")
    (directory / "chain.json").write_text(json.dumps(CHAIN), encoding="utf-8")
    words = "a\t1.5\nb\t-2\nab\t0.25\naé\t1.5\né\t0\nabab\t-2\n"
    (directory / "words.tsv").write_text(words, encoding="utf-8")
    return directory


def target_of(folder: Path, body: str, stop: str) -> Target:
    program = PROGRAM.format(body=body, stop=f", stop={stop}" if stop else "")
    model = lmppl.compile(program, base_dir=folder)
    return model(odd=lambda texts: [0.0] * len(texts)).target()


def executions(folder: Path, stop: str) -> Traces:
    """Every choice with every text of the prior."""
    engine = ExactEngine(Exact(), target_of(folder, "", stop), Stream.from_seed(0))
    state = engine.init()
    while not engine.is_done(state):
        state, _ = engine.step(state)
    return state.traces


@pytest.mark.parametrize("stop", ["", '["b a", "aa"]'])
@pytest.mark.parametrize("body", BODIES)
def test_an_automaton_weighs_texts_as_their_factors_do(folder: Path, body: str, stop: str) -> None:
    target = target_of(folder, body, stop)
    every = executions(folder, stop)
    plain = Traces(every.group, every.values)
    expected = target.apply_potentials(plain, 1).total_log_potential()
    text, choice = every.values["text"], every.values["c"].listed()
    (stage,) = (stage.text for stage in target.stages if stage.text is not None)
    for value in ("a", "b"):
        weight = text_weight(
            target.model,
            "text",
            target.model.potentials,
            {**target.bindings[0], "c": value},
            ranges=target.text_ranges,
        )
        automaton = weighted_automaton(stage, weight)
        rows = [row for row, each in enumerate(choice) if each == value]
        assert len(rows) > 100
        for row in rows:
            tokens = text.tokens[row, : text.lengths[row]]
            found = weight.form.constant + automaton.log_weight_of(tokens)
            assert found == pytest.approx(float(expected[row]), abs=1e-12), text.strings[row]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("factor f: odd(text)", "the whole text"),
        ("factor f: 2 * odd(text) + num(text)", "the whole text"),
        ('factor f: if text == f"{text}" then 1 else 0', "more of the text"),
        ('factor f: num(text) * num(text) * length(text, unit="characters")^2 * abs_(text)', ""),
        ("factor f: usual(text)", "the whole text"),
        ("factor f: min(warm(text), 2)", "added and multiplied"),
        ("factor f: warm(text)", "not known yet"),
        ("require odd(text) > 1", "no automaton decides it"),
        ('require contains(text, "a") when odd(text) > 1', "no automaton decides it"),
    ],
)
def test_what_no_automaton_follows_is_named(folder: Path, body: str, reason: str) -> None:
    target = target_of(folder, body, "")
    values = {**target.bindings[0], "c": "a"}
    if not reason:
        weight = text_weight(
            target.model, "text", target.model.potentials, values, ranges=target.text_ranges
        )
        assert isinstance(weight, TextWeight)
        return
    with pytest.raises(NotFollowed, match=reason) as caught:
        text_weight(target.model, "text", target.model.potentials, values)
    assert caught.value.potential is target.model.potentials[-1]


def test_what_a_factor_cannot_be_is_refused_where_automata_are_made(folder: Path) -> None:
    target = target_of(folder, "factor f: 1 / num(text)", "")
    stage = target.stages[1].text
    assert stage is not None
    values = {**target.bindings[0], "c": "a"}
    weight = text_weight(
        target.model, "text", target.model.potentials, values, ranges=target.text_ranges
    )
    assert any(math.isnan(value) for value in weight.form.functions[0].values)
    with pytest.raises(ValueError, match="no finite value"):
        weighted_automaton(stage, weight)
