"""Each example runs as it is, only shorter, and is formatted."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lmppl
from lmppl.cli import main
from lmppl.inference import METHODS
from tests.docs.blocks import ROOT

EXAMPLES = ROOT / "examples"
PROGRAMS = sorted(EXAMPLES.glob("*.lmp"))
# Parameters of infer lines that keep a run short; what a method does not have is left out.
SHORT = {
    "num_particles": 24,
    "num_samples": 12,
    "num_chains": 4,
    "warmup_steps": 4,
    "num_steps": 2,
    "batch_size": 64,
}


def short(method: str) -> dict[str, int]:
    kind = next(each for each in METHODS if each.name == method)
    return {name: value for name, value in SHORT.items() if name in kind.__dataclass_fields__}


def infer_lines() -> list[tuple[Path, str, str]]:
    found = []
    for program in PROGRAMS:
        for spec in lmppl.load(program).model.infers:
            found.append((program, spec.method, spec.name or spec.method))
    return found


def bound(program: Path) -> lmppl.BoundModel:
    model = lmppl.load(program)
    if program.stem == "judge":
        return model(quality=lambda texts: np.array([[len(t) / 400, 0.5] for t in texts]))
    return model()


def test_there_are_eight_examples() -> None:
    assert [each.stem for each in PROGRAMS] == [
        *("judge", "markov", "polite", "sharp", "topical", "tuned", "upbeat", "voyage"),
    ]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_an_example_is_checked_without_a_warning(program: Path) -> None:
    assert lmppl.load(program).check() == []


def test_the_examples_are_formatted(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["fmt", "--check", *map(str, PROGRAMS)])
    assert code == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "method", "name"), infer_lines(), ids=lambda value: getattr(value, "stem", value)
)
def test_every_infer_line_of_an_example_runs(program: Path, method: str, name: str) -> None:
    options = {} if method == "exact" else short(method)
    post = lmppl.infer(bound(program), infer=name, **options)
    assert len(post) > 0 and post.method == method
    assert abs(float(np.exp(post.log_weights).sum()) - 1.0) < 1e-9
    assert post.complete
    assert str(len(post)) in post.summary()


def test_polite_keeps_its_constraints() -> None:
    post = lmppl.infer(lmppl.load(EXAMPLES / "polite.lmp"), num_particles=24)
    rude = (EXAMPLES / "rude.txt").read_text().split("\n")
    for text in post.texts:
        assert re.fullmatch(r"[A-Z][^.!?]*[.!?]", text)
        assert len(text.split()) <= 10
        assert not any(word in text.lower() for word in rude if word)


def test_the_particles_of_markov_agree_with_the_enumeration() -> None:
    model = lmppl.load(EXAMPLES / "markov.lmp")
    exact = lmppl.infer(model)
    particles = lmppl.infer(model, infer="particles")
    estimate = particles.log_evidence
    assert exact.log_evidence.kind == "exact"
    # A Markov chain looks ahead by itself, so that every particle weighs the same: the evidence.
    assert estimate.kind == "exact"
    assert abs(estimate.value - exact.log_evidence.value) < 1e-9
    # Five standard errors: a false alarm once in a million seeds.
    mean = particles.expectation("vowels(text)")
    assert abs(mean.value - exact.expectation("vowels(text)").value) < 5 * mean.standard_error


def test_judge_runs_as_a_script() -> None:
    script = (EXAMPLES / "judge.py").read_text()
    shorter = script.replace("model(quality=quality)", "model(quality=quality), num_particles=8")
    assert shorter != script
    code = f"__file__ = {str(EXAMPLES / 'judge.py')!r}\n{shorter}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=EXAMPLES.parent
    )
    assert done.returncode == 0, done.stderr
    assert "mean(q)" in done.stdout
