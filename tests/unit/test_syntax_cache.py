"""The parser tables on disk: fast, private, and never in the way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lmppl import caches
from lmppl.syntax import grammar, parse


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache directory in force; the tables of the process is put back afterwards."""
    place = tmp_path / "cache"
    monkeypatch.setenv("LMPPL_CACHE_DIR", str(place))
    yield place
    grammar.tables.cache_clear()


def fresh_tables() -> object:
    grammar.tables.cache_clear()
    return grammar.tables()


def test_the_tables_are_written_once_and_read_afterwards(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh_tables()
    (file,) = directory.iterdir()
    monkeypatch.setattr(grammar, "build_tables", lambda: pytest.fail("built again"))
    fresh_tables()
    assert [file] == list(directory.iterdir())


def test_a_damaged_cache_is_replaced(directory: Path) -> None:
    fresh_tables()
    (file,) = directory.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    fresh_tables()
    assert parse("let a = 1").lets
    assert caches.load(file, grammar._read) is not None


def test_a_directory_that_others_can_write_is_not_trusted(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o777)
    assert fresh_tables() is not None
    assert list(directory.iterdir()) == []


def test_an_unwritable_place_only_costs_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    monkeypatch.setenv("LMPPL_CACHE_DIR", str(blocked / "below"))
    assert fresh_tables() is not None
    grammar.tables.cache_clear()


def test_readers_never_see_half_a_file(directory: Path) -> None:
    built = grammar._written(grammar.build_tables())
    file = directory / "grammar.json"
    assert caches.save(file, built)

    def write(_: int) -> bool:
        return caches.save(file, built)

    def read(_: int) -> bool:
        return caches.load(file, grammar._read) is not None

    with ThreadPoolExecutor(4) as pool:
        outcomes = [*pool.map(write, range(8)), *pool.map(read, range(8))]
        mixed = [pool.submit(job, 0) for _ in range(6) for job in (write, read)]
        assert all(outcomes) and all(each.result() for each in mixed)
    assert os.listdir(directory) == ["grammar.json"]


def test_the_name_of_the_file_depends_on_the_grammar(monkeypatch: pytest.MonkeyPatch) -> None:
    before = grammar._digest()
    monkeypatch.setattr(grammar, "grammar_text", lambda: "other")
    assert grammar._digest() != before


def test_cached_tables_load_within_sixty_milliseconds(directory: Path) -> None:
    fresh_tables()
    (file,) = directory.iterdir()
    seconds = []
    for _ in range(5):
        start = time.process_time()
        assert caches.load(file, grammar._read) is not None
        seconds.append(time.process_time() - start)
    start = time.process_time()
    assert len([None for _ in range(1_000_000)]) == 1_000_000
    # On a machine that is busy with other things, everything takes longer.
    slowness = max(1.0, (time.process_time() - start) / 0.040)
    assert min(seconds) < 0.060 * slowness


def test_the_grammar_is_found_inside_an_installed_package(tmp_path: Path) -> None:
    source = Path(grammar.__file__).parents[1]
    installed = tmp_path / "site" / "lmppl"
    for room in ("errors", "syntax"):
        shutil.copytree(source / room, installed / room)
    for file in ("caches.py", "files.py", "records.py"):
        shutil.copy(source / file, installed / file)
    (installed / "__init__.py").write_text("")
    # As the wheel lays it out; see force-include in pyproject.toml.
    (installed / "grammar").mkdir()
    (installed / "grammar" / "lmp.lark").write_text(grammar.grammar_text(), encoding="utf-8")
    code = (
        "import lmppl.syntax, lmppl.syntax.grammar as g\n"
        f"assert g.__file__.startswith({str(installed)!r}), g.__file__\n"
        "assert lmppl.syntax.parse('let a = 1').lets\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(installed.parent),
        "LMPPL_CACHE_DIR": str(tmp_path / "cache"),
    }
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path)
