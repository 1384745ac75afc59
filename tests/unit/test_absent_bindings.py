"""A binding that has no posterior, among others that have one."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest

import lmppl
from lmppl import load_posterior
from lmppl.cli import main
from lmppl.errors import InferenceError
from lmppl.posterior import NoPosterior, Posterior

PRIOR = {"tokens": ["a", "b"], "initial": [1, 1], "transition": [[1, 2], [2, 1]], "eos": None}
PROGRAM = """\
extern function allowed(t: string, name: string): bool
reward vowels(t: string): int<lower=0, upper=3> = count("a")

model tiny(name: string, part: string = "a") {
    text ~ markov("prior.json", max_tokens=3)
    require ok: allowed(text, name)
    require has: contains(text, part)
    factor tone: vowels(text)
    return text
}
"""
METHODS = {
    "exact": {},
    "importance": {"num_samples": 40},
    "smc": {"num_particles": 40},
    "tempered": {"num_particles": 40},
    "ais": {"num_samples": 40},
    "rejection": {"num_samples": 10, "max_attempts": 2000},
    "mcmc": {"num_samples": 10, "warmup_steps": 5},
}


@pytest.fixture
def tiny(tmp_path: Path) -> lmppl.CompiledModel:
    (tmp_path / "prior.json").write_text(json.dumps(PRIOR))
    return lmppl.compile(PROGRAM, base_dir=tmp_path)


def allowed(text: str, name: str) -> bool:
    return name != "nobody"


@pytest.mark.parametrize("method", METHODS)
def test_the_others_have_what_they_would_have_alone(tiny: lmppl.CompiledModel, method: str) -> None:
    names = ("Zoë", "nobody", "Bo")
    bound = [tiny(name=name, allowed=allowed) for name in names]
    options = {"method": method, "seed": 4, "progress": False, **METHODS[method]}
    first, lost, last = lmppl.infer(bound, **options)
    for post, one in ((first, bound[0]), (last, bound[2])):
        assert post.texts == lmppl.infer(one, **options).texts
    assert isinstance(lost, NoPosterior) and not lost
    assert lost.parameters["name"] == "nobody"
    (diagnostic,) = lost.error.diagnostics
    assert diagnostic.code == "LMP901" and "ok" in diagnostic.message
    assert "200 of 200 draws" in " ".join(diagnostic.notes)
    assert "binding 2 of 3" in diagnostic.notes[-1]


def test_what_is_asked_of_a_missing_posterior_raises_why(tiny: lmppl.CompiledModel) -> None:
    bound = [tiny(name=name, allowed=allowed) for name in ("nobody", "Bo")]
    lost, found = lmppl.infer(bound, method="exact", seed=0, progress=False)
    asked = (
        lambda: lost.texts,
        lambda: lost.log_evidence,
        lambda: len(lost),
        lambda: lost[0],
        lambda: list(lost),
        lambda: lost.save("x"),
    )
    for ask in asked:
        with pytest.raises(InferenceError, match="LMP901"):
            ask()
    assert [post for post in (lost, found) if post] == [found]
    assert "LMP901" in repr(lost)
    for again in (copy.deepcopy(lost), pickle.loads(pickle.dumps(lost))):
        assert isinstance(again, NoPosterior) and str(again.error) == str(lost.error)


@pytest.mark.parametrize("method", METHODS)
def test_a_binding_that_no_text_can_meet_is_left_out_of_the_run(
    tiny: lmppl.CompiledModel, method: str
) -> None:
    bound = [tiny(name="Bo", part=part, allowed=allowed) for part in ("@", "b", "é", "a")]
    options = {"method": method, "seed": 4, "progress": False, **METHODS[method]}
    no, b, neither, a = lmppl.infer(bound, **options)
    assert [each.error.diagnostics[0].code for each in (no, neither)] == ["LMP305"] * 2
    assert '"@"' in str(no.error) and "binding 3 of 4" in str(neither.error)
    assert b.texts == lmppl.infer(bound[1], **options).texts
    assert a.texts == lmppl.infer(bound[3], **options).texts


def test_many_bindings_without_a_posterior_are_as_many_errors(tiny: lmppl.CompiledModel) -> None:
    names = ["nobody"] * 12 + ["Bo"]
    bound = [tiny(name=name, allowed=allowed) for name in names]
    *lost, found = lmppl.infer(bound, method="smc", num_particles=20, seed=0, progress=False)
    assert found and not any(lost)
    assert all("the constraint that kills most is require ok" in str(each.error) for each in lost)
    assert "200 of 200" in str(lost[0].error) and "draws of the prior" not in str(lost[-1].error)


@pytest.mark.parametrize("method", [*METHODS, "svi"])
def test_a_requirement_on_parameters_alone_rules_out_its_binding(method: str) -> None:
    program = """
    model m(b: bool, beta: real = 1.0) {
        x ~ bernoulli(0.5)
        require on: b
        factor if x then beta else 0.0
        return x
    }
    """
    model = lmppl.compile(program)
    options = {"num_steps": 4, "num_samples": 20} if method == "svi" else METHODS[method]
    bound = [model(b=b, beta=beta) for b, beta in ((False, 1.0), (True, 1.0), (True, 2.0))]
    lost, one, two = lmppl.infer(bound, method=method, seed=1, progress=False, **options)
    assert not lost and lost.error.diagnostics[0].code == "LMP901"
    assert "on" in str(lost.error) and "binding 1 of 3" in str(lost.error)
    again = lmppl.infer(bound[1:], method=method, seed=1, progress=False, **options)
    assert [post["x"].tolist() for post in (one, two)] == [post["x"].tolist() for post in again]


def test_where_no_binding_has_a_posterior_that_is_an_error(tiny: lmppl.CompiledModel) -> None:
    for values, code in (({"name": "nobody"}, "LMP901"), ({"name": "a", "part": "@"}, "LMP305")):
        bound = [tiny(**values, allowed=allowed)] * 2
        for models in (bound, bound[:1], bound[0]):
            with pytest.raises(InferenceError, match=code):
                lmppl.infer(models, method="exact", progress=False)


def test_a_returned_value_that_one_binding_has_not_costs_the_others_nothing(tmp_path: Path) -> None:
    (tmp_path / "prior.json").write_text(json.dumps(PRIOR))
    program = PROGRAM.replace('part: string = "a"', 'part: string = "a", most: real = 9.0')
    value = "return log(most - vowels(text)), text"
    tiny = lmppl.compile(program.replace("return text", value), base_dir=tmp_path)
    bound = [tiny(name="Bo", most=most, allowed=allowed) for most in (9.0, 1.0)]
    found, lost = lmppl.infer(bound, method="exact", progress=False)
    assert isinstance(found, Posterior)
    assert lost.error.diagnostics[0].code == "LMP920"


def test_the_command_line_shows_and_saves_the_others(
    tiny: lmppl.CompiledModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.lmp").write_text(PROGRAM)
    (tmp_path / "host.py").write_text('def allowed(text, name):\n    return name != "nobody"\n')
    lines = ['{"name": "Bo"}', '{"name": "nobody"}', '{"name": "Cy", "part": "@"}']
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    out, draws = tmp_path / "results", tmp_path / "draws.jsonl"
    arguments = ["run", str(tmp_path / "tiny.lmp"), "--data", str(tmp_path / "data.jsonl")]
    arguments += ["--extern", f"allowed={tmp_path / 'host.py'}:allowed", "--method", "exact"]
    assert main([*arguments, "--jsonl", str(draws), "--quiet"]) == 3
    assert "LMP901" in capsys.readouterr().err
    assert main([*arguments, "--out", str(out)]) == 3
    captured = capsys.readouterr()
    assert "exact of tiny" in captured.out
    assert "LMP901" in captured.err and "LMP305" in captured.err
    assert "2 of 3 bindings have no posterior" in captured.err
    assert [path.name for path in out.iterdir()] == ["1"]
    assert len(load_posterior(out / "1")) == len(draws.read_text().splitlines())
    assert {json.loads(line)["binding"] for line in draws.read_text().splitlines()} == {1}
