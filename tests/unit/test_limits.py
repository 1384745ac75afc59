"""What grows must grow in proportion: lets, imports, long sums; and nothing hangs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import lmppl
from lmppl.checker import check
from lmppl.checker.digests import model_digest
from lmppl.evaluation.constants import constant_value
from lmppl.evaluation.constraints import as_predicate
from lmppl.evaluation.ranges import expr_range
from lmppl.syntax import format_source, parse

MARKOV = {"tokens": ["a", "b", "."], "initial": [1, 1, 1], "transition": [[1, 1, 1]] * 3}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "p.json").write_text(json.dumps({**MARKOV, "eos": None}))
    return tmp_path


@contextmanager
def soon(seconds: float = 20.0) -> Iterator[None]:
    """Fails on what doubles with each line, not on a slow machine."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def model(*lines: str) -> str:
    body = "\n".join(f"    {line}" for line in lines)
    return (
        'model m(n: int = 3) {\n    text ~ markov("p.json", max_tokens=4)\n'
        f"{body}\n    return text\n}}\ninfer exact()\n"
    )


DOUBLING = {
    "sum": ("length(text)", "x{0} + x{0}", "factor x60 / 1e18"),
    "call": ("length(text)", "max(x{0}, x{0})", "factor x60 / 10"),
    "branch": ("length(text)", "if x{0} > 2 then x{0} else x{0}", "factor x60 / 10"),
    "parameter": ("n", "x{0} - x{0} + n", "factor if x60 > 0 then length(text) else 0"),
    "predicate": (
        'contains(text, "a")',
        'x{0} and starts_with(text, "a") or x{0} and finished(text) or x{0}',
        "require x60",
    ),
}


@pytest.mark.parametrize("kind", DOUBLING)
def test_lets_that_name_the_one_before_twice_cost_in_proportion(kind: str, here: Path) -> None:
    first, step, last = DOUBLING[kind]
    lets = [f"let x0 = {first}"]
    lets += [f"let x{i + 1} = {step.format(i)}" for i in range(60)]
    source = model(*lets, last)
    with soon():
        compiled = lmppl.compile(source, base_dir=here)
        compiled.describe()
        (potential,) = compiled.model.potentials
        if potential.kind == "factor":
            expr_range(potential.expr, compiled.model, {"n": 3})
        else:
            as_predicate(compiled.model, potential.expr, "text", {"n": 3})
        model_digest(compiled.model, {})
        post = lmppl.infer(compiled)
    assert len(post["text"]) == (65 if kind == "predicate" else 81)


def test_a_long_chain_of_lets_is_no_deep_recursion(here: Path) -> None:
    lets = ["let x0 = n", *(f"let x{i + 1} = x{i} + 1" for i in range(2000))]
    claims = ["let b0 = true", *(f"let b{i + 1} = b{i} and n > {-i}" for i in range(400))]
    with soon(60):
        compiled = lmppl.compile(
            model(*lets, *claims, "require b400 and length(text) <= x2000", "factor x2000 / 2000"),
            base_dir=here,
        )
        bound = compiled(n=3)
        last = compiled.model.let("x2000").expr
        assert constant_value(last, compiled.model, {"n": 3}) == 2003
        assert expr_range(last, compiled.model, {"n": 3}).upper == 2003.0
        post = lmppl.infer(bound)
    np.testing.assert_allclose(post.log_evidence.value, 2003 / 2000, rtol=1e-12)


def test_a_let_that_only_a_branch_needs_is_not_evaluated_elsewhere(here: Path) -> None:
    source = model(
        "let zero = n - 3",
        "let bad = 1 / zero",
        "let worse = bad + 1",
        "let value = if zero == 0 then 5 else worse",
        "factor value",
    )
    post = lmppl.infer(lmppl.compile(source, base_dir=here))
    np.testing.assert_allclose(post.log_evidence.value, 5.0, rtol=1e-12)


def test_a_sum_of_thousands_of_terms_is_fine(here: Path) -> None:
    terms = " + ".join(["length(text)"] * 1500)
    source = model(f"factor ({terms}) / 6000 - {' - '.join(['0.5'] * 1500)}")
    with soon(120):
        compiled = lmppl.compile(source, base_dir=here)
        post = lmppl.infer(compiled)
        formatted = format_source(source)
        assert post.expectation(terms).value == 6000.0
    np.testing.assert_allclose(post.log_evidence.value, 1 - 750.0, rtol=1e-12)
    assert lmppl.compile(formatted, base_dir=here).model.digest == compiled.model.digest


