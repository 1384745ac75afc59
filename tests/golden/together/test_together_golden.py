"""Programs with mistakes of syntax and of meaning: all are reported in one go, and none twice.

`LMPPL_UPDATE_GOLDEN=1 pytest tests/golden/together` writes the expected outputs afresh.
"""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path

import pytest

import lmppl
from lmppl.errors import LmpError
from lmppl.syntax.scanner import scan

HERE = Path(__file__).parent
UPDATE = os.environ.get("LMPPL_UPDATE_GOLDEN") == "1"
RIGHT = sorted((HERE.parent / "checker" / "good").glob("[cpu]*.lmp"))


def errors_of(source: str, base_dir: Path) -> LmpError | None:
    try:
        lmppl.compile(source, base_dir=base_dir)
    except LmpError as error:
        return error
    return None


@pytest.mark.parametrize("path", sorted(HERE.glob("*.lmp")), ids=lambda p: p.stem)
def test_mistakes_of_syntax_hide_no_mistakes_of_meaning(path: Path) -> None:
    found = errors_of(path.read_text(encoding="utf-8"), HERE)
    assert found is not None
    places = [(each.code, each.span) for each in found.diagnostics]
    assert len(places) == len(set(places))
    expected = path.with_suffix(".out")
    if UPDATE:
        expected.write_text(str(found) + "\n", encoding="utf-8")
    assert str(found) + "\n" == expected.read_text(encoding="utf-8")
    assert str(pickle.loads(pickle.dumps(found))) == str(found)


@pytest.mark.parametrize("path", RIGHT, ids=lambda p: p.stem)
def test_a_right_program_with_a_hole_in_it_has_no_mistakes_of_meaning(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert errors_of(source, path.parent) is None
    random_ = random.Random(path.stem)
    tokens = scan(source).tokens
    num_broken = 0
    for token in random_.sample(tokens, min(60, len(tokens))):
        # A sign that is gone breaks the syntax or, rarely, nothing; a name stays what it was.
        if token.type in ("NAME", "INT", "FLOAT", "MINUS"):
            continue
        found = errors_of(source[: token.start_pos] + " " + source[token.end_pos :], path.parent)
        if found is None or all(each.code >= "LMP100" for each in found.diagnostics):
            continue
        num_broken += 1
        meaning = [each for each in found.diagnostics if each.code >= "LMP100"]
        assert not meaning, (token, str(found))
    assert num_broken > 10
