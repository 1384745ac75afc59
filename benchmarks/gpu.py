"""lmppl against plain generation on a GPU, by wall time: `benchmarks/gpu.sh` runs all of it.

    python benchmarks/gpu.py table|compiled|agreement|profile|bench … [--tiny] [--device D]

`table` compares every variant with `generate(do_sample=True)` at equal batch, on a Llama with
random weights. `compiled` compares what
torch compiles, on both sides. `agreement` holds what is stepped against what is scored, in half
precision and in float32. `profile` counts kernels and waits of a step. `bench` is `lmppl bench`.
`--tiny` is a shape that a CPU runs in a second, to try the script itself.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import transformers
from models import save_random_llama, silence
from rivals import generate
from run import NEVER, PROGRAM, SENTENCE, SOFT

import lmppl
from lmppl.cli.entry import main as lmppl_command
from lmppl.lm import static
from lmppl.lm.costs import Products, cost_of
from lmppl.lm.huggingface import HuggingFaceLM
from lmppl.lm.loading import load_language_model
from lmppl.timing import timer

OPENING = "Once upon a time there was a little girl who lived in a house near the sea. "


@dataclass(frozen=True, slots=True)
class Setting:
    """What is measured: a model, where and in which type, a prompt and the tokens after it."""

    source: str
    label: str
    device: str
    dtype: str
    prompt: str
    num_tokens: int
    sizes: tuple[int, ...]
    rounds: int

    def lm(self, dtype: str | None = None) -> HuggingFaceLM:
        return load_language_model(self.source, device=self.device, dtype=dtype or self.dtype)

    def program(self, body: str) -> lmppl.BoundModel:
        text = PROGRAM.format(
            source=self.source, prompt=self.prompt, num_tokens=self.num_tokens, body=body
        )
        return lmppl.compile(text)()


@dataclass(frozen=True, slots=True)
class Run:
    """One run: tokens that belong to a text, seconds of the wall, peak bytes over the model.

    `captures` counts CUDA graphs that were captured in it, `allocations` what torch asked the
    driver for, and did not find in its cache.
    """

    num_tokens: int
    seconds: float
    peak: int
    captures: int
    allocations: int


CAPTURES = Counter[str]()


def count_captures() -> None:
    original = static.CudaRecorder.__call__

    def counted(self, work):  # type: ignore[no-untyped-def]
        CAPTURES["all"] += 1
        return original(self, work)

    static.CudaRecorder.__call__ = counted  # type: ignore[method-assign]


def measured(setting: Setting, work: Callable[[], int]) -> Run:
    """`work` returns its number of tokens."""
    gc.collect()
    on_gpu = setting.device.startswith("cuda")
    before, captures, allocations = 0, CAPTURES["all"], asked_of_driver(on_gpu)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    now = timer(torch.device(setting.device))
    began = now()
    num_tokens = work()
    seconds = now() - began
    peak = torch.cuda.max_memory_allocated() - before if on_gpu else 0
    allocations = asked_of_driver(on_gpu) - allocations
    return Run(num_tokens, seconds, peak, CAPTURES["all"] - captures, allocations)


def asked_of_driver(on_gpu: bool) -> int:
    return int(torch.cuda.memory_stats().get("num_device_alloc", 0)) if on_gpu else 0


def ours(
    setting: Setting, body: str, mode: str, seed: Iterator[int], **options: object
) -> Callable[[], int]:
    bound = setting.program(body)

    def work() -> int:
        post = lmppl.infer(
            bound, seed=next(seed), progress=False, compile=mode,
            device=setting.device, dtype=setting.dtype, **options,
        )  # fmt: skip
        return int(post.manifest["num_tokens"])

    return work


def rival(setting: Setting, size: int, **options: object) -> Callable[[], int]:
    lm = setting.lm()
    return lambda: generate(lm, setting.prompt, size, setting.num_tokens, **options).num_useful


class Report:
    """Lines for people on the terminal and in a file, and all figures as JSON lines."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._text = (folder / f"{name}.txt").open("a")
        self._figures = (folder / "figures.jsonl").open("a")

    def say(self, line: str) -> None:
        print(line, flush=True)
        self._text.write(line + "\n")
        self._text.flush()

    def keep(self, **figures: object) -> None:
        self._figures.write(json.dumps(figures) + "\n")
        self._figures.flush()


