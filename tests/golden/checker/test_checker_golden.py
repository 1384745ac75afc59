"""Programs with what the checker says about them, good and bad.

`LMPPL_UPDATE_GOLDEN=1 pytest tests/golden/checker` writes the expected outputs afresh; read the
difference before committing it.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from lmppl.checker import check, describe
from lmppl.errors import LmpError, render
from lmppl.errors.explanations import codes
from lmppl.syntax import parse

HERE = Path(__file__).parent
UPDATE = os.environ.get("LMPPL_UPDATE_GOLDEN") == "1"
# Imported by other programs, and not programs themselves.
LIBRARIES = {"library.lmp", "circle.lmp"}
BAD = sorted(p for p in (HERE / "bad").glob("*.lmp") if p.name not in LIBRARIES)
GOOD = sorted(p for p in (HERE / "good").glob("*.lmp") if p.name not in LIBRARIES)


def compare(path: Path, found: str) -> None:
    expected = path.with_suffix(".out")
    if UPDATE:
        expected.write_text(found, encoding="utf-8")
    assert expected.exists(), f"run with LMPPL_UPDATE_GOLDEN=1 to write {expected.name}"
    assert found == expected.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", BAD, ids=lambda p: p.stem)
def test_bad_programs_are_refused_in_their_own_words(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    with pytest.raises(LmpError) as error:
        check(parse(source, path.name), base_dir=str(path.parent))
    compare(path, str(error.value) + "\n")


@pytest.mark.parametrize("path", GOOD, ids=lambda p: p.stem)
def test_good_programs_become_the_model_that_they_say(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    model, warnings = check(
        parse(source, path.name),
        base_dir=str(path.parent),
        pedantic=path.stem.startswith("pedantic"),
    )
    described = json.dumps(describe(model), indent=2, ensure_ascii=False)
    compare(path, render(warnings, {path.name: source}) + "\n" + described + "\n")


@pytest.mark.parametrize("path", BAD, ids=lambda p: p.stem)
def test_no_mistake_is_reported_twice(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    with pytest.raises(LmpError) as error:
        check(parse(source, path.name), base_dir=str(path.parent))
    places = [(each.code, each.span) for each in error.value.diagnostics]
    assert len(places) == len(set(places))


def test_every_code_of_the_checker_has_a_program_that_shows_it() -> None:
    shown = set()
    for path in HERE.glob("*/*.out"):
        shown |= set(re.findall(r"\[(LMP\d+)\]", path.read_text(encoding="utf-8")))
    # 13x are about values given by the host, and have their own tests.
    expected = {code for code in codes() if re.match(r"LMP(1[0-2]|2|3|5|6)\d", code)}
    assert expected <= shown, sorted(expected - shown)
    assert shown <= set(codes())
