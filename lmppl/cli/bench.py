"""`lmppl bench`: where the time of a step goes, and how far it is from the products' own time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmppl.cli.outcome import Exit, UsageError
from lmppl.cli.parsing import Arguments
from lmppl.cli.streams import show
from lmppl.cli.threads import use_threads
from lmppl.inference.smc import SMC
from lmppl.timing import Clock, timer

if TYPE_CHECKING:
    from lmppl.lm.costs import Cost
    from lmppl.lm.huggingface import HuggingFaceLM

_PROGRAM = """
reward vowels(t: string): real<lower=0, upper=100000> = count("[aeiou]")
model bench(opening: string) {{
    text ~ lm({source}, prompt=opening, max_tokens={tokens})
    factor tone: vowels(text) / 10
    {constraint}
    return text
}}
"""
# Runs whose parts are added up.
_RUNS = 3


@dataclass(frozen=True, slots=True)
class Profile:
    """Some measured runs: tokens drawn, steps, seconds by part and in total.

    `first` are the seconds of the run before it, which compiles what is to be compiled, and `notes`
    say how the language models were run; some of them are `slow_paths`.
    """

    num_tokens: int
    num_steps: int
    seconds: dict[str, float]
    total: float
    first: float
    notes: tuple[str, ...]
    slow_paths: tuple[str, ...] = ()


def profile(
    bound: Any,
    num_particles: int,
    now: Callable[[], float] = time.process_time,
    between: Callable[[], None] = lambda: None,
    **options: object,
) -> Profile:
    """The parts of SMC runs on a bound model, after one run whose parts are not measured.

    `between` is called before and after each: the pace of a shared machine changes, so what is
    compared with the runs is measured among them.
    """
    from lmppl import pipeline

    settings: dict[str, Any] = {"method": SMC.name, "num_particles": num_particles, **options}
    began = now()
    pipeline.infer(bound, seed=0, progress=False, **settings)
    first = now() - began
    clock, total, num_tokens, num_steps = Clock(now), 0.0, 0, 0
    between()
    for seed in range(1, _RUNS + 1):
        with clock.ticking():
            began = now()
            with clock.part("other"):
                post = pipeline.infer(bound, seed=seed, progress=False, **settings)
            total += now() - began
        num_tokens += post.manifest["num_tokens"]
        num_steps += post.manifest["num_steps"]
        between()
    models = post.manifest["language_models"]
    notes, slow = (
        tuple(each for lm in models for each in lm[kind]) for kind in ("notes", "slow_paths")
    )
    return Profile(num_tokens, num_steps, clock.seconds, total, first, notes, slow)


def bench(arguments: Arguments) -> int:
    """Prints the cost model, the floor and the share of every part of a step."""
    from lmppl import pipeline
    from lmppl.lm.costs import Products, cost_of
    from lmppl.lm.loading import load_language_model

    use_threads(arguments.threads)
    lm = load_language_model(arguments.model, device=arguments.device, dtype=arguments.dtype)
    if arguments.tokens < 2:
        raise UsageError("a benchmark needs at least 2 tokens")
    rows, dtype = arguments.batch, next(lm.model.parameters()).dtype
    prompt_tokens = len(lm.prompts.ids(arguments.prompt))
    cost = cost_of(lm, prompt_tokens + arguments.tokens // 2)
    constraint = ""
    if arguments.matches:
        constraint = f"require shape: matches(text, {json.dumps(arguments.matches)})"
    program = _PROGRAM.format(
        source=json.dumps(arguments.model),
        tokens=arguments.tokens,
        constraint=constraint,
    )
    bound = pipeline.compile(program)(opening=arguments.prompt)
    body = Products(cost.shapes, rows, dtype, lm.device)
    head = Products([] if cost.head is None else [cost.head], rows, dtype, lm.device)
    square = Products([(1024, 1024)], 1024, dtype, lm.device)

    def measure() -> None:
        body.measure()
        head.measure(0.1)
        square.measure(0.1)

    found = profile(
        bound,
        rows,
        timer(lm.device),
        measure,
        lookahead="prefix" if arguments.lookahead else "none",
        lookahead_every=arguments.lookahead or 1,
        device=arguments.device,
        dtype=arguments.dtype,
        compile=arguments.compile,
    )
    peak = 2 * 1024**3 / square.seconds
    show(_report(arguments, lm, cost, found, body.seconds, head.seconds, peak, rows))
    return Exit.FINE


def _report(
    arguments: Arguments,
    lm: HuggingFaceLM,
    cost: Cost,
    found: Profile,
    body: float,
    head: float,
    peak: float,
    rows: int,
) -> str:
    import torch

    # Rows that have ended or are equal are not computed, so the floor goes by tokens.
    per_token = (body + head) / rows
    floor = per_token * found.num_tokens
    reached = cost.matrix_flops / per_token
    kind = "CPU" if lm.device.type == "cpu" else "wall"
    lines = [
        f"{lm.name} on {lm.device}, {next(lm.model.parameters()).dtype}, "
        f"{torch.get_num_threads()} thread(s), {rows} particles, {arguments.tokens} tokens\n",
        f"parameters                 {cost.num_parameters / 1e6:10.2f} M",
        f"products per token         {cost.matrix_flops / 1e6:10.2f} MFLOP",
        f"attention per token        {cost.attention_flops / 1e6:10.2f} MFLOP at mid length",
        f"cache read per token       {cost.cache_bytes / 1e3:10.1f} kB",
        f"weights read per step      {cost.weight_bytes / 1e6:10.2f} MB",
        f"square product             {peak / 1e9:10.1f} GFLOP/s (1024 x 1024)",
        f"products of this model     {reached / 1e9:10.1f} GFLOP/s at {rows} rows",
        "",
        f"{'part':<26} {f'{kind} ms a step':>14} {'share':>8}",
    ]
    steps = max(1, found.num_steps)
    seconds = dict(found.seconds)
    head_seconds = min(seconds.get("forward", 0.0), head * found.num_tokens / rows)
    seconds["forward (body)"] = seconds.pop("forward", 0.0) - head_seconds
    seconds["head"] = head_seconds
    for name in (
        "prompt",
        "forward (body)",
        "head",
        "mask",
        "normalise and draw",
        "bookkeeping",
        "resample",
        "rewards",
        "result",
        "other",
    ):
        spent = seconds.get(name, 0.0)
        lines.append(f"{name:<26} {1e3 * spent / steps:14.3f} {spent / found.total:8.1%}")
    forward = seconds["forward (body)"] + head_seconds
    lines += [
        f"{'total':<26} {1e3 * found.total / steps:14.3f}",
        "",
        f"{f'tokens per {kind} second':<26} {found.num_tokens / found.total:10.0f}",
        f"floor (products alone)     {1 / per_token:10.0f} tokens per {kind} second",
        f"floor reached              {floor / found.total:10.1%} of the whole run, "
        f"{floor / forward if forward else 0.0:.1%} of the forward passes",
        f"first run                  {found.first:10.2f} {kind} seconds, "
        f"this one {found.total:.2f}",
        *(f"{'warning' if note in found.slow_paths else 'note'}: {note}" for note in found.notes),
        "",
    ]
    return "\n".join(lines)
