"""Every code has a page, and its examples do what the page says: the wrong one raises the code.

A page is prose, then `## Wrong` and `## Right`. Each is tried in an empty directory, after the
blocks that stand before both: a block with a file name is written to that file, other `python` is
run, and a program that comes last is loaded and, where the code is one of inference or of the run,
inferred.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import lmppl
from lmppl.errors import LmpError
from lmppl.errors.explanations import codes, explanation
from tests.docs.blocks import ROOT, Block, blocks_in

# Codes whose pages have no examples, and say why in a comment. Nothing else may be added lightly.
WITHOUT_EXAMPLES = {"LMP904", "LMP933"}
_MENTIONED = re.compile(r"""["'](LMP[0-9]{3})["']""")
_REASON = re.compile(r"<!-- no example: .{20,}? -->", re.DOTALL)


def sections(code: str) -> dict[str, list[Block]]:
    """The blocks of a page by the heading that they stand under; "" for those before any."""
    page = explanation(code)
    assert page is not None
    before, *parts = re.split(r"^## (.+)$", page.text, flags=re.MULTILINE)
    found = dict(zip(parts[::2], map(blocks_in, parts[1::2]), strict=True))
    return {"": blocks_in(before), **found}


def codes_of(code: str, blocks: list[Block], place: Path) -> list[str]:
    """The codes of all that is wrong with an example, in the order in which it is found."""
    try:
        model = None
        for block in blocks:
            if block.file is not None:
                (place / block.file).write_text(block.body, encoding="utf-8")
            elif block.language == "python":
                names: dict[str, Any] = {}
                exec(compile(block.body, f"{code}.md", "exec"), names)
                model = names.get("model")
        if blocks[-1].language == "lmp":
            (place / "program.lmp").write_text(blocks[-1].body, encoding="utf-8")
            model = lmppl.load(place / "program.lmp", pedantic=code.startswith("LMP6"))
            if code.startswith(("LMP4", "LMP9")):
                lmppl.infer(model)
        return [] if model is None else [each.code for each in model.check()]
    except LmpError as error:
        return [each.code for each in error.diagnostics]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_code_that_can_be_raised_has_a_page_and_every_page_is_of_such_a_code() -> None:
    raised = {
        code
        for file in (ROOT / "lmppl").rglob("*.py")
        for code in _MENTIONED.findall(file.read_text(encoding="utf-8"))
    }
    assert raised == set(codes())


@pytest.mark.parametrize("code", codes())
def test_a_page_is_well_formed(code: str) -> None:
    page = explanation(code)
    assert page is not None and page.code == code
    assert not page.title.endswith(".")
    assert all(len(line) <= 100 for line in page.text.splitlines())
    parts = list(sections(code))
    assert parts == ([""] if code in WITHOUT_EXAMPLES else ["", "Wrong", "Right"])
    assert bool(_REASON.search(page.text)) == (code in WITHOUT_EXAMPLES)


@pytest.mark.parametrize("code", sorted(set(codes()) - WITHOUT_EXAMPLES))
def test_the_wrong_example_of_a_page_raises_its_code(code: str, place: Path) -> None:
    parts = sections(code)
    assert set(codes_of(code, parts[""] + parts["Wrong"], place)) == {code}


@pytest.mark.parametrize("code", sorted(set(codes()) - WITHOUT_EXAMPLES))
def test_the_right_example_of_a_page_has_nothing_wrong(code: str, place: Path) -> None:
    parts = sections(code)
    assert codes_of(code, parts[""] + parts["Right"], place) == []
