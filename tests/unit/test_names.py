"""No built-in and no method is known by its name outside its own file.

A comparison with a name is a special case that the next built-in will miss: what is special about
one is a trait of its descriptor. Docstrings, and the types in `Literal[…]`, may say names, and a
built-in or a method is called by its own in one place.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

import lmppl
from lmppl.builtins import FACTORS
from lmppl.builtins.statistics import STATISTICS
from lmppl.inference.methods import METHODS
from lmppl.posterior.expectation import MEAN, PROBABILITY, QUANTILE, STD, Statistic

PACKAGE = Path(lmppl.__file__).parent
NAMES = {each.name for each in FACTORS} | {each.name for each in METHODS}

# Strings that are no names of built-ins, however they look: what they are, and where.
_STATISTIC = "a statistic of the posterior, which Python callers ask for by its name"
_SALT = "what tells the digests of scores apart, also those of results that were saved"
SOMETHING_ELSE: dict[str, tuple[str, tuple[str, ...]]] = {
    "exact": ("a kind of estimate; a fact about constraints", (
        "posterior/estimate.py", "posterior/arithmetic.py", "density/steering/requirements.py",
    )),
    "lm": ("the word after `extern`", (
        "syntax/grammar.py", "syntax/building/items.py", "checker/scope.py", "ir/model.py",
    )),
    "chat": ("the kind of a type", ("ir/types.py",)),
    "never": ("the English word, and a word of tokenizers", (
        "checker/operators.py", "lm/tokenization.py",
    )),
    "length": ("the end of `min_length` and its kin", ("checker/types.py",)),
    "finished": ("the key of a column of texts", (
        "density/reopening.py", "density/stages/text_batch.py", "posterior/shapes.py",
    )),
    "mean": (f"{_STATISTIC}; a way to reduce scores of words", (
        "posterior/expectation.py", "builtins/sources/lexicon.py",
    )),
    "probability": (_STATISTIC, ("posterior/expectation.py",)),
    "quantile": (_STATISTIC, ("posterior/expectation.py",)),
    "std": (_STATISTIC, ("posterior/expectation.py",)),
    "count": (_SALT, ("rewards/texts.py",)),
    "lexicon": (_SALT, ("rewards/texts.py",)),
    "ensemble": (_SALT, ("rewards/ensemble.py",)),
    "vader": (_SALT, ("rewards/vader.py",)),
    "log_prob": ("the key of a site in Pyro", (
        "inference/svi/engine.py", "lowering/objective.py",
    )),
    "smc": ("an option of mcmc", ("inference/mcmc/__init__.py",)),
}  # fmt: skip


def names_in(source: str) -> Iterator[tuple[int, str]]:
    """The lines and the names of built-ins and methods that stand as strings in a module.

    But for what is called so: `name="never"` of a built-in, and `name: ClassVar[str]` of a method.
    """
    tree = ast.parse(source)
    passed_over: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("Literal"):
            passed_over.update(id(each) for each in ast.walk(node.slice))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            passed_over.add(id(node.value))
        elif isinstance(node, ast.keyword) and node.arg == "name":
            passed_over.add(id(node.value))
        elif isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "name":
            passed_over.add(id(node.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in passed_over and node.value in NAMES:
            yield node.lineno, node.value


def found() -> dict[tuple[str, str], list[int]]:
    """The lines in which a name stands, by file and name."""
    lines: dict[tuple[str, str], list[int]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        for line, name in names_in(file.read_text(encoding="utf-8")):
            where = str(file.relative_to(PACKAGE))
            lines.setdefault((where, name), []).append(line)
    return lines


def test_no_name_of_a_built_in_or_a_method_stands_outside_its_own_file() -> None:
    unexplained = {
        f"{file}:{','.join(map(str, lines))}": name
        for (file, name), lines in found().items()
        if file not in SOMETHING_ELSE.get(name, ("", ()))[1]
    }
    assert unexplained == {}


def test_what_callers_ask_a_posterior_for_are_the_statistics_of_the_language() -> None:
    assert set(get_args(Statistic)) == {each.name for each in STATISTICS}
    assert {MEAN, PROBABILITY, QUANTILE, STD} == set(get_args(Statistic))


def test_every_exception_is_still_needed() -> None:
    standing = set(found())
    needless = [
        (file, name)
        for name, (_, files) in SOMETHING_ELSE.items()
        for file in files
        if (file, name) not in standing
    ]
    assert needless == []


@pytest.mark.parametrize(
    "source",
    [
        'if call.function == "never":\n    pass',
        'match kind:\n    case "lm" | "ngram":\n        pass',
        '_VARIADIC = frozenset({"min", "max"})',
        'def f(method="smc"):\n    pass',
    ],
)
def test_a_name_is_noticed(source: str) -> None:
    assert list(names_in(source))


def test_docstrings_and_types_may_say_names() -> None:
    source = '"never"\nfrom typing import Literal\nkind: Literal["mean", "std"]\n'
    assert list(names_in(source)) == []
