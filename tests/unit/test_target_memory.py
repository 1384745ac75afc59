"""What a target remembers: automata by what rows depend on, and what host functions returned."""

from __future__ import annotations

import time

import pytest
import torch

import lmppl
from lmppl.density import Automata, Target
from lmppl.density.steering import automaton as automata
from lmppl.density.steering import requirements
from lmppl.evaluation import memory
from lmppl.inference.execution import execute
from lmppl.inference.importance import Importance

torch.set_num_threads(1)

ANIMALS = ("cat", "dog", "bird", "hen", "cow")
CHOOSING = f"""
model choosing() {{
    animal ~ categorical([{", ".join(f'"{name}"' for name in ANIMALS)}])
    happy ~ bernoulli(0.5)
    text ~ lm("builtin:stories", prompt="The {{animal}}", max_tokens=5)
    require clean: never(text, [animal, "was"])
    require glad: contains(text, "a") when happy
    return text
}}
"""


def drawn(model: Target, animals: list[int], happy: list[int]) -> Automata:
    traces = model.start(torch.zeros(len(animals), dtype=torch.long))
    for stage, index in zip(model.stages, (animals, happy), strict=False):
        traces = traces.with_value(stage.name, stage.batch(torch.tensor(index)))
    return model.requirements.automata(2, traces, model.rows(2, traces).prompts)


def masks(automata: Automata, rows: int) -> torch.Tensor:
    mask = automata.mask(automata.begin(torch.arange(rows)), 3)
    assert mask is not None
    return mask


@pytest.mark.parametrize("kept", [1, 3, 256])
def test_automata_that_are_remembered_are_those_that_are_built(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requirements, "_MACHINES_KEPT", kept)
    model = lmppl.compile(CHOOSING)().target()
    for animals, happy in [
        ([0, 1, 2, 3], [0, 0, 1, 1]),
        ([3, 3, 0, 1], [1, 0, 0, 1]),
        ([4, 4, 4, 4], [1, 0, 1, 0]),
        ([0, 1, 2, 3], [1, 1, 0, 0]),
    ]:
        fresh = lmppl.compile(CHOOSING)().target()
        expected = masks(drawn(fresh, animals, happy), 4)
        assert torch.equal(masks(drawn(model, animals, happy), 4), expected)
        assert len(model.requirements._machines) <= kept
        assert len(model.requirements._compiled) <= kept


def test_rows_with_the_same_choices_build_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lmppl.compile(CHOOSING)().target()
    first = drawn(model, [0, 1, 0, 1], [0, 1, 0, 1])
    assert len(first.machines) == 2

    def build(*arguments: object, **options: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(requirements.Requirements, "_machine", build)
    again = drawn(model, [1, 0, 0], [1, 0, 0])
    assert [again.machines[i] for i in again.which.tolist()] == [  # type: ignore[union-attr]
        first.machines[1],
        first.machines[0],
        first.machines[0],
    ]


@pytest.mark.parametrize("lookahead", ["none", "prefix"])
def test_a_host_function_is_asked_once_for_each_text(lookahead: str) -> None:
    """Finished texts stay the same for the rest of a run, and many unfinished ones are equal."""
    asked: list[str] = []

    def tone(text: str) -> float:
        asked.append(text)
        return text.count("a") / 10.0

    program = """
    extern function tone(text: string): real
    model m() {
        text ~ lm("builtin:stories", prompt="The", max_tokens=6, stop=["."])
        factor sound: tone(text)
        return text
    }
    """
    lmppl.infer(
        lmppl.compile(program)(tone=tone), method="smc", num_particles=32, seed=0,
        lookahead=lookahead, lookahead_every=1, progress=False,
    )  # fmt: skip
    # The first few calls are made twice, to see whether it is a function.
    assert 5 < len(set(asked)) and len(asked) <= len(set(asked)) + 8


def test_the_results_of_a_host_function_that_are_kept_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "REMEMBERED", 3)
    program = """
    extern function twice(x: int): int
    model m() {
        n ~ categorical([0, 1, 2, 3, 4, 5, 6, 7])
        factor size: twice(n) / 10
        return n
    }
    """
    model = lmppl.compile(program)(twice=lambda x: 2 * x).target()
    traces = model.start(torch.zeros(8, dtype=torch.long))
    traces = traces.with_value("n", model.stages[0].batch(torch.arange(8)))
    for _ in range(2):
        found = model.apply_potentials(traces, 0).total_log_potential()
        assert found.tolist() == [x / 5 for x in range(8)]
    assert len(model.memory) == 3


def test_a_reward_scores_each_text_of_a_run_once() -> None:
    """Also across the steps of a lookahead, where texts that have ended do not change."""
    asked: list[str] = []

    def tone(texts: list[str]) -> list[float]:
        asked.extend(texts)
        return [text.count("a") / 10.0 for text in texts]

    program = """
    extern reward tone(text: string): real<lower=0, upper=100>
    model m() {
        text ~ lm("builtin:stories", prompt="The", max_tokens=8, stop=["."])
        factor sound: tone(text)
        return text
    }
    """
    post = lmppl.infer(
        lmppl.compile(program)(tone=tone), method="smc", num_particles=64, seed=0,
        lookahead="prefix", lookahead_every=1, progress=False,
    )  # fmt: skip
    # A few texts of the first batches are asked again, to see whether it is a function.
    assert len(set(asked)) == post.manifest["rewards"]["tone"]["num_scored"]
    assert len(asked) <= len(set(asked)) + 32