def in_turn(setting: Setting, works: dict[str, Callable[[], int]]) -> dict[str, list[Run]]:
    """Some runs of each work one after the other, after one that is not measured.

    Not in alternation, as on a CPU: what one leaves in torch's cache of device memory does not fit
    the next, and asking the driver for gigabytes takes longer than a run.
    """
    runs: dict[str, list[Run]] = {}
    for name, work in works.items():
        if setting.device.startswith("cuda"):
            torch.cuda.empty_cache()
        work()
        runs[name] = [measured(setting, work) for _ in range(setting.rounds)]
    return runs


def show_ratios(
    report: Report, setting: Setting, size: int, runs: dict[str, list[Run]], base: str
) -> None:
    """Rates, ratios to the median of the variant `base`, and the share of the floor."""
    floor = floor_of(setting, size)
    usual = statistics.median(run.num_tokens / run.seconds for run in runs[base])
    report.say(
        f"{size} rows: products alone {1e3 * floor:.3f} ms a step,"
        f" {size / floor:.0f} tokens/s at most"
    )
    for name, found in runs.items():
        rates = [run.num_tokens / run.seconds for run in found]
        ratios = [rate / usual for rate in rates]
        share = statistics.median(rates) * floor / size
        report.say(
            f"  {name:<28} {statistics.median(rates):9.0f} tokens/s"
            f"  ratio {statistics.median(ratios):5.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            f"  floor {share:6.1%}  peak {max(run.peak for run in found) / 2**20:7.0f} MiB"
            f"  captures {sum(run.captures for run in found)}"
            f"  allocations {[run.allocations for run in found]}"
        )
        report.keep(
            what="ratio", model=setting.label, size=size, variant=name, base=base,
            rates=rates, ratios=ratios, floor=share, runs=[asdict(run) for run in found],
        )  # fmt: skip


def floor_of(setting: Setting, size: int) -> float:
    """Seconds of a step's bare products at so many rows."""
    lm = setting.lm()
    cost = cost_of(lm, 1)
    shapes = [*cost.shapes, *([cost.head] if cost.head else [])]
    products = Products(shapes, size, next(lm.model.parameters()).dtype, lm.device)
    products.measure()
    return products.seconds


def modes(setting: Setting) -> tuple[str, ...]:
    return ("none", "cuda-graph") if setting.device.startswith("cuda") else ("none",)


def table(setting: Setting, report: Report) -> None:
    """What lmppl draws against `generate`, by method, size and way of stepping."""
    for size in setting.sizes:
        seeds = iter(range(10_000))
        smc = {"method": "smc", "num_particles": size, "lookahead": "none"}
        importance = {"method": "importance", "num_samples": size, "batch_size": size}
        works = {"generate": rival(setting, size)}
        for mode in modes(setting):
            works[f"smc soft, {mode}"] = ours(setting, SOFT, mode, seeds, **smc)
            works[f"smc never+regex, {mode}"] = ours(
                setting, f"{NEVER}\n{SENTENCE}", mode, seeds, **smc
            )
            works[f"importance, {mode}"] = ours(setting, SOFT, mode, seeds, **importance)
        # The host's pace changes: the rival is measured at both ends.
        works["generate, again"] = works["generate"]
        show_ratios(report, setting, size, in_turn(setting, works), "generate")


def compiled(setting: Setting, report: Report) -> None:
    """Steps that torch compiles, against `generate` on a static cache, which it compiles too."""
    size = setting.sizes[0]
    smc = {"method": "smc", "num_particles": size, "lookahead": "none"}
    seeds = iter(range(10_000))
    works: dict[str, Callable[[], int]] = {"generate": rival(setting, size)}
    for name, work in {
        "static cache": rival(setting, size, cache_implementation="static", disable_compile=True),
        "static cache, compiled": rival(setting, size, cache_implementation="static"),
        "smc soft, step": ours(setting, SOFT, "step", seeds, **smc),
    }.items():
        began = time.perf_counter()
        try:
            work()
        except Exception as error:
            report.say(f"  {name}: {type(error).__name__}: {str(error)[:300]}")
            continue
        report.say(f"  {name}: first run {time.perf_counter() - began:.1f} s")
        works[name] = work
    show_ratios(report, setting, size, in_turn(setting, works), "generate")
    for note in setting.lm().calling.static_step("step").notes:
        report.say(f"  note: {note}")


