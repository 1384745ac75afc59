"""Nobody goes in circles, and who runs a program never looks at its text."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest

import lmppl

grimp = pytest.importorskip("grimp", reason="it comes with import-linter")

PACKAGE = Path(lmppl.__file__).parent


def circles(imports: Mapping[str, set[str]]) -> list[list[str]]:
    """The groups of modules each of which imports, by way of others, every other one."""
    reached: dict[str, set[str]] = {}
    for start in imports:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            for each in imports[waiting.pop()] - found:
                found.add(each)
                waiting.append(each)
        reached[start] = found
    groups = {
        tuple(sorted(each for each in reached[one] if one in reached[each]))
        for one in imports
        if one in reached[one]
    }
    return sorted(map(list, groups))


def imports_of(*, also_of_types: bool) -> dict[str, set[str]]:
    """What each module imports, also within functions, and where wanted for types only."""
    graph = grimp.build_graph(
        "lmppl", cache_dir=None, exclude_type_checking_imports=not also_of_types
    )
    return {
        module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules
    }


def test_a_circle_is_found_through_others() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_module_imports_itself_by_way_of_others_not_even_within_functions() -> None:
    assert circles(imports_of(also_of_types=False)) == []


def test_the_front_of_the_house_has_no_circles_of_types_either() -> None:
    front = ("lmppl.ir", "lmppl.syntax", "lmppl.checker", "lmppl.errors", "lmppl.inference")
    found = circles(imports_of(also_of_types=True))
    assert [each for each in found if any(name.startswith(front) for name in each)] == []


# What a saved posterior keeps of its program.
_KEEPS_THE_TEXT = {"density/reopening.py"}


def test_who_runs_a_program_never_reads_its_text() -> None:
    """Errors are drawn on `Model.sources`; what a term or a claim is called is its own `source`."""
    found = set()
    for room in ("density", "lowering", "inference", "posterior", "diagnostics"):
        for file in (PACKAGE / room).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and node.attr == "source":
                    owner = node.value
                    name = owner.attr if isinstance(owner, ast.Attribute) else None
                    name = owner.id if isinstance(owner, ast.Name) else name
                    if name in ("model", "compiled"):
                        found.add(file.relative_to(PACKAGE).as_posix())
    assert found == _KEEPS_THE_TEXT
