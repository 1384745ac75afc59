"""Twists against the papers': how far what draws by them is from the posterior, both ways.

    python benchmarks/twisted.py [TASK …] [--seeds 3] [--only NAME] [--out FILE]
    python benchmarks/twisted.py --table            the table of the runs that were made

Three tasks of Zhao et al. (2024, arXiv 2404.17546, section 7.2) scaled down to `builtin:stories`:
a rare attribute by a classifier, a sentiment, and the middle of a text whose end is given. On each,
the twist that `infer twist` fits by default, and those of CTL, soft Q-learning, SIXO and FUDGE as
their papers learn them (`twisted_rivals.py`), with a head as large and as many tokens of the
language model. Tokens of lmppl's fit include its pilots, the texts that it reads once more, and
those that have chosen its power.

Measured of each: KL(q ‖ π) and KL(π ‖ q) of texts that are drawn by the twist token by token, never
resampled, in nats (the first over 300 texts of q, the second over 400 texts that stand for the
posterior); and the errors of log Z over 8 runs of smc by the twist, 64 particles each. Runs that
FILE has are not made again, and the texts that stand for posteriors are kept beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from twisted_rivals import RIVALS, Tuning, learn

import lmppl
from lmppl.density import Target
from lmppl.density.steering.protocol import Steering
from lmppl.inference.smc import SMC
from lmppl.inference.smc.engine import SMCEngine
from lmppl.inference.twist import Twist
from lmppl.inference.twist.engine import TwistEngine
from lmppl.inference.twists import FittedTwist
from lmppl.lm.loading import load_language_model
from lmppl.rng import Stream
from lmppl.surrogates.surrogate import prompt_tokens

RUNS = Path(__file__).parent / "twisted_runs.json"
# Texts of the prior, of what smc looks ahead by, and of a twist, that stand for the posterior.
LONG = 4_000
DRAWN, TEXTS, WIDTH = 300, 400, 64
PARTICLES, NUM_RUNS = 64, 8

DARK = "cr(?:y|ied)|sad|scared|hurt|bad|angry|mean|mad|broke|lost|afraid|fell"
MIDDLE = "Tom had a big red ball. He"
ENDING = ". Tom was sad."

TASKS = {
    "attribute": f"""
reward dark(t: string): int<lower=0, upper=60> = count("{DARK}")
model attribute() {{
    text ~ lm("builtin:stories", prompt="Once upon a time, there was a", max_tokens=20)
    factor -log(1 + exp(10 - 5 * dark(text)))
    return text
}}
""",
    "sentiment": """
reward sentiment(t: string): real<lower=-1, upper=1> = vader()
model upbeat() {
    text ~ lm("builtin:stories", prompt="One day, a girl saw a", max_tokens=16)
    factor -6 * sentiment(text)
    return text
}
""",
    "infilling": f"""
