"""The formatter keeps programs and comments, and settles at once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lmppl.syntax import format_source, parse
from lmppl.syntax.scanner import scan
from lmppl.syntax.trees import dump

# ---- random programs, as lists of token texts ----

names = st.sampled_from(["x", "text", "tone", "lm", "function", "a_rather_long_name", "f", "r"])
literals = st.sampled_from(
    [
        *("1", "20_000", "0.5", "1e-3", "true", "false", '"s"', 'r"[a-z]\\."', 'f"{x} and {{y}}"'),
        '"""two\n  rows """',
        '"a much longer string, which fills quite some of the row that it is on"',
    ]
)


def _joined(parts: list[list[str]], separator: str) -> list[str]:
    tokens: list[str] = []
    for index, part in enumerate(parts):
        tokens += ([separator] if index else []) + part
    return tokens


def _compound(inner: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    def group(expression: list[str]) -> list[str]:
        return ["(", *expression, ")"]

    wrapped = inner.map(group)
    argument = st.one_of(
        inner.map(lambda value: (False, value)),
        st.tuples(names, inner).map(lambda pair: (True, [pair[0], "=", *pair[1]])),
    )

    def call(drawn: tuple[str, list[tuple[bool, list[str]]], bool]) -> list[str]:
        function, arguments, trailing = drawn
        ordered = [value for named, value in arguments if not named]
        seen: dict[str, list[str]] = {v[0]: v for named, v in arguments if named}
        every = [*ordered, *seen.values()]
        return [function, "(", *_joined(every, ","), *([","] if trailing and every else []), ")"]

    return st.one_of(
        st.tuples(names, st.lists(argument, max_size=6), st.booleans()).map(call),
        st.lists(inner, max_size=6).map(lambda items: ["[", *_joined(items, ","), "]"]),
        st.tuples(wrapped, st.sampled_from("+-*/^"), wrapped).map(
            lambda drawn: [*drawn[0], drawn[1], *drawn[2]]
        ),
        st.tuples(wrapped, st.sampled_from(["and", "or", "<", ">=", "in"]), wrapped).map(
            lambda drawn: [*drawn[0], drawn[1], *drawn[2]]
        ),
        st.tuples(wrapped, wrapped).map(lambda drawn: [*drawn[0], "not", "in", *drawn[1]]),
        wrapped.map(lambda value: ["-", *value]),
        wrapped.map(lambda value: ["not", *value]),
        st.tuples(wrapped, wrapped, wrapped).map(
            lambda drawn: ["if", *drawn[0], "then", *drawn[1], "else", *drawn[2]]
        ),
        st.tuples(names, names).map(lambda drawn: [drawn[0], ".", drawn[1]]),
        st.tuples(wrapped, inner).map(lambda drawn: [*drawn[0], "[", *drawn[1], "]"]),
        wrapped,
    )


expressions = st.recursive(
    st.one_of(names, literals).map(lambda text: [text]), _compound, max_leaves=12
)
types = st.sampled_from(
    [["real"], ["string", "[", "]"], "real < lower = - 1 , upper = 1 >".split()]
)
labels = st.one_of(st.just([]), names.map(lambda name: [name, ":"]))
statements = st.one_of(
    st.tuples(names, expressions).map(lambda drawn: [drawn[0], "~", *drawn[1]]),
    st.tuples(st.sampled_from(["factor", "require", "expect"]), labels, expressions).map(
        lambda drawn: [drawn[0], *drawn[1], *drawn[2]]
    ),
    st.tuples(expressions, expressions).map(
        lambda drawn: ["require", *drawn[0], "when", *drawn[1]]
    ),
    st.tuples(expressions, expressions).map(lambda drawn: ["observe", *drawn[0], "~", *drawn[1]]),
    st.tuples(labels, expressions, expressions).map(
        lambda drawn: ["moment", *drawn[0], *drawn[1], "=", *drawn[2]]
    ),
    st.tuples(names, types, expressions).map(
        lambda drawn: ["let", drawn[0], ":", *drawn[1], "=", *drawn[2]]
    ),
    st.lists(expressions, min_size=1, max_size=4).map(
        lambda values: ["return", *_joined(values, ",")]
    ),
    st.just([";"]),
)
parameters = st.lists(
    st.tuples(names, types).map(lambda drawn: [drawn[0], ":", *drawn[1]]), max_size=5
).map(lambda many: ["(", *_joined(many, ","), ")"])
items = st.one_of(
    st.tuples(names, parameters, st.lists(statements, max_size=5)).map(
        lambda drawn: ["model", drawn[0], *drawn[1], "{", *(t for s in drawn[2] for t in s), "}"]
    ),
    st.tuples(names, parameters, types, expressions).map(
        lambda drawn: ["reward", drawn[0], *drawn[1], ":", *drawn[2], "=", *drawn[3]]
    ),
    st.tuples(names, expressions).map(lambda drawn: ["let", drawn[0], "=", *drawn[1]]),
    st.just(["infer", "smc", "(", "seed", "=", "1", ",", ")", "as", "x"]),
    st.just(["extern", "lm", "prior"]),
    st.just(["extern", "reward", "q", "(", "t", ":", "real", ",", "inputs", "=", '"ids"', ")"]),
    st.just(["import", '"a.lmp"', "as", "q"]),
)
gaps = st.sampled_from([" "] * 12 + ["\n", "\n\n", "\n\n\n", " # remark  \n", "\n# alone\n", "\t"])


@st.composite
def programs(draw: st.DrawFn) -> str:
    tokens = [token for item in draw(st.lists(items, max_size=4)) for token in item]
    return "".join(token + draw(gaps) for token in tokens)


# ---- the laws ----


@settings(max_examples=150, deadline=None)
@given(programs())
def test_formatting_keeps_the_tree_and_the_comments_and_settles(source: str) -> None:
    formatted = format_source(source)
    assert dump(parse(formatted)) == dump(parse(source))
    assert [each.rstrip() for each in scan(formatted).comments] == [
        each.rstrip() for each in scan(source).comments
    ]
    assert format_source(formatted) == formatted


@settings(max_examples=100, deadline=None)
@given(programs())
def test_every_span_of_a_token_slices_to_its_text(source: str) -> None:
    scanned = scan(source)
    lines = source.split("\n")
    for token in [*scanned.tokens, *scanned.comments]:
        assert source[token.start_pos : token.end_pos] == token
        assert lines[token.line - 1][token.column - 1 :].startswith(token.split("\n")[0])
