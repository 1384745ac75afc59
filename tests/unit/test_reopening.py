"""A loaded posterior keeps its program: expressions, guide and fresh draws."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import lmppl
from lmppl.errors import StorageError

PROGRAM = """\
import "shared.lmp" as shared
reward sweet(t: string): real = lexicon("words.tsv")
extern reward quality(t: string): real<lower=0, upper=9>

model letters(beta: real<lower=0> = 1.0, words: string[] = ["a"]) {
  mood ~ categorical(["low", "high"])
  text ~ markov("letters.json", max_tokens=4)
  factor tone: beta * (if mood == "high" then sweet(text) else 0.0)
  factor host: 0.1 * quality(text)
  return text
}
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    place = tmp_path / "program"
    place.mkdir()
    (place / "letters.json").write_text(
        json.dumps(
            {
                "tokens": ["a", "b", "<eos>"],
                "initial": [1, 1, 0],
                "transition": [[1, 2, 1], [2, 1, 1], [0, 0, 1]],
                "eos": "<eos>",
            }
        )
    )
    (place / "words.tsv").write_text("a\t1.5\nb\t0.5\nab\t0.25\n")
    (place / "shared.lmp").write_text(
        'reward count_b(t: string): int<lower=0, upper=9> = count("b")\n'
    )
    (place / "letters.lmp").write_text(PROGRAM)
    return place / "letters.lmp"


def quality(texts: list[str]) -> list[float]:
    return [float(len(text)) for text in texts]


_QUESTIONS = (
    "sweet(text)",
    "shared.count_b(text)",
    "length(text)",
    'mood == "high" and contains(text, "ab")',
    "finished(text)",
    "beta * sweet(text) + length(text)",
    "quality(text)",
)


@pytest.mark.parametrize("method", ["exact", "smc", "mcmc", "importance"])
def test_expressions_are_evaluated_as_before(method: str, program: Path, tmp_path: Path) -> None:
    options = {} if method == "exact" else {"seed": 2}
    post = lmppl.infer(
        lmppl.load(program)(quality=quality, beta=0.7, words=["x", "y"]), method=method, **options
    )
    post.save(tmp_path / "out")
    back = lmppl.load_posterior(tmp_path / "out", externs={"quality": quality})
    for question in _QUESTIONS:
        assert np.array_equal(back.values_of(question), post.values_of(question)), question
        assert back.expectation(question) == post.expectation(question)
    # Draws that were chosen, saved and loaded again know their own values.
    few = post.resample(9, seed=3)
    few.save(tmp_path / "few")
    again = lmppl.load_posterior(tmp_path / "few", externs={"quality": quality})
    again.save(tmp_path / "few")
    again = lmppl.load_posterior(tmp_path / "few", externs={"quality": quality})
    for question in _QUESTIONS:
        assert np.array_equal(again.values_of(question), few.values_of(question)), question


def test_a_host_function_is_asked_for_where_it_is_needed(program: Path, tmp_path: Path) -> None:
    lmppl.infer(lmppl.load(program)(quality=quality), method="exact").save(tmp_path / "out")
    back = lmppl.load_posterior(tmp_path / "out")
    assert back.expectation("sweet(text)").value > 0
    with pytest.raises(StorageError, match=r"LMP963(.|\n)*externs=\{'quality': …\}"):
        back.expectation("quality(text)")


