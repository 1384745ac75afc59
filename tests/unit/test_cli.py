"""The command line: results to stdout, messages to stderr, exit codes as documented."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmppl import __version__, load_posterior
from lmppl.cli import main
from lmppl.cli.arguments import COMMANDS
from lmppl.cli.outcome import UsageError
from lmppl.cli.parsing import option_names
from lmppl.cli.running import interruptible
from lmppl.cli.streams import has_colour, say_diagnostics, show_summary
from lmppl.cli.values import read_options, read_value, split_pair
from lmppl.inference import METHODS
from lmppl.ir.types import BOOL, INT, REAL, STRING

PRIOR = {
    "tokens": ["a", "b", "c"],
    "initial": [2, 1, 1],
    "transition": [[1, 2, 1], [2, 1, 1], [1, 1, 2]],
    "eos": None,
}

PROGRAM = """\
reward vowels(t: string): int<lower=0, upper=4> = count("[a]")

model tiny(beta: real<lower=0> = 1.0) {
    text ~ markov("prior.json", max_tokens=4)
    factor tone: vowels(text) / beta
    require clean: never(text, words=["cc"])
    expect mean(vowels(text)) >= 1
    return text
}

infer exact()
infer smc(num_particles=64, num_runs=4, seed=1) as particles
"""

JUDGED = """\
extern reward score(t: string): real<lower=0, upper=1>

model judged(prompt: string) {
    text ~ markov("prior.json", max_tokens=4)
    factor score(text)
    return text
}

infer mcmc(num_chains=4, num_samples=200, warmup_steps=2, start="prior", seed=1)
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    (tmp_path / "prior.json").write_text(json.dumps(PRIOR))
    path = tmp_path / "tiny.lmp"
    path.write_text(PROGRAM)
    return path


@pytest.fixture
def judged(tiny: Path) -> Path:
    path = tiny.with_name("judged.lmp")
    path.write_text(JUDGED)
    return path


def _run_python(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, **options
    )


# Parsing


def test_the_version_is_the_package_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lmppl {__version__}\n"