def test_thousands_of_conditions_are_fine(here: Path) -> None:
    words = " and ".join(f'not contains(text, "a{i}")' for i in range(1000))
    with soon(120):
        compiled = lmppl.compile(model(f"factor if {words} then 1 else 0"), base_dir=here)
        post = lmppl.infer(compiled)
    np.testing.assert_allclose(post.log_evidence.value, 1.0, rtol=1e-12)


def test_digests_of_sums_have_not_changed(here: Path) -> None:
    # Saved posteriors name the digest of their program.
    source = model("factor (length(text) + n * 2 - 1) / 4 + n")
    program, _ = check(parse(source), base_dir=str(here))
    assert program.digest.startswith("16c44afb1afa0285")


def test_imports_that_double_are_read_once(here: Path) -> None:
    for i in range(40):
        below = "".join(f'import "m{i + 1}.lmp" as {name}\n' for name in "ab")
        (here / f"m{i}.lmp").write_text(
            below + f"let x = {i}\nreward r(t: string): real = vader()\n"
        )
    (here / "m40.lmp").write_text("let x = 40\n")
    source = 'import "m0.lmp" as q\n' + model("factor q.x + q.r(text)")
    with soon():
        compiled = lmppl.compile(source, base_dir=here)
    assert list(compiled.model.rewards) == ["q.r"]


def test_a_mistake_in_a_file_imported_twice_is_reported_once(here: Path) -> None:
    (here / "bad.lmp").write_text("let x = y\n")
    source = 'import "bad.lmp" as a\nimport "bad.lmp" as b\n' + model("factor a.x + b.x")
    with pytest.raises(lmppl.LmpError) as caught:
        lmppl.compile(source, base_dir=here)
    assert [each.code for each in caught.value.diagnostics] == ["LMP202", "LMP101"]


def test_strings_that_double_are_refused_with_a_reason(here: Path) -> None:
    lines = ['let s0 = "0123456789"', *(f'let s{i + 1} = f"{{s{i}}}{{s{i}}}"' for i in range(60))]
    with soon(), pytest.raises(lmppl.LmpError, match="LMP028") as caught:
        lmppl.compile("\n".join(lines) + "\n" + model("factor length(text)"), base_dir=here)
    assert len(str(caught.value)) < 2_000
    inside = ["let s0 = text", *(f'let s{i + 1} = f"{{s{i}}}{{s{i}}}"' for i in range(60))]
    source = model(*inside, 'factor length(s60, unit="characters") / 1e20')
    compiled = lmppl.compile(source, base_dir=here)
    with soon(), pytest.raises(lmppl.LmpError, match="LMP920"):
        lmppl.infer(compiled)


def test_words_of_megabytes_and_huge_orders_are_refused_with_a_reason(here: Path) -> None:
    (here / "word.txt").write_text("a" * 10_000_000)
    source = 'let w = file("word.txt", format="lines")\n' + model("require never(text, w)")
    with soon(), pytest.raises(lmppl.LmpError, match="LMP028") as caught:
        lmppl.compile(source, base_dir=here)
    assert len(str(caught.value)) < 2_000
    source = model("factor 0 * length(text)").replace("markov", "ngram")
    source = source.replace("max_tokens=4", "order=1000000000, max_tokens=4")
    with soon(), pytest.raises(lmppl.LmpError, match="LMP106"):
        lmppl.compile(source, base_dir=here)


@pytest.mark.parametrize("alphabet", ["", "$", '"', "{[(", "ab (=~"])
def test_the_report_of_garbage_is_short(alphabet: str) -> None:
    rng = np.random.Generator(np.random.PCG64(3))
    letters = alphabet or "".join(map(chr, range(32, 127)))
    garbage = "".join(rng.choice(list(letters), 400_000))
    for source in (garbage, "\n".join(garbage[i : i + 40] for i in range(0, 40_000, 40))):
        with soon(100), pytest.raises(lmppl.LmpError) as caught:
            lmppl.compile(source)
        assert len(str(caught.value)) < 30_000


def test_deep_brackets_are_a_typed_error() -> None:
    for source in ("(" * 100_000, f"let a = {'(' * 5000}1{')' * 5000}", "[" * 50_000 + "1"):
        with soon(60), pytest.raises(lmppl.LmpError):
            lmppl.compile(source)


