"""Runs that have to come out the same on every device: all methods, on a tiny Llama and a table.

    python tests/laws/device_cases.py DIRECTORY

prints, as JSON, what each gives on the host and on a pretended device, and where the host waited.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models
import torch

import lmppl
from lmppl.finite.automaton import WeightedAutomaton
from lmppl.finite.backward import backward
from lmppl.posterior import Posterior
from lmppl.surrogates import Budget
from lmppl.surrogates.backoff import BackoffLM
from lmppl.surrogates.counting import count_contexts
from lmppl.surrogates.counts import Corpus
from lmppl.surrogates.smoothing import smoothed

_VOWELS = 'reward vowels(t: string): real<lower=0, upper=9> = count("[aeiou]")\n'
_SOFT = """
model soft(beta: real<lower=0> = 2.0) {
    text ~ lm("{llama}", prompt="the dog", max_tokens=8)
    factor tone: vowels(text) / beta
    return text
}
"""
_HARD = """
model hard(beta: real<lower=0> = 2.0) {
    topic ~ categorical(["cat", "dog"], probs=[0.3, 0.7])
    text ~ lm("{llama}", prompt=f"the {topic}", max_tokens=8, temperature=0.9, top_p=0.95)
    factor tone: vowels(text) / beta
    require clean: never(text, words=["q", topic], ignore_case=true)
    require some: length(text) >= 2
    return text, topic
}
"""
_TABLE = """
model table(beta: real<lower=0> = 2.0) {
    text ~ markov("markov.json", max_tokens=6)
    factor tone: vowels(text) / beta
    require ends: ends_with(text, ["a", "b"])
    return text
}
"""
_MARKOV = {
    "tokens": ["a", "b", "c", "."],
    "initial": [5, 3, 2, 0],
    "transition": [[1, 4, 3, 2], [5, 0, 3, 2], [6, 2, 0, 2], [1, 1, 1, 1]],
    "eos": ".",
}


@dataclass(frozen=True, slots=True)
class Case:
    """A program and how it is inferred; `same_texts`: draws are a function of the seed alone."""

    body: str
    options: dict[str, Any]
    same_texts: bool = True
    bindings: tuple[float, ...] = (2.0,)

    def run(self, directory: Path, **place: object) -> list[Posterior]:
        """One posterior per binding, at the device that `place` names."""
        text = _VOWELS + self.body.replace("{llama}", llama(directory))
        model = lmppl.compile(text, base_dir=directory)
        bound = [model(beta=beta) for beta in self.bindings]
        return lmppl.infer(bound, seed=3, progress=False, **self.options, **place)


SMC: dict[str, Any] = {"method": "smc", "num_particles": 24}
CHAINS: dict[str, Any] = {"method": "mcmc", "num_chains": 3, "num_samples": 8, "warmup_steps": 4}
CASES = {
    "smc": Case(_SOFT, {**SMC, "lookahead": "none"}),
    "smc, looking ahead": Case(_SOFT, {**SMC, "lookahead": "prefix", "lookahead_every": 1}),
    "smc, constraint": Case(_HARD, SMC),
    "smc, runs": Case(_HARD, {**SMC, "num_particles": 8, "num_runs": 3}),
    "smc, bindings": Case(_SOFT, SMC, bindings=(1.0, 2.0, 5.0)),
    "smc, few rows at once": Case(_HARD, {**SMC, "max_rows": 5}),
    "smc, table": Case(_TABLE, SMC),
    "importance": Case(_HARD, {"method": "importance", "num_samples": 24}),
    "importance, from the prior": Case(
        _HARD, {"method": "importance", "num_samples": 96, "proposal": "prior"}
    ),
    "rejection": Case(_TABLE, {"method": "rejection", "num_samples": 8}),
    "exact": Case(_TABLE, {"method": "exact"}),
    "mcmc": Case(_SOFT, CHAINS),
    "mcmc, constraint": Case(_HARD, CHAINS),
    "mcmc, table": Case(_TABLE, CHAINS),
    "svi, table": Case(_TABLE, {"method": "svi", "num_steps": 3}, same_texts=False),
    "svi": Case(_SOFT, {"method": "svi", "num_steps": 2, "num_particles": 8}, same_texts=False),
}


def llama(directory: Path) -> str:
    """A tiny Llama in this directory, and beside it the table of a Markov chain."""
    path = directory / "llama"
    if not path.exists():
        tiny_models.save_tiny_model("llama", path)
        (directory / "markov.json").write_text(json.dumps(_MARKOV))
    return path.as_posix()


def summary(posts: list[Posterior]) -> dict[str, Any]:
    """What is compared: texts, log evidence and the number of steps, by binding."""
    return {
        # In an enumeration rounding decides which of two equally probable texts comes first.
        "texts": [sorted(post.texts) if post.enumerated else post.texts for post in posts],
        "log_evidence": [
            None if post.log_evidence is None else post.log_evidence.value for post in posts
        ],
        "num_steps": posts[0].manifest["num_steps"],
    }


def surrogate(device: str) -> list[float]:
    """What a surrogate believes and expects of texts that an automaton weighs, on a device."""
    texts = np.random.default_rng(1).integers(0, 4, (50, 6))
    counts = count_contexts(Corpus.of(4, [(1,)], [texts], 2), 3, Budget())
    model = BackoffLM.of(counts, smoothed(counts, (0.7, 0.7))).to(device)
    automaton = WeightedAutomaton(
        torch.tensor([[0, 1, -1], [1, 2, 0], [2, 2, 2]]),
        torch.tensor([[0.0, 0.5, 0.0], [-1.0, 0.0, 0.2], [0.0, 0.0, 0.0]]).double(),
        torch.tensor([0, 1, 1, 2]),
        torch.tensor([0.1, -0.3, 0.0, 0.4]).double(),
        torch.tensor([False, False, True]),
        torch.tensor([[-1.0, 0.0, 0.3]]).double(),
    ).to(device)
    tables = backward(model, automaton, 4)
    beliefs = model.begin([(1,), (2,)])
    ahead = tables.log_ahead(beliefs, automaton.start(2), 4)
    later = model.advance(beliefs, torch.tensor([3, 0], device=device))
    told = tables.log_evidence([(1,)]), ahead, model.log_probs(later)
    return [float(each) for part in told for each in part.cpu().flatten()]


def main(directory: Path) -> None:
    from pretended import DEVICE, Pretended

    found = {}
    for name, case in CASES.items():
        if case.options["method"] == "svi":
            # torch's engine for gradients asks for a device of its own making.
            continue
        here = summary(case.run(directory))
        with Pretended() as device:
            if name == "smc":
                # Loading looks at every weight; what is counted is a run after it.
                case.run(directory, device=DEVICE, dtype="float32")
                device.waits.clear()
            there = summary(case.run(directory, device=DEVICE, dtype="float32"))
        found[name] = {"here": here, "there": there, "waits": dict(device.waits)}
    with Pretended():
        found["surrogate"] = {"here": surrogate("cpu"), "there": surrogate(DEVICE)}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
