"""Posteriors far from the prior: looking ahead against the masks alone, and both against the truth.

    python benchmarks/reach.py [GROUP …] [--seeds 5] [--masks 2] [--most 50] [--out FILE]
    python benchmarks/reach.py costs [--seeds 5]    what steering takes of plain sampling, in pairs
    python benchmarks/reach.py finite               long finite cases, by right and wrong surrogates
    python benchmarks/reach.py --truth DRAWS        counts plain draws again, into reach.json
    python benchmarks/reach_table.py                the tables in docs, of the runs that were made

Every row is a requirement on texts of `builtin:stories` after "Once upon a time", 40 tokens long,
or a factor (`power`, and `cold`: examples/upbeat.lmp by tempered). Its truth is a share of plain
draws, which `reach.json` has counts of, or, where nearly no draw has it, a long run: `LONG` says of
what size. Masks and looking ahead run with the same seeds, alternately; looking ahead draws a pilot
as well, whose tokens masks alone get as more particles (in the first `--masks` seeds). Errors are
of the log evidence, in nats; `ess` is that of the final weights and `texts` the distinct draws,
medians over seeds and their least. Runs that FILE has are not made again: what was broken off goes
on.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lmppl
from lmppl.density.stages.completing import generate
from lmppl.density.stages.text import TextStage
from lmppl.density.steering.automaton import stop_automata
from lmppl.lm.loading import load_language_model
from lmppl.rng import Stream

HERE = Path(__file__).parent
COUNTS, RUNS = HERE / "reach.json", HERE / "reach_runs.json"
UPBEAT = HERE.parent / "examples" / "upbeat.lmp"
PROMPT, MAX_TOKENS, PARTICLES = "Once upon a time", 40, 256

# Options of a run.
Options = dict[str, Any]
# The run that stands for the truth of what no plain draw shows, by its seed.
LONG_SEED = 1000
_LONG_SMC: Options = {"method": "smc", "num_particles": 4096}
LONG: dict[str, Options] = {
    "rare": _LONG_SMC,
    "power": _LONG_SMC,
    "cold": {"method": "tempered", "num_particles": 1024, "num_moves": 6, "stage_ess": 0.75},
}


def words(name: str) -> list[str]:
    return name.split("+")


def contains(name: str) -> str:
    return "\n".join(f'    require contains(text, "{word}")' for word in words(name))


def early(name: str) -> str:
    return f'    require matches(text, r"(.|\\n){{0,{60 - len(name)}}}{name}(.|\\n)*")'


def count(name: str) -> str:
    _pattern, number = name.split("=")
    return f"    require many(text) == {number}"


# By group: the lines of a program, and what they mean in plain Python.
MEANING: dict[str, Callable[[str, str], bool]] = {
    "word": lambda name, text: name in text,
    "two words": lambda name, text: all(word in text for word in words(name)),
    "three words": lambda name, text: all(word in text for word in words(name)),
    "rare": lambda name, text: all(word in text for word in words(name)),
    "early": lambda name, text: name in text[:60],
    "ending": lambda name, text: text.endswith(name),
    "count": lambda name, text: text.count(name.split("=")[0]) == int(name.split("=")[1]),
    "power": lambda name, text: True,
    "cold": lambda name, text: True,
}
LINES: dict[str, Callable[[str], str]] = {
    "word": contains,
    "two words": contains,
    "three words": contains,
    "rare": contains,
    "early": early,
    "ending": lambda name: f'    require ends_with(text, "{name}")',
    "count": count,
    "power": lambda name: f"    factor sharp: {int(name.split('=')[1]) - 1} * log_prob(text)",
}
GROUPS = tuple(MEANING)


def program(lines: str, head: str = "") -> str:
    """A model of the texts, with more lines about them."""
    return f"""{head}model far() {{
    text ~ lm("builtin:stories", prompt="{PROMPT}", max_tokens={MAX_TOKENS})
{lines}
    return text
}}
"""


def model_of(group: str, name: str) -> lmppl.BoundModel:
    """What a row asks for."""
    if group == "cold":
        return lmppl.load(UPBEAT)(beta=float(name.split("=")[1]))
    head = ""
    if group == "count":
        pattern = name.split("=")[0]
        head = f'reward many(t: string): int<lower=0> = count("{pattern}")\n'
    return lmppl.compile(program(LINES[group](name), head))()


def options_of(group: str, how: str, particles: int) -> Options:
    """Of a run of a row: `ahead` is what is shown, `masks` what it is compared with."""
    if how == "long":
        return LONG[group]
    if group == "cold":
        return {"method": "tempered" if how == "ahead" else "smc", "num_particles": particles}
    lookahead = "none" if how == "masks" else "auto"
    return {"method": "smc", "num_particles": particles, "lookahead": lookahead}


def run(
    model: lmppl.BoundModel, seed: int, options: Options, holds: Callable[[str], bool]
) -> dict[str, Any]:
    """One run: its log evidence, what its draws are worth, and its CPU seconds.

    Raises:
        ValueError: a draw is not what was asked for.
    """
    began = time.process_time()
    post = lmppl.infer(model, seed=seed, progress=False, **options)
    seconds = time.process_time() - began
    if not all(map(holds, post.texts)):
        raise ValueError("a draw is not what was asked for")
    assert post.log_evidence is not None
    error = post.log_evidence.standard_error
    weights = np.asarray(post.weights)
    k_hat = post.diagnostics.get("pareto_k")
    told = post.diagnostics.get("lookahead", {}).get("text", {})
    return {
        "log_evidence": round(post.log_evidence.value, 4),
        "error": round(error, 4) if math.isfinite(error) else None,
        "ess": round(float(weights.sum() ** 2 / (weights**2).sum()), 1),
        "texts": len(set(post.texts)),
        "k_hat": None if k_hat is None else round(k_hat, 3),
        "seconds": round(seconds, 2),
        "tokens": int(post.manifest["num_tokens"]),
        "why_not": told.get("why", ""),
    }


def truths(
    known: dict[str, Any], runs: dict[str, Any]
) -> dict[tuple[str, str], tuple[float, float]]:
    """The log of the mass of every row, and its error (NaN: not known), as far as it was found."""
    found = {}
    for group, names in known["counts"].items():
        for name, counted in names.items():
            share = counted / known["num_draws"]
            found[group, name] = math.log(share), math.sqrt((1.0 - share) / counted)
    for group in LONG:
        for name in known[group]:
            long = runs.get(f"{group}: {name}: long: {LONG_SEED}")
            if long is not None:
                found[group, name] = long["log_evidence"], long["error"] or math.nan
    return found


def row_names(
    known: dict[str, Any], groups: Sequence[str] = GROUPS, most: int | None = None
) -> list[tuple[str, str]]:
    """Group and name of every row, at most so many of a group."""
    of = {**known["counts"], **{group: known[group] for group in LONG}}
    return [(group, name) for group in groups for name in list(of[group])[:most]]


def make_runs(rows: list[tuple[str, str]], seeds: int, masked: int, out: Path) -> None:
    """All runs that `out` does not have yet; it is written after each."""
    runs = json.loads(out.read_text()) if out.exists() else {}
    models: dict[tuple[str, str], lmppl.BoundModel] = {}

    def made(row: tuple[str, str], how: str, seed: int, particles: int) -> dict[str, Any]:
        key = f"{row[0]}: {row[1]}: {how}: {seed}"
        if key not in runs:
            if row not in models:
                models[row] = model_of(*row)
            options = options_of(row[0], how, particles)
            runs[key] = run(models[row], seed, options, lambda text: MEANING[row[0]](row[1], text))
            out.write_text(json.dumps(runs, indent=1) + "\n")
            print(key, runs[key], flush=True)
        return dict(runs[key])

    for seed in range(seeds):
        for row in rows:
            ahead = made(row, "ahead", seed, PARTICLES)
            if seed < masked:
                made(row, "masks", seed, math.ceil(ahead["tokens"] / MAX_TOKENS))
            if seed == 0 and row[0] in LONG:
                made(row, "long", LONG_SEED, 0)


def count_draws(num_draws: int) -> None:
    """Plain draws, counted under every requirement of `reach.json`."""
    known = json.loads(COUNTS.read_text())
    found = {group: dict.fromkeys(names, 0) for group, names in known["counts"].items()}
    lm = load_language_model("builtin:stories")
    stage = TextStage("text", lm, MAX_TOKENS)
    for first in range(0, num_draws, 1024):
        size = min(1024, num_draws - first)
        prompts = [PROMPT] * size
        draws = Stream.from_seed(first).uniforms
        texts, _ = generate(stage, prompts, stop_automata(stage, prompts), draws)
        for text in texts.column().strings:
            for group, names in found.items():
                for name in names:
                    names[name] += MEANING[group](name, text)
    COUNTS.write_text(json.dumps({**known, "num_draws": num_draws, "counts": found}, indent=1))


def main() -> None:
    from reach_costs import COSTS, make_costs
    from reach_finite import FINITE, make_finite

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", default=[*GROUPS, COSTS, FINITE])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--masks", type=int, default=2, help="seeds that masks alone run with, too")
    parser.add_argument("--most", type=int, default=50, help="rows of a group at most")
    parser.add_argument("--out", type=Path, default=RUNS, help="a file of all runs, as JSON")
    parser.add_argument("--truth", type=int, metavar="DRAWS", help="count plain draws, and stop")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.truth:
        count_draws(options.truth)
        return
    known = json.loads(COUNTS.read_text())
    groups = [group for group in options.groups if group in GROUPS]
    make_runs(row_names(known, groups, options.most), options.seeds, options.masks, options.out)
    if COSTS in options.groups:
        make_costs(options.seeds, options.out)
    if FINITE in options.groups:
        make_finite(options.out)


if __name__ == "__main__":
    main()
