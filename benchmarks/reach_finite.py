"""Long posteriors over finite-state priors, of which all is known: by right and wrong surrogates.

The cases and their referee, in plain Python, are those of tests/exactness/finite_cases.py: forty
tokens, up to fifty of vocabulary, a word, a count, a heavy tail, a hidden state, texts that end.
With the prior itself ahead all weights are the evidence. With a surrogate that is wrong the mean of
many small runs is, up to its own error.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lmppl
from lmppl.density.rows import SiteRows
from lmppl.density.steering.expecting import expectations
from lmppl.density.steering.protocol import Steering
from lmppl.finite.known import KnownStates
from lmppl.inference.smc import SMC
from lmppl.inference.smc.engine import SMCEngine
from lmppl.rng import Stream
from lmppl.sequences.weights import log_mean_exp

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.exactness.finite_cases import IN_PROGRAMS, LongCase

FINITE = "finite"
SEEDS, PARTICLES, RUNS = 5, 32, 256
# Standard deviations, in nats, by which every probability of a wrong surrogate is off.
WRONG = (0.5, 1.0)


def wrong_surrogate(case: LongCase, nats: float) -> KnownStates:
    """A Markov chain, that of the case where it is one, whose probabilities are off by chance."""
    size = len(case.table["tokens"])
    noise = np.random.default_rng(1).normal(size=(size + 1, size)) * nats
    rows = np.zeros((size + 1, size))
    if "emission" not in case.table:
        with np.errstate(divide="ignore"):
            rows = np.log([*case.table["transition"], case.table["initial"]])
        rows = np.maximum(rows, -5.0)
    log_rows = torch.from_numpy(rows + noise).double().log_softmax(-1)
    return KnownStates.of(log_rows, torch.arange(size), size)


@dataclass(frozen=True, slots=True)
class Wrongly(SMCEngine):
    """SMC that looks ahead by another surrogate than the prior itself."""

    surrogate: KnownStates | None = None

    def steering(self, rows: SiteRows) -> tuple[Steering, ...]:
        assert self.surrogate is not None
        found = expectations(self.target, rows, self.surrogate, lambda prompt: (), likely=math.inf)
        return *SMCEngine.steering(self, rows), found.steering([1.0] * len(found.each))


def evidences(model: lmppl.BoundModel, surrogate: KnownStates) -> list[float]:
    """The log evidence of each of many small runs."""
    settings = SMC(num_particles=PARTICLES, num_runs=RUNS, lookahead="none")
    engine = Wrongly(settings, model.target(), Stream.from_seed(7), surrogate=surrogate)
    state = engine.init()
    while not engine.is_done(state):
        state, _ = engine.step(state)
    return (state.log_evidence + log_mean_exp(state.log_weight)).tolist()


def told(log_z: list[float], truth: float) -> dict[str, Any]:
    """How far the mean of Ẑ is from Z, in standard errors, and how far one run is, relatively."""
    ratio = np.exp(np.array(log_z) - truth)
    error = ratio.std(ddof=1) / math.sqrt(len(ratio))
    return {
        "mean": round(float(ratio.mean()), 4),
        "error": round(float(error), 4),
        "relative_variance": round(float(ratio.var(ddof=1) / ratio.mean() ** 2), 4),
    }


def make_finite(out: Path, cases: tuple[Callable[[], LongCase], ...] = IN_PROGRAMS) -> None:
    """Every case that `out` does not have yet."""
    runs = json.loads(out.read_text()) if out.exists() else {}
    for make in cases:
        case = make()
        key = f"{FINITE}: {case.name}"
        if key in runs:
            continue
        truth = case.answers().log_z
        with tempfile.TemporaryDirectory() as folder:
            model = lmppl.compile(case.write(Path(folder)), base_dir=Path(folder))()
            values = [
                lmppl.infer(model, method="smc", seed=seed, progress=False).log_evidence
                for seed in range(SEEDS)
            ]
            off = max(abs(value.value - truth) for value in values if value is not None)
            runs[key] = {
                "log_evidence": round(truth, 4),
                "off": off,
                "exact": all(value is not None and value.is_exact for value in values),
                "wrong": {
                    str(nats): told(evidences(model, wrong_surrogate(case, nats)), truth)
                    for nats in WRONG
                },
            }
        out.write_text(json.dumps(runs, indent=1) + "\n")
        print(key, runs[key], flush=True)
