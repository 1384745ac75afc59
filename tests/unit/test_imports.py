"""What is loaded when, how long it takes, and who may import whom."""

from __future__ import annotations

import importlib.util
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "pyro", "numpy", "peft", "scipy", "tokenizers", "rich")
# A busy machine slows every process down; the allowance grows with how long a bare interpreter
# takes, which is about 10 ms on an idle one.
BARE = 0.010


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Warm means that modules have been compiled, also where the environment forbids writing it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("bytecode")))
        yield


def cpu_seconds(*arguments: str) -> float:
    """Processor time of one process, in seconds: it does not count waiting for others."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def best(*arguments: str, tries: int = 5) -> float:
    return min(cpu_seconds(*arguments) for _ in range(tries))


def test_import_lmppl_loads_no_heavy_library() -> None:
    code = f"import sys, lmppl; print([m for m in {HEAVY} if m in sys.modules])"
    assert python(code).strip() == "[]"


@pytest.mark.parametrize(
    "module",
    [
        "lmppl.syntax",
        "lmppl.ir.model",
        "lmppl.checker",
        "lmppl.errors",
        "lmppl.builtins",
        "lmppl.inference",
        "lmppl.pipeline",
        "lmppl.models",
        "lmppl.options",
        "lmppl.unmet",
        "lmppl.cli",
    ],
)
def test_the_static_rooms_load_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])"
    assert python(code).strip() == "[]"


@pytest.mark.parametrize("program", sorted(p.name for p in (ROOT / "examples").glob("*.lmp")))
def test_check_loads_no_heavy_library(program: str) -> None:
    code = (
        "import sys, lmppl.cli;"
        f"code = lmppl.cli.main(['check', 'examples/{program}']);"
        f"print(code, [m for m in {HEAVY} if m in sys.modules])"
    )
    assert python(code).strip() == "0 []"


def test_the_public_names_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    # It loads all there is, whose bytecode lies where it was installed.
    monkeypatch.delenv("PYTHONPYCACHEPREFIX")
    code = (
        "import json, lmppl; print(json.dumps([n for n in lmppl.__all__ if not hasattr(lmppl, n)]))"
    )
    assert json.loads(python(code)) == []


def test_import_lmppl_takes_less_than_30_ms() -> None:
    bare = best("-c", "pass")
    imported = best("-c", "import lmppl")
    assert imported - bare < 0.03 * max(1.0, bare / BARE)


@pytest.mark.parametrize("program", ["upbeat", "polite"])
def test_checking_takes_less_than_200_ms_warm(program: str) -> None:
    command = ("-m", "lmppl", "check", f"examples/{program}.lmp")
    cpu_seconds(*command)
    bare = best("-c", "pass")
    assert best(*command, tries=3) < 0.2 * max(1.0, bare / BARE)


def test_checking_loads_few_modules_and_not_what_makes_the_tables_of_the_grammar() -> None:
    check = "import lmppl.cli; lmppl.cli.main(['check', 'examples/upbeat.lmp'])"
    # The first time, the tables may have to be made.
    python(check)
    loaded = json.loads(python(f"{check}; import json, sys; print(json.dumps(list(sys.modules)))"))
    assert not {"lark", "regex", "interegular"} & set(loaded)
    # Neither what is only needed for a mistake, nor what explains one.
    assert not {"lmppl.syntax.recovery", "lmppl.errors.explanations"} & set(loaded)
    # Nor what others bring along that is slow to load.
    assert not {"logging", "tempfile", "zipfile", "difflib", "shutil"} & set(loaded)
    assert len(loaded) < 280


# When written 20,600, and with automata 32,100; with classes as the standard library makes them
# and every character looked at in every process 31,000 and 43,800.
@pytest.mark.parametrize(("program", "most"), [("upbeat", 25_000), ("polite", 37_000)])
def test_checking_is_little_work(program: str, most: int) -> None:
    """Counted in calls of Python's functions: the same on any machine, however busy it is."""
    python(f"from lmppl.cli import main; main(['check', 'examples/{program}.lmp'])")
    code = f"""
import sys
from lmppl.cli import main

calls = 0

def count(frame, event, argument):
    global calls
    calls += event == "call"

main(["fmt", "--check", "examples/upbeat.lmp"])
sys.setprofile(count)
main(["check", "examples/{program}.lmp"])
sys.setprofile(None)
print(calls)
"""
    assert int(python(code)) < most


def test_rooms_import_only_from_the_rooms_below() -> None:
    if importlib.util.find_spec("importlinter") is None:
        pytest.skip("needs import-linter")
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "0 broken" in done.stdout


def test_nothing_heavy_is_loaded_before_the_first_word_of_progress() -> None:
    code = f"""
import contextlib, sys
from lmppl.cli import running

@contextlib.contextmanager
def listening(progress):
    print([name for name in {HEAVY!r} if name in sys.modules])
    raise SystemExit
    yield

running.listening = listening
from lmppl.cli import main
main(["run", "examples/upbeat.lmp"])
"""
    assert python(code) == "[]\n"
