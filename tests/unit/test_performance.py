"""The cost model and the clock of `lmppl bench`, and how threads are chosen."""

from __future__ import annotations

import math
import re
import sys
import threading
from pathlib import Path

import pytest
import torch

import lmppl
from lmppl.cli.entry import main
from lmppl.cli.threads import choose_threads
from lmppl.lm.costs import cost_of
from lmppl.timing import Clock, timed

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "laws"))

import tiny_models


def test_the_cost_of_a_llama_is_counted_by_hand() -> None:
    lm = tiny_models.tiny_lm("llama")
    vocab = lm.vocab.size
    # Two layers: queries and output 32 x 32, keys and values 32 x 16, three of 32 x 48.
    weights = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48) + 32 * vocab
    cost = cost_of(lm, context=10)
    assert cost.matrix_flops == 2 * weights
    # Four heads of 8 against 10 tokens: scores and mixtures, two layers.
    assert cost.attention_flops == 2 * (2 * 4 * 8 * 10 * 2)
    # Two heads of keys and of values, float32.
    assert cost.cache_bytes == 2 * 2 * (2 * 8 * 10) * 4
    assert cost.weight_bytes == 4 * weights
    assert cost.num_parameters == weights + 32 * vocab + 5 * 32


@pytest.mark.parametrize("style", tiny_models.STYLES)
def test_the_products_of_every_style_are_found(style: str) -> None:
    cost = cost_of(tiny_models.tiny_lm(style), context=4)
    assert cost.head is not None and cost.head[0] == 32
    assert len(cost.shapes) >= 2 * 2


def test_a_part_inside_another_is_not_counted_twice() -> None:
    now = iter([0.0, 1.0, 4.0, 10.0])
    clock = Clock(lambda: next(now))
    with clock.part("outer"), clock.part("inner"):
        pass
    assert clock.seconds == {"inner": 3.0, "outer": 7.0}


def test_parts_are_counted_in_the_thread_of_a_clock_and_only_while_it_ticks() -> None:
    @timed("work")
    def work(n: int) -> int:
        return 2 * n

    clock = Clock()
    with clock.ticking():
        elsewhere = threading.Thread(target=work, args=(1,))
        elsewhere.start()
        elsewhere.join()
        assert clock.seconds == {}
        assert work(3) == 6
    first = dict(clock.seconds)
    assert first.keys() == {"work"}
    assert work(4) == 8 and clock.seconds == first


def test_bench_prints_parts_that_add_up_to_the_total(
    capsys: pytest.CaptureFixture[str], tmp_path
) -> None:
    directory = tiny_models.save_tiny_model("llama", tmp_path / "llama")
    threads = torch.get_num_threads()
    try:
        arguments = ["--batch", "4", "--tokens", "3", "--threads", "1", "--lookahead", "1"]
        assert main(["bench", str(directory), "--matches", "[^z]*", *arguments]) == 0
    finally:
        torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    parts = {line[:26].strip(): line[26:].split() for line in lines if line.endswith("%")}
    shares = {name: float(words[-1].rstrip("%")) for name, words in parts.items()}
    assert {"head", "mask", "normalise and draw", "rewards", "other"} <= shares.keys()
    assert math.isclose(sum(shares.values()), 100.0, abs_tol=1.0)
    spent = {name for name, words in parts.items() if float(words[0]) > 0}
    assert spent >= parts.keys() - {"resample"}


@pytest.mark.parametrize(
    ("asked", "default", "num_cpus", "load", "chosen"),
    [
        (3, 2, 2, 9.0, 3),
        (None, 8, 8, 0.2, 8),
        (None, 8, 8, 5.0, 3),
        (None, 2, 2, 7.5, 1),
        (None, 4, 64, 10.0, 4),
    ],
)
def test_threads_are_those_asked_for_or_the_idle_ones(
    asked: int | None, default: int, num_cpus: int, load: float, chosen: int
) -> None:
    assert choose_threads(asked, default, num_cpus, load) == chosen


def test_bench_says_what_came_of_compiling(
    capsys: pytest.CaptureFixture[str], tmp_path, monkeypatch
) -> None:
    def no_compiler(*arguments: object, **options: object) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    directory = tiny_models.save_tiny_model("llama", tmp_path / "llama")
    arguments = ["--batch", "4", "--tokens", "3", "--compile", "step"]
    threads = torch.get_num_threads()
    try:
        assert main(["bench", str(directory), *arguments, "--threads", "1"]) == 0
    finally:
        torch.set_num_threads(threads)
    found = capsys.readouterr().out
    assert re.search(r"^first run +[\d.]+ CPU seconds, this one [\d.]+$", found, re.MULTILINE)
    assert "are not compiled: RuntimeError: no C++ compiler" in found


def test_a_slow_path_is_a_warning_in_results_runs_and_benchmarks(
    capsys: pytest.CaptureFixture[str], tmp_path
) -> None:
    directory = tiny_models.save_tiny_model("mamba", tmp_path / "mamba")
    slow = "is recomputed from scratch at every token"
    program = tmp_path / "slow.lmp"
    program.write_text(
        'model slow() {\n    text ~ lm("mamba", prompt="a", max_tokens=2)\n    return text\n}\n'
    )
    options = {"method": "importance", "num_samples": 4, "seed": 0, "progress": False}
    post = lmppl.infer(lmppl.load(program)(), **options)
    assert any(slow in warning for warning in post.warnings)
    threads = torch.get_num_threads()
    try:
        assert main(["run", str(program), "--method", "importance", "--threads", "1"]) == 0
        assert re.search(rf"warning: .*{slow}", " ".join(capsys.readouterr().out.split()))
        arguments = ["--batch", "2", "--tokens", "2", "--threads", "1"]
        assert main(["bench", str(directory), *arguments]) == 0
        assert re.search(rf"^warning: .*{slow}", capsys.readouterr().out, re.MULTILINE)
    finally:
        torch.set_num_threads(threads)


def test_a_benchmark_of_one_token_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--tokens", "1", "--threads", "1"]) == 2
    assert "at least 2 tokens" in capsys.readouterr().err
