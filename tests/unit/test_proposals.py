"""Guides that are named, given or saved, and what does not fit: one small fit for all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import lmppl
from lmppl import LmpError
from lmppl.cli import main
from lmppl.cli.outcome import Exit

CHAIN = {"tokens": ["a", "b"], "initial": [1, 1], "transition": [[2, 1], [1, 2]], "eos": None}
PROGRAM = """
reward n(t: string): int<lower=0, upper=8> = count("b")

model letters(beta: real<lower=0> = 0.7) {
    mood ~ bernoulli(0.4)
    first ~ markov("chain.json", max_tokens=3)
    second ~ markov("chain.json", max_tokens=3, stop=["ab"])
    factor (n(first) + n(second)) / beta
    factor (if mood then 0.5 else 0.0)
    require never(first, words=["aaa"])
    return mood, first, second
}

infer importance(proposal=tuned, num_samples=400, seed=3)
infer svi(num_steps=12, num_particles=16, table_lr=0.3, num_samples=20) as tuned
infer smc(proposal=tuned, num_particles=100, seed=3) as particles
infer exact() as truth
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("letters")
    (place / "chain.json").write_text(json.dumps(CHAIN))
    (place / "letters.lmp").write_text(PROGRAM)
    return place


@pytest.fixture(scope="module")
def model(place: Path) -> lmppl.CompiledModel:
    return lmppl.load(place / "letters.lmp")


@pytest.fixture(scope="module")
def tuned(model: lmppl.CompiledModel, place: Path) -> Iterator[lmppl.Posterior]:
    post = lmppl.infer(model, infer="tuned", seed=5)
    post.save(place / "saved")
    post.guide.save_pretrained(place / "guide")
    yield post


@pytest.fixture(scope="module")
def truth(model: lmppl.CompiledModel) -> float:
    return float(lmppl.infer(model, infer="truth").log_evidence.value)


def test_a_named_line_is_run_first_and_what_it_was_is_kept(
    model: lmppl.CompiledModel, truth: float
) -> None:
    post = lmppl.infer(model)
    again = lmppl.infer(model)
    found = post.manifest["proposal"]
    assert found["line"] == "tuned" and found["method"] == "svi" and found["complete"]
    assert found["floor"] == 0.1 and len(found["digest"]) == 64
    assert 0 < found["num_tokens"] <= 12 * 16 * 6 and found["seconds"] > 0.0
    # One seed makes both: the line has none of its own.
    assert found["digest"] == again.manifest["proposal"]["digest"]
    assert np.array_equal(post.log_weights, again.log_weights)
    assert found["settings"]["seed"] != post.manifest["seed"]
    # Two texts of three tokens and a choice: weights are exact, whatever the guide has learnt.
    assert abs(post.log_evidence.value - truth) < 0.3
    assert post.manifest["settings"]["proposal"] == "tuned"


def test_guides_that_are_given_and_saved_are_one(
    model: lmppl.CompiledModel, tuned: lmppl.Posterior, place: Path
) -> None:
    ways = (tuned.guide, tuned, place / "saved", str(place / "guide"))
    found = [
        lmppl.infer(model, method="smc", num_particles=50, seed=1, proposal=way) for way in ways
    ]
    for post in found[1:]:
        assert np.array_equal(post.log_weights, found[0].log_weights)
        assert post["second"] == found[0]["second"]
    loaded = lmppl.load_posterior(place / "saved").guide
    again = lmppl.infer(model, method="smc", num_particles=50, seed=1, proposal=loaded)
    assert np.array_equal(again.log_weights, found[0].log_weights)


def test_one_guide_proposes_for_other_parameters_and_for_several_at_once(
    model: lmppl.CompiledModel, tuned: lmppl.Posterior
) -> None:
    bound = [model(beta=0.7), model(beta=2.0)]
    together = lmppl.infer(
        bound, method="importance", num_samples=500, seed=2, proposal=tuned.guide
    )
    for one, post in zip(bound, together, strict=True):
        exact = lmppl.infer(one, infer="truth").log_evidence.value
        assert abs(post.log_evidence.value - exact) < 0.3
    alone = lmppl.infer(
        bound[1], method="importance", num_samples=500, seed=2, proposal=tuned.guide
    )
    assert np.allclose(alone.log_weights, together[1].log_weights)


def test_a_line_fits_all_bindings_together(model: lmppl.CompiledModel) -> None:
    bound = [model(beta=0.7), model(beta=2.0)]
    for one, post in zip(bound, lmppl.infer(bound), strict=True):
        exact = lmppl.infer(one, infer="truth").log_evidence.value
        assert abs(post.log_evidence.value - exact) < 0.3


def test_chains_take_draws_of_a_guide(model: lmppl.CompiledModel, tuned: lmppl.Posterior) -> None:
    def run(share: float) -> lmppl.Posterior:
        return lmppl.infer(
            model, method="mcmc", proposal=tuned.guide, guide_probability=share, num_chains=16,
            num_samples=60, warmup_steps=5, start="prior", seed=4,
        )  # fmt: skip

    truth = lmppl.infer(model, infer="truth").expectation("n(first)").value
    found = run(0.8).expectation("n(first)")
    assert abs(found.value - truth) < 5 * found.standard_error


