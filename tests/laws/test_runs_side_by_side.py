"""Runs that share a language model, a reward or a host's function keep their settings apart."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch

import lmppl
from lmppl.lm.huggingface import calling
from lmppl.lm.huggingface.forward_pass import ForwardPass
from lmppl.lm.loading import load_language_model
from lmppl.lm.static import StaticStep

PROGRAM = """
model shared() {{
    text ~ lm("{source}", prompt="the dog said hello to the cat and then", max_tokens=6)
    factor short: -0.2 * length(text)
    return text
}}
"""


def infer(directory: Path, **options: Any) -> lmppl.Posterior:
    bound = lmppl.compile(PROGRAM.format(source=directory.as_posix()))()
    return lmppl.infer(bound, method="smc", num_particles=12, seed=3, progress=False, **options)


def at_once(*runs: Callable[[], Any]) -> list[Any]:
    """What the runs give, each in a thread of its own."""
    results: list[Any] = [None] * len(runs)

    def work(number: int) -> None:
        try:
            results[number] = runs[number]()
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=work, args=(n,), name=f"run {n}") for n in range(len(runs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    # GPT-2 has no decoder of ours: every step is a forward pass of the model, where rows show.
    return tiny_models.save_tiny_model("gpt2", tmp_path / "gpt2")


def test_two_threads_bound_the_rows_of_one_model_each_for_itself(directory: Path) -> None:
    lm = load_language_model(directory)
    rows: dict[str, list[int]] = defaultdict(list)
    both = threading.Barrier(2, timeout=60)

    def watched(module: Any, inputs: Any, options: dict[str, Any]) -> None:
        name = threading.current_thread().name
        if name not in rows:
            # Neither goes on before the other has begun, with its settings.
            rows[name] = []
            both.wait()
        rows[name].append(options["input_ids"].shape[0])

    handle = lm.model.register_forward_pre_hook(watched, with_kwargs=True)
    try:
        few, many = at_once(partial(infer, directory, max_rows=2), partial(infer, directory))
    finally:
        handle.remove()
    assert max(rows["run 0"]) == 2 < max(rows["run 1"])
    assert few.texts == many.texts == infer(directory).texts


def test_two_threads_step_one_model_each_in_its_own_way(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "StaticStep", partial(StaticStep, backend="eager"))
    both = threading.Barrier(2, timeout=60)
    seen: set[str] = set()
    advance = ForwardPass.advance

    def meeting(passes: ForwardPass, *arguments: Any) -> Any:
        name = threading.current_thread().name
        if name not in seen:
            seen.add(name)
            both.wait()
        return advance(passes, *arguments)

    monkeypatch.setattr(ForwardPass, "advance", meeting)
    stepped, plain = at_once(partial(infer, directory, compile="step"), partial(infer, directory))
    notes = [post.manifest["language_models"][0]["notes"] for post in (stepped, plain)]
    assert any("stepped by a compiled step" in note for note in notes[0])
    assert notes[1] == []
    assert stepped.texts == plain.texts


def test_runs_of_one_compiled_step_do_not_write_over_each_other(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "StaticStep", partial(StaticStep, backend="eager"))
    expected = infer(directory).texts
    runs = at_once(*[partial(infer, directory, compile="step")] * 4)
    assert all(post.texts == expected for post in runs)


def test_a_run_leaves_no_setting_behind(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "StaticStep", partial(StaticStep, backend="eager"))
    lm = load_language_model(directory)
    infer(directory, max_rows=2, compile="step")
    assert (lm.max_rows, lm.stepping, lm.notes) == (None, "none", ())
    assert infer(directory).manifest["language_models"][0]["notes"] == []


def test_a_language_model_of_the_host_is_doubted_by_each_run_for_itself() -> None:
    calls = []

    def noisy(prefixes: torch.Tensor) -> torch.Tensor:
        # Another answer at every call.
        calls.append(len(prefixes))
        scores = torch.tensor([0.0, 0.1 * (len(calls) % 7), -1.0]).expand(len(prefixes), 3)
        return torch.log_softmax(scores, -1)

    prior = lmppl.FunctionLM(tokens=["a", "b", "."], eos=".", next_log_probs=noisy)
    model = lmppl.compile("extern lm prior\nmodel m() { text ~ prior(max_tokens=3)\nreturn text }")(
        prior=prior
    )
    post = lmppl.infer(model, method="importance", num_samples=8, seed=0, progress=False)
    assert any("gave other probabilities" in warning for warning in post.warnings)
    assert (prior.doubts, prior.disagreement) == (0, "")