def test_every_documented_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "check", "fmt", "info", "explain", "compare", "models", "methods"):
        assert main([command, "--help"]) == 0
        assert f"usage: lmppl {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["diagnose", "x.lmp"],
        ["run"],
        ["run", "a.lmp", "--infer", "x", "--method", "smc"],
        ["run", "a.lmp", "--out", "d", "--jsonl", "f"],
        ["run", "a.lmp", "--num-samples", "0"],
        ["run", "a.lmp", "--seed", "-1"],
        ["run", "a.lmp", "--num", "3"],
        ["compare", "a.lmp"],
    ],
)
def test_wrong_usage_exits_with_two(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert "usage: lmppl" in captured.err + captured.out


def test_the_parser_has_the_options_of_the_reference() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text("utf-8")
    for name, command in COMMANDS.commands.items():
        assert f"`lmppl {name}" in text, name
        for option in option_names(command) - {"-h", "--help"}:
            assert f"`{option}" in text, (name, option)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("rn a.lmp", "did you mean run?"),
        ("a.lmp", "did you mean lmppl run a.lmp?"),
        ("", "name a command"),
        ("run a.lmp --num 3", "did you mean --num-samples?"),
        ("run a.lmp -n 3", "did you mean --num-samples?"),
        ("run a.lmp --sed 3", "did you mean --seed?"),
        ("run a.lmp --num-particles 3", "--set num_particles=…"),
        (
            "run a.lmp --num-particle 3",
            "did you mean the option of the method, --set num_particles=…?",
        ),
        ("run a.lmp --prompt Hi", "--param prompt=…"),
        ("run a.lmp --seed --quiet", "--seed needs a value, before --quiet"),
        ("run a.lmp --seed", "lmppl run: error: option '--seed' requires an argument"),
        ("run a.lmp --seed x", "--seed: 'x' is not a whole number"),
        ("run a.lmp --seed -1", "--seed: -1 is negative"),
        ("run a.lmp --show=-1", "--show: -1 is negative"),
        ("run a.lmp --infer x --method smc", "--infer and --method exclude each other"),
        ("run a.lmp b.lmp", "unexpected extra argument (b.lmp)"),
        ("run", "FILE is missing"),
        ("compare a.lmp", "--methods A,B,… is missing"),
    ],
)
def test_wrong_usage_says_what_was_probably_meant(
    arguments: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.split()) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_help_reaches_a_terminal_without_unicode() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = _run_python("-m", "lmppl", "compare", "--help", env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--methods A,B,?" in done.stdout


def test_a_shell_can_complete_commands() -> None:
    environment = {
        **os.environ,
        "_LMPPL_COMPLETE": "bash_complete",
        "COMP_WORDS": "lmppl exp",
        "COMP_CWORD": "1",
    }
    done = _run_python("-m", "lmppl", env=environment)
    assert (done.returncode, done.stdout) == (0, "plain,explain\n")


def test_pairs_are_split_at_the_first_equals_sign() -> None:
    assert split_pair("prompt=a=b", "--param") == ("prompt", "a=b")
    assert split_pair("prompt=", "--param") == ("prompt", "")
    for wrong in ("prompt", "=x"):
        with pytest.raises(UsageError, match="not of the form name=value"):
            split_pair(wrong, "--param")


def test_parameters_are_read_by_their_type() -> None:
    assert read_value("true", STRING, "x") == "true"
    assert read_value(" 12", STRING, "x") == " 12"
    assert read_value("12", INT, "x") == 12
    assert read_value("1e-3", REAL, "x") == 0.001
    assert read_value("True", BOOL, "x") is True
    assert read_value('["a", "b"]', STRING.array(), "x") == ["a", "b"]
    for text, type_ in (("1.5", INT), ("x", REAL), ("nan", REAL), ("1", BOOL), ("a", INT.array())):
        with pytest.raises(UsageError, match="parameter x is"):
            read_value(text, type_, "x")


def test_options_are_read_as_what_they_look_like() -> None:
    pairs = ["a=3", "b=0.5", "c=true", "d=prefix", "e=none", "f=[1, 2]", "g=[oops"]
    assert read_options(pairs) == {
        "a": 3,
        "b": 0.5,
        "c": True,
        "d": "prefix",
        "e": None,
        "f": [1, 2],
        "g": "[oops",
    }


# check, fmt, info, explain, methods, models


def test_check_of_a_good_program_is_fine(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tiny)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"{tiny}: fine\n"


def test_check_reports_every_error_of_every_file(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tiny.with_name("bad.lmp")
    bad.write_text(PROGRAM.replace("/ beta", "/ bta").replace("return text", "return txt"))
    assert main(["check", str(bad), str(tiny)]) == 1
    err = capsys.readouterr().err
    assert "bta" in err and "txt" in err
    assert f"{bad}: 2 errors" in err and f"{tiny}: fine" in err


def test_a_missing_file_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("check", "fmt", "info", "run", "explain"):
        assert main([command, str(tmp_path / "no.lmp")]) == 2
        assert "no.lmp: No such file" in capsys.readouterr().err


def test_files_that_are_there_are_checked_beside_one_that_is_not(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(tiny.with_name("tyny.lmp")), str(tiny)]) == 2
    err = capsys.readouterr().err
    assert f"did you mean {tiny}?" in err and f"{tiny}: fine" in err


def test_a_binary_file_is_an_error_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.lmp"
    path.write_bytes(b"\xff\xfe\x00")
    assert main(["check", str(path)]) in (1, 2)
    assert "Traceback" not in capsys.readouterr().err


def test_check_and_explain_load_nothing_heavy(tiny: Path) -> None:
    # What is required of a text is held against the vocabulary of its language model.
    free = tiny.with_name("free.lmp")
    free.write_text(PROGRAM.replace('require clean: never(text, words=["cc"])', ""))
    code = (
        "import sys; from lmppl.cli import main\n"
        "for line in sys.stdin:\n"
        "    code = main(line.split())\n"
        "    heavy = ('torch', 'transformers', 'pyro', 'numpy', 'scipy', 'rich')\n"
        "    print('>>', code, [name for name in heavy if name in sys.modules])"
    )
    commands = (
        f"check {tiny}",
        f"fmt --check {tiny}",
        f"info --json {tiny}",
        "explain LMP001",
        f"explain {free} --method smc",
        "methods",
    )
    done = _run_python("-c", code, input="\n".join(commands))
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(">>")]
    assert lines == [">> 0 []"] * len(commands)


