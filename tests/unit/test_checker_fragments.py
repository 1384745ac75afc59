"""Expressions against a checked model, and values against its parameters."""

from __future__ import annotations

import pytest

from lmppl.automata.predicates import And, Not, True_
from lmppl.checker import check, check_binding, check_constraints, check_expression
from lmppl.errors import LmpError
from lmppl.evaluation.constraints import as_predicate
from lmppl.ir.expr import Call, RewardCall
from lmppl.ir.model import Model
from lmppl.syntax import parse
from tests.predicates import length, never

SOURCE = """
reward sentiment(t: string): real<lower=-1, upper=1> = vader()
extern reward quality(t: string): uncertain
extern reward spare(t: string): real  # lmp: allow LMP201
extern function title(t: string): string
extern lm prior

model m(prompt: string<min_length=2>, words: string[] = ["x"], beta: real<lower=0> = 0.5,
        n: int = 8, gamma: real<lower=-1, upper=1> = 0) {
    mood ~ bernoulli(0.5)
    let name = title(prompt)
    text ~ prior(max_tokens=n)
    let h = quality(text)
    let short = length(text) < n
    factor tone: sentiment(text) / beta + gamma + mean(h)
    require clean: never(text, words) and short
    require mood
    return text, name
}
"""


@pytest.fixture(scope="module")
def model() -> Model:
    return check(parse(SOURCE))[0]


HOSTS = {
    "quality": lambda texts: [0.0 for _ in texts],
    "title": lambda text: text,
}


class Prior:
    """Looks like a language model to the checks."""

    def start(self) -> None: ...

    def extend(self) -> None: ...

    def token_log_probs(self) -> None: ...


def problems(model: Model, values: dict, externs: dict | None = None) -> list[str]:
    given = {**HOSTS, "prior": Prior(), **(externs or {})}
    return [each.code for each in check_binding(model, values, given)]


def test_expressions_name_what_the_model_names(model: Model) -> None:
    found = check_expression(model, "sentiment(text) * beta + (if short then 1 else 0)")
    assert found.type.kind == "real"
    assert model.sites_of(found) == {"text"}


def test_an_outer_mean_or_probability_is_taken_off(model: Model) -> None:
    assert isinstance(check_expression(model, "mean(sentiment(text))"), RewardCall)
    found = check_expression(model, 'probability(never(text, "a"))')
    assert isinstance(found, Call)
    assert found.function == "never"


def test_the_mean_of_an_uncertain_reward_stays_a_risk_rule(model: Model) -> None:
    for text in ("mean(h)", "mean(quality(text))", "std(h)"):
        found = check_expression(model, text)
        assert isinstance(found, Call)
    found = check_expression(model, "mean(mean(h))")
    assert isinstance(found, Call)
    assert found.function == "mean"
    assert found.argument("r") is not None


@pytest.mark.parametrize(
    ("text", "code", "place"),
    [
        ("sentimant(text)", "LMP101", (0, 9)),
        ("1 + texd", "LMP101", (4, 8)),
        ("h", "LMP210", (0, 1)),
        ("text", "LMP105", (0, 4)),
    ],
)
def test_mistakes_in_an_expression_point_into_it(
    model: Model, text: str, code: str, place: tuple[int, int]
) -> None:
    with pytest.raises(LmpError) as error:
        check_expression(model, text)
    (problem,) = error.value.diagnostics
    assert problem.code == code
    assert problem.span is not None
    assert (problem.span.start, problem.span.end) == place
    assert text in str(error.value)


@pytest.mark.parametrize("text", ["", "1 +", "let x = 3", "1 infer smc()"])
def test_what_is_no_expression_is_refused(model: Model, text: str) -> None:
    with pytest.raises(LmpError):
        check_expression(model, text)


def test_a_good_binding_has_no_problems(model: Model) -> None:
    assert problems(model, {"prompt": "hello"}) == []
    assert problems(model, {"prompt": "hello", "beta": 1, "words": ["a", "b"], "gamma": -1}) == []


def test_all_problems_of_a_binding_come_at_once(model: Model) -> None:
    values = {"promt": "x", "beta": -1, "words": "x", "n": 1.5, "gamma": float("nan")}
    found = check_binding(model, values, {"quality": 3, "prior": object(), "titel": print})
    assert [each.code for each in found] == [
        "LMP131",  # promt
        "LMP131",  # titel
        "LMP130",  # prompt
        "LMP132",  # words
        "LMP106",  # beta
        "LMP132",  # n
        "LMP132",  # gamma
        "LMP134",  # quality cannot be called
        "LMP133",  # title is missing
        "LMP134",  # prior is no language model
    ]
    assert found[0].help == "did you mean `prompt`?"
    assert found[1].help == "did you mean `title`?"


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"beta": 0}, "LMP206"),
        ({"beta": True}, "LMP132"),
        ({"beta": float("inf")}, "LMP106"),
        ({"gamma": 1.5}, "LMP106"),
        ({"prompt": "x"}, "LMP106"),
        ({"prompt": 3}, "LMP132"),
        ({"words": [1, 2]}, "LMP132"),
        ({"words": [["a"]]}, "LMP132"),
        ({"n": 0}, "LMP106"),
        ({"n": None}, "LMP132"),
    ],
)
def test_each_value_is_checked_against_its_declaration(
    model: Model, values: dict, code: str
) -> None:
    assert problems(model, {"prompt": "hello", **values}) == [code]


def test_an_extern_that_nothing_calls_need_not_be_given(model: Model) -> None:
    assert "spare" in model.rewards
    assert problems(model, {"prompt": "hello"}) == []


def test_requirements_become_predicates_through_lets_and_parameters(model: Model) -> None:
    clean = model.potentials[1].expr
    found = as_predicate(model, clean, "text", {"words": ["a", "b"], "n": 4})
    assert found == And((never(("a", "b")), length("tokens", "<", 4.0)))


def test_what_no_automaton_decides_is_no_predicate(model: Model) -> None:
    def predicate(text: str, **values: object) -> object:
        return as_predicate(model, check_expression(model, text), "text", values)

    assert predicate("sentiment(text) > 0") is None
    assert predicate('never(prompt, "x")', prompt="y") is None
    assert predicate("never(text, words)") is None
    assert predicate("mood or never(text, words)", words=["a"]) is None
    assert predicate("mood", mood=True) == True_()
    assert predicate("not (3 > length(text))") == Not(length("tokens", "<", 3.0))


def test_contradictions_are_found_once_parameters_are_known(model: Model) -> None:
    assert check_constraints(model, {}) == ()
    (problem,) = check_constraints(model, {"words": [""]})
    assert problem.code == "LMP302"
    (problem,) = check_constraints(model, {"n": 0})
    assert problem.code == "LMP305"


def test_a_missing_parameter_is_given_by_the_option_that_gives_parameters(model: Model) -> None:
    problem = next(each for each in check_binding(model, {}, {}) if each.code == "LMP130")
    assert problem.help is not None and "`--param prompt=…`" in problem.help
