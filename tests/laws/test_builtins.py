"""Every built-in that is listed keeps the laws of its kind, on instances that it makes itself.

Being listed enrols it. What it is judged by is its own definition: `holds` of a predicate, `plain`
of a function, `count` of what can be counted; rules have theirs here, written out by brute force.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from test_automata_site import EMOJI, LETTERS, TWO_ENDS, judge_of, violations
from test_lm_laws import LAWS

from lmppl.automata import compile_constraint
from lmppl.automata.predicates import COMPARISONS, holds
from lmppl.automata.recognition import recognise
from lmppl.automata.stopping import NO_STOPPING, Stopping
from lmppl.builtins import FACTORS, every
from lmppl.builtins.kinds import (
    ChoiceDistribution,
    Countable,
    Function,
    Measure,
    Predicate,
    Rule,
    Source,
    TextDistribution,
)
from lmppl.builtins.loading import Place
from lmppl.builtins.signature import Builtin
from lmppl.errors import Span
from lmppl.evaluation.columns import TextColumn
from lmppl.evaluation.environment import Environment
from lmppl.evaluation.values import evaluate
from lmppl.files import Folder
from lmppl.ir.expr import Call, Constant, Reference
from lmppl.ir.types import BOOL, INT, REAL, STRING, Interval
from lmppl.lm.protocol import LanguageModel
from lmppl.rewards.scorer import Ranged
from lmppl.rewards.uncertain import UncertainScores

SPAN = Span(None, 0, 1, 1, 1, 1, 2)
SEEDS = range(25)


def listed(kind: type[Builtin]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("builtin", every(kind).values(), ids=every(kind))


def test_every_built_in_is_of_a_kind_that_has_laws() -> None:
    judged = (Predicate, Function, Measure, Rule, Source, TextDistribution, ChoiceDistribution)
    others = {each.name for each in FACTORS if not isinstance(each, judged)}
    # What makes a prompt is tested with language models, statistics with posteriors, and what a
    # choice cost with methods.
    assert others == {"chat", "log_prob", "mean", "std", "probability", "quantile"}


def test_who_has_no_instances_cannot_be_listed() -> None:
    whole: dict[str, Any] = {
        "name": "odd", "arguments": (), "doc": "", "example": "", "result": STRING,
    }  # fmt: skip
    for kind, needs in (
        (Predicate, {"holds": bool}), (Source, {"load": bool}), (TextDistribution, {"load": bool}),
    ):  # fmt: skip
        with pytest.raises(TypeError, match="instances"):
            kind(**whole, **needs)


def some_texts(random: Random) -> list[str]:
    """Short texts of the letters that instances are made of, and some others."""
    letters = "abA .!é\n"
    texts = ["".join(random.choices(letters, k=random.randrange(7))) for _ in range(20)]
    return ["", *texts]


# --- predicates -------------------------------------------------------------------------------


@listed(Predicate)
def test_a_predicate_holds_of_some_instances_and_fails_of_others(
    builtin: Predicate, tmp_path: Path
) -> None:
    seen = set()
    for seed in SEEDS:
        condition = builtin.asked(**builtin.instances(Random(seed), tmp_path))
        for text in some_texts(Random(seed)):
            for ended in (False, True):
                found = holds(condition, text, num_tokens=len(text), finished=ended)
                assert isinstance(found, bool)
                seen.add(found)
    assert seen == {False, True}


@listed(Predicate)
def test_an_automaton_accepts_the_texts_of_which_its_predicate_holds(
    builtin: Predicate, tmp_path: Path
) -> None:
    if builtin.automaton is None:
        # It is judged on finished texts only, by its definition.
        return
    for seed in SEEDS:
        condition = builtin.asked(**builtin.instances(Random(seed), tmp_path))
        language, texts = condition.language(), some_texts(Random(seed))
        assert language is not None
        dfa, other = language.dfa(10_000), language.complement().dfa(10_000)
        for text in texts:
            assert dfa.accepts(text) == condition.holds(text) != other.accepts(text)
        assert recognise(condition, texts).tolist() == [condition.holds(text) for text in texts]


@listed(Predicate)
def test_a_predicate_masks_the_tokens_after_which_it_cannot_hold(
    builtin: Predicate, tmp_path: Path
) -> None:
    """By enumeration of every sequence of tokens: exactly those, no others."""
    if builtin.reads == "text" and builtin.automaton is None:
        return
    for seed, vocab in zip(SEEDS, itertools.cycle((LETTERS, TWO_ENDS, EMOJI)), strict=False):
        condition = builtin.asked(**builtin.instances(Random(seed), tmp_path))
        most, stop = 3, (("b",) if seed % 2 else ())
        automaton = compile_constraint(
            (condition,), vocab, stopping=Stopping(stop), max_tokens=most
        )
        judge = judge_of((condition,), vocab, Stopping(stop), most)
        assert violations(automaton, judge, vocab, most) == [], condition


@listed(Predicate)
def test_the_evaluator_gives_what_a_predicate_means_row_by_row(
    builtin: Predicate, tmp_path: Path
) -> None:
    text, *others = builtin.arguments
    for seed in SEEDS:
        given = builtin.instances(Random(seed), tmp_path)
        strings = some_texts(Random(seed))
        ends = np.array([len(each) % 2 == 0 for each in strings])
        column = TextColumn(strings, np.array([len(each) for each in strings]), ends)
        arguments = [
            (each.name, constant(given[each.name])) for each in others if each.name in given
        ]
        call = Call(BOOL, SPAN, builtin.name, ((text.name, TEXT), *arguments))
        found = evaluate(call, Environment(len(strings), columns={"text": column}))
        condition = builtin.asked(**given)
        wanted = [
            holds(condition, each, num_tokens=len(each), finished=bool(end))
            for each, end in zip(strings, ends, strict=True)
        ]
        assert np.asarray(found).tolist() == wanted


TEXT = Reference(STRING, SPAN, "text", "site")


def constant(value: object) -> Constant:
    kinds = {str: STRING, bool: BOOL, int: INT, float: REAL}
    if isinstance(value, tuple):
        return Constant(STRING.array(), SPAN, value)
    return Constant(kinds[type(value)], SPAN, value)


# --- what can be counted ----------------------------------------------------------------------


def countables() -> list[tuple[Countable, Builtin]]:
    found: list[tuple[Countable, Builtin]] = [
        (each.countable, each) for each in every(Measure).values()
    ]
    found += [
        (each.countable, each) for each in every(Source).values() if each.countable is not None
    ]
    return found


def arguments_of(builtin: Builtin, random: Random, folder: Path) -> dict[str, object]:
    if isinstance(builtin, Source):
        return builtin.complete(builtin.instances(random, folder))
    return builtin.complete(
        {each.name: random.choice(each.choices) for each in builtin.arguments[1:]}
    )


@pytest.mark.parametrize(("countable", "builtin"), countables(), ids=lambda each: each.name)
def test_a_count_compared_with_a_number_is_followed_exactly(
    countable: Countable, builtin: Builtin, tmp_path: Path
) -> None:
    for seed, vocab in zip(SEEDS, itertools.cycle((LETTERS, EMOJI)), strict=False):
        random = Random(seed)
        arguments = arguments_of(builtin, random, tmp_path)
        op, bound = random.choice(list(COMPARISONS)), random.choice([0, 1, 2.5, -1])
        condition = countable.compared(arguments, op, bound)
        language = condition.language()
        assert (language is None) == (countable.reads(**arguments) != "text")
        if language is not None:
            dfa = language.dfa(10_000)
            for text in some_texts(random):
                admitted = COMPARISONS[op](countable.count(text, **arguments), bound)
                assert dfa.accepts(text) == condition.holds(text) == admitted
        automaton = compile_constraint((condition,), vocab, max_tokens=3)
        judge = judge_of((condition,), vocab, NO_STOPPING, 3)
        assert violations(automaton, judge, vocab, 3) == [], condition


# --- functions --------------------------------------------------------------------------------


def in_domain(builtin: Function, random: Random) -> list[float]:
    """Numbers that the arguments may have, with small whole ones among them."""
    low, high = max(builtin.domain.lower, -6.0), min(builtin.domain.upper, 6.0)
    numbers = [float(random.randint(math.ceil(low), math.floor(high))) for _ in builtin.arguments]
    return [each if random.random() < 0.3 else random.uniform(low, high) for each in numbers]


@listed(Function)
def test_a_function_computes_the_same_on_a_batch_and_on_numbers(builtin: Function) -> None:
    random = Random(1)
    rows = [in_domain(builtin, random) for _ in range(200)]
    names = [each.name for each in builtin.arguments]
    columns = dict(zip(names, np.array(rows).T, strict=True))
    call = Call(
        REAL, SPAN, builtin.name, tuple((n, Reference(REAL, SPAN, n, "site")) for n in names)
    )
    together = np.asarray(evaluate(call, Environment(len(rows), columns=columns)))
    for row, found in zip(rows, together.tolist(), strict=True):
        assert found == pytest.approx(builtin.plain(*row), rel=1e-15, abs=1e-300)


@listed(Function)
def test_a_function_stays_in_its_range_on_every_box(builtin: Function) -> None:
    random = Random(2)
    names = [each.name for each in builtin.arguments]
    for _ in range(100):
        corners = [in_domain(builtin, random) for _ in range(2)]
        boxes = {n: Interval(min(a, b), max(a, b)) for n, a, b in zip(names, *corners, strict=True)}
        bounds = builtin.range(boxes)
        for _ in range(10):
            inside = [random.uniform(box.lower, box.upper) for box in boxes.values()]
            value = builtin.plain(*inside)
            slack = 1e-12 * (1.0 + abs(value))
            assert bounds.lower - slack <= value <= bounds.upper + slack


@listed(Function)
def test_a_function_that_keeps_ints_gives_one(builtin: Function) -> None:
    random = Random(3)
    for _ in range(30):
        whole = [round(each) for each in in_domain(builtin, random)]
        value = builtin.plain(*whole)
        assert isinstance(value, int) or not builtin.keeps_ints
        assert math.isfinite(value) or builtin.may_be_zero_mass


@listed(Function)
def test_a_function_has_the_extremes_that_it_says(builtin: Function) -> None:
    if builtin.extremes is None:
        return
    random = Random(4)
    for _ in range(50):
        numbers = in_domain(builtin, random)
        arguments = zip(
            (each.name for each in builtin.arguments), map(constant, numbers), strict=True
        )
        extremes = builtin.extremes(Call(REAL, SPAN, builtin.name, tuple(arguments)))
        parts = [float(np.asarray(evaluate(part, Environment(1)))[0]) for part in extremes.of]
        best = max if extremes.which == "largest" else min
        assert best(parts) == builtin.plain(*numbers)


# --- rules ------------------------------------------------------------------------------------


def entropic(members: list[float], rho: float) -> float:
    if abs(rho) < 1e-6:
        return math.fsum(members) / len(members)
    return -math.log(math.fsum(math.exp(-rho * m) for m in members) / len(members)) / rho


def cvar(members: list[float], alpha: float) -> float:
    """The mean of the lowest share, each member cut into a thousand equal pieces."""
    pieces = sorted(m for m in members for _ in range(1000))
    lowest = pieces[: max(1, round(alpha * len(pieces)))]
    return math.fsum(lowest) / len(lowest)


def spread(members: list[float]) -> float:
    mean = math.fsum(members) / len(members)
    return math.sqrt(math.fsum((m - mean) ** 2 for m in members) / len(members))


# What every rule means for an ensemble, from its members one by one and its parameter.
DEFINITIONS: Mapping[str, Callable[[list[float], float], float]] = {
    "mean": lambda members, _: math.fsum(members) / len(members),
    "std": lambda members, _: spread(members),
    "lcb": lambda members, k: math.fsum(members) / len(members) - k * spread(members),
    "worst": lambda members, _: min(members),
    "quantile": lambda members, q: min(
        m for m in members if sum(each <= m for each in members) >= q * len(members) - 1e-9
    ),
    "cvar": cvar,
    "entropic": entropic,
    "preferred": lambda members, over: math.log(
        (sum(m > over for m in members) + sum(m == over for m in members) / 2 + 0.5)
        / (len(members) + 1)
    ),
}


def test_every_rule_has_a_definition() -> None:
    assert set(DEFINITIONS) == set(every(Rule))


def parameter_of(rule: Rule, random: Random) -> float:
    if rule.parameter is None:
        return 0.0
    low, high = max(rule.parameter.range.lower, -3.0), min(rule.parameter.range.upper, 3.0)
    # Thousandths, so that a share of the members is a whole number of pieces.
    value = round(random.uniform(low, high), 3)
    return value if rule.parameter.allows(value) else 0.5


@listed(Rule)
def test_a_rule_is_its_definition_and_stays_in_its_range(builtin: Rule) -> None:
    random = Random(5)
    for _ in range(100):
        size = random.randint(1, 5)
        rows = [
            [random.choice([-2.0, 0.5, random.uniform(-4, 4)]) for _ in range(size)]
            for _ in range(4)
        ]
        parameter = parameter_of(builtin, random)
        given = () if builtin.parameter is None else (parameter,)
        found = builtin.apply(UncertainScores.ensemble(rows), *given)
        alone = [builtin.apply(UncertainScores.ensemble([row]), *given)[0] for row in rows]
        assert found.tolist() == pytest.approx(alone, rel=1e-12)
        assert found.tolist() == pytest.approx(
            [DEFINITIONS[builtin.name](row, parameter) for row in rows], rel=1e-7, abs=1e-7
        )
        every_member = [m for row in rows for m in row]
        reward = Interval(min(every_member), max(every_member))
        ranges = {builtin.arguments[0].name: reward}
        if builtin.parameter is not None:
            ranges[builtin.parameter.name] = Interval(parameter, parameter)
        for may_be_gaussian in (False, True):
            bounds = builtin.range(ranges, may_be_gaussian=may_be_gaussian)
            assert bounds.lower - 1e-9 <= found.min() and found.max() <= bounds.upper + 1e-9


# --- sources ----------------------------------------------------------------------------------


def place_of(folder: Path) -> Place:
    return Place(str(folder), Folder.of(str(folder)), "cpu")


def values_in(scores: np.ndarray | UncertainScores) -> np.ndarray:
    if not isinstance(scores, UncertainScores):
        return np.asarray(scores)
    return scores.members if scores.members is not None else np.stack(scores.moments(), -1)


@listed(Source)
def test_a_source_scores_a_batch_as_its_texts_alone_and_in_its_range(
    builtin: Source, tmp_path: Path
) -> None:
    seen = set()
    for seed in range(3 if builtin.runs_a_model else 8):
        given = builtin.complete(builtin.instances(Random(seed), tmp_path))
        source = builtin.load(place_of(tmp_path), **given)
        texts = list(dict.fromkeys([*some_texts(Random(seed)), "good dog", "bad dog!", "a b"]))
        known = builtin.score_range(given)
        bounds = source.range(None) if isinstance(source, Ranged) else known
        for columns in range(1, builtin.max_texts + 1):
            if columns > 1 and not builtin.runs_a_model:
                continue
            asked = [texts, texts[::-1]][:columns]
            together = values_in(source.scores(asked, None))
            assert together.dtype == np.float64 and len(together) == len(texts)
            for row in range(len(texts)):
                alone = values_in(source.scores([[each[row]] for each in asked], None))
                assert together[row] == pytest.approx(alone[0], abs=1e-6)
            for interval in (known, bounds):
                assert (together >= interval.lower - 1e-6).all()
                assert (together <= interval.upper + 1e-6).all()
            seen.update(np.round(together, 6).reshape(-1).tolist())
        if builtin.countable is not None:
            counted = [builtin.countable.count(text, **given) for text in texts]
            assert values_in(source.scores([texts], None)).tolist() == counted
        assert source.digest == builtin.load(place_of(tmp_path), **given).digest
        assert source.cost == ("model" if builtin.runs_a_model else "cheap")
    assert len(seen) > 1


# --- distributions ----------------------------------------------------------------------------


def drawn_from(builtin: TextDistribution, seed: int, folder: Path) -> LanguageModel:
    given = builtin.complete(builtin.instances(Random(seed), folder))
    known = {each.name for each in builtin.arguments if each.known == "bind"}
    return builtin.load(place_of(folder), **{n: v for n, v in given.items() if n in known})


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@listed(TextDistribution)
def test_a_distribution_of_texts_keeps_the_laws_of_language_models(
    builtin: TextDistribution, law: Callable[[LanguageModel], None], tmp_path: Path
) -> None:
    for seed in range(1 if any(builtin.accepting("model")) else 3):
        law(drawn_from(builtin, seed, tmp_path))


@listed(ChoiceDistribution)
def test_the_probabilities_of_a_choice_add_up_to_one_in_every_row(
    builtin: ChoiceDistribution, tmp_path: Path
) -> None:
    for seed in SEEDS:
        given = builtin.instances(Random(seed), tmp_path)
        known = {each.name for each in builtin.arguments if each.known == "bind"}
        support = builtin.support(**{n: v for n, v in given.items() if n in known})
        assert len(set(support)) == len(support)
        byrow = {
            each.name: None if given.get(each.name) is None else np.array([given[each.name]] * 3)
            for each in builtin.arguments
            if each.known == "draw"
        }
        weights = builtin.weights(3, len(support), **byrow)
        assert weights.shape == (3, len(support)) and (weights >= 0).all()
        assert weights.sum(1) == pytest.approx(np.ones(3))
        first = {n: None if v is None else v[:1] for n, v in byrow.items()}
        assert builtin.weights(1, len(support), **first).tolist() == weights[:1].tolist()
        types = {n: constant(v).type for n, v in given.items()}
        element = builtin.value_type(types)
        assert all(constant(value).type.kind == element.kind for value in support)
        if builtin.masses is not None:
            log_masses = builtin.log_masses(given)
            possible = np.log(weights[0][weights[0] > 0.0] / weights[0].sum())
            assert log_masses is not None
            assert (log_masses.lower, log_masses.upper) == pytest.approx(
                (possible.min(), possible.max())
            )


def test_a_deterministic_mistake_is_noticed(tmp_path: Path) -> None:
    """The laws above can fail: an automaton that is another one, and a range that is too narrow."""
    predicate = next(iter(every(Predicate).values()))
    other = replace(
        predicate, holds=lambda text, **arguments: not predicate.holds(text, **arguments)
    )
    with pytest.raises(AssertionError):
        test_an_automaton_accepts_the_texts_of_which_its_predicate_holds(other, tmp_path)
    with pytest.raises(AssertionError):
        test_a_predicate_masks_the_tokens_after_which_it_cannot_hold(other, tmp_path)
    function = next(iter(every(Function).values()))
    with pytest.raises(AssertionError):
        test_a_function_stays_in_its_range_on_every_box(
            replace(function, result_range=lambda ranges: Interval(0.0, 0.0))
        )
    source = next(each for each in every(Source).values() if not each.runs_a_model)
    with pytest.raises(AssertionError):
        test_a_source_scores_a_batch_as_its_texts_alone_and_in_its_range(
            replace(source, score_range=lambda arguments: Interval(7.0, 8.0)), tmp_path
        )