def test_a_fit_leaves_time_for_the_run(model: lmppl.CompiledModel) -> None:
    post = lmppl.infer(model, infer="particles", budget="2500 tokens", num_particles=400)
    assert post.manifest["proposal"]["complete"]
    assert post.manifest["num_tokens"] <= 2 * (2500 - post.manifest["proposal"]["num_tokens"])


def code_of(call: object) -> tuple[str, str]:
    with pytest.raises(LmpError) as error:
        call()  # type: ignore[operator]
    first = error.value.diagnostics[0]
    return first.code, first.message


def test_what_is_no_guide_of_the_model_is_refused_in_words(
    model: lmppl.CompiledModel, tuned: lmppl.Posterior, place: Path, tmp_path: Path
) -> None:
    def by(other: str, proposal: object) -> tuple[str, str]:
        program = lmppl.compile(other, base_dir=place)
        return code_of(
            lambda: lmppl.infer(program, method="importance", num_samples=10, proposal=proposal)
        )

    fewer = PROGRAM.replace("mood ~ bernoulli(0.4)", "let mood = true")
    assert by(fewer, tuned.guide) == (
        "LMP408",
        "this guide cannot propose for the model: it draws `mood`, `first`, `second`, and the"
        " model `first`, `second`",
    )
    assert by(fewer, place / "guide")[0] == "LMP408"
    wider = {**CHAIN, "tokens": ["a", "b", "c"], "initial": [1, 1, 1], "transition": [[1] * 3] * 3}
    (place / "wide.json").write_text(json.dumps(wider))
    code, message = by(PROGRAM.replace("chain.json", "wide.json"), tuned.guide)
    assert code == "LMP408" and "another vocabulary there (2 tokens; here 3)" in message
    assert "vocabulary" in by(PROGRAM.replace("chain.json", "wide.json"), place / "guide")[1]
    other = PROGRAM.replace("bernoulli(0.4)", "categorical([true, false])")
    assert "`mood` has other values there" in by(other, tuned.guide)[1]
    assert by(PROGRAM, tmp_path)[0] == "LMP408"
    plain = lmppl.infer(model, method="importance", num_samples=10, seed=0)
    plain.save(tmp_path / "plain")
    assert "without a guide" in by(PROGRAM, tmp_path / "plain")[1]
    assert by(PROGRAM, "tunde") == (
        "LMP407",
        "proposal names `tunde`, and no `infer` line that leaves a guide is called so",
    )
    assert by(PROGRAM, "truth")[1] == "proposal names `truth`, and exact leaves no guide"
    with pytest.raises(LmpError, match="LMP403"):
        lmppl.infer(model, method="importance", proposal=3)


def test_a_damaged_directory_is_refused_in_words(
    model: lmppl.CompiledModel, tuned: lmppl.Posterior, place: Path, tmp_path: Path
) -> None:
    def refused(name: str, size: int, flipped: bool = False) -> str:
        whole = tmp_path / f"{name}-{size}-{flipped}"
        tuned.save(whole)
        data = bytearray((whole / name).read_bytes()[: size or None])
        if flipped:
            data[-5] ^= 255
        (whole / name).write_bytes(bytes(data))
        found = code_of(
            lambda: lmppl.infer(model, method="importance", num_samples=10, proposal=whole)
        )
        assert found[0] == "LMP408"
        return found[1]

    assert "it is damaged" in refused("guide/tables.safetensors", 20)
    assert "it is damaged" in refused("guide/tables.safetensors", 0, flipped=True)
    assert "cannot be read" in refused("posterior.json", 20)
    assert "cannot be read" in refused("posterior.json", 0, flipped=True)
    assert "is no guide" in refused("guide/lmppl_guide.json", 20)
    tuned.guide.save_pretrained(tmp_path / "guide")
    longer = lmppl.compile(PROGRAM.replace("max_tokens=3,", "max_tokens=4,"), base_dir=place)
    options = {"method": "importance", "num_samples": 10}
    _, message = code_of(lambda: lmppl.infer(longer, proposal=tmp_path / "guide", **options))
    assert "`second` had up to 3 tokens where it was fitted, and has 4 here" in message
    _, message = code_of(lambda: lmppl.infer(model, proposal=[tuned, tuned], **options))
    assert "it must be one guide, for all bindings" in message
    assert code_of(lambda: lmppl.infer(model, proposal="", **options))[0] == "LMP407"


def test_the_command_line_takes_lines_and_directories(
    place: Path, tuned: lmppl.Posterior, capsys: pytest.CaptureFixture[str]
) -> None:
    program, rest = str(place / "letters.lmp"), ["--num-samples", "40", "--seed", "1", "--jsonl"]
    for proposal in ("tuned", str(place / "saved")):
        out = place / "draws.jsonl"
        options = ["--method", "smc", "--set", f"proposal={proposal}", *rest, str(out)]
        assert main(["run", program, *options, "-q"]) == Exit.FINE
        assert len(out.read_text().splitlines()) == 40
    assert main(["run", program, "--method", "smc", "--set", "proposal=no-such", "-q"]) != 0
    assert "LMP407" in capsys.readouterr().err
