"""What a program can reach of the machine that it runs on: its own folder, and no more."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path

import pytest

import lmppl
from lmppl.cli.entry import main
from lmppl.errors import LmpError
from lmppl.files import Folder, NotPlain, Outside, Unreadable, read_plain

SECRET = "a secret line that nobody may see"
CHAIN = json.dumps({"tokens": ["a"], "initial": [1], "transition": [[1]], "eos": None})
BODY = 'model m() { text ~ markov("p.json", max_tokens=2) return text }\ninfer exact()\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a program; beside it lies what it may not read."""
    here = tmp_path / "program"
    (here / "sub").mkdir(parents=True)
    (here / "p.json").write_text(CHAIN)
    (here / "words.txt").write_text("one\ntwo\n")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text(SECRET)
    (outside / "p.json").write_text(CHAIN)
    (outside / "lib.lmp").write_text('let words = file("secret.txt", format="lines")\n')
    (here / "link.txt").symlink_to(outside / "secret.txt")
    (here / "door").symlink_to(outside)
    return here


def refused(source: str, folder: Path, **options: object) -> list[str]:
    with pytest.raises(LmpError) as caught:
        lmppl.compile(source, base_dir=folder, **options)
    assert SECRET not in str(caught.value)
    return [each.code for each in caught.value.diagnostics]


def ways(path: str) -> list[str]:
    """Programs that read a file in every way that there is."""
    return [
        f'let x = file("{path}", format="text")\n{BODY}',
        f'let x = file("{path}", format="lines")\n{BODY}',
        f'let x = file("{path}", format="json")\n{BODY}',
        f'import "{path}" as q\n{BODY}',
        f'reward r(t: string): real = lexicon("{path}")\n{BODY}',
        BODY.replace("p.json", path),
        BODY.replace('markov("p.json"', f'ngram("{path}"'),
    ]


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/proc/self/environ",
        "../outside/secret.txt",
        "sub/../../outside/secret.txt",
        "link.txt",
        "door/secret.txt",
        "door/none.txt",
    ],
)
@pytest.mark.parametrize("way", range(7))
def test_what_lies_outside_the_folder_is_not_read(path: str, way: int, folder: Path) -> None:
    source = ways(path)[way]
    codes = refused(source, folder)
    assert "LMP135" in codes
    # What could not be read is not used in these programs.
    assert set(codes) <= {"LMP135", "LMP201", "LMP204"}


def test_the_refusal_names_the_path_the_folder_and_the_remedy(folder: Path) -> None:
    with pytest.raises(LmpError) as caught:
        lmppl.compile(ways("link.txt")[0], base_dir=folder)
    text = str(caught.value)
    outside = folder.parent / "outside"
    assert f"`link.txt` lies outside the folder of the program (it leads to {outside}" in text
    assert str(folder) in text
    assert f"`--allow-path {outside}`" in text


@pytest.mark.parametrize("way", [0, 1, 6])
def test_the_host_can_allow_more(way: int, folder: Path) -> None:
    outside = folder.parent / "outside"
    source = ways("../outside/secret.txt")[way]
    for allow in (outside, str(outside), [outside], [str(folder.parent)]):
        compiled = lmppl.compile(source, base_dir=folder, allow=allow)
    assert len(lmppl.infer(compiled, method="importance", num_samples=3, seed=0)["text"]) == 3


def test_what_is_allowed_is_no_mistake_beside_a_syntax_error(folder: Path) -> None:
    source = 'let x = file("../outside/secret.txt", format="text")\nlet y =\n' + BODY
    assert "LMP135" in refused(source, folder)
    assert "LMP135" not in refused(source, folder, allow=folder.parent)


def test_an_allowed_import_reads_beside_itself(folder: Path) -> None:
    source = 'import "../outside/lib.lmp" as q\n' + BODY.replace(
        "return", "require not contains(text, q.words) return"
    )
    assert refused(source, folder)[0] == "LMP135"
    outside = folder.parent / "outside"
    lmppl.compile(source, base_dir=folder, allow=[outside])
    # An import that may be read does not open what may not.
    (folder / "near.lmp").write_text('let words = file("../outside/secret.txt")\n')
    assert "LMP135" in refused(source.replace("../outside/lib", "near"), folder)


def test_an_import_by_a_link_reads_beside_the_file_that_it_leads_to(folder: Path) -> None:
    (folder / "sub" / "mod.lmp").write_text('reward r(t: string): real = lexicon("scores.csv")\n')
    (folder / "sub" / "scores.csv").write_text("a,2\n")
    (folder / "mod.lmp").symlink_to(folder / "sub" / "mod.lmp")
    source = 'import "mod.lmp" as q\n' + BODY.replace("return", "factor q.r(text) return")
    post = lmppl.infer(lmppl.compile(source, base_dir=folder))
    assert post.log_potential("factor_1").tolist() == [0.0]


def test_what_is_swapped_after_the_check_is_not_read_when_it_is_bound(folder: Path) -> None:
    compiled = lmppl.compile(BODY, base_dir=folder)
    (folder / "p.json").unlink()
    (folder / "p.json").symlink_to(folder.parent / "outside" / "p.json")
    with pytest.raises(LmpError, match="outside the folder"):
        lmppl.infer(compiled)


def test_an_expression_about_a_posterior_opens_nothing_either(folder: Path) -> None:
    post = lmppl.infer(lmppl.compile(BODY, base_dir=folder))
    with pytest.raises(LmpError, match="LMP135"):
        post.expectation('if contains(text, file("/etc/passwd")) then 1 else 0')


