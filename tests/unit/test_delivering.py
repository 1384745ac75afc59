"""A result that cannot be saved as asked is found out before the run, or saved elsewhere."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

from lmppl import load_posterior
from lmppl.cli import main
from lmppl.cli.delivering import deliver
from lmppl.cli.parsing import Arguments
from lmppl.posterior import Posterior

PROGRAM = """\
model coin() {
  heads ~ bernoulli(0.5)
  factor luck: score(heads)
  return heads
}
extern function score(heads: bool): real
infer exact()
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "coin.lmp"
    path.write_text(PROGRAM)
    (tmp_path / "host.py").write_text(
        "import os, pathlib\n"
        "def score(heads):\n"
        "    if 'IN_THE_WAY' in os.environ:\n"
        "        place = pathlib.Path(os.environ['IN_THE_WAY'])\n"
        "        place.mkdir(exist_ok=True)\n"
        "        (place / 'thesis.tex').write_text('years of work')\n"
        "    return 0.5 * heads\n"
    )
    return path


def _run(program: Path, *arguments: object) -> int:
    host = f"score={program.parent / 'host.py'}:score"
    return main(["run", str(program), "--extern", host, *map(str, arguments)])


def test_what_gets_in_the_way_during_the_run_costs_no_result(
    program: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, places = program.parent / "out", program.parent / "tmp"
    places.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(places))
    monkeypatch.setenv("IN_THE_WAY", str(out))
    assert _run(program, "--out", out) == 3
    captured = capsys.readouterr()
    assert "thesis.tex" in captured.err
    found = re.search(r"saved to (\S+) instead", captured.err)
    assert found is not None and Path(found[1]).parent == places
    assert load_posterior(found[1]).method == "exact"
    assert "exact of coin" in captured.out
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("option", ["--out", "--jsonl", "--report"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_full_disk_or_a_late_interrupt_costs_no_result(
    option: str,
    error: BaseException,
    program: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = str(program.parent / "result")
    for name in ("save", "to_jsonl", "report"):
        whole = getattr(Posterior, name)

        def sometimes(self: Posterior, path: Any, whole: Any = whole) -> None:
            if path == asked:
                raise error
            whole(self, path)

        monkeypatch.setattr(Posterior, name, sometimes)
    assert _run(program, option, asked) == 3
    captured = capsys.readouterr()
    found = re.search(r"saved to (\S+) instead", captured.err)
    assert found is not None and len(load_posterior(found[1])) == 2
    assert f"could not write {asked}" in captured.err


def test_where_nothing_can_be_saved_the_result_is_shown(
    program: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: Posterior, path: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Posterior, "save", full)
    monkeypatch.setattr(tempfile, "tempdir", str(program.parent))
    monkeypatch.setenv("HOME", str(program.parent))
    monkeypatch.chdir(program.parent)
    assert _run(program, "--out", "result") == 3
    captured = capsys.readouterr()
    assert "only shown" in captured.err and "exact of coin" in captured.out
    assert not list(program.parent.glob("lmppl-result-*"))


class _Unwritable:
    """A guide that no library can write."""

    def save_pretrained(self, place: Path) -> None:
        raise RuntimeError("tensors share memory")


def test_a_guide_that_cannot_be_saved_costs_no_draws(
    program: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = Arguments(
        out=str(program.parent / "out"), jsonl=None, report=None, quiet=False, show=2
    )
    places = program.parent / "tmp"
    places.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(places))
    posterior = Posterior(sites={"x": [1.0, 2.0]}, log_weights=[0.0, 0.0], guide=_Unwritable())
    assert deliver(posterior, arguments) == 3
    captured = capsys.readouterr()
    assert "tensors share memory" in captured.err and "2 draws" in captured.out
    found = re.search(r"without its guide is saved to (\S+) instead", captured.err)
    assert found is not None and len(load_posterior(found[1])) == 2
    assert [path.name for path in places.iterdir()] == [Path(found[1]).name]


def test_a_place_that_will_not_do_is_found_out_before_the_run(
    program: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = program.parent
    monkeypatch.chdir(home)
    (home / "nowhere").symlink_to(home / "none")
    (home / "result").mkdir()
    (home / "linked").symlink_to(home / "coin.lmp")
    (home / "data.json").write_text("{}")
    (home / "thesis.tex").write_text("years of work")
    for options, words in (
        (("--out", "."), "coin.lmp"),
        (("--out", "coin.lmp"), "is a file"),
        (("--out", "coin.lmp/result"), "is no directory"),
        (("--out", "nowhere"), "leads nowhere"),
        (("--out", "a\0b"), "null"),
        (("--out", "result", "--report", "result/r.html"), "only the saved posterior"),
        (("--jsonl", "result"), "is a directory"),
        (("--jsonl", "none/x.jsonl"), "there is no directory"),
        (("--jsonl", "draws.jsonl/"), "is no name of a file"),
        (("--jsonl", "coin.lmp"), "is read by this run"),
        (("--report", "linked"), "is read by this run"),
        (("--data", "data.json", "--jsonl", "data.json"), "is read by this run"),
        (("--jsonl", "thesis.tex"), "lmppl did not write"),
        (("--report", "thesis.tex"), "lmppl did not write"),
        (("--jsonl", "both", "--report", "both"), "cannot both be written to both"),
    ):
        # The extern is missing: had the run been tried first, that would be the message.
        assert main(["run", str(program), *options]) == 2, options
        assert words in capsys.readouterr().err, options
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (home / "draws.jsonl").write_text("")
    assert main(["run", str(program), "--jsonl", "draws.jsonl"]) == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_a_good_place_is_used_again(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(program.parent)
    out = program.parent / "out"
    assert _run(program, "--out", out, "-q") == 0
    assert _run(program, "--out", out, "-q", "--report", program.parent / "r.html") == 0
    assert _run(program, "--jsonl", "d.jsonl", "-q") == 0
    assert _run(program, "--jsonl", out / ".." / "d.jsonl", "-q", "--report", "r.html") == 0
    assert load_posterior(out).complete


@pytest.mark.parametrize("option", ["--jsonl", "--report"])
def test_a_file_is_replaced_whole_or_not_at_all(
    option: str, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, link = program.parent / "place", program.parent / "link"
    link.symlink_to(place)
    assert _run(program, option, link, "-q") == 0
    assert link.is_symlink()
    before = place.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    places = program.parent / "tmp"
    places.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(places))
    with monkeypatch.context() as patch:
        patch.setattr("lmppl.writing.os.fsync", full)
        assert _run(program, option, link, "-q") == 3
    assert place.read_bytes() == before
    assert not list(program.parent.glob(".lmppl-*"))
    assert _run(program, option, link, "-q") == 0
