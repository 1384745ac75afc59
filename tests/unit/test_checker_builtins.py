"""Every built-in that is listed in FACTORS is enrolled here by being listed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lmppl.builtins import FACTORS, PLANNED, Builtin
from lmppl.checker import check
from lmppl.errors import LmpError
from lmppl.ir.types import CHAT, UNCERTAIN
from lmppl.syntax import parse

REWARDS = """
extern reward sentiment(t: string): real<lower=-1, upper=1>
extern reward score(t: string): real<lower=-5, upper=5>
extern reward kind(t: string): real
extern reward funny(t: string): real
extern reward probability_of_kindness(t: string): real<lower=0, upper=1>
extern reward helpful(t: string): uncertain
"""
TEXT = 'text ~ lm("builtin:stories", prompt=question, max_tokens=40)'


def program_of(builtin: Builtin) -> str:
    """A program around the example of a built-in."""
    parameters = "question: string, beta: real<lower=0> = 1"
    if builtin.kind == "source":
        example = builtin.example.replace("reward ", "reward example_of_", 1)
        called = example.removeprefix("reward ").split("(")[0]
        arguments = "question, text" if "q: string" in example else "text"
        value = f"{called}({arguments})"
        value = f"mean({value})" if builtin.result == UNCERTAIN else value
        return f"{example}\nmodel m({parameters}) {{ {TEXT} factor {value} return text }}"
    if builtin.kind == "distribution" or builtin.result == CHAT:
        return f"{REWARDS}\nmodel m({parameters}) {{ {builtin.example} }}"
    lets = "let h = helpful(text)"
    last = "" if builtin.example.startswith("return") else "return text"
    return f"{REWARDS}\nmodel m({parameters}) {{ {TEXT} {lets} {builtin.example} {last} }}"


def identity(builtin: Builtin) -> str:
    return f"{builtin.kind}-{builtin.name}"


@pytest.mark.parametrize("builtin", FACTORS, ids=identity)
def test_the_example_of_a_built_in_is_a_program_that_uses_it(
    builtin: Builtin, tmp_path: Path
) -> None:
    for name in ("prior.json", "corpus.txt", "warmth.tsv"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    source = program_of(builtin)
    assert f"{builtin.name}(" in builtin.example
    check(parse(source), base_dir=str(tmp_path))


@pytest.mark.parametrize("builtin", FACTORS, ids=identity)
def test_an_argument_too_many_or_misspelt_is_refused(builtin: Builtin, tmp_path: Path) -> None:
    for name in ("prior.json", "corpus.txt", "warmth.tsv"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    call = f"{builtin.name}("
    start = builtin.example.index(call) + len(call)
    rest = builtin.example[start:]
    depth, end = 1, 0
    while depth:
        depth += {"(": 1, ")": -1}.get(rest[end], 0)
        end += 1
    inside = rest[: end - 1]
    broken = (
        builtin.example[:start] + inside + (", " if inside else "") + "zzqq=1" + rest[end - 1 :]
    )
    source = program_of(builtin).replace(builtin.example, broken)
    if builtin.kind == "source":
        name = broken.replace("reward ", "reward example_of_", 1)
        source = program_of(builtin).replace(
            builtin.example.replace("reward ", "reward example_of_", 1), name
        )
    with pytest.raises(LmpError) as error:
        check(parse(source), base_dir=str(tmp_path))
    assert "LMP109" in {each.code for each in error.value.diagnostics}


def test_names_are_listed_once_per_kind() -> None:
    keys = [(each.kind, each.name) for each in FACTORS]
    assert len(keys) == len(set(keys))
    assert not set(PLANNED) & {each.name for each in FACTORS}


def test_defaults_and_choices_agree_with_the_types_of_arguments() -> None:
    for builtin in FACTORS:
        for argument in builtin.arguments:
            assert (
                argument.required
                or argument.default is None
                or (not argument.choices or argument.default in argument.choices)
            ), (builtin.name, argument.name)
            if isinstance(argument.default, (int, float)) and not isinstance(
                argument.default, bool
            ):
                assert argument.allows(argument.default), (builtin.name, argument.name)


def test_the_registry_loads_no_tensor_library() -> None:
    code = (
        "import sys, lmppl.builtins, lmppl.evaluation.constraints, lmppl.evaluation.facts;"
        "print([m for m in ('torch', 'numpy', 'transformers', 'pyro') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
