"""What fitted twists do to the variance of the evidence, where there is much to learn, or little.

    python benchmarks/ratios.py [OBJECTIVE …] [--fits 3]    on builtin:stories
    python benchmarks/ratios.py --little 20                 fits on a random Llama instead

The ratio of the variance of log evidence over 100 runs of 12 particles by the twist to that over
as many runs of smc by default. Were both alike, a ratio would be between 0.67 and 1.48 in 95 of 100
cases. A fit that ends at power 0 has left no twist, so that its runs are those of smc by
default, and its ratio is 1.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import save_random_llama, silence

import lmppl
from lmppl.lm.loading import load_language_model

STORIES = """
reward loves(t: string): int<lower=0, upper=40> = count("love|happy|fun|play")
model merry() {
    text ~ lm("builtin:stories", prompt="Once upon a time", max_tokens=12)
    factor 3 * loves(text) - 6
    return text
}
"""
VOWELS = """
extern lm prior
reward letters(t: string): int<lower=0, upper=40> = count("[aeiou]")
model vowels() {
    text ~ prior(max_tokens=6)
    factor 2 * letters(text) - 12
    return text
}
"""
OBJECTIVES = ("paths", "contrastive", "sixo", "log-ratio", "soft-q", "fudge")
RUNS: dict[str, Any] = {"method": "smc", "num_particles": 12, "num_runs": 100}


def spread(model: lmppl.BoundModel, seed: int, **more: Any) -> float:
    """The variance of log evidence over runs."""
    found = lmppl.infer(model, seed=seed, **RUNS, **more)
    return float(np.var(found.diagnostics["log_evidence_runs"], ddof=1))


def ratio(model: lmppl.BoundModel, plain: float, seed: int, **options: Any) -> tuple[float, float]:
    """That with a twist over that without, and the power of the twist."""
    fitted = lmppl.infer(model, method="twist", seed=seed, **options)
    power = float(fitted.diagnostics["twist_power"])
    found = 1.0 if power == 0.0 else spread(model, 1, lookahead=fitted.guide) / plain
    return found, power


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("objectives", nargs="*", default=list(OBJECTIVES))
    parser.add_argument("--fits", type=int, default=3, help="fits by each objective")
    parser.add_argument("--little", type=int, default=0, help="fits on a random Llama, instead")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    silence()
    if asked.little:
        with tempfile.TemporaryDirectory() as place:
            tiny = save_random_llama(
                Path(place) / "tiny", vocab_size=320, num_layers=2, width=32, heads=2
            )
            model = lmppl.compile(VOWELS)(prior=load_language_model(str(tiny)))
            plain = spread(model, 1)
            found = []
            for seed in range(asked.little):
                options = {"num_steps": 40, "num_rounds": 2, "num_particles": 64, "width": 16}
                found.append(ratio(model, plain, seed, **options))
                print(f"fit {seed}: ratio {found[-1][0]:.2f}, power {found[-1][1]:g}", flush=True)
            each = np.array([value for value, _ in found])
            none = sum(power == 0.0 for _, power in found)
            print(f"worst {each.max():.2f}, best {each.min():.2f}, {none} of {len(each)} without")
        return
    model = lmppl.compile(STORIES)()
    plain = spread(model, 1)
    print(f"smc by default: variance {plain:.3f}", flush=True)
    for objective in asked.objectives:
        options = {"num_steps": 60, "num_rounds": 2, "num_particles": 96, "batch_size": 24}
        found = [
            ratio(model, plain, seed, objective=objective, **options)
            for seed in range(4, 4 + asked.fits)
        ]
        words = ", ".join(f"{value:.2f} (power {power:g})" for value, power in found)
        print(f"{objective}: {words}", flush=True)


if __name__ == "__main__":
    main()
