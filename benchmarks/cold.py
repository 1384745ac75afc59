"""Cheerful stories at a cold β: what tempering is worth where a reward is read at the end.

    python benchmarks/cold.py                 # examples/upbeat.lmp at β = 0.02, five seeds; minutes
    python benchmarks/cold.py --long          # and a long tempered run, to compare with

Prints a row of a Markdown table for each run: log evidence, k-hat, distinct texts, tokens of the
language model and CPU seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import lmppl

PROGRAM = Path(__file__).parent.parent / "examples" / "upbeat.lmp"
METHODS: dict[str, dict[str, Any]] = {
    "smc": {"num_particles": 256},
    "tempered": {"num_particles": 256},
    "ais": {"num_samples": 256},
}
LONG: dict[str, Any] = {"num_particles": 1024, "num_moves": 6, "stage_ess": 0.75}


def row(model: lmppl.BoundModel, method: str, seed: int, options: dict[str, Any]) -> str:
    began = time.process_time()
    post = lmppl.infer(model, method=method, seed=seed, progress=False, **options)
    seconds = time.process_time() - began
    found = post.log_evidence
    assert found is not None
    cells = (
        method,
        seed,
        f"{found.value:.2f} ± {found.standard_error:.2f}",
        f"{post.diagnostics.get('pareto_k', float('nan')):.2f}",
        len(set(post.texts)),
        f"{post.manifest['num_tokens']:,}",
        f"{seconds:.1f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beta", type=float, default=0.02)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--long", action="store_true", help="a long tempered run as well")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = lmppl.load(PROGRAM)(beta=options.beta)
    print("| method | seed | log evidence | k-hat | distinct | tokens | CPU s |")
    print("|---|---|---|---|---|---|---|")
    for method, settings in METHODS.items():
        for seed in range(options.seeds):
            print(row(model, method, seed, settings), flush=True)
    if options.long:
        print(row(model, "tempered", 100, LONG))


if __name__ == "__main__":
    main()
