"""What expressions mean, row by row."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lmppl.errors import InferenceError, Span
from lmppl.evaluation.columns import TextColumn
from lmppl.evaluation.constants import constant_value
from lmppl.evaluation.environment import Environment
from lmppl.evaluation.formatting import format_value
from lmppl.evaluation.values import evaluate
from lmppl.ir.expr import (
    Array,
    Binary,
    Call,
    Conditional,
    Constant,
    Expr,
    ExternCall,
    Index,
    Interpolation,
    Reference,
    RewardCall,
    Unary,
)
from lmppl.ir.model import Parameter, Reward, RewardSource
from lmppl.ir.types import BOOL, INT, REAL, STRING, UNCERTAIN, Interval, Type
from lmppl.rewards.scorer import Scorer
from lmppl.rewards.texts import CountSource
from lmppl.rewards.uncertain import UncertainScores

SPAN = Span("m.lmp", 10, 20, 2, 3, 2, 13)


def lit(value: object) -> Constant:
    kinds = {str: STRING, bool: BOOL, int: INT, float: REAL}
    if isinstance(value, tuple):
        return Constant(kinds[type(value[0])].array(), SPAN, value)
    return Constant(kinds[type(value)], SPAN, value)


def ref(name: str, type: Type, role: str = "site") -> Reference:
    return Reference(type, SPAN, name, role)  # type: ignore[arg-type]


def binary(operator: str, left: Expr, right: Expr, type: Type = REAL) -> Binary:
    return Binary(type, SPAN, operator, left, right)


def call(function: str, type: Type = REAL, **arguments: Expr) -> Call:
    return Call(type, SPAN, function, tuple(arguments.items()))


def texts(*strings: str, num_tokens: tuple[int, ...] = (), finished: tuple[bool, ...] = ()):
    counts = num_tokens or tuple(len(s) for s in strings)
    ends = finished or (True,) * len(strings)
    return TextColumn(list(strings), np.array(counts), np.array(ends))


X = ref("x", REAL)
N = ref("n", INT)
TEXT = ref("text", STRING)


def numbers(**columns: list[float]) -> Environment:
    arrays = {name: np.array(values) for name, values in columns.items()}
    return Environment(len(next(iter(arrays.values()))), columns=arrays)


def test_scalars_are_broadcast_to_all_rows() -> None:
    env = Environment(3, values={"beta": 2})
    value = evaluate(binary("/", lit(1), ref("beta", REAL, "parameter")), env)
    assert value.tolist() == [0.5, 0.5, 0.5] and value.dtype == np.float64
    assert evaluate(lit("a"), env) == ["a", "a", "a"]
    assert evaluate(lit(True), env).tolist() == [True] * 3
    assert evaluate(lit(3), env).dtype == np.int64


def test_an_int_where_a_real_is_expected_becomes_float() -> None:
    env = Environment(2, values={"beta": 2})
    assert evaluate(ref("beta", REAL, "parameter"), env).dtype == np.float64


@pytest.mark.parametrize(
    ("operator", "left", "right", "type", "expected"),
    [
        ("+", 1, 2, INT, 3),
        ("-", 1, 2.5, REAL, -1.5),
        ("*", 3, 4, INT, 12),
        ("/", 7, 2, REAL, 3.5),
        ("^", 2, 10, INT, 1024),
        ("^", 2, -1, REAL, 0.5),
        ("^", 4.0, 0.5, REAL, 2.0),
        ("==", 1, 1.0, BOOL, True),
        ("!=", "a", "b", BOOL, True),
        ("<", "abc", "abd", BOOL, True),
        (">=", 2, 2, BOOL, True),
        ("in", "he", "she", BOOL, True),
        ("in", "he", ("she", "her"), BOOL, False),
        ("in", "her", ("she", "her"), BOOL, True),
        ("and", True, False, BOOL, False),
        ("or", True, False, BOOL, True),
    ],
)
def test_operators_mean_what_the_language_says(
    operator: str, left: object, right: object, type: Type, expected: object
) -> None:
    env = Environment(2)
    value = evaluate(binary(operator, lit(left), lit(right), type), env)
    assert list(value) == [expected, expected]


def test_columns_and_scalars_give_the_same_values() -> None:
    env = numbers(x=[1.5, -2.0, 0.25], n=[3, 4, 5])
    for operator in ("+", "-", "*", "/"):
        together = evaluate(binary(operator, X, N), env)
        for row in range(3):
            x, n = env.columns["x"][row].item(), env.columns["n"][row].item()
            alone = evaluate(binary(operator, lit(x), lit(n)), Environment(1))
            assert together[row] == alone[0]


def test_division_by_zero_names_the_row_that_did_it() -> None:
    env = numbers(x=[1.0, 2.0], n=[1, 0])
    with pytest.raises(InferenceError) as caught:
        evaluate(binary("/", X, N), env, label="factor tone")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "LMP920" and diagnostic.span == SPAN
    assert "factor tone: division by zero" in diagnostic.message
    assert diagnostic.notes == ("x = 2.0", "n = 0")


def test_a_branch_is_evaluated_only_on_the_rows_that_take_it() -> None:
    env = numbers(x=[1.0, 0.0, math.e])
    guarded = Conditional(REAL, SPAN, binary(">", X, lit(0), BOOL), call("log", x=X), lit(-1.0))
    assert np.allclose(evaluate(guarded, env), [0.0, -1.0, 1.0])
    inverse = binary("/", lit(1), X)
    env2 = numbers(x=[0.0, 2.0])
    safe = Conditional(REAL, SPAN, binary("==", X, lit(0), BOOL), lit(0.0), inverse)
    assert evaluate(safe, env2).tolist() == [0.0, 0.5]
    both = binary("and", binary("!=", X, lit(0), BOOL), binary("<", inverse, lit(1), BOOL), BOOL)
    assert evaluate(both, env2).tolist() == [False, True]


def test_a_conditional_picks_strings_by_row() -> None:
    env = Environment(3, columns={"mood": np.array([True, False, True])})
    tone = Conditional(STRING, SPAN, ref("mood", BOOL), lit("cheerful"), lit("dry"))
    assert evaluate(tone, env) == ["cheerful", "dry", "cheerful"]


def test_the_logarithm_is_zero_mass_at_zero_and_an_error_below() -> None:
    assert evaluate(call("log", x=X), numbers(x=[1.0, 0.0])).tolist() == [0.0, -math.inf]
    with pytest.raises(InferenceError, match="from 0 up"):
        evaluate(call("log", x=X), numbers(x=[1.0, -1e-9]))


@pytest.mark.parametrize(
    ("expr", "value"),
    [
        (call("exp", x=X), 1000.0),
        (binary("*", X, X), 1e200),
        (binary("^", X, lit(0.5)), -1.0),
        (binary("^", X, lit(-1.0)), 0.0),
        (binary("-", X, X), -math.inf),
        (Unary(REAL, SPAN, "-", X), -math.inf),
        (binary("*", Unary(REAL, SPAN, "-", X), X), 1e200),
    ],
)
def test_nan_and_infinity_raise_where_they_are_born(expr: Expr, value: float) -> None:
    with pytest.raises(InferenceError) as caught:
        evaluate(expr, numbers(x=[1.0, value]))
    assert caught.value.diagnostics[0].code == "LMP920"
    assert f"x = {value!r}" in caught.value.diagnostics[0].notes


def test_minus_infinity_passes_through_as_zero_mass() -> None:
    env = numbers(x=[-math.inf, 1.0])
    assert evaluate(binary("/", X, lit(0.25)), env).tolist() == [-math.inf, 4.0]


def test_integers_that_do_not_fit_are_an_error_and_never_wrap() -> None:
    with pytest.raises(InferenceError, match="too large"):
        evaluate(binary("*", N, N, INT), numbers(n=[2, 2**40]))
    with pytest.raises(InferenceError, match="too large"):
        evaluate(binary("^", lit(10), lit(30), INT), Environment(1))


def test_an_f_string_shows_numbers_and_conditions_as_written_in_the_language() -> None:
    env = Environment(2, columns={"n": np.array([3, 4]), "topic": ["a", "b"]})
    parts = ("n=", N, " t=", ref("topic", STRING), " b=", lit(True), " r=", lit(0.25))
    expr = Interpolation(STRING, SPAN, parts)
    assert evaluate(expr, env) == ["n=3 t=a b=true r=0.25", "n=4 t=b b=true r=0.25"]
    assert [format_value(v) for v in (2.0, 0.1 + 0.2, 1e-7, 1234567.0, False, ("a", 1))] == [
        "2", "0.3", "1e-07", "1234567", "false", "a, 1",
    ]  # fmt: skip


def test_arrays_are_indexed_from_zero_by_row() -> None:
    env = Environment(2, columns={"n": np.array([1, 0]), "x": np.array([5.0, 6.0])})
    assert evaluate(Index(STRING, SPAN, lit(("a", "b")), N), env) == ["b", "a"]
    array = Array(REAL.array(), SPAN, (X, lit(1.0)))
    assert evaluate(array, env) == [(5.0, 1.0), (6.0, 1.0)]
    assert evaluate(Index(REAL, SPAN, array, N), env).tolist() == [1.0, 6.0]
    assert evaluate(lit(("a", "b")), env) == ("a", "b")


@pytest.mark.parametrize("index", [-1, 2])
def test_an_index_outside_the_array_is_an_error(index: int) -> None:
    with pytest.raises(InferenceError) as caught:
        evaluate(Index(STRING, SPAN, lit(("a", "b")), N), numbers(n=[0, index]))
    assert caught.value.diagnostics[0].code == "LMP928"


def test_predicates_are_their_definitions_on_strings() -> None:
    env = Environment(
        3,
        columns={
            "text": texts(
                "Damn it", "a cat.", "", num_tokens=(5, 2, 0), finished=(True, False, True)
            ),
            "topic": ["it", "dog", ""],
        },
    )

    def truth(function: str, **arguments: Expr) -> list[bool]:
        return evaluate(call(function, BOOL, text=TEXT, **arguments), env).tolist()

    assert truth("never", words=lit(("damn",)), ignore_case=lit(True)) == [False, True, True]
    assert truth("never", words=lit(("damn",))) == [True, True, True]
    assert truth("contains", words=lit("at")) == [False, True, False]
    assert truth("contains", words=lit("at"), whole_words=lit(True)) == [False, False, False]
    assert truth("contains", words=ref("topic", STRING)) == [True, False, True]
    assert truth("matches", pattern=lit(r"[a-z ]+\.")) == [False, True, False]
    assert truth("starts_with", words=lit(("D", "x"))) == [True, False, False]
    assert truth("ends_with", words=lit(".")) == [False, True, False]
    assert truth("finished") == [True, False, True]
    assert evaluate(call("length", INT, text=TEXT), env).tolist() == [5, 2, 0]
    for unit, expected in (("tokens", [5, 2, 0]), ("words", [2, 2, 0]), ("characters", [7, 6, 0])):
        lengths = evaluate(call("length", INT, text=TEXT, unit=lit(unit)), env)
        assert lengths.tolist() == expected and lengths.dtype == np.int64


def test_a_let_is_evaluated_once_and_follows_the_rows_of_a_branch() -> None:
    calls: list[str] = []

    def shout(text: str) -> str:
        calls.append(text)
        return text.upper()

    loud = ref("loud", STRING, "let")
    env = Environment(
        3,
        columns={"text": texts("a", "b", "a"), "mood": np.array([True, False, True])},
        functions={"shout": shout},
        lets={"loud": ExternCall(STRING, SPAN, "shout", (TEXT,))},
    )
    assert evaluate(loud, env) == ["A", "B", "A"]
    chosen = Conditional(STRING, SPAN, ref("mood", BOOL), loud, TEXT)
    assert evaluate(chosen, env) == ["A", "b", "A"]
    assert calls == ["a", "b"]


def test_a_let_that_is_a_text_keeps_its_tokens() -> None:
    env = Environment(2, columns={"text": texts("ab", "c", num_tokens=(1, 7))}, lets={"t": TEXT})
    length = call("length", INT, text=ref("t", STRING, "let"), unit=lit("tokens"))
    assert evaluate(length, env).tolist() == [1, 7]


def reward(type: Type, *parameters: str) -> Reward:
    declared = tuple(Parameter(name, STRING, SPAN) for name in parameters or ("t",))
    return Reward("score", declared, type, RewardSource("extern"), SPAN)


class Table:
    """A source that looks scores up and notes what it was asked for."""

    digest = "table"
    cost = "cheap"

    def __init__(self, table: dict[str, object]) -> None:
        self.table = table
        self.asked: list[list[str]] = []

    def scores(self, columns, tokens):  # type: ignore[no-untyped-def]
        self.asked.append(list(columns[0]))
        found = [self.table[text] for text in columns[0]]
        if isinstance(found[0], list):
            return UncertainScores(members=np.array(found, dtype=float))
        return np.array(found, dtype=float)


def test_equal_texts_are_scored_once() -> None:
    source = Table({"a": 1.0, "b": 2.0})
    env = Environment(
        4,
        columns={"text": texts("a", "b", "a", "a")},
        scorers={"score": Scorer(reward(REAL), source)},
    )
    score = RewardCall(REAL, SPAN, "score", (TEXT,))
    assert evaluate(binary("+", score, score), env).tolist() == [2.0, 4.0, 2.0, 2.0]
    assert source.asked == [["a", "b"]]


def test_an_int_reward_stays_an_int() -> None:
    scorer = Scorer(reward(Type("int", range=Interval(0.0))), CountSource("a"))
    env = Environment(2, columns={"text": texts("banana", "x")}, scorers={"score": scorer})
    value = evaluate(RewardCall(INT, SPAN, "score", (TEXT,)), env)
    assert value.dtype == np.int64 and value.tolist() == [3, 0]


def test_risk_rules_read_the_distribution_of_an_uncertain_reward() -> None:
    source = Table({"a": [0.0, 2.0], "b": [1.0, 1.0]})
    env = Environment(
        3,
        columns={"text": texts("a", "b", "a")},
        values={"k": 2.0},
        scorers={"score": Scorer(reward(UNCERTAIN), source)},
    )
    h = RewardCall(UNCERTAIN, SPAN, "score", (TEXT,))
    k = ref("k", REAL, "parameter")
    assert evaluate(call("lcb", r=h, k=k), env).tolist() == [-1.0, 1.0, -1.0]
    assert evaluate(call("lcb", r=h), env).tolist() == [0.0, 1.0, 0.0]
    assert evaluate(call("mean", r=h), env).tolist() == [1.0, 1.0, 1.0]
    assert isinstance(evaluate(h, env), UncertainScores)
    with pytest.raises(InferenceError) as caught:
        evaluate(call("quantile", r=h, q=k), env, label="factor f")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "LMP927" and diagnostic.span == SPAN
    assert diagnostic.message.startswith("factor f: quantile() needs q above 0 and below 1")


def test_a_host_function_that_raises_names_its_arguments_and_is_chained() -> None:
    env = Environment(2, columns={"text": texts("ok", "")}, functions={"first": lambda t: t[0]})
    with pytest.raises(InferenceError) as caught:
        evaluate(ExternCall(STRING, SPAN, "first", (TEXT,)), env)
    assert isinstance(caught.value.__cause__, IndexError)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "LMP924" and diagnostic.notes == ("it was called with ''",)


@pytest.mark.parametrize(
    ("type", "result", "is_fine"),
    [
        (REAL, 1, True),
        (REAL, "1", False),
        (REAL, math.nan, False),
        (REAL, math.inf, False),
        (REAL, -math.inf, True),
        (INT, 1.5, False),
        (INT, True, False),
        (BOOL, np.bool_(True), True),
        (STRING, "a", True),
        (STRING, b"a", False),
        (Type("real", range=Interval(0.0, 1.0)), 1.5, False),
        (STRING.array(), ["a"], True),
        (STRING.array(), "a", False),
    ],
)
def test_a_host_function_must_give_the_declared_type(
    type: Type, result: object, is_fine: bool
) -> None:
    env = Environment(1, columns={"text": texts("a")}, functions={"f": lambda t: result})
    expr = ExternCall(type, SPAN, "f", (TEXT,))
    if is_fine:
        evaluate(expr, env)
        return
    with pytest.raises(InferenceError) as caught:
        evaluate(expr, env)
    assert caught.value.diagnostics[0].code == "LMP923"


def test_a_reward_error_says_which_factor_asked() -> None:
    env = Environment(
        1,
        columns={"text": texts("a")},
        scorers={"score": Scorer(reward(REAL), Table({"a": math.nan}))},
    )
    with pytest.raises(InferenceError, match=r"factor tone: reward `score` gave NaN"):
        evaluate(RewardCall(REAL, SPAN, "score", (TEXT,)), env, label="factor tone")


def test_no_rows_are_no_values() -> None:
    env = Environment(0, columns={"text": texts(), "x": np.array([])}, values={"b": 1})
    assert len(evaluate(binary("/", X, ref("b", REAL, "parameter")), env)) == 0
    assert evaluate(TEXT, env) == []


FOLDED = [
    binary("+", lit(1), lit(2), INT),
    binary("/", lit(7), lit(2)),
    binary("^", lit(3), lit(4), INT),
    binary("^", lit(2.0), lit(-1.5)),
    binary("in", lit("b"), lit(("a", "b")), BOOL),
    binary("<", lit("a"), lit("b"), BOOL),
    binary("or", lit(False), lit(True), BOOL),
    Unary(BOOL, SPAN, "not", lit(True)),
    Unary(REAL, SPAN, "-", lit(2.5)),
    Index(STRING, SPAN, lit(("a", "b")), lit(1)),
    Conditional(REAL, SPAN, lit(False), lit(1.0), lit(2.0)),
    Interpolation(STRING, SPAN, ("x=", lit(0.5), lit(True), lit(2.0), lit(3), lit("s"))),
    *[
        call(name, x=lit(x))
        for name in ("abs", "exp", "sigmoid", "tanh")
        for x in (-750.0, -1.5, 0.0, 2.0)
    ],
    *[call(name, x=lit(x)) for name in ("log", "sqrt") for x in (0.0, 0.3, 1e300)],
    *[call(name, a=lit(1.5), b=lit(-2.0), c=lit(0.0)) for name in ("min", "max")],
    call("clamp", x=lit(7.0), lower=lit(-1.0), upper=lit(2.0)),
]


@pytest.mark.parametrize("expr", FOLDED)
def test_what_the_checker_folds_is_what_a_run_computes(expr: Expr) -> None:
    known = constant_value(expr, None, {})
    (computed,) = evaluate(expr, Environment(1))
    if isinstance(known, str):
        assert computed == known
    else:
        assert computed == pytest.approx(known, rel=1e-15, abs=0)
        assert isinstance(known, bool) == (np.asarray(computed).dtype == bool)
