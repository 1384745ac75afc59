"""A value that gets a name by `let` is refused, and warned of, as if it were written out."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lmppl
from lmppl.errors import Diagnostic, LmpError
from lmppl.ir.expr import Reference
from lmppl.pipeline import load

_HEAD = """
reward p(t: string): real<lower=0, upper=1> = count("a")
reward q(t: string): real<lower=0, upper=1> = count("b")
reward open(t: string): real = count("c")
"""
# What is written out, the same with a name, and the code that both give.
_PAIRS = {
    "a factor that may be −∞": (
        "factor log(p(text))",
        "let l = log(p(text)) factor l",
        "infer svi(seed=0)",
        "LMP411",
    ),
    "a factor within a factor that may be −∞": (
        "factor 2 * log(p(text)) + 1",
        "let s = p(text) let l = log(s) let m = l factor 2 * m + 1",
        "infer svi(seed=0)",
        "LMP411",
    ),
    "a factor without a bound": (
        "factor open(text)",
        "let o = open(text) factor o",
        "infer rejection(seed=0)",
        "LMP410",
    ),
    "a factor without a bound, under --pedantic": (
        "factor open(text)",
        "let o = open(text) factor o",
        "infer smc(seed=0)",
        "LMP604",
    ),
    "smc without anything to look at": (
        "factor log(x)",
        "let l = log(x) factor l",
        "infer smc(seed=0)",
        "LMP414",
    ),
    "a parameter that divides": (
        "factor p(text) / t",
        "let s = t factor p(text) / s",
        "infer smc(seed=0)",
        "LMP206",
    ),
    "a choice that picks a reward": (
        "factor if x == 1 then p(text) else q(text)",
        "let a = p(text) let b = q(text) factor if x == 1 then a else b",
        "infer smc(seed=0)",
        "LMP213",
    ),
    "a choice that picks a reward from an array": (
        "factor [p(text), q(text)][y]",
        "let both = [p(text), q(text)] factor both[y]",
        "infer smc(seed=0)",
        "LMP213",
    ),
    "a pattern that is none": (
        'require matches(text, "(")',
        'let r = "(" require matches(text, r)',
        "infer smc(seed=0)",
        "LMP301",
    ),
    "a requirement that never holds": (
        "require false",
        "let no = false require no",
        "infer smc(seed=0)",
        "LMP302",
    ),
    "a condition on a choice that is never met": (
        "factor if z == 7 then 1 else 0",
        "let w = 7 factor if z == w then 1 else 0",
        "infer smc(seed=0)",
        "LMP207",
    ),
    "a value that stands twice": (
        "v ~ categorical(values=[1, 1])",
        "let vs = [1, 1] v ~ categorical(values=vs)",
        "infer smc(seed=0)",
        "LMP225",
    ),
    "a stop string that is empty": (
        'u ~ lm("builtin:stories", prompt="", max_tokens=3, stop="")',
        'let s = "" u ~ lm("builtin:stories", prompt="", max_tokens=3, stop=s)',
        "infer smc(seed=0)",
        "LMP106",
    ),
    "a text of one token": (
        'u ~ lm("builtin:stories", prompt="", max_tokens=1)',
        'let n = 1 u ~ lm("builtin:stories", prompt="", max_tokens=n)',
        "infer smc(seed=0)",
        "LMP605",
    ),
}


def _found(tmp_path: Path, statements: str, infer: str) -> list[Diagnostic]:
    program = tmp_path / "program.lmp"
    program.write_text(
        _HEAD
        + "model m(t: real = 0) {\n"
        + 'text ~ lm("builtin:stories", prompt="", max_tokens=3)\n'
        + "x ~ categorical(values=[1, 2])\ny ~ categorical(values=[0, 1])\n"
        + f"z ~ categorical(values=[1, 2])\n{statements}\n"
        + "return text, z\n}\n"
        + infer
    )
    try:
        return load(program, pedantic=True).check()
    except LmpError as error:
        return list(error.diagnostics)


@pytest.mark.parametrize("what", _PAIRS)
def test_a_let_hides_nothing(what: str, tmp_path: Path) -> None:
    written, named, infer, code = _PAIRS[what]
    of_written = {each.code for each in _found(tmp_path, written, infer)}
    of_named = {each.code for each in _found(tmp_path, named, infer)}
    assert code in of_written
    assert code in of_named


def test_every_node_is_given_once_however_often_a_let_is_named() -> None:
    model = lmppl.compile("""
    model m() {
      x ~ categorical(values=[1, 2])
      let a = x * 2
      let b = a + a
      factor b * a
      return x
    }""").model
    (factor,) = model.potentials
    for exprs in ((factor.expr,), (factor.expr, model.let("a").expr), model.expressions):
        nodes = list(model.nodes(*exprs))
        assert len({id(node) for node in nodes}) == len(nodes)
    names = [n.name for n in model.nodes(factor.expr) if isinstance(n, Reference)]
    assert sorted(names) == ["a", "a", "a", "b", "x"]


# Who looks at an expression as it is written, and why a `let` ends it there.
_AS_WRITTEN = {
    "ir/expr.py": "defines it",
    "ir/model.py": "knows what the value of a let looks at where its name stands",
    "checker/scope.py": "the symbol of a let knows the choices behind it",
    "evaluation/environment.py": "says what the names in an expression stood for",
    "evaluation/additive.py": "goes on to what every part stands for",
    "evaluation/joint.py": "counts how much is written",
}


def test_only_these_look_at_expressions_without_what_their_lets_stand_for() -> None:
    package = Path(lmppl.__file__).parent
    found = set()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            imports = isinstance(node, ast.ImportFrom) and node.module == "lmppl.ir.expr"
            if imports and any(each.name in ("walk", "children") for each in node.names):
                found.add(file.relative_to(package).as_posix())
            is_walk = isinstance(node, ast.Attribute) and node.attr in ("walk", "children")
            if is_walk and isinstance(node.value, ast.Name) and node.value.id == "ir":
                found.add(file.relative_to(package).as_posix())
    assert found == _AS_WRITTEN.keys() - {"ir/expr.py"}