@torch.no_grad()
def agreement(setting: Setting, report: Report) -> None:
    """Log probabilities of drawn texts: stepped, scored, and scored in float32, in nats."""
    stories = Setting(
        "builtin:stories", "stories", setting.device, setting.dtype, "Once upon a time",
        setting.num_tokens, setting.sizes, setting.rounds,
    )  # fmt: skip
    for each in (setting, stories):
        size = min(64, each.sizes[0])
        exact = each.lm("float32")
        for dtype in dict.fromkeys((each.dtype, "float32")):
            for mode in modes(each):
                lm = each.lm(dtype)
                lm.stepping = mode
                try:
                    tokens, stepped = drawn_by_steps(lm, each.prompt, size, each.num_tokens)
                finally:
                    lm.stepping = "none"
                prompts, lengths = [each.prompt] * size, torch.full((size,), each.num_tokens)
                scored = lm.token_log_probs(prompts, tokens, lengths)
                truth = exact.token_log_probs(prompts, tokens, lengths)
                parts = {"scored": stepped - scored, "float32": stepped - truth}
                figures = {
                    against: (
                        float(gap.abs().max()),
                        float(gap.abs().mean()),
                        float(gap.double().sum(-1).abs().max()),
                    )
                    for against, gap in parts.items()
                }
                report.say(
                    f"{each.label}, {dtype}, {mode}: stepped against "
                    + "; ".join(
                        f"{against} max {most:.2e} mean {mean:.2e} whole text {text:.2e}"
                        for against, (most, mean, text) in figures.items()
                    )
                )
                report.keep(what="agreement", model=each.label, dtype=dtype, mode=mode, **figures)


def drawn_by_steps(
    lm: HuggingFaceLM, prompt: str, size: int, num_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens `[size, num_tokens]` and their log probabilities as stepping gives them."""
    generator = torch.Generator().manual_seed(0)
    prefixes = lm.start([prompt] * size, max_new_tokens=num_tokens)
    tokens, log_probs = [], []
    for _ in range(num_tokens):
        scores = prefixes.row_logits().float().log_softmax(-1)
        # Drawn on the host, so that every device, type and way of stepping sees the same numbers.
        points = torch.rand(size, 1, generator=generator).to(scores.device)
        token = torch.searchsorted(scores.double().exp().cumsum(-1), points.double())
        token = token.clamp(max=lm.vocab.size - 1)
        log_probs.append(scores.gather(1, token)[:, 0])
        tokens.append(token[:, 0])
        prefixes = lm.extend(prefixes, token[:, 0])
    return torch.stack(tokens, 1), torch.stack(log_probs, 1)


def profile(setting: Setting, report: Report) -> None:
    """Kernels, launches and waits of a step, by method and way of stepping."""
    on_gpu = setting.device.startswith("cuda")
    setting = replace(setting, num_tokens=min(24, setting.num_tokens))
    for size in setting.sizes:
        for mode in modes(setting):
            for name, body in (("soft", SOFT), ("never+regex", f"{NEVER}\n{SENTENCE}")):
                seeds = iter(range(10_000))
                options = {"method": "smc", "num_particles": size, "lookahead": "none"}
                work = ours(setting, body, mode, seeds, **options)
                for _ in range(2):
                    work()
                wall = measured(setting, work).seconds
                figures = profiled(work, setting.num_tokens, on_gpu)
                label = f"{size} rows, smc {name}, {mode}"
                step = 1e3 * wall / setting.num_tokens
                busy = figures["busy_ms"]
                report.say(
                    f"{label}: {step:.2f} ms a step, the device works {busy:.2f} ms of it"
                    f" ({busy / step:.0%}); {figures['kernels']:.0f} kernels,"
                    f" {figures['launches']:.0f} launches, {figures['waits']:.1f} waits a step"
                )
                for kernel, share in figures["top"]:
                    report.say(f"    {share:6.3f} ms  {kernel[:110]}")
                for place, count in waiting(work) if on_gpu else ():
                    report.say(f"    waits {count / setting.num_tokens:5.2f} a step at {place}")
                report.keep(what="profile", label=label, step_ms=step, **figures)


def profiled(work: Callable[[], int], num_steps: int, on_gpu: bool) -> dict[str, object]:
    from torch.profiler import ProfilerActivity

    # Calls of the CUDA runtime come with the device's; every operation of torch would be too many.
    activities = [ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as found:
        work()
        if on_gpu:
            torch.cuda.synchronize()
    kernels, milliseconds, calls = 0, Counter[str](), Counter[str]()
    for event in found.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            kernels += 1
            milliseconds[event.name] += event.time_range.elapsed_us() / 1e3 / num_steps
        elif event.name.startswith(("cuda", "cuLaunch")):
            calls[event.name] += 1
    launches = sum(n for name, n in calls.items() if "Launch" in name)
    waits = sum(n for name, n in calls.items() if "Synchronize" in name)
    return {
        "busy_ms": sum(milliseconds.values()),
        "kernels": kernels / num_steps,
        "launches": launches / num_steps,
        "waits": waits / num_steps,
        "top": milliseconds.most_common(12),
    }


def waiting(work: Callable[[], int]) -> Iterable[tuple[str, int]]:
    """Where the host waited for the device, by line, most often first."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = Counter(
        f"{'/'.join(Path(each.filename).parts[-3:])}:{each.lineno}"
        for each in found
        if "synchroniz" in str(each.message)
    )
    return places.most_common(14)