@pytest.mark.parametrize("name", ["words.tsv", "letters.json", "shared.lmp"])
@pytest.mark.parametrize("how", ["changed", "gone"])
def test_files_that_changed_are_refused(name: str, how: str, program: Path, tmp_path: Path) -> None:
    post = lmppl.infer(lmppl.load(program)(quality=quality), method="exact")
    post.save(tmp_path / "out")
    file = program.parent / name
    whole = file.read_text()
    if how == "gone":
        file.unlink()
    else:
        file.write_text(
            whole.replace("1.5", "2.5").replace('"initial": [1', '"initial": [3')
            if name != "shared.lmp"
            else whole.replace('"b"', '"a"')
        )
    back = lmppl.load_posterior(tmp_path / "out")
    assert back.texts == post.texts
    with pytest.raises(StorageError, match="LMP962"):
        back.expectation("sweet(text) + shared.count_b(text)")
    # Where the files are as they were, and only somewhere else, that can be said.
    moved = tmp_path / "moved"
    program.parent.rename(moved)
    (moved / name).write_text(whole)
    back = lmppl.load_posterior(tmp_path / "out", base_dir=moved)
    assert back.expectation("sweet(text)") == post.expectation("sweet(text)")


def test_the_program_file_itself_is_not_needed(program: Path, tmp_path: Path) -> None:
    post = lmppl.infer(lmppl.load(program)(quality=quality), method="exact")
    post.save(tmp_path / "out")
    program.write_text("model other() { x ~ bernoulli(0.5)\n return x }")
    back = lmppl.load_posterior(tmp_path / "out")
    assert back.expectation("shared.count_b(text)") == post.expectation("shared.count_b(text)")
    with pytest.raises(lmppl.LmpError, match="LMP101"):
        back.expectation("nothing_of_that_name(text)")


def test_a_fitted_guide_is_there_and_draws(program: Path, tmp_path: Path) -> None:
    model = lmppl.load(program)
    options = {"method": "svi", "num_steps": 5, "num_samples": 20, "seed": 1}
    posts = lmppl.infer([model(quality=quality, beta=beta) for beta in (0.5, 3.0)], **options)
    for number, post in enumerate(posts):
        out = tmp_path / f"out{number}"
        post.save(out)
        back = lmppl.load_posterior(out, externs={"quality": quality})
        drawn = post.guide.sample(30, seed=4)
        again = back.guide.sample(30, seed=4)
        assert again.values == drawn.values
        assert np.allclose(again.log_prob, drawn.log_prob, atol=1e-12)
        assert back.sample(25, seed=2).texts == post.sample(25, seed=2).texts
        assert np.allclose(back.guide.log_prob(again), drawn.log_prob, atol=1e-9)
        # Saving once more keeps the guide, loaded or not.
        lmppl.load_posterior(out).save(tmp_path / "copy")
        back.save(out)
        for place in (out, tmp_path / "copy"):
            third = lmppl.load_posterior(place, externs={"quality": quality})
            assert third.guide.sample(30, seed=4).values == drawn.values
    with pytest.raises(StorageError, match="LMP963"):
        _ = lmppl.load_posterior(tmp_path / "copy").guide
    (program.parent / "letters.json").unlink()
    with pytest.raises(lmppl.LmpError):
        lmppl.load_posterior(tmp_path / "copy", externs={"quality": quality}).sample(3)


@pytest.mark.parametrize("guide", ["full", "lora"])
def test_the_guide_of_a_network_comes_back(guide: str, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is an extra")
    from tests.laws.tiny_models import save_tiny_model

    model = save_tiny_model("llama", tmp_path / "tiny")
    source = f"""
        reward letters(t: string): int<lower=0, upper=99> = count("[a-e]")
        model m() {{
            text ~ lm("{model}", prompt="the", max_tokens=5)
            factor many: 0.5 * letters(text)
            return text
        }}
    """
    post = lmppl.infer(
        lmppl.compile(source),
        method="svi",
        guide=guide,
        num_steps=3,
        num_samples=8,
        seed=1,
        num_particles=8,
        lr=0.01,
    )
    post.save(tmp_path / "out")
    back = lmppl.load_posterior(tmp_path / "out")
    drawn, again = post.guide.sample(12, seed=4), back.guide.sample(12, seed=4)
    assert again.values == drawn.values
    assert np.allclose(again.log_prob, drawn.log_prob, atol=1e-4)
    assert back.sample(5, seed=1).texts == post.sample(5, seed=1).texts
