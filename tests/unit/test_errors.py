"""Diagnostics: how they are drawn."""

from __future__ import annotations

import pickle

import pytest

from lmppl.errors import Diagnostic, InternalError, Label, LmpError, Span, closest, render
from lmppl.syntax import parse


def drawn(source: str, diagnostic: Diagnostic) -> str:
    return render([diagnostic], {"a.lmp": source})


def span(source: str, text: str) -> Span:
    start = source.index(text)
    return Span.of(source, start, start + len(text), "a.lmp")


# ---- spans ----


def test_a_span_counts_lines_and_columns_from_one() -> None:
    source = "ab\ncdé\nf"
    assert Span.of(source, 0, 2) == Span(None, 0, 2, 1, 1, 1, 3)
    assert Span.of(source, 5, 8) == Span(None, 5, 8, 2, 3, 3, 2)
    assert Span.of(source, 8, 8) == Span(None, 8, 8, 3, 2, 3, 2)


def test_a_span_to_another_covers_both() -> None:
    source = "let a = 1"
    assert span(source, "let").to(span(source, "1")) == span(source, source)


# ---- drawing ----


def test_the_example_of_the_language_reference_is_drawn_as_there() -> None:
    source = (
        "model polite() {\n"
        '    text ~ lm("gpt2")\n'
        '    require a: matches(text, r"[A-Z][a-z ]*\\.")\n'
        '    require b: never(text, ["."])\n'
        "}\n"
    )
    second = span(source, 'never(text, ["."])')
    diagnostic = Diagnostic(
        "LMP303",
        "error",
        "these two constraints contradict each other: no text satisfies both",
        second,
        (
            Label(second, "cannot hold together with the one above"),
            Label(span(source, 'matches(text, r"[A-Z][a-z ]*\\.")'), ""),
        ),
        ("the posterior would have zero mass",),
    )
    assert drawn(source, diagnostic) == (
        "error[LMP303]: these two constraints contradict each other: no text satisfies both\n"
        " --> a.lmp:4:16\n"
        "  |\n"
        '3 |     require a: matches(text, r"[A-Z][a-z ]*\\.")\n'
        "  |                --------------------------------\n"
        '4 |     require b: never(text, ["."])\n'
        "  |                ^^^^^^^^^^^^^^^^^^ cannot hold together with the one above\n"
        "  = note: the posterior would have zero mass"
    )


def test_carets_stand_under_wide_characters_and_tabs() -> None:
    source = '\tlet x = "日本 e\u0301🎉" oops'
    assert drawn(source, Diagnostic("LMP001", "error", "m", span(source, "oops"))).split("\n")[
        3:
    ] == ['1 |     let x = "日本 e\u0301🎉" oops', "  |" + " " * 24 + "^^^^"]


def test_a_column_past_the_end_of_the_line_gets_a_caret() -> None:
    source = "let a = (1\n"
    end = Span.of(source, 10, 10, "a.lmp")
    assert drawn(source, Diagnostic("LMP002", "error", "m", end)).endswith(
        "1 | let a = (1\n  |           ^"
    )


def test_distant_lines_are_joined_by_dots_and_near_ones_shown() -> None:
    source = "one\ntwo\nthree\nfour\nfive\nsix"
    diagnostic = Diagnostic(
        "LMP001",
        "warning",
        "m",
        span(source, "six"),
        (Label(span(source, "one"), "here"), Label(span(source, "three"), "there")),
    )
    assert drawn(source, diagnostic).split("\n") == [
        "warning[LMP001]: m",
        " --> a.lmp:6:1",
        "  |",
        "1 | one",
        "  | --- here",
        "2 | two",
        "3 | three",
        "  | ----- there",
        "...",
        "6 | six",
        "  | ^^^",
    ]


def test_three_remarks_on_one_line_hang_below_it() -> None:
    source = "aa bb cc"
    diagnostic = Diagnostic(
        "LMP001",
        "error",
        "m",
        span(source, "bb"),
        (
            Label(span(source, "aa"), "first"),
            Label(span(source, "bb"), "second"),
            Label(span(source, "cc"), "third"),
        ),
    )
    assert drawn(source, diagnostic).split("\n")[3:] == [
        "1 | aa bb cc",
        "  | -- ^^ -- third",
        "  | |  |",
        "  | |  second",
        "  | |",
        "  | first",
    ]


def test_a_span_over_several_lines_is_underlined_on_its_first() -> None:
    source = "let a = f(\n  1)\n"
    shown = drawn(source, Diagnostic("LMP001", "error", "m", span(source, "f(\n  1)")))
    assert shown.endswith("1 | let a = f(\n  |         ^^")


def test_a_label_in_another_file_names_that_file() -> None:
    source = "let a = 1"
    other = Span.of("let b = 2", 4, 5, "b.lmp")
    diagnostic = Diagnostic(
        "LMP001", "error", "m", span(source, "a"), (Label(other, "also here"),), (), "do"
    )
    shown = render([diagnostic], {"a.lmp": source, "b.lmp": "let b = 2"})
    assert shown.split("\n")[5:] == [
        " ::: b.lmp:1:5",
        "  |",
        "1 | let b = 2",
        "  |     - also here",
        "  = help: do",
    ]


def test_a_diagnostic_without_a_place_has_only_words() -> None:
    diagnostic = Diagnostic("LMP901", "error", "all mass is lost", None, (), ("why", "a\nb"), "do")
    assert render([diagnostic]) == (
        "error[LMP901]: all mass is lost\n  = note: why\n  = note: a\n          b\n  = help: do"
    )


def test_a_file_whose_text_is_unknown_is_still_named() -> None:
    source = "let a = 1"
    shown = render([Diagnostic("LMP001", "error", "m", span(source, "a"))])
    assert shown == "error[LMP001]: m\n --> a.lmp:1:5"


def test_control_characters_do_not_reach_the_terminal() -> None:
    source = "let a = \x1b[31m \ud800"
    shown = drawn(source, Diagnostic("LMP004", "error", "m", span(source, "a")))
    assert "\x1b" not in shown
    assert shown.encode("utf-8")


# ---- exceptions ----


def test_the_text_of_an_error_is_its_rendered_diagnostics() -> None:
    source = "let a = 1"
    one = Diagnostic("LMP001", "error", "m", span(source, "a"))
    error = LmpError([one, one], {"a.lmp": source})
    assert str(error) == f"{drawn(source, one)}\n\n{drawn(source, one)}"


def test_an_error_survives_pickling() -> None:
    with pytest.raises(LmpError) as caught:
        parse("let a =", "a.lmp")
    copied = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(copied, LmpError)
    assert copied.diagnostics == caught.value.diagnostics
    assert str(copied) == str(caught.value)


def test_an_internal_error_asks_to_be_reported() -> None:
    assert "please report" in str(InternalError("the table is empty"))


# ---- suggestions ----


@pytest.mark.parametrize(
    "word, meant",
    [
        ("sentimant", "sentiment"),
        ("LENGTH", "length"),
        ("lenght", "length"),
        ("zzz", None),
        ("", None),
    ],
)
def test_the_nearest_word_is_suggested(word: str, meant: str | None) -> None:
    assert closest(word, ["sentiment", "length", "never"]) == meant


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("sms", "smc"),
        ("smd", "smc"),
        ("scm", "smc"),
        ("svl", "svi"),
        ("mcm", "mcmc"),
        ("abc", None),
    ],
)
def test_one_wrong_letter_of_a_short_name_is_suggested(word: str, meant: str | None) -> None:
    assert closest(word, ["exact", "rejection", "importance", "smc", "mcmc", "svi"]) == meant
