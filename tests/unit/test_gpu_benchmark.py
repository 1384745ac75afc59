"""The script of the GPU figures runs, on a shape that a CPU runs too."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_script_of_the_gpu_figures_runs_on_a_tiny_shape(tmp_path: Path) -> None:
    # In a process of its own: it counts captures by replacing a method of lmppl.
    found = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "agreement", "table", "profile", "bench", "--tiny",
         "--device", "cpu", "--out", str(tmp_path), "--scratch", str(tmp_path / "models")],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-2000:]
    figures = [json.loads(line) for line in (tmp_path / "figures.jsonl").read_text().splitlines()]
    ratios = {line["variant"]: line for line in figures if line["what"] == "ratio"}
    assert set(ratios) == {
        "generate", "generate, again", "smc soft, none", "smc never+regex, none",
        "importance, none",
    }  # fmt: skip
    assert ratios["generate"]["ratios"] == [1.0]
    assert all(line["rates"][0] > 0 and 0 < line["floor"] < 1 for line in ratios.values())
    # In float32 what is stepped is what is scored, but for rounding.
    gaps = [line["scored"][0] for line in figures if line["what"] == "agreement"]
    assert len(gaps) == 2 and max(gaps) < 2e-4
    assert "floor reached" in found.stdout


def test_the_whole_check_takes_six_minutes_at_most_and_names_what_there_is() -> None:
    script = (ROOT / "benchmarks" / "gpu.sh").read_text(encoding="utf-8").replace("\\\n", " ")
    steps = re.findall(r"^(?:\w+=\d+ )?step (\w+) (\d+) (.*)", script, re.MULTILINE)
    assert sum(int(seconds) for _, seconds, _ in steps) <= 360
    parts = (ROOT / "benchmarks" / "gpu.py").read_text(encoding="utf-8")
    for name, _, command in steps[1:]:
        words = shlex.split(command)
        for word in words[1:]:
            assert not re.search(r"\w/\w", word) or (ROOT / word).exists(), word
        if "benchmarks/gpu.py" in words:
            chosen = words[2 : next(n for n, word in enumerate(words) if word.startswith("--"))]
            assert chosen and all(f'"{part}": {part},' in parts for part in chosen), name