extern reward ending(t: string): real<lower=-400, upper=0>
model middle() {{
    text ~ lm("builtin:stories", prompt="{MIDDLE}", max_tokens=12)
    factor ending(text)
    return text
}}
""",
}


def ending(texts: list[str]) -> list[float]:
    """log p(the ending | prompt and middle), in nats, by the language model itself."""
    lm: Any = load_language_model("builtin:stories")
    tokens = torch.tensor(prompt_tokens(lm, ENDING)[1:]).expand(len(texts), -1)
    lengths = torch.full((len(texts),), tokens.shape[1])
    prompts = [MIDDLE + text for text in texts]
    found: list[float] = lm.token_log_probs(prompts, tokens, lengths).double().sum(-1).tolist()
    return found


def model_of(task: str) -> lmppl.BoundModel:
    given = {"ending": ending} if task == "infilling" else {}
    return lmppl.compile(TASKS[task])(**given)


@dataclass(frozen=True)
class Sampler:
    """What texts of a task are drawn by, token by token: p times the ψ of some steerings."""

    target: Target
    parts: tuple[Steering, ...]
    size: int

    @classmethod
    def of(cls, target: Target, twist: FittedTwist | None, seed: int, size: int = 500) -> Sampler:
        """That of smc, by a twist or by what it looks ahead by itself."""
        learned = None if twist is None else twist.on(target)
        settings = SMC(num_particles=size)
        engine = SMCEngine(settings, target, Stream.from_seed(seed), learned=learned)
        state: Any = engine.init()
        while state.run is None:
            state, _ = engine.step(state)
        return cls(target, state.run.steered.parts, size)

    @classmethod
    def plain(cls, target: Target, size: int = 500) -> Sampler:
        return cls(target, (), size)

    @torch.no_grad()
    def run(self, texts: tuple[Tensor, Tensor] | None, stream: Stream) -> tuple[Any, Tensor]:
        """Texts, and log q `[texts]` of them: drawn, or given by tokens and lengths."""
        stage = self.target.stages[0].text
        assert stage is not None
        size = self.size if texts is None else len(texts[1])
        traces = self.target.start(torch.zeros(self.size, dtype=torch.long))
        prompts = self.target.rows(0, traces).prompts
        run = stage.begin(prompts[:1] * size, *self.parts, rows=torch.arange(size) % self.size)
        log_q = torch.zeros(size, dtype=torch.float64)
        while run.num_open:
            at = run.position or 0
            forced = None if texts is None else texts[0][:, at]
            run, step = stage.step(run, stream.uniforms(torch.arange(size), at), forced=forced)
            log_q = log_q.index_add(0, step.rows, step.log_proposal)
        return run, log_q

    def drawn(self, seed: int, number: int) -> dict[str, Tensor]:
        """Texts with log q, log p and log φ."""
        stage = self.target.stages[0].text
        assert stage is not None
        parts = []
        for part in range(-(-number // self.size)):
            run, log_q = self.run(None, Stream.from_seed(seed).child("part", part))
            traces = self.target.start(torch.zeros(self.size, dtype=torch.long))
            traces = traces.with_value(stage.name, stage.finish(run), run.log_prior)
            traces = self.target.apply_potentials(traces, 0)
            parts.append(
                {
                    "tokens": run.tokens,
                    "lengths": run.positions,
                    "log_q": log_q,
                    "log_p": run.log_prior,
                    "log_phi": traces.total_log_potential(),
                }
            )
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def log_q(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """log q `[texts]` of given texts."""
        found = []
        for first in range(0, len(lengths), self.size):
            at = slice(first, first + self.size)
            found.append(self.run((tokens[at], lengths[at]), Stream.from_seed(0))[1])
        return torch.cat(found)


def truth_of(task: str, log: Path) -> dict[str, Any]:
    """log Z with its error, and texts that stand for the posterior: a third each of many are draws
    of the prior, of what smc looks ahead by, and of a twist that was fitted for this alone, all
    weighed as of the mixture (Owen and Zhou 2000)."""
    place = log.with_name(f"{log.stem}-{task}.pt")
    if place.is_file():
        found: dict[str, Any] = torch.load(place)
        return found
    model = model_of(task)
    target = model.target()
    options = {"num_particles": 256, "num_steps": 300, "seed": 990}
    twist = lmppl.infer(model, method="twist", **options).guide
    samplers = [
        Sampler.plain(target),
        Sampler.of(target, None, 991),
        Sampler.of(target, twist, 991),
    ]
    drawn = [each.drawn(992 + n, LONG) for n, each in enumerate(samplers)]
    both = {key: torch.cat([each[key] for each in drawn]) for key in drawn[0]}
    log_q = [each.log_q(both["tokens"], both["lengths"]) for each in samplers[1:]]
    mixture = torch.stack([both["log_p"], *log_q]).logsumexp(0) - math.log(3.0)
    log_weight = both["log_p"] + both["log_phi"] - mixture
    weight = (log_weight - log_weight.max()).exp()
    log_z = float(weight.mean().log() + log_weight.max())
    error = float(weight.view(3, -1).std(-1).pow(2).mean().sqrt() / weight.mean())
    error /= math.sqrt(len(weight))
    generator = torch.Generator().manual_seed(994)
    chosen = torch.multinomial(weight, TEXTS, replacement=True, generator=generator)
    texts = {key: value[chosen] for key, value in both.items()}
    ess = float(weight.sum() ** 2 / weight.pow(2).sum())
    found = {"log_z": log_z, "error": error, "ess": ess, "texts": texts}
    torch.save(found, place)
    print(f"{task}: log Z {log_z:.3f} ± {error:.3f}, ESS {ess:.0f} of {3 * LONG}", flush=True)
    return found


def measured(task: str, target: Target, twist: Any, seed: int, truth: Any) -> Any:
    """Both KLs of what is drawn by a twist with their errors, and what smc by it says of log Z."""
    sampler = Sampler.of(target, twist, seed)
    ours, texts = sampler.drawn(seed + 500, DRAWN), truth["texts"]
    reverse = ours["log_q"] - ours["log_p"] - ours["log_phi"] + truth["log_z"]
    log_q = sampler.log_q(texts["tokens"], texts["lengths"])
    forward = texts["log_p"] + texts["log_phi"] - truth["log_z"] - log_q
    more = {} if twist is None else {"lookahead": twist}
    options = {"num_particles": PARTICLES, "num_runs": NUM_RUNS, "seed": seed + 700}
    found = lmppl.infer(model_of(task), method="smc", **options, **more)
    errors = np.asarray(found.diagnostics["log_evidence_runs"]) - truth["log_z"]
    return {
        "reverse": float(reverse.mean()),
        "reverse_error": float(reverse.std()) / math.sqrt(len(reverse)),
        "forward": float(forward.mean()),
        "forward_error": float(forward.std()) / math.sqrt(min(len(forward), truth["ess"])),
        "log_z_rms": float(np.sqrt(np.mean(errors**2))),
        "log_z_mean": float(errors.mean()),
    }


OURS, FITTED, NONE = "lmppl, as chosen", "lmppl, the head", "smc by default"


def fitted(target: Target, seed: int) -> tuple[FittedTwist, FittedTwist, float, int]:
    """What `infer twist` fits: the head, the same as its pilots have chosen, their power, and the
    tokens that both took."""
    engine = TwistEngine(Twist(), target, Stream.from_seed(seed))
    state, num_tokens, head = engine.init(), 0, None
    while state.power is None:
        if state.num_done == engine.settings.num_steps:
            head = engine.fitted(state)
        state, info = engine.step(state)
        num_tokens += info.num_tokens
    assert head is not None
    return head, engine.fitted(state), state.power, num_tokens


def run(task: str, name: str, seed: int, budget: int, truth: Any, tuning: Tuning) -> list[Any]:
    """One twist, fitted and measured; `budget` is what the fit of a rival may read."""
    model, began = model_of(task), time.process_time()
    target = model.target()
    twist: Any = None
    facts: dict[str, Any] = {}
    whole = None
    if name == OURS:
        whole, twist, power, num_tokens = fitted(target, seed)
        facts = {"num_tokens": num_tokens, "power": power}
        # A twist of power 0 is none: smc looks ahead as by default.
        twist = twist if power else None
    elif name in RIVALS:
        head = learn(name, target, budget, WIDTH, tuning, seed)
        twist, facts = FittedTwist.of(target, {0: head}), {"num_tokens": budget}
    facts["seconds"] = round(time.process_time() - began, 1)
    facts = {"task": task, "name": name, "seed": seed, **facts}
    found = [{**facts, **measured(task, target, twist, seed, truth)}]
    if whole is not None:
        again = found[0] if facts["power"] == 1.0 else measured(task, target, whole, seed, truth)
        found.append({**facts, **again, "name": FITTED})
    return found


def kept(place: Path) -> list[dict[str, Any]]:
    return json.loads(place.read_text()) if place.is_file() else []


def keep(place: Path, runs: Sequence[dict[str, Any]]) -> None:
    lines = ",\n".join(json.dumps(each) for each in runs)
    place.write_text(f"[\n{lines}\n]\n")


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Means over seeds with their standard errors, which have the spread over seeds in them."""
    lines = [
        "| task | twist | KL(q ‖ π) | KL(π ‖ q) | error of log Z | fits |",
        "|---|---|---|---|---|---|",
    ]
    for task in TASKS:
        for name in (OURS, FITTED, *RIVALS, NONE):
            own = [each for each in runs if (each["task"], each["name"]) == (task, name)]
            if not own:
                continue
            cells = []
            for kind in ("reverse", "forward"):
                values = np.array([each[kind] for each in own])
                within = np.array([each[f"{kind}_error"] for each in own])
                among = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0.0
                error = max(among, math.sqrt((within**2).sum()) / len(values))
                cells.append(f"{values.mean():.2f} ± {error:.2f}")
            rms = math.sqrt(np.mean([each["log_z_rms"] ** 2 for each in own]))
            lines.append(f"| {task} | {name} | {' | '.join(cells)} | {rms:.2f} | {len(own)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path, default=RUNS)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    runs = kept(asked.out)
    if asked.table:
        print(table(runs))
        return
    for seed in range(1, asked.seeds + 1):
        for task in asked.tasks or TASKS:
            truth = truth_of(task, asked.out)
            for name in (OURS, *RIVALS, NONE):
                done = [each for each in runs if (each["task"], each["seed"]) == (task, seed)]
                if asked.only not in name or name in [each["name"] for each in done]:
                    continue
                # Rivals read as much as the fit of this seed did, its pilots included.
                budget = next((each["num_tokens"] for each in done if each["name"] == OURS), 45_000)
                runs.extend(run(task, name, seed, budget, truth, Tuning()))
                keep(asked.out, runs)
                print(json.dumps(runs[-1]), flush=True)


if __name__ == "__main__":
    main()