def test_pipes_devices_and_directories_are_refused_at_once(folder: Path) -> None:
    os.mkfifo(folder / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(folder)
        server.bind("socket.txt")
        os.chdir(here)
        for path in ("pipe.txt", "socket.txt", "sub"):
            for source in ways(path):
                assert "LMP136" in refused(source, folder)
    assert refused(ways("/dev/zero")[0], folder, allow=["/dev"])[0] == "LMP136"


@pytest.mark.parametrize("path", ["pipe.lmp", "/dev/zero", "/dev/stdin/x", "."])
def test_a_program_is_a_plain_file(path: str, folder: Path, capsys: object) -> None:
    os.mkfifo(folder / "pipe.lmp")
    found: list[int] = []
    # A thread, so that a pipe without a writer fails this test and does not hang it.
    worker = threading.Thread(
        target=lambda: found.append(main(["check", str(folder / path)])), daemon=True
    )
    worker.start()
    worker.join(30)
    assert found == [2]


def test_files_beyond_a_size_are_refused_without_being_read(folder: Path) -> None:
    for name, size in (("huge.txt", 2**40), ("huge.lmp", 2**33)):
        with open(folder / name, "wb") as file:
            file.truncate(size)
    assert refused(ways("huge.txt")[0], folder)[0] == "LMP136"
    assert refused(ways("huge.lmp")[3], folder)[0] == "LMP136"
    with pytest.raises(LmpError, match="larger than 4 MiB"):
        lmppl.load(folder / "huge.lmp")
    with pytest.raises(NotPlain, match="larger than 256 MiB"):
        read_plain(folder / "huge.txt")


@pytest.mark.parametrize("path", ["a\0b", "a\ud800b"])
def test_paths_that_are_no_paths_are_typed_errors(path: str, folder: Path) -> None:
    for read in (
        lambda: lmppl.load(path),
        lambda: lmppl.compile(BODY, base_dir=path),
        lambda: lmppl.compile(BODY, base_dir=folder, allow=[path]),
    ):
        with pytest.raises(LmpError):
            read()
    with pytest.raises(Unreadable):
        Folder.of(folder).read(path)
    assert main(["check", path]) == 2


def test_no_race_leads_out_of_the_folder(folder: Path) -> None:
    """A directory that turns into a link between the look and the read is not followed."""
    reader = Folder.of(folder)
    (folder / "sub" / "secret.txt").write_text("mine")
    assert reader.read("sub/secret.txt") == b"mine"
    real = os.path.realpath

    def swapping(path: str) -> str:
        found = real(path)
        (folder / "sub").rename(folder / "old")
        (folder / "sub").symlink_to(folder.parent / "outside")
        return found

    os.path.realpath = swapping  # type: ignore[assignment]
    try:
        with pytest.raises(Unreadable):
            reader.read("sub/secret.txt")
    finally:
        os.path.realpath = real
    assert isinstance(Folder.of(folder).roots, tuple)
    with pytest.raises(Outside):
        reader.read("sub/secret.txt")


def test_the_command_line_allows_folders(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = folder / "m.lmp"
    program.write_text(ways("../outside/secret.txt")[6])
    outside = str(folder.parent / "outside")
    for command in (["check"], ["info"], ["run"], ["explain", "--method", "exact"]):
        assert main([*command, str(program)]) == 1
        assert main([*command, "--allow-path", outside, str(program)]) in (0, 3)
    shown = capsys.readouterr()
    assert "LMP135" in shown.err and "--allow-path" in shown.err


@pytest.mark.parametrize("name", ["builtin:../..", "builtin:stories/../stories", "builtin:."])
def test_a_builtin_model_is_named_and_not_a_path(name: str, folder: Path) -> None:
    source = f'model m() {{ text ~ lm("{name}", prompt="", max_tokens=2) return text }}'
    with pytest.raises(LmpError):
        lmppl.infer(lmppl.compile(source, base_dir=folder), method="importance", num_samples=2)


ACTING = {"\x1b", "\x07", "\x9b", "\u202e", "\u2066"}


def test_escapes_and_reordering_controls_reach_no_terminal_and_no_page(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = ["\x1b[31mred\x07", "\u202eevil\u2066", "<script>alert(1)</script>\x9b"]
    chain = {"tokens": tokens, "initial": [1] * 3, "transition": [[1] * 3] * 3, "eos": None}
    (folder / "p.json").write_text(json.dumps(chain))
    program = folder / "m.lmp"
    program.write_text(
        'model m() { text ~ markov("p.json", max_tokens=2)\n'
        'x ~ categorical(["\\u001b[2J", "\\u202e b"])\n'
        'factor if x == "\\u202e b" then 1 else 0\nreturn text, x }\n'
        "infer importance(num_samples=20, seed=0)\n"
    )
    page = folder / "r.html"
    for command in (
        ["run", str(program), "--report", str(page)],
        ["info", str(program)],
        ["info", "--json", str(program)],
        ["run", str(program), "--param", "\x1b[31m=3"],
        ["run", f"{folder}/\x1b[31mx.lmp"],
        ["run", str(program), "--set", "\x1b[3m=1"],
        ["explain", "--method", "\x1b[3m", str(program)],
    ):
        main(command)
        shown = capsys.readouterr()
        assert not ACTING & set(shown.out + shown.err)
        if "--json" in command:
            (site,) = [s for s in json.loads(shown.out)["sites"] if s["name"] == "x"]
            assert site["distribution"]["arguments"]["values"] == ["\x1b[2J", "\u202e b"]
    post = lmppl.infer(lmppl.load(program))
    for text in (page.read_text(encoding="utf-8"), post._repr_html_()):
        assert not ACTING & set(text)
        assert "<script>alert" not in text
    assert not ACTING & set(str(post.summary()))
