"""A method is known by its folder only: no other code compares its name or imports it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lmppl
from lmppl.inference import METHODS

ROOT = Path(lmppl.__file__).parent
INFERENCE = ROOT / "inference"
NAMES = frozenset(method.name for method in METHODS)
# A word of its own: a kind of estimate, and of automaton, is exact too.
ALSO_A_WORD = {
    "exact": {
        "posterior/estimate.py",
        "posterior/arithmetic.py",
        "density/steering/requirements.py",
    }
}


def folder_of(path: Path) -> str | None:
    """The method that a file belongs to."""
    parts = path.relative_to(ROOT).parts
    own = parts[0] == "inference" and len(parts) > 2 and parts[1] in NAMES
    return parts[1] if own else None


def names_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Literals that are the name of a method, but for what is compared to a kind, and words of
    an option that says what it means by them."""
    words = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and "kind" in ast.unparse(node.left):
            words |= {id(each) for each in ast.walk(node)}
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "option":
            words |= {id(each) for each in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in NAMES and id(node) not in words:
            yield node.lineno, str(node.value)


@pytest.mark.parametrize("room", sorted(p.name for p in ROOT.iterdir() if p.is_dir()))
def test_no_name_of_a_method_is_written_outside_its_folder(room: str) -> None:
    found = []
    for path in sorted((ROOT / room).rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        for line, name in names_in(ast.parse(path.read_text(encoding="utf-8"))):
            if name != folder_of(path) and place not in ALSO_A_WORD.get(name, ()):
                found.append(f"{place}:{line}: {name}")
    assert found == []


def test_no_name_of_a_method_is_written_in_the_flow() -> None:
    for path in ROOT.glob("*.py"):
        assert list(names_in(ast.parse(path.read_text(encoding="utf-8")))) == [], path


def test_the_criterion_sees_a_name_that_is_compared() -> None:
    assert list(names_in(ast.parse('x = method == "smc"')))
    assert list(names_in(ast.parse('if method in ("exact", "rejection"): pass')))
    assert not list(names_in(ast.parse('estimate.kind == "exact"')))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_methods_do_not_import_each_other(method: type) -> None:
    folder = INFERENCE / method.name
    assert method.__module__ == f"lmppl.inference.{method.name}" and folder.is_dir()
    others = {f"lmppl.inference.{name}" for name in NAMES - {method.name}}
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = []
            if isinstance(node, ast.ImportFrom) and node.module:
                imported = [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
            elif isinstance(node, ast.Import):
                imported = [each.name for each in node.names]
            for name in imported:
                assert not any(name == each or name.startswith(f"{each}.") for each in others), path
