"""What is shipped: the wheel's contents, the metadata, and nothing of anybody's machine."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from lmppl import __version__
from lmppl.errors.explanations import codes

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8")


def tracked() -> Iterator[tuple[str, str]]:
    """Name and text of every text file that git tracks."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("needs a git checkout")
    for name in filter(None, done.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            try:
                yield name, path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("building a wheel needs hatchling")
    place = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return zipfile.ZipFile(next(place.glob("*.whl")))


def test_the_wheel_holds_the_grammar_the_type_marker_and_the_licence(
    wheel: zipfile.ZipFile,
) -> None:
    names = set(wheel.namelist())
    grammar = (ROOT / "grammar" / "lmp.lark").read_bytes()
    assert wheel.read("lmppl/grammar/lmp.lark") == grammar
    assert "lmppl/py.typed" in names
    assert f"lmppl-{__version__}.dist-info/licenses/LICENSE" in names


def test_the_wheel_holds_the_embedded_model(wheel: zipfile.ZipFile) -> None:
    folder = "lmppl/lm/builtin/stories/"
    files = {name.removeprefix(folder) for name in wheel.namelist() if name.startswith(folder)}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files
    weights = wheel.getinfo(folder + "model.safetensors").file_size
    assert 100_000 < weights <= 4_000_000


def test_the_wheel_holds_the_page_of_every_code(wheel: zipfile.ZipFile) -> None:
    pages = {f"lmppl/errors/explanations/{code}.md" for code in codes()}
    assert pages == {name for name in wheel.namelist() if name.endswith(".md")} - {
        "lmppl/lm/builtin/stories/MODEL_CARD.md"
    }


def test_the_wheel_holds_every_module_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "lmppl").rglob("*.py")}
    shipped = {name for name in wheel.namelist() if name.endswith(".py")}
    assert shipped == modules
    assert all(
        name.split("/")[0] in ("lmppl", f"lmppl-{__version__}.dist-info")
        for name in wheel.namelist()
    )


def test_the_command_is_installed() -> None:
    scripts = PROJECT["project"]["scripts"]
    module, _, name = scripts["lmppl"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    assert PROJECT["project"]["version"] == __version__


def test_what_is_pinned_satisfies_what_is_required() -> None:
    from packaging.requirements import Requirement

    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", CONSTRAINTS, re.M))
    pins = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    project = PROJECT["project"]
    wanted = [*project["dependencies"]]
    for extra in ("test", "dev"):
        wanted += project["optional-dependencies"][extra]
    for text in wanted:
        requirement = Requirement(text)
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name == "lmppl":
            continue
        assert name in pins, f"{name} is not in constraints.txt"
        assert requirement.specifier.contains(pins[name]), text


def test_torch_is_pinned_without_a_build() -> None:
    assert re.search(r"^torch==[\d.]+$", CONSTRAINTS, re.M)


def test_no_tracked_file_names_a_machine_or_a_package_host() -> None:
    # Written in pieces, so that this file does not find itself.
    forbidden = re.compile(
        "|".join(
            [
                r"(?<![\w.])/" + r"(?:work|opt|root|home/\w+)/",
                r"file:" + r"///",
                r"--(?:extra-)?index" + r"-url",
                r"download\.pytorch" + r"\.org",
                r"pypi" + r"\.(?:org|python)",
            ]
        )
    )
    found = {f"{name}: {hit[0]}" for name, text in tracked() for hit in forbidden.finditer(text)}
    assert found == set()


def test_the_installed_metadata_is_that_of_the_checkout() -> None:
    try:
        installed = metadata.version("lmppl")
    except metadata.PackageNotFoundError:
        pytest.skip("lmppl runs from the checkout without being installed")
    assert installed == __version__