def test_fmt_rewrites_only_what_changes(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fmt", str(tiny)]) == 0
    neat = tiny.read_text()
    capsys.readouterr()
    assert main(["fmt", "--check", str(tiny)]) == 0
    assert capsys.readouterr() == ("", "")
    messy = neat.replace("factor tone:", "factor   tone :")
    tiny.write_text(messy)
    os.chmod(tiny, 0o640)
    assert main(["fmt", "--check", str(tiny)]) == 1
    assert "would be formatted" in capsys.readouterr().err
    assert tiny.read_text() == messy
    assert main(["fmt", str(tiny)]) == 0
    assert tiny.read_text() == neat
    assert tiny.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in tiny.parent.iterdir()) == ["prior.json", "tiny.lmp"]


def test_fmt_leaves_a_broken_program_alone(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.write_text(PROGRAM.replace("return text\n}", "return text"))
    before = tiny.read_bytes()
    assert main(["fmt", str(tiny)]) == 1
    assert "error[LMP0" in capsys.readouterr().err
    assert tiny.read_bytes() == before


def test_info_is_json_on_request(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tiny), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["name"] == "tiny"
    assert [p["label"] for p in described["potentials"]] == ["tone", "clean"]
    assert main(["info", str(tiny)]) == 0
    out = capsys.readouterr().out
    assert "beta: real<lower=0> = 1.0" in out and "in [0, " in out and "as particles" in out


def test_explain_tells_what_a_code_means(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "LMP303"]) == 0
    first = capsys.readouterr().out
    assert first.startswith("LMP303: ") and "\n\nWrong:\n    model story(" in first
    assert "```" not in first and "##" not in first
    assert main(["explain", "303"]) == 0
    assert capsys.readouterr().out == first
    for wrong in ("LMP399", "LMP9999", "12"):
        assert main(["explain", wrong]) == 2
        assert "there is no diagnostic LMP" in capsys.readouterr().err


def test_explain_tells_whether_a_method_would_run(
    tiny: Path, judged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(tiny), "--method", "rejection"]) == 0
    out = capsys.readouterr().out
    assert "rejection on tiny: would run" in out
    assert max(map(len, out.splitlines())) <= 96 and len(out.splitlines()) > 5
    # Neither the extern nor the required parameter is needed to make a plan.
    assert main(["explain", str(judged), "--set", "num_chains=7"]) == 0
    assert "num_chains = 7 (set)" in capsys.readouterr().out
    tiny.write_text(PROGRAM.replace("<lower=0, upper=4>", ""))
    assert main(["explain", str(tiny), "--method", "rejection"]) == 3
    assert "LMP410" in capsys.readouterr().out


_MEAN = 'real<lower=0, upper=4> = lexicon("words.json", reduce="mean")'


