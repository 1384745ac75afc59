"""What a fitted guide is worth as a proposal: effective draws for each thousand tokens read.

    python benchmarks/guides.py [--steps 80] [--seeds 3] [--beta 0.06]

Fits one guide by svi to texts of builtin:stories that VADER finds upbeat, and runs smc and
importance with it and without it, at equal numbers of draws. Tokens are those that language
models have read: two for each drawn token where a guide is beside the prior. The fit is reported
by itself.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import lmppl

PROGRAM = """
reward sentiment(t: string): real<lower=-1, upper=1> = vader()

model upbeat(beta: real<lower=0> = 0.06) {
    text ~ lm("builtin:stories", prompt="Once upon a time", max_tokens=24)
    factor tone: sentiment(text) / beta
    return text
}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--particles", type=int, default=48, help="draws of each step of the fit")
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--beta", type=float, default=0.06)
    parser.add_argument("--draws", type=int, default=256)
    arguments = parser.parse_args()
    model = lmppl.compile(PROGRAM)(beta=arguments.beta)
    began = time.process_time()
    tuned = lmppl.infer(
        model,
        method="svi",
        num_steps=arguments.steps,
        num_particles=arguments.particles,
        lr=arguments.lr,
        num_samples=64,
        seed=0,
    )
    seconds = time.process_time() - began
    print(f"fit: {tuned.manifest['num_tokens']:,} tokens, {seconds:.0f} CPU s")
    by_importance = tuned.diagnostics["log_evidence_importance"]
    print(f"  ELBO {tuned.log_evidence}, importance {by_importance:.2f}", flush=True)
    for warning in tuned.warnings:
        print(f"  {warning}")
    rows = {
        "smc": {"method": "smc", "num_particles": arguments.draws},
        "importance": {"method": "importance", "num_samples": arguments.draws},
    }
    for name, options in rows.items():
        for guide in (None, tuned.guide):
            found = []
            for seed in range(1, arguments.seeds + 1):
                more = {} if guide is None else {"proposal": guide}
                began = time.process_time()
                post = lmppl.infer(model, seed=seed, **options, **more)
                found.append(
                    (
                        post.log_evidence.value,
                        post.diagnostics["ess"],
                        post.manifest["num_tokens"],
                        time.process_time() - began,
                    )
                )
            log_z, ess, tokens, spent = np.array(found).T
            print(
                f"{name}{'' if guide is None else ', from the guide'}: log Z "
                f"{', '.join(f'{value:.2f}' for value in log_z)}; ESS {ess.mean():.0f} of"
                f" {arguments.draws}; per 1,000 tokens {1000 * (ess / tokens).mean():.2f};"
                f" per CPU s {(ess / spent).mean():.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
