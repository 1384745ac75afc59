"""Posteriors far from the prior: looking ahead against the masks alone, and both against the truth.

    python benchmarks/reach.py [GROUP …] [--seeds 5] [--most 30] [--particles 256] [--out FILE]
    python benchmarks/reach.py --truth DRAWS            counts plain draws again, into reach.json

Every row is a requirement on texts of `builtin:stories` after "Once upon a time", 40 tokens long.
Its truth is a share of plain draws, which `reach.json` has counts of. Masks and looking ahead run
with the same seeds, alternately; looking ahead draws a pilot as well, whose tokens masks alone get
as more particles. Errors are of the log evidence, in nats; `ess` is that of the final weights and
`texts` the distinct draws, medians over seeds and their least.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

import lmppl
from lmppl.density.stages.completing import generate
from lmppl.density.stages.text import TextStage
from lmppl.density.steering.automaton import stop_automata
from lmppl.lm.loading import load_language_model
from lmppl.rng import Stream

COUNTS = Path(__file__).parent / "reach.json"
PROMPT, MAX_TOKENS = "Once upon a time", 40


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
    "early": lambda name, text: name in text[:60],
    "ending": lambda name, text: text.endswith(name),
    "count": lambda name, text: text.count(name.split("=")[0]) == int(name.split("=")[1]),
}
LINES: dict[str, Callable[[str], str]] = {
    "word": contains,
    "two words": contains,
    "three words": contains,
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


@dataclass(frozen=True, slots=True)
class Run:
    """One run: its error in nats, what its draws are worth, and its CPU seconds."""

    error: float
    ess: float
    num_texts: int
    seconds: float
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Row:
    """All runs of one requirement; `truth` is the log of its mass, `truth_error` its error."""

    group: str
    name: str
    truth: float
    truth_error: float
    masks: tuple[Run, ...]
    ahead: tuple[Run, ...]


def run(model: lmppl.BoundModel, truth: float, seed: int, particles: int, lookahead: str) -> Run:
    began = time.process_time()
    post = lmppl.infer(model, method="smc", num_particles=particles, seed=seed, lookahead=lookahead)
    seconds = time.process_time() - began
    assert post.log_evidence is not None
    weights = np.asarray(post.weights)
    told = post.diagnostics.get("lookahead", {}).get("text", {})
    return Run(
        post.log_evidence.value - truth,
        float(weights.sum() ** 2 / (weights**2).sum()),
        len(set(post.texts)),
        seconds,
        particles * MAX_TOKENS + int(told.get("pilot_tokens", 0)),
    )


def row(group: str, name: str, counted: int, num_draws: int, seeds: int, particles: int) -> Row:
    model = lmppl.compile(program(group, name))()
    truth = math.log(counted / num_draws)
    masks, ahead = [], []
    for seed in range(seeds):
        ahead.append(run(model, truth, seed, particles, "auto"))
        as_many = math.ceil(ahead[-1].num_tokens / MAX_TOKENS)
        masks.append(run(model, truth, seed, as_many, "none"))
    error = math.sqrt((1.0 - counted / num_draws) / counted)
    return Row(group, name, truth, error, tuple(masks), tuple(ahead))


def shown(row: Row) -> str:
    def of(runs: tuple[Run, ...]) -> str:
        errors = [each.error for each in runs]
        mean = math.log(statistics.fmean(math.exp(e) for e in errors))
        ess, texts = [each.ess for each in runs], [each.num_texts for each in runs]
        return (
            f"{mean:+.2f} ({min(errors):+.2f} … {max(errors):+.2f}) |"
            f" {statistics.median(ess):.0f} ({min(ess):.0f}) |"
            f" {statistics.median(texts):.0f} ({min(texts)}) |"
            f" {statistics.median(each.seconds for each in runs):.1f}"
        )

    mark = f"{row.truth:.2f} ± {row.truth_error:.2f}"
    return f"| {row.group}: {row.name} | {mark} | {of(row.masks)} | {of(row.ahead)} |"


HEAD = """\
| requirement | truth | masks: error of the mean (least … most) | ess | texts | CPU s |\
 ahead: error of the mean (least … most) | ess | texts | CPU s |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


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
    parser.add_argument("--most", type=int, default=30, help="rows of a group at most")
    parser.add_argument("--particles", type=int, default=256)
    parser.add_argument("--out", type=Path, help="a file that gets all runs as JSON")
    parser.add_argument("--truth", type=int, metavar="DRAWS", help="count plain draws, and stop")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.truth:
        count_draws(options.truth)
        return
    known = json.loads(COUNTS.read_text())
    print(HEAD)
    rows = []
    for group in options.groups:
        for name, counted in list(known["counts"][group].items())[: options.most]:
            rows.append(
                row(group, name, counted, known["num_draws"], options.seeds, options.particles)
            )
            print(shown(rows[-1]), flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps([asdict(each) for each in rows], indent=1))


if __name__ == "__main__":
    main()
