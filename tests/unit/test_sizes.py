"""No file and no class of lmppl is longer than one can hold in one's head."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def sizes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sizes", ROOT / "scripts" / "sizes.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look for the module that they are made in.
    sys.modules["sizes"] = module
    spec.loader.exec_module(module)
    return module


def test_files_and_classes_are_as_short_as_they_are_to_be(sizes: ModuleType) -> None:
    found = sizes.sizes_of(ROOT / "lmppl")
    assert found.median <= sizes.MEDIAN
    assert {name: n for name, n in found.files.items() if n > sizes.FILE} == {}
    assert {name: n for name, n in found.classes.items() if n > sizes.CLASS} == {}


def test_lines_are_counted_with_decorators_and_nested_classes(
    sizes: ModuleType, tmp_path: Path
) -> None:
    package = tmp_path / "lmppl"
    package.mkdir()
    (package / "__init__.py").write_text("")
    text = "import abc\n\n\n@abc.abstractmethod\n@print\nclass A:\n    class B:\n        x = 1\n"
    (package / "a.py").write_text(text)
    found = sizes.sizes_of(package)
    assert found.files == {"lmppl/__init__.py": 0, "lmppl/a.py": 8}
    assert found.classes == {"lmppl/a.py: A": 5, "lmppl/a.py: B": 2}
    assert found.median == 8
    assert "2 files, 8 lines, median 8" in sizes.table(found)[0]
