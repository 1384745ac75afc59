"""Files are written whole or not at all, wherever lmppl writes one."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

import lmppl
from lmppl.cli import main
from lmppl.errors import StorageError
from lmppl.jsons import NotJson, read_json
from lmppl.posterior import Posterior
from lmppl.writing import whole_directory, write_whole


class Broken(Exception):
    pass


@pytest.fixture
def no_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine stops in the moment before the new file gets its name."""

    def replace(*_: object) -> None:
        raise Broken

    monkeypatch.setattr(os, "replace", replace)


def post() -> Posterior:
    return Posterior(
        sites={"text": ["a", "b"]},
        outputs={"text": ["a", "b"]},
        log_weights=np.zeros(2),
        log_evidence=None,
        log_evidence_reason="",
        method="smc",
    )


def test_what_was_there_stays_until_all_of_the_new_is(tmp_path: Path, no_replace: None) -> None:
    for path, write in (
        (tmp_path / "plain", lambda: write_whole(tmp_path / "plain", b"new")),
        (tmp_path / "r.html", lambda: post().report(tmp_path / "r.html")),
        (tmp_path / "d.jsonl", lambda: post().to_jsonl(tmp_path / "d.jsonl")),
    ):
        path.write_text("old")
        with pytest.raises(Broken):
            write()
        assert path.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["d.jsonl", "plain", "r.html"]


def test_a_formatted_program_keeps_links_and_permissions(tmp_path: Path) -> None:
    source = 'model m() { text ~ lm("builtin:stories", prompt="a", max_tokens=2)\nreturn text }\n'
    real, link = tmp_path / "real.lmp", tmp_path / "link.lmp"
    real.write_text(source)
    real.chmod(0o640)
    link.symlink_to(real)
    assert main(["fmt", str(link)]) == 0
    assert link.is_symlink() and real.read_text() != source
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_a_device_is_written_to_and_not_replaced() -> None:
    write_whole(os.devnull, b"x")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_whole(tmp_path / "new", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o644


def test_a_directory_that_names_its_contents_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(text: str, names: tuple[str, ...]) -> None:
        with whole_directory(tmp_path / "guide", last="index.json") as place:
            for name in names:
                (place / name).parent.mkdir(exist_ok=True)
                (place / name).write_text(text)

    guide = tmp_path / "guide"
    write("old", ("a", "index.json", "sub/b"))
    (guide / "thesis.tex").write_text("mine")
    real, moved = os.replace, 0

    def breaks(source: object, target: object) -> None:
        nonlocal moved
        moved += 1
        if moved == 2:
            raise Broken
        real(source, target)  # type: ignore[arg-type]

    with pytest.raises(ZeroDivisionError):
        with whole_directory(guide, last="index.json") as place:
            (place / "a").write_text("half")
            raise ZeroDivisionError
    assert (guide / "a").read_text() == (guide / "index.json").read_text() == "old"
    monkeypatch.setattr(os, "replace", breaks)
    with pytest.raises(Broken):
        write("new", ("a", "index.json", "sub/b"))
    assert not (guide / "index.json").exists()
    monkeypatch.setattr(os, "replace", real)
    write("new", ("a", "index.json", "sub/b"))
    assert (guide / "sub" / "b").read_text() == (guide / "index.json").read_text() == "new"
    assert sorted(os.listdir(guide)) == ["a", "index.json", "sub", "thesis.tex"]


# ----------------------------------------------------------------------- and read as strictly


@pytest.mark.parametrize(
    ("text", "reason"),
    [("[NaN]", "NaN"), ("-Infinity", "Infinity"), ("[1e999]", "larger"), ("\ufeff[]", "BOM")],
)
def test_numbers_that_are_none_are_refused(text: str, reason: str) -> None:
    with pytest.raises(NotJson, match=reason):
        read_json(text, finite=True)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[1" + "0" * 5000 + "]", "digits"),
        ("[NaN]", "NaN"),
        ('[{"a": 1, "a": 2}]', "twice"),
        ("\ufeff[1]", "BOM"),
        ("[1", "line 1"),
    ],
)
def test_an_array_parameter_is_json_that_says_one_thing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str, reason: str
) -> None:
    (tmp_path / "m.lmp").write_text(
        "model m(a: real[]) {\n"
        '    text ~ lm("builtin:stories", prompt="a", max_tokens=2)\n'
        "    factor a[0]\n    return text\n}\n"
    )
    assert main(["run", str(tmp_path / "m.lmp"), "--param", f"a={value}"]) == 2
    err = capsys.readouterr().err
    assert "give a JSON array" in err and reason in err
    assert main(["run", str(tmp_path / "m.lmp"), "--set", f"seed={value}"]) in (1, 2)


@pytest.mark.parametrize("value", ["[" * 100_000, '{"a": 1, "a": 2}', "NaN", "1" * 5000])
def test_a_saved_posterior_that_is_no_json_is_damaged(tmp_path: Path, value: str) -> None:
    post().save(tmp_path / "post")
    (tmp_path / "post" / "posterior.json").write_text(value)
    with pytest.raises(StorageError, match="LMP96"):
        lmppl.load_posterior(tmp_path / "post")
    # And nothing of it is replaced, because it may be somebody else's.
    with pytest.raises(FileExistsError):
        post().save(tmp_path / "post")


def test_half_characters_of_a_draw_are_saved_and_read(tmp_path: Path) -> None:
    odd = post().replace(sites={"text": ["a", "b\ud800"]}, outputs={"text": ["a", "b\ud800"]})
    odd.save(tmp_path / "post")
    assert lmppl.load_posterior(tmp_path / "post").texts == ["a", "b\ud800"]


def test_a_saved_posterior_is_json_for_everybody(tmp_path: Path) -> None:
    post().save(tmp_path / "post")
    text = (tmp_path / "post" / "posterior.json").read_text()
    assert read_json(text) == json.loads(text)