def test_explain_says_what_only_the_run_of_exact_can_tell(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(tiny), "--method", "exact"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("exact on tiny: would run\n")
    assert "sums over the texts of text by dynamic programming" in " ".join(out.split())
    # The mean of the scores of words is no sum.
    (tiny.parent / "words.json").write_text('{"a": 1, "b": 2}')
    tiny.write_text(PROGRAM.replace('int<lower=0, upper=4> = count("[a]")', _MEAN))
    assert main(["explain", str(tiny), "--method", "exact"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("exact on tiny: would start, and may refuse while it runs\n  LMP416: ")
    assert "they cannot be summed" in out and "lists every execution, up to max_seq" in out
    # Choices alone are counted.
    tiny.write_text(
        'model few(words: string[] = ["a", "b"]) {\n'
        "    coin ~ bernoulli(0.5)  word ~ categorical(words)\n"
        "    return coin, word\n}\n"
    )
    assert main(["explain", str(tiny), "--method", "exact", "--set", "max_sequences=4"]) == 0
    assert capsys.readouterr().out.startswith("exact on few: would run\n")
    given = ["--method", "exact", "--set", "max_sequences=4", "--param", 'words=["a", "b", "c"]']
    assert main(["explain", str(tiny), *given]) == 0
    assert "may refuse" in capsys.readouterr().out


def test_methods_and_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == [method.name for method in METHODS]
    assert main(["methods", "smc"]) == 0
    assert "num_particles = 256" in capsys.readouterr().out
    assert main(["methods", "smcc"]) == 2
    assert "did you mean smc?" in capsys.readouterr().err
    assert main(["models"]) == 0
    assert "hub id" in capsys.readouterr().out


# run


def test_run_shows_draws_and_evidence(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tiny), "--show", "3"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("exact of tiny: ")
    assert "the 3 heaviest" in captured.out
    assert re.search(r"log evidence +\S+ \(exact\)", captured.out)
    assert "expect mean(vowels(text)) >= 1  holds" in captured.out
    # Where stderr is no terminal, there is no line that is rewritten.
    assert "\r" not in captured.err and "\x1b" not in captured.err


def test_run_saves_what_it_shows(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tiny.parent / "result"
    arguments = ["run", str(tiny), "--infer", "particles", "--num-samples", "16", "--out", str(out)]
    assert main([*arguments, "--report", str(tiny.parent / "r.html")]) == 0
    captured = capsys.readouterr()
    post = load_posterior(out)
    assert captured.out == post.summary()
    assert f"saved to {out}" in captured.err
    assert post.manifest["settings"]["num_particles"] == 16
    assert post.manifest["settings"]["seed"] == 1
    assert "<h1>" in (tiny.parent / "r.html").read_text("utf-8")


def test_json_lines_to_standard_output_are_alone_there(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", str(tiny), "--method", "importance", "--num-samples", "20", "--seed", "3"]
    assert main([*arguments, "--jsonl", "-"]) == 0
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert rows and all("weight" in row and "text" in row["values"] for row in rows)
    assert "importance of tiny" in captured.err
    path = tiny.parent / "draws.jsonl"
    assert main([*arguments, "--jsonl", str(path), "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows


def test_the_command_line_wins_over_the_file(tiny: Path) -> None:
    out = tiny.parent / "result"
    arguments = ["run", str(tiny), "--infer", "particles", "--out", str(out), "-q", "--seed", "9"]
    assert main([*arguments, "--set", "num_particles=8", "--set", "seed=4"]) == 0
    settings = load_posterior(out).manifest["settings"]
    assert (settings["num_particles"], settings["num_runs"], settings["seed"]) == (8, 4, 9)


def test_parameters_come_from_the_command_line_and_from_json(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tiny.parent / "data.json"
    data.write_text('{"beta": 0.5}')
    out = tiny.parent / "result"
    base = ["run", str(tiny), "-q", "--out", str(out), "--data", str(data)]
    assert main(base) == 0
    assert load_posterior(out).manifest["parameters"]["beta"] == 0.5
    assert main([*base, "--param", "beta=4"]) == 0
    assert load_posterior(out).manifest["parameters"]["beta"] == 4.0
    for wrong, words in (
        (["--param", "bta=1"], "did you mean beta?"),
        (["--param", "beta=much"], "parameter beta is a real"),
        (["--param", "beta"], "name=value"),
        (["--data", str(tiny)], "is not JSON"),
        (["--data", str(tiny.parent / "none.json")], "cannot read"),
        (["--set", "num_particels=3"], "LMP402"),
        (["--method", "smcc"], "did you mean `smc`?"),
        (["--infer", "nothing"], "LMP404"),
    ):
        assert main(["run", str(tiny), *wrong]) == 2, wrong
        assert words in capsys.readouterr().err


def test_a_value_out_of_its_range_is_a_diagnostic(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(tiny), "--param", "beta=-1"]) == 1
    assert "error[LMP" in capsys.readouterr().err


def test_what_is_missing_is_named_with_its_option(
    judged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(judged)]) == 2
    err = capsys.readouterr().err
    assert "--param prompt=… (string)" in err and "--extern score=module:attribute" in err


def test_externs_come_from_python_only_when_asked(
    judged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (judged.parent / "host.py").write_text("def score(t):\n    return 0.25 * t.count('a')\n")
    base = ["run", str(judged), "--param", "prompt=x", "--method", "exact"]
    host = str(judged.parent / "host.py")
    assert main([*base, "--extern", f"score={host}:score"]) == 0
    assert "log evidence" in capsys.readouterr().out
    for wrong, words in (
        (f"score={host}:scores", "has no scores"),
        ("score=no_such_module_here:f", "cannot import"),
        ("score=nonsense", "module:attribute"),
        (f"scoer={host}:score", "no extern 'scoer'"),
    ):
        assert main([*base, "--extern", wrong]) == 2
        assert words in capsys.readouterr().err
    assert main([*base, "--param", "score=1"]) == 2
    assert "--extern score=module:attribute" in capsys.readouterr().err


def test_a_refused_method_exits_with_three(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.write_text(PROGRAM.replace("<lower=0, upper=4>", ""))
    assert main(["run", str(tiny), "--method", "rejection"]) == 3
    assert "LMP410" in capsys.readouterr().err


def test_a_reward_that_fails_exits_with_three(
    judged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (judged.parent / "nan.py").write_text("def score(t):\n    return float('nan')\n")
    host = f"score={judged.parent / 'nan.py'}:score"
    assert main(["run", str(judged), "--param", "prompt=x", "--extern", host]) == 3
    captured = capsys.readouterr()
    assert "error[LMP9" in captured.err and captured.out == ""


def test_a_result_that_cannot_be_written_is_found_out_before_the_run(
    judged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The program lacks its extern: had the run been tried first, that would be the message.
    assert main(["run", str(judged), "--out", str(judged.parent)]) == 2
    assert "no saved posterior" in capsys.readouterr().err
    missing = str(judged.parent / "no" / "x.jsonl")
    assert main(["run", str(judged), "--jsonl", missing]) == 2
    assert "there is no directory" in capsys.readouterr().err


def test_an_interrupted_run_saves_what_it_has(
    judged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The reward itself presses Ctrl-C, in the middle of the chains: no timing is involved.
    (judged.parent / "impatient.py").write_text(
        "import signal\n"
        "calls = 0\n"
        "def score(t):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    if calls == 80:\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    return 0.5\n"
    )
    out = judged.parent / "partial"
    host = f"score={judged.parent / 'impatient.py'}:score"
    arguments = ["run", str(judged), "--param", "prompt=x", "--extern", host, "--out", str(out)]
    before = signal.getsignal(signal.SIGINT)
    assert main(arguments) == 130
    captured = capsys.readouterr()
    assert "INCOMPLETE" in captured.out
    assert "interrupted" in captured.err and f"saved to {out}" in captured.err
    post = load_posterior(out)
    assert not post.complete
    assert 0 < len(post) < 800
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_while_the_terminal_is_written_to_is_noted_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def busy(message: str) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    monkeypatch.setattr("lmppl.cli.running.say", busy)
    with interruptible() as was_interrupted:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert was_interrupted()


def test_an_interruption_before_the_first_draw_exits_with_130(
    judged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (judged.parent / "at_once.py").write_text(
        "import signal\ndef score(t):\n    signal.raise_signal(signal.SIGINT)\n    return 0.5\n"
    )
    host = f"score={judged.parent / 'at_once.py'}:score"
    arguments = ["run", str(judged), "--param", "prompt=x", "--extern", host]
    assert main([*arguments, "--method", "exact"]) == 130
    assert capsys.readouterr().out == ""


def test_a_reader_that_leaves_is_no_error(tiny: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "lmppl", "info", "--json", str(tiny)],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_terminal_without_unicode_still_gets_its_result(tiny: Path) -> None:
    tiny.write_text(PROGRAM.replace("beta: real", 'name: string = "Zoë", beta: real'))
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = _run_python("-m", "lmppl", "info", str(tiny), env=environment)
    assert done.returncode == 0, done.stderr
    assert 'name: string = "Zo?"' in done.stdout


# Terminal


class _Terminal:
    def __init__(self, is_tty: bool = True) -> None:
        self.written = ""
        self.is_tty = is_tty

    def isatty(self) -> bool:
        return self.is_tty

    def write(self, text: str) -> int:
        self.written += text
        return len(text)

    def flush(self) -> None: ...


def test_colour_only_on_a_terminal_that_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert has_colour(_Terminal())  # type: ignore[arg-type]
    assert not has_colour(_Terminal(is_tty=False))  # type: ignore[arg-type]
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    say_diagnostics("error[LMP101]: no `error[LMP101]` here\n  | error: not a head")
    assert terminal.written.count("\x1b[1;31m") == 1
    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_colour(_Terminal())  # type: ignore[arg-type]


def test_a_summary_is_coloured_on_a_terminal_and_says_the_same(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    text = (
        "smc of m: 2 draws\n\n  0.5000  [Once]  there\n\nexpect x > 1  holds: 2 (exact)\n\n"
        f"warning: {'long ' * 40}[a]\n"
    )
    show_summary(text)
    assert capsys.readouterr().out == text
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    show_summary(text)
    assert "\x1b[2m[Once]\x1b[0m" in terminal.written and "\x1b[32mholds" in terminal.written
    assert re.sub(r"\x1b\[[0-9;]*m", "", terminal.written) == text
    terminal.written = ""
    monkeypatch.setenv("NO_COLOR", "1")
    show_summary(text)
    assert terminal.written == text


def test_the_page_of_a_code_is_coloured_on_a_terminal_and_says_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert main(["explain", "LMP119"]) == 0
    plain = capsys.readouterr().out
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["explain", "LMP119"]) == 0
    for styled in (
        "\x1b[1;31mWrong\x1b[0m:",
        "\x1b[1;32mRight\x1b[0m:",
        "\x1b[1mwords.txt\x1b[0m:",
    ):
        assert styled in terminal.written
    assert re.sub(r"\x1b\[[0-9;]*m", "", terminal.written) == plain


# compare


def test_compare_finds_methods_that_agree(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = "exact,importance,smc"
    arguments = ["compare", str(tiny), "--methods", methods, "--num-samples", "400", "--seed", "1"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    header, *rows = captured.out.splitlines()
    assert header.split() == methods.split(",")
    assert any(row.startswith("log evidence") for row in rows)
    assert any(row.startswith("mean of tone") for row in rows)
    assert "The methods agree within their errors;" in captured.out


def test_compare_goes_on_after_a_refusal(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.write_text(PROGRAM.replace("<lower=0, upper=4>", ""))
    assert main(["compare", str(tiny), "--methods", "rejection,exact"]) == 0
    captured = capsys.readouterr()
    assert "rejection: " in captured.err and "exact" in captured.out
    assert main(["compare", str(tiny), "--methods", "rejection"]) == 3
    for wrong in ("exact,smx", "exact,exact", ","):
        assert main(["compare", str(tiny), "--methods", wrong]) == 2
    assert "did you mean smc?" in capsys.readouterr().err


RARE = """\
model rare() {
    kept ~ bernoulli(0.999)
    side ~ bernoulli(0.999)
    require kept
    return kept, side
}
"""


def test_draws_that_are_all_alike_do_not_disagree_with_what_they_may_have_missed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rare.lmp"
    path.write_text(RARE)
    options = ["--num-samples", "20", "--seed", "1"]
    assert main(["compare", str(path), "--methods", "exact,importance,smc", *options]) == 0
    out = capsys.readouterr().out
    # The enumeration is whole: 0.999 is no share of 20 draws.
    assert "-0.001001 (exact)" in out and "0.9990 (exact)" in out
    assert "0 ± 0" in out
    assert "The methods agree within their errors;" in out


def test_compare_gives_an_option_to_the_methods_that_have_it(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", str(tiny), "--methods", "exact,smc", "--seed", "1", "--set"]
    assert main([*arguments, "num_particles=50"]) == 0
    capsys.readouterr()
    assert main([*arguments, "num_partcles=50"]) == 2
    assert "LMP402" in capsys.readouterr().err
    # An option of neither is an option of another method, not of these.
    assert main([*arguments, "num_chains=50"]) == 2
    assert "num_chains is an option of mcmc" in capsys.readouterr().err


def test_data_may_begin_with_a_byte_order_mark(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tiny.with_name("data.json")
    data.write_text('{"beta": 2}', encoding="utf-8-sig")
    assert main(["run", str(tiny), "--data", str(data), "--show", "0"]) == 0
    data.write_text('{"beta": null}')
    assert main(["run", str(tiny), "--data", str(data)]) == 1
    assert "but None was given" in capsys.readouterr().err


def test_more_threads_than_a_process_can_have_are_refused(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(tiny), "--threads", "100000"]) == 2
    assert "--threads 100000 is too many" in capsys.readouterr().err


def test_check_tells_likely_mistakes_only_when_asked(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write_text(PROGRAM.replace(", seed=1)", ")"))
    assert main(["check", str(tiny)]) == 0
    assert "LMP601" not in capsys.readouterr().err
    assert main(["check", "--pedantic", str(tiny)]) == 0
    assert "LMP601" in capsys.readouterr().err


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
@pytest.mark.parametrize(("command", "code"), [("methods", 0), ("check nowhere.lmp", 2)])
def test_a_closed_stream_is_no_bug(closed: str, command: str, code: int) -> None:
    line = f'"{sys.executable}" -m lmppl {command} {closed}'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr and "bug" not in done.stderr


def test_a_reader_of_diagnostics_that_leaves_early_is_no_bug(tmp_path: Path) -> None:
    path = tmp_path / "many.lmp"
    path.write_text("model m() { x ~ bernoulli(2) y ~ bernoulli(3) }\n" * 20)
    line = f'("{sys.executable}" -m lmppl check "{path}"; echo $? >&3) 2>&1 | head -1'
    done = subprocess.run(
        ["bash", "-c", f"exec 3>&2; {line}"], capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == "1"
