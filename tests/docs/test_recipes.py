"""Whoever follows a recipe of docs/contributing to the letter gets what it promises.

In a copy of the repository a block with a file name is appended to that file, which may be new; a
`diff` changes what it shows of the file; and what stands under `sh` is run. Without the line that
lists what is added it fails. So it does without any other block, which takes some minutes to try:
LMPPL_EVERY_STEP=1 does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, Block, blocks_of, name_of

NEEDED = ("lmppl", "grammar", "tests", "examples", "docs", "README.md", "CONTRIBUTING.md")
CONFIGURED = ("pyproject.toml", "constraints.txt")


def steps_of(page: Path) -> list[Block]:
    return [each for each in blocks_of(page) if each.file is not None]


RECIPES = {
    path.stem: path for path in sorted((ROOT / "docs/contributing").glob("*.md")) if steps_of(path)
}
LEFT_OUT = [
    pytest.param(path, step, id=f"{name}-{each.file}")
    for name, path in RECIPES.items()
    for step, each in enumerate(steps_of(path))
    if each.language == "diff" or os.environ.get("LMPPL_EVERY_STEP")
]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in (*NEEDED, *CONFIGURED):
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, tmp_path / name, ignore=ignored)
        else:
            shutil.copy(source, tmp_path / name)
    return tmp_path


def follow(page: Path, copy: Path, without: int | None = None, forgotten: str = "") -> list[str]:
    """What the first command that failed says; nothing when all went well.

    One step is left out, or a piece of what is written.
    """
    for number, step in enumerate(steps_of(page)):
        assert step.file is not None
        file = copy / step.file
        if number != without:
            before = file.read_text(encoding="utf-8") if file.exists() else ""
            body = step.body.replace(forgotten, "")
            after = changed(before, body) if step.language == "diff" else body
            if before and step.language != "diff":
                after = before + "\n\n" + after
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(after, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    commands = [each for each in blocks_of(page) if each.language == "sh" and each.file is None]
    assert commands, f"{name_of(page)} promises nothing"
    for block in commands:
        for line in block.body.replace("\\\n", " ").splitlines():
            done = subprocess.run(
                line, shell=True, cwd=copy, env=environment, capture_output=True, text=True
            )
            if done.returncode != 0:
                return [line, done.stdout, done.stderr]
    return []


def changed(text: str, diff: str) -> str:
    """The text with every hunk of a diff applied; hunks stand apart by a line `@@`."""
    for hunk in diff.split("@@\n"):
        lines = [(line[:1], line[1:]) for line in hunk.splitlines()]
        old = "".join(f"{line}\n" for mark, line in lines if mark != "+")
        new = "".join(f"{line}\n" for mark, line in lines if mark != "-")
        assert text.count(old) == 1, f"the file has {text.count(old)} times:\n{old}"
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize("page", RECIPES.values(), ids=RECIPES)
def test_a_recipe_followed_to_the_letter_gives_what_it_promises(page: Path, copy: Path) -> None:
    assert follow(page, copy) == []


@pytest.mark.parametrize(("page", "step"), LEFT_OUT)
def test_a_recipe_without_one_of_its_steps_is_noticed(page: Path, step: int, copy: Path) -> None:
    assert follow(page, copy, without=step) != []


def test_a_predicate_that_is_followed_by_no_automaton_is_noticed(copy: Path) -> None:
    """It is right all the same, and the recipe promises more: that tokens are masked."""
    line, said, _ = follow(RECIPES["add-a-factor"], copy, forgotten="    automaton=automaton,\n")
    assert "pytest" in line and "num_dead" in said
