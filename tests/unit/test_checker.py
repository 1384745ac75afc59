"""The checked model of single statements: types, ranges, stages, facts, digests."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmppl.checker import analyse, check, describe, program_files
from lmppl.errors import LmpError
from lmppl.evaluation.constants import NotConstant, constant_value
from lmppl.ir.expr import Call, Constant, Expr
from lmppl.ir.model import Model
from lmppl.ir.types import Interval
from lmppl.syntax import parse

HEAD = """
reward sentiment(t: string): real<lower=-1, upper=1> = vader()
reward count_a(t: string): int<lower=0> = count("a")
"""


def model_of(body: str, parameters: str = "", head: str = HEAD) -> Model:
    program = parse(f"{head}\nmodel m({parameters}) {{ {body} }}")
    return check(program)[0]


def text_model(body: str, parameters: str = "") -> Model:
    return model_of(
        f'text ~ lm("builtin:stories", prompt="", max_tokens=8) {body} return text', parameters
    )


def expression(text: str, parameters: str = "", lets: str = "") -> Expr:
    model = text_model(f"{lets} let it = {text}", parameters)
    return model.let("it").expr


def codes(source: str) -> list[str]:
    with pytest.raises(LmpError) as error:
        check(parse(source))
    return [each.code for each in error.value.diagnostics if each.severity == "error"]


@pytest.mark.parametrize(
    ("text", "range"),
    [
        ("sentiment(text) / 0.25", Interval(-4, 4)),
        ("2 - sentiment(text)", Interval(1, 3)),
        ("sentiment(text) ^ 2", Interval(0, 1)),
        ("sentiment(text) ^ 3", Interval(-1, 1)),
        ("abs(sentiment(text))", Interval(0, 1)),
        ("exp(sentiment(text))", Interval(math.exp(-1), math.exp(1))),
        ("log(sigmoid(sentiment(text)))", Interval(-math.log1p(math.e), -math.log1p(1 / math.e))),
        ("tanh(sentiment(text))", Interval(-math.tanh(1), math.tanh(1))),
        ("min(sentiment(text), 0.5, count_a(text))", Interval(-1, 0.5)),
        ("max(sentiment(text), 0)", Interval(0, 1)),
        ("clamp(count_a(text), lower=1, upper=3)", Interval(1, 3)),
        ("sqrt(1 + sentiment(text))", Interval(0, math.sqrt(2))),
        ("if sentiment(text) > 0 then 3 else -0.5", Interval(-0.5, 3)),
        ("length(text)", Interval(0, 8)),
        ('length(text, unit="words")', Interval(0, math.inf)),
        ("-count_a(text)", Interval(-math.inf, 0)),
    ],
)
def test_ranges_follow_from_interval_arithmetic(text: str, range: Interval) -> None:
    found = expression(text).type.range
    assert found.lower == pytest.approx(range.lower)
    assert found.upper == pytest.approx(range.upper)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7),
        ("2 ^ 3 ^ 2", 512),
        ("7 / 2", 3.5),
        ("-2 ^ 2", -4),
        ('f"a{n}b"', "a3b"),
        ("[1, 2, 3][1]", 2),
        ("not (1 < 2) or n == 3", True),
        ('if n in [1, 3] then "in" else "out"', "in"),
        ("max(1, 5, 2)", 5),
        ("n not in [1, 2]", True),
        ("clamp(10, lower=0, upper=4)", 4),
    ],
)
def test_what_is_known_in_the_file_is_folded(text: str, value: object) -> None:
    model = model_of(f"x ~ bernoulli(0.5) let it = {text} return x", head="let n = 3")
    found = model.let("it").expr
    assert isinstance(found, Constant)
    assert found.value == value
    assert type(found.value) is type(value)


NUMBERS = st.sampled_from(["a", "b", "c", "2", "0.5", "-3", "0"])


def _sums(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.tuples(parts, st.sampled_from(["+", "-", "*"]), parts).map(
        lambda t: f"({t[0]} {t[1]} {t[2]})"
    )
    unary = st.tuples(st.sampled_from(["abs", "tanh", "exp", "sigmoid", "-"]), parts).map(
        lambda t: f"{t[0]}({t[1]})"
    )
    pair = st.tuples(st.sampled_from(["min", "max"]), parts, parts).map(
        lambda t: f"{t[0]}({t[1]}, {t[2]})"
    )
    power = st.tuples(parts, st.sampled_from("230")).map(lambda t: f"({t[0]}) ^ {t[1]}")
    clamped = parts.map(lambda t: f"clamp({t}, lower=-1, upper=b)")
    choice = st.tuples(parts, parts, parts).map(
        lambda t: f"(if {t[0]} < a then {t[1]} else {t[2]})"
    )
    return st.one_of(binary, unary, pair, power, clamped, choice)


@settings(max_examples=80, deadline=None)
@given(
    st.recursive(NUMBERS, _sums, max_leaves=6),
    st.floats(-2, 2),
    st.floats(0, 3),
    st.integers(-4, -1),
)
def test_every_value_lies_in_the_range_that_was_inferred(
    text: str, a: float, b: float, c: int
) -> None:
    parameters = "a: real<lower=-2, upper=2>, b: real<lower=0, upper=3>, c: int<lower=-4, upper=-1>"
    try:
        expr = expression(text, parameters)
    except LmpError as error:
        # Only what is too large for a number, or has none, may be refused.
        assert {each.code for each in error.diagnostics if each.severity == "error"} == {"LMP205"}
        return
    try:
        value = constant_value(expr, None, {"a": a, "b": b, "c": c})
    except (NotConstant, OverflowError):
        return
    slack = 1e-9 * max(1.0, abs(value))
    assert expr.type.range.lower - slack <= value <= expr.type.range.upper + slack


@pytest.mark.parametrize(
    ("rule", "range"),
    [
        ("mean(h)", Interval(-1, 1)),
        ("std(h)", Interval(0, 1)),
        ("lcb(h, k=2)", Interval(-3, 1)),
        ("quantile(h, q=0.9)", Interval(-1, 1)),
        ("cvar(h, alpha=0.1)", Interval(-1, 1)),
        ("entropic(h, rho=1)", Interval(-1, 1)),
        ("preferred(h, over=0)", Interval(-math.inf, 0)),
    ],
)
def test_risk_rules_of_an_ensemble_stay_in_its_range(rule: str, range: Interval) -> None:
    head = "reward r(t: string): uncertain = ensemble([vader(), vader()])"
    body = 'text ~ lm("builtin:stories", prompt="", max_tokens=8)'
    model = model_of(f"{body} let h = r(text) factor {rule} return text", head=head)
    assert model.potentials[0].facts.range == range
    assert model.potentials[0].expr.type.range == range


def test_a_share_of_vader_lies_between_0_and_1() -> None:
    head = 'reward r(t: string): real<lower=0, upper=1> = vader(component="pos")'
    body = 'text ~ lm("builtin:stories", prompt="", max_tokens=8) factor r(text) return text'
    assert model_of(body, head=head).potentials[0].facts.range == Interval(0, 1)


def test_stages_are_the_last_choice_that_a_term_reads() -> None:
    model = model_of(
        """
        mood ~ bernoulli(0.5)
        let weight = if mood then 1 else 2
        text ~ lm("builtin:stories", prompt="", max_tokens=8)
        later ~ bernoulli(0.5)
        factor first: weight
        factor second: sentiment(text) * weight
        require third: later or not later
        require none: a > 1
        return text
        """,
        "a: real",
    )
    assert [each.stage for each in model.potentials] == [0, 1, 2, -1]
    assert model.let("weight").stage == 0


def test_terms_without_labels_are_numbered_by_kind() -> None:
    model = text_model(
        "factor 0.5 * sentiment(text) factor tone: sentiment(text) factor count_a(text)"
        ' require never(text, "x")'
    )
    assert [each.label for each in model.potentials] == [
        "factor_1",
        "tone",
        "factor_2",
        "require_1",
    ]


@pytest.mark.parametrize(
    ("condition", "decidable"),
    [
        ('never(text, ["x"])', "safety"),
        ('contains(text, "x")', "liveness"),
        ('not never(text, "x")', "liveness"),
        ('matches(text, "[a-z]+!")', "automaton"),
        ('starts_with(text, "The") and never(text, "x")', "automaton"),
        ("length(text) <= 3", "safety"),
        ("3 >= length(text)", "safety"),
        ("length(text) > 3", "liveness"),
        ("finished(text)", "liveness"),
        ("never(text, p)", "safety"),
        ("sentiment(text) > 0", "end"),
        ("sentiment(text) > 0 or contains(text, p)", "end"),
        ("count_a(text) == 2", "automaton"),
        ("count_a(text) < 3", "safety"),
        ("2 * count_a(text) - 1 >= b", "liveness"),
        ("count_a(text) == length(text)", "end"),
        ('text == "yes"', "automaton"),
        ('text != "yes"', "liveness"),
        ("text in p", "automaton"),
        ("b > 1", "constant"),
        ("quiet", "safety"),
        ('if b > 1 then never(text, "x") else never(text, "y")', "safety"),
    ],
)
def test_when_a_requirement_is_decided_follows_from_its_form(
    condition: str, decidable: str
) -> None:
    model = text_model(f'let quiet = never(text, "!") require {condition}', "p: string[], b: real")
    assert model.potentials[0].facts.decidable == decidable


@pytest.mark.parametrize(
    ("asked", "decidable"), [('contains(text, "y")', "safety"), ("sentiment(text) > 0", "end")]
)
def test_a_condition_on_the_text_itself_is_part_of_what_is_required(
    asked: str, decidable: str
) -> None:
    model = text_model(f'require never(text, "x") when {asked}')
    assert model.potentials[0].facts.decidable == decidable


def test_a_condition_on_an_earlier_choice_leaves_it_decided_early() -> None:
    model = model_of(
        """
        mood ~ bernoulli(0.5)
        text ~ lm("builtin:stories", prompt="", max_tokens=8)
        require never(text, "x") when mood
        return text
        """
    )
    assert model.potentials[0].facts.decidable == "safety"


def test_without_a_return_every_choice_is_reported() -> None:
    model = model_of('a ~ bernoulli(0.5) b ~ categorical(["x", "y"])')
    assert [each.name for each in model.outputs] == ["a", "b"]


def test_labels_of_claims_are_their_words_and_bounds_may_stand_on_either_side() -> None:
    model = text_model(
        "expect 0.2 <= mean(sentiment(text))  expect q: quantile(count_a(text), 0.5) < n",
        "n: int = 4",
    )
    first, second = model.expectations
    assert (first.label, first.operator) == ("0.2 <= mean(sentiment(text))", ">=")
    assert (second.label, second.statistic, second.operator) == ("q", "quantile", "<")
    assert isinstance(second.q, Constant)


def test_one_mistake_gives_one_error() -> None:
    source = """
        model m(prompt: string) {
            text ~ lm(modell, prompt=prompt, max_tokens=8)
            let a = text2
            let b = a + 1
            factor b * a
            require a > 3 and never(text, a)
            expect mean(b) > a
            return text, a, b
        }
    """
    assert codes(source) == ["LMP101", "LMP101"]


def test_errors_of_all_parts_of_a_file_come_at_once_in_the_order_of_the_text() -> None:
    source = """
        let a = b
        reward r(t: strng): real = vader()
        model m(p: real = "x") {
            text ~ lm("builtin:stories", prompt="", max_tokens=0)
            factor never(text, "x")
            require matches(text, "(")
            return texd
        }
        infer smc(c)
    """
    assert codes(source) == [
        "LMP101",
        "LMP102",
        "LMP105",
        "LMP106",
        "LMP211",
        "LMP301",
        "LMP101",
        "LMP101",
        "LMP108",
    ]


def test_the_digest_forgets_layout_and_infer_lines_and_remembers_the_rest() -> None:
    source = (
        HEAD
        + """
    model m(beta: real<lower=0> = 0.5) {
        text ~ lm("builtin:stories", prompt="a", max_tokens=8)
        factor tone: sentiment(text) / beta
        return text
    }
    """
    )

    def digest(text: str) -> str:
        return check(parse(text))[0].digest

    first = digest(source)
    assert digest(source.replace("    ", " ") + "infer smc(seed=1)  # how\n") == first
    assert digest(source.replace("0.5", "0.6")) != first
    assert digest(source.replace("max_tokens=8", "max_tokens=9")) != first
    assert digest(source.replace('count("a")', 'count("b")')) != first
    # A promise that is wider than what the source keeps anyway says nothing new.
    assert digest(source.replace("upper=1>", "upper=2>")) == first


def test_warnings_are_silenced_on_their_line_only() -> None:
    source = """
    model m(a: int = 1) {  # lmp: allow LMP202
        x ~ bernoulli(0.5)
        y ~ bernoulli(0.5)  # lmp: allow LMP202
        return x
    }
    """
    _, warnings = check(parse(source))
    assert [each.code for each in warnings] == ["LMP203"]


def test_infer_lines_are_read_even_where_the_model_is_wrong() -> None:
    program = parse("model m() { return x } infer smc(seed=1, num_particles=8) as fast")
    model = analyse(program, program_files(".")).model
    assert model is not None
    (spec,) = model.infers
    assert (spec.method, spec.name, dict(spec.options)) == (
        "smc",
        "fast",
        {"seed": 1, "num_particles": 8},
    )


def test_a_chat_prompt_named_by_a_let_reaches_the_language_model() -> None:
    model = model_of(
        'let p = chat(user="hi", system="short") text ~ lm("builtin:stories", prompt=p,'
        " max_tokens=4) return text"
    )
    prompt = model.sites[0].distribution.argument("prompt")
    assert isinstance(prompt, Call)
    assert prompt.function == "chat"


def test_a_file_is_checked_without_tensor_libraries() -> None:
    code = (
        "import sys; from lmppl.checker import check; from lmppl.syntax import parse;"
        "check(parse('model m() { x ~ bernoulli(0.5) return x }'));"
        "print([m for m in ('torch', 'numpy', 'transformers', 'pyro') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_checking_a_normal_file_takes_milliseconds() -> None:
    source = (
        HEAD
        + """
    model m(prompt: string, beta: real<lower=0> = 0.5) {
        topic ~ categorical(["a", "b"])
        text ~ lm("builtin:stories", prompt=f"{prompt} {topic}", max_tokens=40)
        factor tone: sentiment(text) / beta
        require never(text, ["x"])
        expect mean(sentiment(text)) > 0.5
        return text
    }
    """
    )
    program = parse(source)
    best = math.inf
    for _ in range(5):
        start = time.process_time()
        check(program)
        best = min(best, time.process_time() - start)
    assert best < 0.05


def test_a_description_is_plain_data() -> None:
    described = describe(text_model("factor tone: sentiment(text) / b", "b: real<lower=0> = 0.5"))
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert described["potentials"][0]["facts"]["range"] == [None, None]


@pytest.mark.parametrize(
    ("line", "head", "expected"),
    [
        ("exact()", "", []),
        ("exact(num_samples=5)", "", ["LMP601"]),
        ("importance()", "", ["LMP601"]),
        # A declared bound is what LMP604 asks for, and no temperature that is too small.
        ("exact()", 'reward b(t: string): real<upper=50> = lexicon("warmth.tsv")', []),
        ("exact()", "reward b(t: string): real = vader()", ["LMP603"]),
    ],
)
def test_heuristics_do_not_punish_what_they_ask_for(
    line: str, head: str, expected: list[str]
) -> None:
    factor = f"factor {'b(text)' if 'upper' in head else '30 * b(text)'}" if head else ""
    program = parse(
        f'{head} model m() {{ text ~ lm("builtin:stories", prompt="x", max_tokens=8)'
        f" {factor} return text }} infer {line}"
    )
    place = Path(__file__).parents[1] / "golden" / "checker" / "good"
    _, warnings = check(program, base_dir=str(place), pedantic=True)
    assert [each.code for each in warnings] == expected


def test_messages_call_a_term_without_a_label_by_its_text() -> None:
    model = check(
        parse(
            'reward n(t: string): int = count("a") model m() {'
            ' t ~ lm("builtin:stories", prompt="", max_tokens=3)'
            " factor tone: n(t) factor n(t)\n  / 2 require n(t) >= 1 return t }"
        )
    )[0]
    titles = [potential.title for potential in model.potentials]
    assert titles == ["factor tone", "`factor n(t) / 2`", "`require n(t) >= 1`"]