def test_a_requirement_too_large_for_an_automaton_is_judged_on_the_finished_text() -> None:
    large = """
    model m() {
        text ~ lm("builtin:stories", prompt="The little dog", max_tokens=6, stop=["."])
        require hard: matches(text, r"(?s)(?:a|[^x])*a.{9}")
            or matches(text, r"(?s)(?:e|[^x])*e.{9}")
        require clean: never(text, ["the"])
        return text
    }
    """
    bound = lmppl.compile(large)()
    for method in ("importance", "smc", "rejection"):
        post = lmppl.infer(bound, method=method, seed=0, progress=False)
        found = post["text"]
        assert all("the" not in text and "." not in text for text in found)
        assert len(found) > 1 and {text[-10] for text in found} == {"a", "e"}
        followed = post.manifest["constraints"]["text"]
        assert followed["at_end"] == {"hard": "its automaton is too large"}
        assert followed["over_budget"] == ["hard"] and not followed["exact"]
        assert "`hard` only on finished texts" in post.summary()


def manifest_of(body: str, **options: object) -> lmppl.Posterior:
    return lmppl.infer(
        lmppl.compile(
            f"""
            reward vowels(t: string): real<lower=0, upper=1000> = count("[aeiou]")
            model m() {{
                text ~ lm("builtin:stories", prompt="The little dog", max_tokens=6)
                {body}
                return text
            }}
            """
        )(),
        method="importance", num_samples=32, seed=0, progress=False, **options,
    )  # fmt: skip


def test_a_result_says_how_its_constraints_were_followed() -> None:
    post = manifest_of(
        'require clean: never(text, ["the"])\nrequire many: vowels(text) > vowels("aei")'
    )
    followed = post.manifest["constraints"]["text"]
    assert followed["kinds"] == ["table"] and followed["num_automata"] == 1
    assert 0 < followed["num_states"] < 50 and followed["num_bytes"] > 0
    assert list(followed["at_end"]) == ["many"] and followed["over_budget"] == []
    assert "constraints of text" not in post.summary()
    assert manifest_of("factor vowels(text)").manifest["constraints"] == {}
    exact = manifest_of('require clean: never(text, ["the"])').manifest["constraints"]["text"]
    assert exact["exact"] and not followed["exact"]


def test_automata_without_a_table_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_constraint = automata.compile_constraint
    monkeypatch.setattr(
        automata,
        "compile_constraint",
        lambda *arguments, **options: compile_constraint(*arguments, **options, table_budget=50),
    )
    post = manifest_of('require clean: never(text, ["the"])')
    assert post.manifest["constraints"]["text"]["kinds"] == ["on demand"]
    assert "on demand" in post.summary()
    monkeypatch.undo()
    usual = manifest_of('require clean: never(text, ["the"])')
    assert post["text"] == usual["text"]


def test_a_result_says_what_share_of_the_time_rewards_took() -> None:
    def slow(texts: list[str]) -> list[float]:
        time.sleep(1.05)
        return [0.0] * len(texts)

    program = """
    extern reward slow(text: string): real<lower=0, upper=1>
    model m() { n ~ categorical(["a", "b"]) factor slow(n) return n }
    """
    bound = lmppl.compile(program)(slow=slow)
    post = lmppl.infer(bound, method="importance", num_samples=16, seed=0, progress=False)
    manifest = post.manifest
    assert manifest["rewards"]["slow"]["num_scored"] == 2
    assert 1.0 < manifest["reward_seconds"] == manifest["rewards"]["slow"]["seconds"]
    # That it was asked again, to see whether it is a function, is not counted.
    assert 0.2 < manifest["reward_share"] <= 1.0
    assert manifest["reward_share"] == manifest["reward_seconds"] / manifest["seconds"]
    assert "for 2 distinct texts" in post.summary()
    quick = manifest_of("factor vowels(text)")
    assert 0.0 < quick.manifest["reward_share"] < 0.5 and "distinct texts" not in quick.summary()


def test_a_second_run_of_a_target_counts_its_own_rewards_only() -> None:
    program = """
    reward vowels(t: string): real<lower=0, upper=1000> = count("[aeiou]")
    model m() { n ~ categorical(["a", "b"]) factor vowels(n) return n }
    """
    model = lmppl.compile(program)().target()
    settings = Importance(num_samples=16, seed=0)
    first, second = (execute(model, settings)[0].manifest for _ in range(2))
    assert first["rewards"]["vowels"]["num_scored"] == 2
    assert second["rewards"]["vowels"]["num_scored"] == 0 and second["reward_seconds"] == 0.0