def bench(setting: Setting, report: Report) -> None:
    """`lmppl bench` as a user runs it."""
    for size in setting.sizes:
        for mode in modes(setting):
            report.say(f"lmppl bench, {size} rows, {mode}")
            lmppl_command(
                ["bench", setting.source, "--device", setting.device, "--dtype", setting.dtype,
                 "--batch", str(size), "--tokens", str(setting.num_tokens),
                 "--prompt", setting.prompt, "--compile", mode]
            )  # fmt: skip


PARTS = {
    "table": table,
    "compiled": compiled,
    "agreement": agreement,
    "profile": profile,
    "bench": bench,
}


def shortened(source: str, device: str, dtype: str, num_tokens: int) -> str:
    """As much of the opening as fits so many tokens."""
    lm = load_language_model(source, device=device, dtype=dtype)
    longest = range(len(OPENING), 0, -1)
    return next(OPENING[:n] for n in longest if len(lm.prompts.ids(OPENING[:n])) <= num_tokens)


def setting_of(arguments: argparse.Namespace, scratch: Path) -> Setting:
    """The shape of Llama 3.2 1B with a vocabulary of 32 000, or a tiny one."""
    if arguments.tiny:
        source = save_random_llama(
            scratch / "tiny", vocab_size=300, num_layers=1, width=16, heads=2
        )
        return Setting(
            str(source), "tiny", arguments.device, arguments.dtype or "float32", OPENING[:20],
            4, (8,), 1,
        )  # fmt: skip
    source = save_random_llama(
        scratch / "llama1b", vocab_size=32_000, num_layers=16, width=2048, heads=32,
        num_kv_heads=8, hidden=8192, dtype=torch.bfloat16, device=arguments.device,
    )  # fmt: skip
    sizes = tuple(int(size) for size in arguments.sizes.split(","))
    dtype = arguments.dtype or "bfloat16"
    return Setting(
        str(source), "llama 1B", arguments.device, dtype,
        shortened(str(source), arguments.device, dtype, 32), arguments.tokens, sizes,
        arguments.rounds,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=list(PARTS))
    parser.add_argument("--tiny", action="store_true", help="a shape that a CPU runs in a second")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", help="bfloat16 (tiny: float32)")
    parser.add_argument("--sizes", default="256,1024")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--scratch", type=Path, default=None, help="keeps the models built here")
    arguments = parser.parse_args()
    silence()
    count_captures()
    scratch = arguments.scratch or Path(tempfile.gettempdir()) / "lmppl-benchmark-models"
    setting = setting_of(arguments, scratch)
    card = torch.cuda.get_device_name() if setting.device.startswith("cuda") else "CPU"
    prompt_length = len(setting.lm().prompts.ids(setting.prompt))
    failed = []
    for part in arguments.parts:
        report = Report(arguments.out, part)
        report.say(
            f"--- {part}: {setting.label} in {setting.dtype} on {card}, prompt of {prompt_length},"
            f" {setting.num_tokens} tokens; torch {torch.__version__},"
            f" transformers {transformers.__version__}"
        )
        began = time.perf_counter()
        try:
            PARTS[part](setting, report)
        except Exception:
            # The parts after it are worth having all the same.
            failed.append(part)
            report.say(traceback.format_exc())
        report.say(f"--- {part} took {time.perf_counter() - began:.0f} s")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
