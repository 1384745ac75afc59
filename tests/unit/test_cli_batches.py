"""`--data FILE.jsonl`: many bindings of one program in one batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmppl import load_posterior
from lmppl.cli import main

PRIOR = {"tokens": ["a", "b"], "initial": [1, 1], "transition": [[1, 2], [2, 1]], "eos": None}
PROGRAM = """\
reward vowels(t: string): int<lower=0, upper=3> = count("a")

model tiny(name: string, beta: real<lower=0> = 1.0) {
    text ~ markov("prior.json", max_tokens=3)
    factor tone: vowels(text) / beta
    return text
}

infer importance(num_samples=10, seed=1)
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    (tmp_path / "prior.json").write_text(json.dumps(PRIOR))
    path = tmp_path / "tiny.lmp"
    path.write_text(PROGRAM)
    return path


def _data(tiny: Path, *lines: str) -> str:
    path = tiny.with_name("data.jsonl")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


THREE = ('{"name": "Zoë", "beta": 0.5}', "", '{"name": "Bo"}', '{"name": "Cy", "beta": 4}')


def test_every_line_gets_its_summary(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tiny), "--data", _data(tiny, *THREE), "--show", "1"]) == 0
    out = capsys.readouterr().out
    assert out.count("importance of tiny: 10 draws") == 3
    assert '── binding 1 of 3: name = "Zoë", beta = 0.5\n' in out
    assert '\n── binding 2 of 3: name = "Bo", beta = 1.0\n' in out
    assert '── binding 3 of 3: name = "Cy", beta = 4' in out


def test_results_go_to_directories_and_reports_of_their_own(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tiny.parent / "results"
    arguments = ["run", str(tiny), "--data", _data(tiny, *THREE), "-q", "--out", str(out)]
    assert main([*arguments, "--report", str(tiny.parent / "r.html")]) == 0
    assert capsys.readouterr().out == ""
    posts = [load_posterior(out / str(number)) for number in (1, 2, 3)]
    assert [post.manifest["parameters"]["name"] for post in posts] == ["Zoë", "Bo", "Cy"]
    assert sorted(path.name for path in out.iterdir()) == ["1", "2", "3"]
    assert sorted(path.name for path in tiny.parent.glob("*.html")) == [
        f"r-{number}.html" for number in (1, 2, 3)
    ]
    # Once more to the same places.
    assert main(arguments) == 0


def test_all_draws_go_to_one_file_of_lines(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", str(tiny), "--data", _data(tiny, *THREE)]
    assert main([*arguments, "--jsonl", "-"]) == 0
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["binding"] for row in rows] == [1] * 10 + [2] * 10 + [3] * 10
    assert captured.err.count("importance of tiny") == 3 and "── binding 3 of 3" in captured.err
    path = tiny.parent / "draws.jsonl"
    assert main([*arguments, "--jsonl", str(path), "-q"]) == 0
    assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == rows


def test_the_command_line_wins_over_every_line(tiny: Path) -> None:
    out = tiny.parent / "results"
    arguments = ["run", str(tiny), "--data", _data(tiny, *THREE), "-q", "--out", str(out)]
    assert main([*arguments, "--param", "beta=7", "--num-samples", "4"]) == 0
    for number in (1, 2, 3):
        post = load_posterior(out / str(number))
        assert post.manifest["parameters"]["beta"] == 7.0 and len(post) == 4


def test_a_wrong_line_is_named(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line, words in (
        ("{", "line 2 of"),
        ("[1]", "is no JSON object"),
        ('{"nam": "x"}', "did you mean name?"),
        ('{"beta": 2}', "needs --param name=…"),
    ):
        assert main(["run", str(tiny), "--data", _data(tiny, THREE[0], line)]) == 2
        error = capsys.readouterr().err
        assert words in error and "line 2 of" in error
    assert main(["run", str(tiny), "--data", _data(tiny, "")]) == 2
    assert "no line with parameters" in capsys.readouterr().err
    assert main(["run", str(tiny), "--data", _data(tiny, THREE[0], '{"name": 1}')]) == 1
    error = capsys.readouterr().err
    assert "LMP132" in error and "the values are those of line 2 of" in error
    assert main(["run", str(tiny), "--data", str(tiny.with_name("none.jsonl"))]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_what_cannot_be_written_is_found_before_the_run(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = _data(tiny, *THREE)
    out = tiny.parent / "results"
    (out / "2").mkdir(parents=True)
    (out / "2" / "thesis.tex").write_text("years of work")
    assert main(["run", str(tiny), "--data", data, "--out", str(out)]) == 2
    assert "2" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["2"]
    single = tiny.parent / "single"
    assert main(["run", str(tiny), "--param", "name=x", "-q", "--out", str(single)]) == 0
    assert main(["run", str(tiny), "--data", data, "--out", str(single)]) == 2
    assert "is a saved posterior" in capsys.readouterr().err


def test_commands_that_take_one_binding_say_so(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = _data(tiny, *THREE)
    for command in (["compare", str(tiny), "--methods", "exact"], ["explain", str(tiny)]):
        assert main([*command, "--data", data]) == 2
        assert "takes one set of parameters" in capsys.readouterr().err
    listed = tiny.with_name("data.json")
    listed.write_text("[{}]")
    assert main(["run", str(tiny), "--data", str(listed)]) == 2
    assert "FILE.jsonl, an object a line" in capsys.readouterr().err
