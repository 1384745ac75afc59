"""How many effective draws each kind of move of mcmc gives for the tokens that it computes.

    python benchmarks/kernels.py
    python benchmarks/kernels.py --rejuvenation [--runs 24]

Every kind alone, infill beside suffix moves, on a posterior near the prior and on one far from it,
over `builtin:stories` with 40 tokens. Chains start from small particle runs; effective draws are
the smallest over a few numbers of the texts (Vehtari et al. 2021).

With `--rejuvenation`, what moves of unfinished texts take from the variance of the evidence of smc,
beside more particles for as many tokens.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

import lmppl
from lmppl.density import Traces
from lmppl.inference.mcmc import MCMC
from lmppl.inference.mcmc.engine import MCMCEngine
from lmppl.posterior.chains import autocorrelation_ess
from lmppl.rng import Stream

Number = Callable[[str], float]


@dataclass(frozen=True)
class Case:
    """A posterior, and numbers of its texts to judge chains by."""

    name: str
    program: str
    numbers: tuple[Number, ...]


NEAR = Case(
    "near: count of `t`, β = 2",
    """
    reward ts(x: string): int<lower=0, upper=400> = count("t")
    model near() {
        story ~ lm("builtin:stories", prompt="Once upon a time", max_tokens=40)
        factor tone: ts(story) / 2
        return story
    }
    """,
    (lambda text: text.count("t"), len, lambda text: text.count("e")),
)
FAR = Case(
    "far: contains dragon",
    """
    model far() {
        story ~ lm("builtin:stories", prompt="Once upon a time", max_tokens=40)
        require it: contains(story, "dragon")
        return story
    }
    """,
    (lambda text: text.find("dragon"), len, lambda text: text.count("e")),
)


@dataclass(frozen=True)
class Kernel:
    """Options of mcmc, and how many moves are made of every chain."""

    name: str
    options: dict[str, object]
    num_steps: int


_ONLY_SUFFIX: dict[str, object] = {"block_probability": 0.0}
KERNELS = (
    Kernel("suffix", _ONLY_SUFFIX, 90),
    Kernel("block and suffix, as by default", {}, 90),
    Kernel("infill 0.5, suffix 0.5", {**_ONLY_SUFFIX, "infill_probability": 0.5}, 90),
    Kernel("particles, no joints", {**_ONLY_SUFFIX, "particle_probability": 1.0, "joints": 0}, 12),
    Kernel("particles, 2 joints", {**_ONLY_SUFFIX, "particle_probability": 1.0, "joints": 2}, 12),
    Kernel("all, shares found in warm-up", {"adapt": True}, 60),
)


def effective_draws(case: Case, kept: Sequence[Traces]) -> float:
    """The smallest over the numbers of the case and the log prior."""
    columns = [np.stack([t.total_log_prior().numpy() for t in kept], -1)]
    for number in case.numbers:
        texts = [t.values["story"].listed() for t in kept]
        columns.append(np.array([[number(text) for text in step] for step in texts], float).T)
    sizes = [autocorrelation_ess(column) for column in columns if np.ptp(column) > 0.0]
    return float(min(sizes))


def measure(case: Case, kernel: Kernel, num_chains: int, seed: int) -> str:
    """A row of the table: effective draws by 1,000 tokens and by second of CPU, and acceptance."""
    warmup = max(4, kernel.num_steps // 3)
    settings = MCMC(
        num_chains=num_chains,
        num_samples=kernel.num_steps,
        warmup_steps=warmup,
        **kernel.options,  # type: ignore[arg-type]
    )
    target = lmppl.compile(case.program)().target()
    engine = MCMCEngine(settings, target, Stream.from_seed(seed))
    state = engine.init()
    while state.num_steps < warmup:
        state, _ = engine.step(state)
    before, began = state.mix, time.process_time()
    while not engine.is_done(state):
        state, _ = engine.step(state)
    seconds = time.process_time() - began
    tokens = float((state.mix.computed - before.computed).sum())
    accepted = float((state.mix.accepted - before.accepted).sum())
    tried = float((state.mix.tried - before.tried).sum())
    size = effective_draws(case, state.kept)
    shares = ""
    if settings.adapt:
        found = state.mix.report().items()
        shares = "; " + ", ".join(f"{kind} {of['share']:.2f}" for kind, of in found)
    return (
        f"| {case.name} | {kernel.name}{shares} | {1000.0 * size / tokens:.3f}"
        f" | {size / seconds:.2f} | {accepted / tried:.2f} | {tokens / tried:.0f} |"
    )


COUNTED = """
reward merry(t: string): int<lower=0, upper=60> = count("love|happy|fun|play")
model count() {
    text ~ lm("builtin:stories", prompt="Once upon a time", max_tokens=24)
    factor 3 * merry(text)
    return text
}
"""
REJUVENATED: tuple[dict[str, object], ...] = (
    {"num_particles": 32},
    {"num_particles": 32, "num_moves": 1, "move_every": 8, "block_size": 8},
    {"num_particles": 64},
)


def rejuvenation(num_runs: int, seed: int) -> None:
    """The relative variance of estimates of the evidence, with what smc looks ahead by."""
    model = lmppl.compile(COUNTED)()
    options = {"method": "smc", "num_runs": num_runs, "seed": seed}
    for chosen in REJUVENATED:
        found = lmppl.infer(model, **options, **chosen)
        log_z = np.asarray(found.diagnostics["log_evidence_runs"])
        share = np.exp(log_z - log_z.max())
        # Its standard error is by leaving out each run in turn.
        rest = [np.delete(share, n) for n in range(len(share))]
        left = np.array([each.var(ddof=1) / each.mean() ** 2 for each in rest])
        error = float(np.sqrt((len(left) - 1) * left.var()))
        tokens = found.manifest["num_tokens"]
        print(
            f"{chosen}: relative variance {share.var(ddof=1) / share.mean() ** 2:.3f}"
            f" ± {error:.3f}, {tokens:,} tokens",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--moves", type=float, default=1.0, help="this share of the moves only")
    parser.add_argument("--rejuvenation", action="store_true")
    parser.add_argument("--runs", type=int, default=24, help="runs of smc, with --rejuvenation")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.rejuvenation:
        rejuvenation(asked.runs, asked.seed)
        return
    print("| posterior | moves | draws by 1,000 tokens | draws by CPU second | accepted | tokens |")
    print("|---|---|---|---|---|---|")
    for case in (NEAR, FAR):
        for kernel in KERNELS:
            if asked.only in f"{case.name} {kernel.name}":
                fewer = replace(kernel, num_steps=round(asked.moves * kernel.num_steps))
                print(measure(case, fewer, asked.chains, asked.seed), flush=True)


if __name__ == "__main__":
    main()
