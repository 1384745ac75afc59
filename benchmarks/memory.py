"""Peak growth of resident memory over a loaded model, in MiB; run as a process of its own.

python benchmarks/memory.py ours|generate SOURCE PROMPT ROWS TOKENS
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import torch
from models import silence
from rivals import generate
from run import PROGRAM, SOFT

import lmppl
from lmppl.lm.loading import load_language_model


def resident(field: str) -> float:
    """MiB now (VmRSS) or at the highest since `forget_peak` (VmHWM); Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise ValueError(field)


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    who, source, prompt, rows, tokens = sys.argv[1:]
    torch.set_num_threads(1)
    silence()
    lm = load_language_model(source)
    program = PROGRAM.format(source=source, prompt=prompt, num_tokens=tokens, body=SOFT)
    bound = lmppl.compile(program)()

    def run(size: int) -> None:
        if who == "generate":
            generate(lm, prompt, size, int(tokens))
        else:
            lmppl.infer(
                bound, method="smc", num_particles=size, lookahead="none", seed=0, progress=False
            )

    run(2)
    gc.collect()
    forget_peak()
    before = resident("VmRSS")
    run(int(rows))
    print(resident("VmHWM") - before)


if __name__ == "__main__":
    main()