def test_half_a_character_in_a_program_is_a_typed_error() -> None:
    with pytest.raises(lmppl.LmpError, match="LMP023"):
        lmppl.compile('model m() { x ~ categorical(["\ud800", "b"]) return x }')


def test_what_reorders_a_line_is_warned_of_and_never_printed(here: Path) -> None:
    source = 'let s = "\u202e"  # \u2066\n' + model("factor if contains(text, s) then 1 else 0")
    warnings = lmppl.compile(source, base_dir=here).check()
    assert [each.code for each in warnings if each.code != "LMP202"] == ["LMP137", "LMP137"]
    (here / "lib.lmp").write_text('let s = "\u202e"\n', encoding="utf-8")
    imported = 'import "lib.lmp" as q\n' + model("factor if contains(text, q.s) then 1 else 0")
    warnings = lmppl.compile(imported, base_dir=here).check()
    assert [each.code for each in warnings if each.code != "LMP202"] == ["LMP137"]
    with pytest.raises(lmppl.LmpError) as caught:
        lmppl.compile(source.replace("factor", "fac\x1b[2Jtor"), base_dir=here)
    assert not {"\u202e", "\u2066", "\x1b"} & set(str(caught.value))


def test_a_chain_of_imports_is_refused_before_it_is_too_deep(here: Path) -> None:
    for i in range(400):
        (here / f"m{i}.lmp").write_text(f'import "m{i + 1}.lmp" as a\nlet x = a.x\n')
    (here / "m400.lmp").write_text("let x = 1\n")
    for first, code in ((0, "LMP118"), (360, None)):
        source = f'import "m{first}.lmp" as q\n' + model("factor q.x")
        if code is None:
            lmppl.compile(source, base_dir=here)
            continue
        with soon(), pytest.raises(lmppl.LmpError, match=code):
            lmppl.compile(source, base_dir=here)


def test_links_give_a_file_many_names_and_it_is_read_once(here: Path) -> None:
    (here / "self").symlink_to(here)
    for i in range(30):
        (here / f"m{i}.lmp").write_text(
            f'import "m{i + 1}.lmp" as a\nimport "self/m{i + 1}.lmp" as b\nlet x = a.x + b.x\n'
        )
    (here / "m30.lmp").write_text("let x = 1\n")
    with soon():
        lmppl.compile('import "m0.lmp" as q\n' + model("factor q.x"), base_dir=here)


LISTS = {
    "requirements": "\n".join(f'require never(text, "w{i}")' for i in range(1_000)),
    "both ways": "\n".join(
        f'require {"never" if i % 2 else "contains"}(text, "w{i}x")' for i in range(400)
    ),
    "a word that repeats itself": f'require never(text, "{"x" * 9_000}")',
    "a text that repeats itself": 'let a = "x" require never(text, f"' + "{a}" * 5_000 + '")',
    "answers": "require text in [" + ", ".join(f'"w{i}"' for i in range(5_000)) + "]",
    "values": "x ~ categorical([" + ", ".join(f'"w{i}"' for i in range(20_000)) + "])",
    "choices that nothing uses": "\n".join(f"x{i} ~ bernoulli(0.5)" for i in range(1_000)),
}


@pytest.mark.parametrize("kind", LISTS)
def test_long_lists_are_checked_in_proportion(here: Path, kind: str) -> None:
    with soon(40.0):
        lmppl.compile(model(LISTS[kind]), base_dir=here)


def test_a_contradiction_is_found_among_many_requirements(here: Path) -> None:
    lines = [f'require never(text, "w{i}")' for i in range(60)]
    with pytest.raises(lmppl.LmpError, match="LMP303"):
        lmppl.compile(model(*lines, 'require contains(text, "w7")'), base_dir=here)


def test_mistakes_among_many_names_cost_little_each(here: Path) -> None:
    lets = [f"let abcdefgh{i} = {i}" for i in range(2_000)]
    factors = [f"factor abcdefgz{i}" for i in range(200)]
    with soon(40.0), pytest.raises(lmppl.LmpError) as caught:
        lmppl.compile(model(*lets, *factors), base_dir=here)
    helps = [each.help or "" for each in caught.value.diagnostics if each.code == "LMP101"]
    assert len(helps) == 200 and all("abcdefgh" in each for each in helps)
