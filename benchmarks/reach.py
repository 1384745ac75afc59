"""Posteriors far from the prior: looking ahead against the masks alone, and both against the truth.

    python benchmarks/reach.py [GROUP …] [--seeds 5] [--masks 2] [--most 30] [--out FILE]
    python benchmarks/reach.py --overhead           what looking ahead takes of a step, in pairs
    python benchmarks/reach.py --truth DRAWS        counts plain draws again, into reach.json
    python benchmarks/reach_table.py                the tables in docs, of the runs that were made

Every row is a requirement on texts of `builtin:stories` after "Once upon a time", 40 tokens long.
Its truth is a share of plain draws, which `reach.json` has counts of, or, where nearly no draw has
it (`rare`), a run with eight times the particles, which is made first. Masks and looking ahead run
with the same seeds, alternately; looking ahead draws a pilot as well, whose tokens masks alone get
as more particles (in the first `--masks` seeds). Errors are of the log evidence, in nats; `ess` is
that of the final weights and `texts` the distinct draws, medians over seeds and their least.
Runs that FILE has are not made again: what was broken off goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
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
from lmppl.progress import ProgressEvent
from lmppl.rng import Stream

COUNTS = Path(__file__).parent / "reach.json"
RUNS = Path(__file__).parent / "reach_runs.json"
PROMPT, MAX_TOKENS, PARTICLES = "Once upon a time", 40, 256
# Particles of the run that stands for the truth of what no plain draw shows, by its seed.
LONG, LONG_SEED = 2048, 1000


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
}
LINES: dict[str, Callable[[str], str]] = {
    "word": contains,
    "two words": contains,
    "three words": contains,
    "rare": contains,
    "early": early,
    "ending": lambda name: f'    require ends_with(text, "{name}")',
    "count": count,
}


def program(group: str, name: str) -> str:
    head = ""
    if group == "count":
        pattern = name.split("=")[0]
        head = f'reward many(t: string): int<lower=0> = count("{pattern}")\n'
    return f"""{head}model far() {{
    text ~ lm("builtin:stories", prompt="{PROMPT}", max_tokens={MAX_TOKENS})
{LINES[group](name)}
    return text
}}
"""


def run(model: lmppl.BoundModel, seed: int, particles: int, lookahead: str) -> dict[str, Any]:
    """One run: its log evidence, what its draws are worth, and its CPU seconds."""
    began = time.process_time()
    post = lmppl.infer(model, method="smc", num_particles=particles, seed=seed, lookahead=lookahead)
    seconds = time.process_time() - began
    assert post.log_evidence is not None
    error = post.log_evidence.standard_error
    weights = np.asarray(post.weights)
    told = post.diagnostics.get("lookahead", {}).get("text", {})
    return {
        "log_evidence": round(post.log_evidence.value, 4),
        "error": round(error, 4) if math.isfinite(error) else None,
        "ess": round(float(weights.sum() ** 2 / (weights**2).sum()), 1),
        "texts": len(set(post.texts)),
        "seconds": round(seconds, 2),
        "tokens": particles * MAX_TOKENS + int(told.get("pilot_tokens", 0)),
        "why_not": told.get("why", ""),
    }


def truths(
    known: dict[str, Any], runs: dict[str, Any]
) -> dict[tuple[str, str], tuple[float, float]]:
    """The log of the mass of every row, and its error, as far as they are known."""
    found = {}
    for group, names in known["counts"].items():
        for name, counted in names.items():
            share = counted / known["num_draws"]
            found[group, name] = math.log(share), math.sqrt((1.0 - share) / counted)
    for name in known["rare"]:
        long = runs.get(f"rare: {name}: long: {LONG_SEED}")
        if long is not None:
            found["rare", name] = long["log_evidence"], long["error"] or math.inf
    return found


def row_names(
    known: dict[str, Any], groups: Sequence[str] = tuple(LINES), most: int | None = None
) -> list[tuple[str, str]]:
    """Group and name of every row, at most so many of a group."""
    of = {**known["counts"], "rare": known["rare"]}
    return [(group, name) for group in groups for name in list(of[group])[:most]]


def make_runs(rows: list[tuple[str, str]], seeds: int, masked: int, out: Path) -> None:
    """All runs that `out` does not have yet; it is written after each."""
    runs = json.loads(out.read_text()) if out.exists() else {}
    models: dict[tuple[str, str], lmppl.BoundModel] = {}

    def made(row: tuple[str, str], how: str, seed: int, particles: int) -> dict[str, Any]:
        key = f"{row[0]}: {row[1]}: {how}: {seed}"
        if key not in runs:
            if row not in models:
                models[row] = lmppl.compile(program(*row))()
            runs[key] = run(models[row], seed, particles, "none" if how == "masks" else "auto")
            out.write_text(json.dumps(runs, indent=1) + "\n")
            print(key, runs[key], flush=True)
        return dict(runs[key])

    for seed in range(seeds):
        for row in rows:
            ahead = made(row, "ahead", seed, PARTICLES)
            if seed < masked:
                made(row, "masks", seed, math.ceil(ahead["tokens"] / MAX_TOKENS))
            if seed == 0 and row[0] == "rare":
                made(row, "long", LONG_SEED, LONG)


def overhead(pairs: int) -> None:
    """CPU milliseconds of a step of 256 particles with masks and with looking ahead, alternately,
    and the CPU seconds before the first token of the latter: tables and pilot."""
    for row in (("word", "pirate"), ("three words", "ball+catch+dog"), ("early", "dragon")):
        model = lmppl.compile(program(*row))()
        found: dict[str, list[float]] = {"none": [], "auto": []}
        before = []
        for pair in range(pairs + 1):
            for lookahead, steps in found.items():
                # When what is done before the first token was done.
                marks = [time.process_time()]

                def seen(event: ProgressEvent, marks: list[float] = marks) -> None:
                    if event.stage.startswith("looking ahead"):
                        marks.append(time.process_time())

                lmppl.infer(
                    model,
                    method="smc",
                    num_particles=PARTICLES,
                    seed=pair,
                    lookahead=lookahead,
                    progress=seen,
                )
                if pair:  # the first of each warms up
                    steps.append((time.process_time() - marks[-1]) / MAX_TOKENS * 1e3)
                    before += [marks[-1] - marks[0]] if lookahead == "auto" else []
        ratio = statistics.median(a / n for a, n in zip(found["auto"], found["none"], strict=True))
        print(
            f"{row[0]}: {row[1]}: masks {statistics.median(found['none']):.1f} ms, looking ahead"
            f" {statistics.median(found['auto']):.1f} ms, ratio {ratio:.2f};"
            f" {statistics.median(before):.1f} s before",
            flush=True,
        )


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", default=list(LINES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--masks", type=int, default=2, help="seeds that masks alone run with, too")
    parser.add_argument("--most", type=int, default=30, help="rows of a group at most")
    parser.add_argument("--out", type=Path, default=RUNS, help="a file of all runs, as JSON")
    parser.add_argument("--truth", type=int, metavar="DRAWS", help="count plain draws, and stop")
    parser.add_argument("--overhead", action="store_true", help="time steps, and stop")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.overhead:
        overhead(options.seeds)
        return
    if options.truth:
        count_draws(options.truth)
        return
    known = json.loads(COUNTS.read_text())
    make_runs(
        row_names(known, options.groups, options.most), options.seeds, options.masks, options.out
    )


if __name__ == "__main__":
    main()
