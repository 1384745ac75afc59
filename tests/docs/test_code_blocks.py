"""Every code block of the README and the documentation runs."""

from __future__ import annotations

import doctest
import math
import re
import shlex
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import lmppl
from lmppl.cli import main
from lmppl.errors import LmpError
from tests.docs.blocks import PAGES, ROOT, Block, blocks_of, name_of

every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)
SHOWN = {"", "text", "json"}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory with a copy of the examples, from where their modules are imported."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "examples":
            del sys.modules[name]


@every_page
def test_the_code_of_a_page_runs(
    page: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = types.ModuleType("page")
    for block in blocks_of(page):
        where = f"{name_of(page)}:{block.line}"
        printed = capsys.readouterr().out
        # What belongs to a file is a step of a recipe (test_recipes.py).
        if block.mark == "not run" or block.file is not None:
            continue
        if block.mark == "output":
            assert differences(block.body, printed) == [], where
            continue
        match block.language:
            case "python":
                exec(compile("\n" * block.line + block.body, where, "exec"), module.__dict__)
            case "sh":
                _run_commands(block, where)
            case "lmp":
                _check_program(block, workplace, where)
            case language:
                assert language in SHOWN, f"{where}: who runs a block of {language}?"


def differences(shown: str, printed: str) -> list[str]:
    """What a page shows of a run and a run does not print.

    Other processors round otherwise, and one token drawn differently changes a text; so where the
    texts are not the same, the lines that are left must be, and estimates must agree within five
    of their standard errors.
    """
    if shown == printed:
        return []
    ours, theirs = _summary_of(shown), _summary_of(printed)
    if ours.keys() != theirs.keys():
        return sorted(ours.keys() ^ theirs.keys())
    found = []
    for name, (value, error) in ours.items():
        other, other_error = theirs[name]
        if abs(value - other) > 5 * math.hypot(error, other_error):
            found.append(f"{name}: {value} is shown, {other} is printed")
    return found


_ESTIMATE = re.compile(r"(-?[\d.]+) ± ([\d.]+)")


def _summary_of(text: str) -> dict[str, tuple[float, float]]:
    """The heading and every line of the summary by its name, with the estimate that is in it."""
    heading, _, rest = text.partition("\n\n")
    summary = rest.partition("\n\n")[2]
    rows = {heading: (0.0, 0.0)}
    for line in filter(None, summary.splitlines()):
        estimate = _ESTIMATE.search(line)
        numbers = (float(estimate[1]), float(estimate[2])) if estimate else (0.0, 0.0)
        rows[re.split(r"  +", line)[0]] = numbers
    return rows


def _run_commands(block: Block, where: str) -> None:
    for line in block.body.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        match words:
            case []:
                continue
            case ["lmppl", *arguments]:
                assert main(arguments) == 0, f"{where}: {line}"
            case ["sh", script, *_]:
                # Running the set-up or the tests from within the tests would never end.
                assert (ROOT / script).is_file(), f"{where}: {line}"
            case _:
                pytest.fail(f"{where}: who runs {line!r}? Say `<!-- not run: why -->`")


def _check_program(block: Block, workplace: Path, where: str) -> None:
    if block.mark != "refused":
        assert not lmppl.compile(block.body, base_dir=workplace / "examples").check(), where
        return
    with pytest.raises(LmpError) as failure:
        lmppl.compile(block.body, base_dir=workplace / "examples")
    codes = {each.code for each in failure.value.diagnostics if each.severity == "error"}
    assert codes == {block.note}, where


@every_page
def test_the_sessions_of_a_page_give_what_they_show(page: Path, workplace: Path) -> None:
    text = page.read_text(encoding="utf-8")
    session = doctest.DocTestParser().get_doctest(text, {}, name_of(page), str(page), 0)
    assert doctest.DocTestRunner().run(session).failed == 0


@every_page
def test_a_block_that_is_not_run_says_why(page: Path) -> None:
    for block in blocks_of(page):
        if block.mark in ("not run", "refused"):
            assert block.note, f"{name_of(page)}:{block.line}"


def _blocks_in(text: str, tmp_path: Path) -> list[Any]:
    page = tmp_path / "page.md"
    page.write_text(text)
    return blocks_of(page)


def test_blocks_are_found_with_their_marks(tmp_path: Path) -> None:
    found = _blocks_in(
        "a\n\n```python\nx = 1\n```\n\n<!-- not run: no reason -->\n```sh\nrm\n```\n"
        "- item\n\n  <!-- refused: LMP230 -->\n  ```lmp\n  y\n  ```\n",
        tmp_path,
    )
    assert [(b.language, b.body, b.mark, b.note) for b in found] == [
        ("python", "x = 1\n", None, None),
        ("sh", "rm\n", "not run", "no reason"),
        ("lmp", "y\n", "refused", "LMP230"),
    ]


RUN = """\
smc of m: 2 draws

all 2 draws:
  weight  text
  0.5     a

log evidence           3.0 ± 0.1 (unbiased in Z)
effective sample size  2.0 of 2 draws
"""


def test_output_that_differs_by_more_than_its_errors_is_noticed() -> None:
    assert differences(RUN, RUN) == []
    assert differences(RUN, RUN.replace("3.0 ±", "3.4 ±").replace("  a", "  b")) == []
    assert differences(RUN, RUN.replace("3.0 ±", "4.0 ±"))
    assert differences(RUN, RUN.replace("effective sample size", "ess"))
    assert differences(RUN, RUN.replace("smc of m", "importance of m"))
