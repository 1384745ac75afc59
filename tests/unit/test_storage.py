"""Saved posteriors: nothing foreign is touched, nothing is half there, nothing damaged is read."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmppl import load_posterior
from lmppl.errors import LmpError, StorageError
from lmppl.posterior import Estimate, Posterior, index, ownership
from lmppl.posterior.index import sealed
from lmppl.posterior.ownership import check_destination
from lmppl.posterior.storage import save_draws


class Guide:
    """A guide of two files, one of them in a directory of its own."""

    def __init__(self, content: str) -> None:
        self.content = content

    def save_pretrained(self, place: Path) -> None:
        (place / "site").mkdir(parents=True)
        (place / "lmppl_guide.json").write_text(self.content)
        (place / "site" / "model.safetensors").write_text(self.content * 3)


def _posterior(method: str = "smc", guide: Any = None) -> Posterior:
    rng = np.random.default_rng(len(method))
    return Posterior(
        sites={"text": ["a", "b", "c"], "mood": [True, False, True]},
        tokens={"text": (np.arange(6).reshape(3, 2), [1, 2, 2])},
        log_weights=rng.normal(size=3),
        log_prior=rng.normal(size=3),
        log_potentials={"tone": rng.normal(size=3)},
        log_evidence=Estimate.exact(-1.5),
        diagnostics={"ess": 2.5, "pareto_k": None, "low": -np.inf},
        warnings=("a warning",),
        checks={"fine": True},
        method=method,
        manifest={"seed": 3, "parameters": {"__float__": "no number"}},
        info={"curve": np.arange(3.0), "nested": [{"__array__": 1}]},
        guide=guide,
    )


def _names(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())


# Nothing foreign is touched ---------------------------------------------------------------------


def _add(place: Path) -> str:
    (place / "thesis.tex").write_text("years of work")
    return "thesis.tex"


def _add_inside(place: Path) -> str:
    (place / "guide" / "site" / "notes.md").write_text("years of work")
    return "guide/site/notes.md"


def _change(place: Path) -> str:
    (place / "draws.safetensors").write_text("years of work")
    return "draws.safetensors"


def _link(place: Path) -> str:
    (place / "draws.safetensors").rename(place.parent / "elsewhere")
    (place / "draws.safetensors").symlink_to(place.parent / "elsewhere")
    return "draws.safetensors"


def _other_program(place: Path) -> str:
    (place / "posterior.json").write_text('{"years of": "work"}')
    return "posterior.json"


def _edited(place: Path) -> str:
    path = place / "posterior.json"
    path.write_text(path.read_text().replace("a warning", "years of work"))
    return "posterior.json"


def _fifo(place: Path) -> str:
    os.mkfifo(place / "pipe")
    return "pipe"


@pytest.mark.parametrize(
    "spoil", [_add, _add_inside, _change, _link, _other_program, _edited, _fifo]
)
def test_what_lmppl_did_not_write_is_named_and_left_alone(spoil: Any, tmp_path: Path) -> None:
    place = tmp_path / "run"
    _posterior("old", Guide("old")).save(place)
    name = spoil(place)
    before = {path: os.lstat(place / path).st_mtime_ns for path in _names(place)}
    for refuse in (check_destination, _posterior("new").save):
        with pytest.raises(FileExistsError, match=name):
            refuse(place)
    assert {path: os.lstat(place / path).st_mtime_ns for path in _names(place)} == before


def test_saving_again_leaves_only_the_new_result(tmp_path: Path) -> None:
    place = tmp_path / "run"
    for number in range(4):
        _posterior(f"m{number}", Guide("old")).save(place)
        assert load_posterior(place).method == f"m{number}"
        assert len(_names(place)) == 4
    _posterior("bare").save(place)
    assert len(_names(place)) == 2 and not (place / "guide").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permissions by a mask")
def test_saved_files_follow_the_mask_of_the_user(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        _posterior("smc", Guide("g")).save(tmp_path / "run")
    finally:
        os.umask(before)
    modes = {(tmp_path / "run" / name).stat().st_mode & 0o777 for name in _names(tmp_path / "run")}
    assert modes == {0o640}


def test_a_result_in_the_first_format_is_read_with_a_warning_and_replaced(tmp_path: Path) -> None:
    place = tmp_path / "run"
    _posterior("old").save(place)
    document = json.loads((place / "posterior.json").read_text())
    first = {"format": "lmppl-posterior/1", "fields": document["fields"]}
    (place / "posterior.json").write_text(json.dumps(first))
    (place / "guide").mkdir()
    (place / "guide" / "lmppl_guide.json").write_text("{}")
    back = load_posterior(place)
    assert back.method == "old" and "older version" in back.warnings[-1]
    (place / "guide" / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"guide/thesis\.tex"):
        _posterior("new").save(place)
    (place / "guide" / "thesis.tex").unlink()
    _posterior("new").save(place)
    assert load_posterior(place).warnings == ("a warning",)
    assert len(_names(place)) == 2
    # What has digests cannot pass for what has none.
    document["format"] = "lmppl-posterior/1"
    (place / "posterior.json").write_text(json.dumps(document))
    with pytest.raises(StorageError, match="first format"):
        load_posterior(place)


def test_the_current_directory_and_a_linked_one_are_places_to_save_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path / "real")
    for place in (".", tmp_path / "link", "."):
        check_destination(place)
        _posterior().save(place)
    assert _names(tmp_path / "real") == ["draws.safetensors", "posterior.json"]
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "nowhere").symlink_to(tmp_path / "none")
    for refuse in (check_destination, _posterior().save):
        with pytest.raises(FileExistsError, match="leads nowhere"):
            refuse(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError):
        check_destination(tmp_path / "file" / "run")


def test_a_place_that_cannot_be_written_to_is_found_out_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_destination(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()

    def refuse(*arguments: Any, **options: Any) -> str:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(ownership.tempfile, "mkdtemp", refuse)
    with pytest.raises(OSError, match="nothing can be written there: Read-only"):
        check_destination(tmp_path / "a" / "b")
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(9, 9, 0))  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="No space left"):
        check_destination(tmp_path)


# Nothing is half there --------------------------------------------------------------------------

_DRIVER = Path(__file__).parent / "storage_driver.py"


def _drive(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, str(_DRIVER), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which Windows lacks")
@pytest.mark.parametrize("how", ["kill", "error"])
def test_stopped_at_any_call_the_old_result_or_the_new_one_is_there(
    how: str, tmp_path: Path
) -> None:
    """At every call to the file system in turn: a SIGKILL, or an OSError."""
    told = json.loads(_drive("every", how, tmp_path))
    assert told["stops"] > 30
    assert told["old"] > 20 and told["new"] > 2
    assert told["wrong"] == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which Windows lacks")
def test_random_kills_leave_the_old_result_or_the_new_one(tmp_path: Path) -> None:
    told = json.loads(_drive("random", 60, tmp_path))
    assert told["wrong"] == [] and told["kills"] == 60


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which Windows lacks")
def test_two_writers_take_turns_and_a_reader_sees_whole_results(tmp_path: Path) -> None:
    told = json.loads(_drive("writers", 15, tmp_path))
    assert told["wrong"] == [] and told["reads"] > 10


# Nothing damaged is read ------------------------------------------------------------------------


def test_every_flipped_bit_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "run"
    _posterior("smc", Guide("weights")).save(place)
    generator = random.Random(5)
    for name in _names(place):
        whole = (place / name).read_bytes()
        bits = range(8 * len(whole))
        for bit in generator.sample(bits, min(250, len(bits))):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            (place / name).write_bytes(flipped)
            with pytest.raises(StorageError):
                load_posterior(place)
        (place / name).write_bytes(whole)
    assert load_posterior(place).method == "smc"


def test_the_arrays_of_another_run_are_refused(tmp_path: Path) -> None:
    _posterior("smc").save(tmp_path / "one")
    _posterior("mcmc").save(tmp_path / "two")
    shutil.copy(tmp_path / "two" / "draws.safetensors", tmp_path / "one" / "draws.safetensors")
    with pytest.raises(StorageError, match="LMP960"):
        load_posterior(tmp_path / "one")
    (tmp_path / "two" / "draws.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="is not whole"):
        load_posterior(tmp_path / "two")


_JUNK = (None, True, -3, 2.5, "words", [], [1], {}, {"a": 1}, {"__array__": "none"})


def test_every_field_is_checked_although_the_digests_agree(tmp_path: Path) -> None:
    place = tmp_path / "run"
    _posterior().save(place)
    path = place / "posterior.json"
    whole = json.loads(path.read_text())
    refused = 0
    for name in whole["fields"]:
        for junk in _JUNK:
            document = {k: v for k, v in whole.items() if k not in ("format", "digest")}
            path.write_bytes(sealed({**document, "fields": {**whole["fields"], name: junk}}))
            try:
                back = load_posterior(place)
            except StorageError:
                refused += 1
            else:
                # What is let through is of the right kind.
                assert type(getattr(back.data, name)) is type(getattr(_posterior().data, name)) or (
                    name in ("log_evidence", "log_prior", "clusters", "num_chains", "unseen")
                )
        path.write_bytes(sealed({**document, "fields": whole["fields"] | {"unheard": 1}}))
        with pytest.raises(StorageError, match="unheard"):
            load_posterior(place)
    assert refused > 120


@pytest.mark.parametrize("wrong", ["float32", "matrix", "short", "lengths", "nan"])
def test_dtypes_and_shapes_are_checked(wrong: str, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    place = tmp_path / "run"
    _posterior().save(place)
    arrays = load_file(place / "draws.safetensors")
    match wrong:
        case "float32":
            arrays["log_prior"] = arrays["log_prior"].astype(np.float32)
        case "matrix":
            arrays["log_potentials/tone"] = arrays["log_potentials/tone"].reshape(3, 1)
        case "short":
            arrays["log_weights"] = arrays["log_weights"][:2]
        case "lengths":
            arrays["tokens/text/1"] = arrays["tokens/text/1"] + 9
        case "nan":
            arrays["log_prior"] = arrays["log_prior"] * np.nan
    save_file(arrays, place / "draws.safetensors")
    document = json.loads((place / "posterior.json").read_text())
    files = {"draws.safetensors": index.digest_of_file(place / "draws.safetensors")}
    kept = {k: v for k, v in document.items() if k not in ("format", "digest")}
    (place / "posterior.json").write_bytes(sealed({**kept, "files": files}))
    with pytest.raises(StorageError, match="LMP960"):
        load_posterior(place)


def test_errors_of_storage_are_errors_of_lmppl_and_of_values(tmp_path: Path) -> None:
    assert issubclass(StorageError, LmpError) and issubclass(StorageError, ValueError)
    (tmp_path / "posterior.json").write_text("[" * 100_000)
    with pytest.raises(StorageError):
        load_posterior(tmp_path)


def test_words_of_the_storage_may_be_names_of_a_program(tmp_path: Path) -> None:
    save_draws(_posterior().data, tmp_path / "run")
    back = load_posterior(tmp_path / "run")
    assert back.manifest["parameters"] == {"__float__": "no number"}
    assert back.info["nested"] == [{"__array__": 1}]
    assert back.diagnostics["low"] == -np.inf


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("name", ["posterior.json", "draws.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "huge", "directory"])
def test_no_pipe_and_no_endless_file_is_read(name: str, kind: str, tmp_path: Path) -> None:
    place = tmp_path / "run"
    _posterior().save(place)
    if kind == "huge":
        os.truncate(place / name, 1 << 40)
    else:
        (place / name).unlink()
        os.mkfifo(place / name) if kind == "pipe" else (place / name).mkdir()
    with pytest.raises((StorageError, FileNotFoundError)):
        load_posterior(place)
    if kind != "directory":
        with pytest.raises(FileExistsError):
            _posterior().save(place)


@pytest.mark.parametrize("path", ["../other/draws.safetensors", "/etc/passwd", "a/../../b"])
def test_a_result_names_no_file_outside_its_directory(path: str, tmp_path: Path) -> None:
    place = tmp_path / "run"
    _posterior().save(place)
    shutil.copytree(place, tmp_path / "other")
    document = json.loads((place / "posterior.json").read_text())
    kept = {k: v for k, v in document.items() if k not in ("format", "digest")}
    kept["files"][path] = kept["files"]["draws.safetensors"]
    (place / "posterior.json").write_bytes(index.sealed(kept))
    with pytest.raises(StorageError, match="outside the directory"):
        load_posterior(place)


def test_a_full_disk_is_an_error_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.numpy

    def full(*arguments: object) -> None:
        raise safetensors.SafetensorError("No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        _posterior().save(tmp_path / "run")


@pytest.mark.parametrize("elsewhere", ["../guide", "/etc", "guide/../../x", "a//b", "C:x", "..\\x"])
def test_a_list_that_leads_out_of_the_directory_is_not_followed(
    tmp_path: Path, elsewhere: str
) -> None:
    place = tmp_path / "saved"
    _posterior(guide=Guide("one")).save(place)
    document = json.loads((place / "posterior.json").read_bytes())
    del document["format"], document["digest"]
    renamed = {**document["names"], "guide": elsewhere}
    (place / "posterior.json").write_bytes(sealed({**document, "names": renamed}))
    with pytest.raises(StorageError, match="outside the directory"):
        load_posterior(place)
    with_file = {**document["files"], f"{elsewhere}/passwd": {"bytes": 0, "sha256": ""}}
    (place / "posterior.json").write_bytes(sealed({**document, "files": with_file}))
    with pytest.raises(StorageError, match="outside the directory"):
        load_posterior(place)
