"""The tables of the documentation say what the registries say, and its links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from lmppl.builtins import FACTORS, PLANNED
from lmppl.errors.explanations import codes
from lmppl.inference import METHODS
from tests.docs.blocks import PAGES, ROOT, name_of

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_tables", DOCS / "tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_tables_are_up_to_date(page: Path, tables: ModuleType) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == tables.renewed(text), "run `python docs/tables.py`"


def test_a_table_that_is_out_of_date_is_noticed(tables: ModuleType) -> None:
    page = "a\n<!-- table: methods -->\n\nold\n<!-- end of table -->\nb\n"
    renewed = tables.renewed(page)
    assert "old" not in renewed and "rejection" in renewed
    assert renewed.startswith("a\n") and renewed.endswith("-->\nb\n")


@pytest.mark.parametrize("method", [each.name for each in METHODS])
def test_every_method_has_a_page_with_its_options(method: str) -> None:
    page = (DOCS / "methods" / f"{method}.md").read_text(encoding="utf-8")
    assert f"<!-- table: options {method} -->" in page
    assert re.search(r"\d{4}\)", page), "name the paper"


def test_every_built_in_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "language.md").read_text(encoding="utf-8")
    for builtin in FACTORS:
        assert f"`{builtin.signature}`" in page, builtin.name
    for name in PLANNED:
        assert f"`{name}`" in page, name


def test_every_code_is_in_the_index() -> None:
    page = (DOCS / "reference" / "diagnostics.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(LMP\d{3})`", page)) == set(codes())


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page: Path) -> None:
    text = re.sub(r"^( *)```.*?^\1```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), target


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop().resolve()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        for target in re.findall(r"\]\(([^)#\s:]+\.md)[^)]*\)", page.read_text(encoding="utf-8")):
            waiting.append(page.parent / target)
    assert {name_of(page) for page in PAGES} - {name_of(page) for page in reached} == set()
