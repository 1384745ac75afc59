"""What docs/architecture.md says of rooms and of what holds their invariants is there."""

from __future__ import annotations

import re
import tomllib

from tests.docs.blocks import ROOT

TEXT = " ".join((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split())
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "importlinter"
]["contracts"]
INVARIANTS = re.findall(
    r"\*Invariant:\* (.*?)(?= - \*Invariant|\*\*|At the bottom|Everywhere)", TEXT
)


def test_every_invariant_says_what_holds_it() -> None:
    assert len(INVARIANTS) >= 30
    for each in INVARIANTS:
        held = re.findall(r"\((?:contracts? \*|`tests/|habit\))", each)
        assert held, each


def test_what_holds_them_is_there() -> None:
    for path in re.findall(r"`(tests/[\w/]+(?:\.py)?)`", TEXT):
        assert (ROOT / path).exists(), path
    named = {
        name
        for bracket in re.findall(r"\(contracts? ([^)]*)\)", TEXT)
        for name in re.findall(r"\*([^*]+)\*", bracket)
    }
    assert named and named <= {each["name"] for each in CONTRACTS}


def test_most_invariants_are_no_mere_habits() -> None:
    assert sum("(habit)" in each for each in INVARIANTS) * 5 <= len(INVARIANTS)


def test_every_room_is_described() -> None:
    rooms = PAGE[PAGE.index("## Rooms") : PAGE.index("Who may import whom")]
    for path in (ROOT / "lmppl").iterdir():
        name = path.stem
        if not name.startswith("_") and (path.is_dir() or path.suffix == ".py"):
            assert re.search(rf"`(?:lmppl/)?{name}`", rooms), name


def test_the_layers_are_those_that_are_checked() -> None:
    (checked,) = (each["layers"] for each in CONTRACTS if each.get("containers") == ["lmppl"])
    assert "".join(f"    {line}\n" for line in checked) in PAGE
