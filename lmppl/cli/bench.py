"""`lmppl bench`: where the time of a step goes, and how far it is from the products' own time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from lmppl.cli.outcome import Exit, UsageError
from lmppl.cli.parsing import Arguments
from lmppl.cli.streams import show
from lmppl.cli.threads import use_threads

if TYPE_CHECKING:
    import torch

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
# Bytes of weights up to which every product has its own, on a CPU and elsewhere.
_OWN_WEIGHTS = 2**28
_OWN_WEIGHTS_ON_DEVICE = 2**34


@dataclass(frozen=True, slots=True)
class Cost:
    """What one token of one row costs in the network, and what a step reads once for all rows.

    `matrix_flops` counts multiplications and additions of the projections and the head,
    `attention_flops` those over `context` kept tokens; `cache_bytes` are the keys and values read
    for them, `weight_bytes` the weights, read once a step.
    """

    num_parameters: int
    matrix_flops: int
    attention_flops: int
    cache_bytes: int
    weight_bytes: int
    shapes: tuple[tuple[int, int], ...]
    head: tuple[int, int] | None


def timer(device: torch.device) -> Callable[[], float]:
    """Seconds of CPU time; for other devices of the wall, when all work given to them is done."""
    if device.type == "cpu":
        return time.process_time
    import torch

    def now() -> float:
        torch.accelerator.synchronize(device)
        return time.perf_counter()

    return now


@dataclass(slots=True)
class Clock:
    """Seconds by part of a step; a part that runs inside another is not counted twice."""

    now: Callable[[], float] = time.process_time
    seconds: dict[str, float] = field(default_factory=dict)
    _inner: list[float] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._inner.append(0.0)
        began = self.now()
        try:
            yield
        finally:
            spent = self.now() - began
            own = spent - self._inner.pop()
            self.seconds[name] = self.seconds.get(name, 0.0) + own
            if self._inner:
                self._inner[-1] += spent


def cost_of(lm: HuggingFaceLM, context: int) -> Cost:
    """The cost model of a language model at a context of so many tokens."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = lm.model.get_output_embeddings()
    shapes: list[tuple[int, int]] = []
    for module in lm.model.modules():
        if module is head:
            continue
        if isinstance(module, nn.Linear):
            shapes.append((module.in_features, module.out_features))
        elif isinstance(module, Conv1D):
            shapes.append((int(module.weight.shape[0]), int(module.weight.shape[1])))
    head_shape = None
    if head is not None:
        head_shape = (int(head.weight.shape[1]), int(head.weight.shape[0]))
    config = lm.model.config.get_text_config(decoder=True)
    layers, heads = config.num_hidden_layers, getattr(config, "num_attention_heads", 0)
    dim = getattr(config, "head_dim", None) or config.hidden_size // max(1, heads)
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    every = [*shapes, *([head_shape] if head_shape else [])]
    itemsize = next(lm.model.parameters()).element_size()
    return Cost(
        num_parameters=sum(parameter.numel() for parameter in lm.model.parameters()),
        matrix_flops=2 * sum(a * b for a, b in every),
        attention_flops=4 * layers * heads * dim * context,
        cache_bytes=2 * layers * kv_heads * dim * context * itemsize,
        weight_bytes=itemsize * sum(a * b for a, b in every),
        shapes=tuple(shapes),
        head=head_shape,
    )


class Products:
    """The bare products of a network's step, `[rows, in] @ [in, out]`, each with its own weights.

    Weights of one layer are not in the cache any more when it is their turn again, as in a step;
    beyond a quarter of a gigabyte (on a device 16 gigabytes) layers of the same shape share them.
    On a CUDA device the pass is a graph, so that a host that cannot keep up is no part of it.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, int]], rows: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        import torch

        self._now = timer(device)
        make = partial(torch.randn, device=device, dtype=dtype)
        self._left = {width: make(rows, width) for width in {i for i, _ in shapes}}
        numel = sum(i * o for i, o in shapes)
        limit = _OWN_WEIGHTS if device.type == "cpu" else _OWN_WEIGHTS_ON_DEVICE
        share = numel * dtype.itemsize > limit
        kept = {shape: make(*shape) for shape in set(shapes)}
        self._right = [kept[shape] if share else kept[shape].clone() for shape in shapes]
        self._seconds, self._passes = 0.0, 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self.run(1)
        if device.type == "cuda" and shapes:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.device(device), torch.cuda.graph(graph):
                self.run(1)
            self._graph = graph

    def run(self, passes: int) -> int:
        """Computes so many passes, and returns their number."""
        import torch

        for _ in range(passes):
            if self._graph is not None:
                self._graph.replay()
                continue
            for right in self._right:
                torch.mm(self._left[right.shape[0]], right)
        return passes

    def measure(self, at_least: float = 0.3) -> None:
        """Runs passes for so many seconds, and counts them in the mean."""
        passes, spent = 1, 0.0
        while spent < at_least and self._right:
            began = self._now()
            self.run(passes)
            spent += self._now() - began
            self._passes += passes
            passes *= 2
        self._seconds += spent

    @property
    def seconds(self) -> float:
        """Mean seconds of a pass."""
        return self._seconds / max(1, self._passes)


@contextmanager
def _measured(clock: Clock) -> Iterator[None]:
    """Times the parts of the engine's steps while the block runs."""
    from lmppl.density import Target, TextStage
    from lmppl.density.stages import text as texts
    from lmppl.density.steering.lookahead import PrefixLookahead
    from lmppl.density.steering.steered import Steered
    from lmppl.inference.smc import engine as smc

    parts = (
        (TextStage, "extend", "forward"),
        (Steered, "log_next", "mask"),
        (texts, "draw_tokens", "normalise and draw"),
        (TextStage, "place", "bookkeeping"),
        (smc.SMCEngine, "_resample", "resample"),
        (PrefixLookahead, "log_value", "rewards"),
        (Target, "apply_potentials", "rewards"),
        (TextStage, "begin", "prompt"),
        (smc.SMCEngine, "result", "result"),
    )
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in parts]

    def wrapped(original: Callable[..., Any], part: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with clock.part(part):
                return original(*args, **kwargs)

        return call

    try:
        for owner, name, part in parts:
            setattr(owner, name, wrapped(getattr(owner, name), part))
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


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

    settings: dict[str, Any] = {"method": "smc", "num_particles": num_particles, **options}
    began = now()
    pipeline.infer(bound, seed=0, progress=False, **settings)
    first = now() - began
    clock, total, num_tokens, num_steps = Clock(now), 0.0, 0, 0
    between()
    for seed in range(1, _RUNS + 1):
        with _measured(clock):
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
    from lmppl.lm.loading import load_language_model

    use_threads(arguments.threads)
    lm = load_language_model(arguments.model, device=arguments.device, dtype=arguments.dtype)
    if arguments.tokens < 2:
        raise UsageError("a benchmark needs at least 2 tokens")
    rows, dtype = arguments.batch, next(lm.model.parameters()).dtype
    prompt_tokens = len(lm._prompt_ids(arguments.prompt))
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
