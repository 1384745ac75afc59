"""The table of speed: paired, alternating runs in one process on one thread.

    python benchmarks/run.py [--quick] [--only ROW,…] [--sizes 16,64] [--json FILE] [--genlm PYTHON]

Every figure is tokens per second of CPU time of this process (`time.process_time`), which other
work on the machine disturbs less than wall time does. A ratio is the median, over pairs, of ours
over the rival's; above 1 lmppl is faster. Tokens are those that belong to a text: `generate` also
computes rows that have ended, and the second ratio counts these for it as well.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from string import ascii_lowercase

import torch
from models import Case, cases, silence
from rivals import generate

import lmppl
from lmppl.inference.mcmc import MCMC
from lmppl.inference.mcmc.engine import MCMCEngine
from lmppl.lm.costs import Products, cost_of
from lmppl.lm.huggingface import HuggingFaceLM
from lmppl.lm.loading import load_language_model
from lmppl.rng import Stream
from lmppl.sequences.drawing import draw_tokens

PROGRAM = """
reward vowels(t: string): real<lower=0, upper=1000> = count("[aeiou]")
model bench(beta: real<lower=0> = 20.0) {{
    text ~ lm("{source}", prompt="{prompt}", max_tokens={num_tokens})
    {body}
    return text
}}
"""
SOFT = "factor tone: vowels(text) / beta"
NEVER = 'require clean: never(text, words=["the", "was", "qu", "x"], ignore_case=true)'
FREE = ""
SENTENCE = r'require sentence: matches(text, r"[^0-9]*")'
WORDS = "require clean: never(text, {words}, whole_words=true, ignore_case=true)"
# What steers texts at every token, with the most that it may cost over plain sampling.
STEERED = {
    "power alpha = 4": ("factor sharp: 3 * log_prob(text)", 1.4),
    "power alpha = 0.8": ("factor flat: -0.2 * log_prob(text)", 1.4),
    "never 400 words": (WORDS, 1.15),
    "regex of a range": (SENTENCE, 1.15),
    "regex of phrases": (
        r'require phrase: matches(text, r"(?s).*(was|is|are) (a|the) [a-z]+ .*")', 1.15,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table. `ratio` is the median over pairs, `low` and `high` their range."""

    row: str
    model: str
    size: int
    ratio: float
    low: float
    high: float
    aim: float
    ours: float
    rival: float
    note: str = ""

    def line(self) -> str:
        verdict = "ok  " if self.ratio >= self.aim else "MISS"
        return (
            f"{self.row:<22} {self.model:<18} {self.size:>5}  {self.ratio:6.2f}"
            f" ({self.low:.2f}-{self.high:.2f})  aim {self.aim:<4g} {verdict}"
            f" ours {self.ours:10.0f}/s  rival {self.rival:10.0f}/s  {self.note}"
        )


Timed = Callable[[int], float]  # seed -> what was done (tokens, rows); timed by the caller


def paired(
    row: str,
    model: str,
    size: int,
    aim: float,
    ours: Timed,
    rival: Timed,
    *,
    pairs: int,
    note: Callable[[], str] = lambda: "",
) -> Result:
    """Runs both in turn and compares their rates; `Bench.warm` has run before."""
    rates: tuple[list[float], list[float]] = ([], [])
    for seed in range(1, pairs + 1):
        # The order changes, so that neither always runs on the warmer machine.
        for which in (0, 1) if seed % 2 else (1, 0):
            gc.collect()
            began = time.process_time()
            done = (ours, rival)[which](seed)
            rates[which].append(done / (time.process_time() - began))
    ratios = [mine / theirs for mine, theirs in zip(*rates, strict=True)]
    return Result(
        row,
        model,
        size,
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        aim,
        statistics.median(rates[0]),
        statistics.median(rates[1]),
        note(),
    )


def made_up(number: int) -> list[str]:
    """So many words that nobody has written: what a list costs is in their letters."""
    random = Random(0)
    return ["".join(random.choices(ascii_lowercase, k=random.randint(3, 9))) for _ in range(number)]


class Bench:
    """The rows of the table; each method measures one row for one model and size."""

    def __init__(self, pairs: int, show: Callable[[Result], None]) -> None:
        self.pairs, self.show = pairs, show
        self.computed_share = 1.0

    def lm(self, case: Case) -> HuggingFaceLM:
        return load_language_model(case.source)

    def program(self, case: Case, body: str) -> lmppl.CompiledModel:
        return lmppl.compile(
            PROGRAM.format(
                source=case.source, prompt=case.prompt, num_tokens=case.num_tokens, body=body
            )
        )

    def rival(self, case: Case, size: int) -> Timed:
        lm = self.lm(case)

        def run(seed: int) -> float:
            torch.manual_seed(seed)
            found = generate(lm, case.prompt, size, case.num_tokens)
            self.computed_share = found.num_computed / found.num_useful
            return found.num_useful

        return run

    def warm(self, case: Case) -> None:
        """One small run of both, which nobody measures."""
        self.rival(case, 8)(0)
        for body in (SOFT, f"{NEVER}\n{SENTENCE}"):
            lmppl.infer(
                self.program(case, body)(), method="smc", num_particles=8, seed=0, progress=False
            )

    def infer(self, row: str, case: Case, size: int, aim: float, body: str, **options: object):  # type: ignore[no-untyped-def]
        bound = self.program(case, body)()

        def ours(seed: int) -> float:
            post = lmppl.infer(bound, seed=seed, progress=False, **options)
            return post.manifest["num_tokens"]

        result = paired(
            row, case.label, size, aim, ours, self.rival(case, size), pairs=self.pairs,
            note=lambda: f"x{self.computed_share:.2f} tokens if ended rows count for generate",
        )  # fmt: skip
        self.show(result)

    def smc_soft(self, case: Case, size: int) -> None:
        self.infer(
            "smc soft", case, size, 1.0, SOFT, method="smc", num_particles=size, lookahead="none"
        )

    def smc_constraint(self, case: Case, size: int) -> None:
        self.infer(
            "smc never+regex", case, size, 0.9, f"{NEVER}\n{SENTENCE}",
            method="smc", num_particles=size, lookahead="none",
        )  # fmt: skip

    def smc_lookahead(self, case: Case, size: int) -> None:
        self.infer(
            "smc lookahead every", case, size, 0.8, SOFT.replace("beta", "2.0"),
            method="smc", num_particles=size, lookahead="prefix", lookahead_every=1,
        )  # fmt: skip

    def importance(self, case: Case, size: int) -> None:
        self.infer(
            "importance", case, size, 1.0, SOFT, method="importance",
            num_samples=size, batch_size=size,
        )  # fmt: skip

    def rejection(self, case: Case, size: int) -> None:
        self.infer(
            "rejection", case, size, 1.0, FREE, method="rejection",
            num_samples=size, batch_size=size,
        )  # fmt: skip

    def mcmc(self, case: Case, size: int, block_probability: float = 0.0) -> None:
        """Steps of chains that have started; tokens are those that moves draw afresh."""
        target = self.program(case, SOFT)().target()
        settings = MCMC(num_chains=size, start="prior", block_probability=block_probability)
        engine = MCMCEngine(settings, target, Stream.from_seed(0))
        state = engine.init()

        def ours(seed: int) -> float:
            nonlocal state
            total = 0
            for _ in range(4):
                state, info = engine.step(state)
                total += info.num_tokens
            return total

        name = "mcmc suffix" if block_probability == 0 else "mcmc default mix"
        self.show(
            paired(
                name,
                case.label,
                size,
                0.8,
                ours,
                self.rival(case, size),
                pairs=max(3, self.pairs),
                note=lambda: "per regenerated token",
            )
        )

    def mcmc_mix(self, case: Case, size: int) -> None:
        self.mcmc(case, size, MCMC().block_probability)

    def floor(self, case: Case, size: int) -> None:
        """The share of an SMC run that the bare products of its tokens would take."""
        bound = self.program(case, SOFT)()
        lm = self.lm(case)
        cost = cost_of(lm, case.num_tokens // 2)
        shapes = [*cost.shapes, *([cost.head] if cost.head else [])]
        products = Products(shapes, size, torch.float32, lm.device)

        def ours(seed: int) -> float:
            post = lmppl.infer(
                bound, method="smc", num_particles=size, lookahead="none", seed=seed, progress=False
            )
            return post.manifest["num_tokens"]

        def rival(seed: int) -> float:
            return products.run(case.num_tokens) * size

        row = "floor of products"
        self.show(paired(row, case.label, size, 0.5, ours, rival, pairs=max(5, self.pairs)))

    def steered(self, case: Case, size: int, words: Sequence[str] = ()) -> None:
        """SMC with what steers every token, against SMC of the prior, which nothing steers."""
        listed = json.dumps(list(words or made_up(400)), ensure_ascii=False)
        plain = self.program(case, FREE)()

        def smc(bound: lmppl.BoundModel) -> Timed:
            def timed(seed: int) -> float:
                post = lmppl.infer(
                    bound, method="smc", num_particles=size, seed=seed, progress=False
                )
                return post.manifest["num_tokens"]

            timed(0)
            return timed

        for row, (body, most) in STEERED.items():
            bound = self.program(case, body.replace("{words}", listed))()
            note = f"costs {most:g} at most; rival: smc of the prior"
            ours, rival = smc(bound), smc(plain)
            self.show(
                paired(row, case.label, size, 1 / most, ours, rival, pairs=max(5, self.pairs),
                       note=lambda note=note: note)
            )  # fmt: skip

    def drawing(self, case: Case, size: int) -> None:
        """A token per row from given logits, against what `generate` does with them."""
        vocab = self.lm(case).vocab.size
        logits = 3 * torch.randn(size, vocab, generator=torch.Generator().manual_seed(0))
        rows = torch.arange(size)
        repeats = max(2, 4_000_000 // (size * vocab))

        def ours(seed: int) -> float:
            for step in range(repeats):
                draw_tokens(logits, Stream.from_seed(seed).uniforms(rows, step))
            return repeats * size

        def rival(seed: int) -> float:
            torch.manual_seed(seed)
            for _ in range(repeats):
                # As transformers' sampling loop: a float32 copy, softmax, multinomial.
                probs = torch.softmax(logits.to(torch.float32, copy=True), -1)
                torch.multinomial(probs, 1)
            return repeats * size

        self.show(paired("drawing", case.label, size, 1.5, ours, rival, pairs=max(3, self.pairs)))

    def bindings(self, case: Case, size: int) -> None:
        """`size` particles as bindings of 16 in one run, against one run of all."""
        program = self.program(case, SOFT)
        many = [program(beta=10.0 + number) for number in range(size // 16)]
        one = program()

        def ours(seed: int) -> float:
            posts = lmppl.infer(
                many, method="smc", num_particles=16, lookahead="none", seed=seed, progress=False
            )
            return posts[0].manifest["num_tokens"]

        def rival(seed: int) -> float:
            post = lmppl.infer(
                one, method="smc", num_particles=size, lookahead="none", seed=seed, progress=False
            )
            return post.manifest["num_tokens"]

        row = f"{size // 16} bindings x 16"
        self.show(paired(row, case.label, size, 0.9, ours, rival, pairs=self.pairs))

    def scaling(self, case: Case, sizes: Sequence[int]) -> None:
        """Tokens per second at each size over those at the smallest."""
        bound = self.program(case, SOFT)()

        def run(size: int) -> Timed:
            def timed(seed: int) -> float:
                post = lmppl.infer(
                    bound, method="smc", num_particles=size, lookahead="none", seed=seed,
                    progress=False,
                )  # fmt: skip
                return post.manifest["num_tokens"]

            return timed

        for before, size in itertools.pairwise(sizes):
            row = f"scaling from {before}"
            self.show(paired(row, case.label, size, 0.95, run(size), run(before), pairs=self.pairs))

    def memory(self, case: Case, size: int) -> None:
        """Growth of the peak resident memory over the loaded model, in processes of their own."""
        here = Path(__file__).with_name("memory.py")
        grown, tokens = {}, str(case.num_tokens)
        for who in ("ours", "generate"):
            found = subprocess.run(
                [sys.executable, str(here), who, case.source, case.prompt, str(size), tokens],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            grown[who] = float(found.stdout.split()[-1])
        share = grown["generate"] / grown["ours"]
        self.show(
            Result("memory growth", case.label, size, share, share, share, 1 / 1.2,
                   grown["ours"], grown["generate"], "generate / ours; MiB in the rate columns")
        )  # fmt: skip

    def genlm(self, case: Case, size: int, python: str) -> None:
        """genlm-control on the same target in its own environment, alternating processes."""
        here = Path(__file__).with_name("genlm_rival.py")
        source = case.source
        if source.startswith("builtin:"):
            source = str(
                Path(lmppl.__file__).parent / "lm" / "builtin" / source.removeprefix("builtin:")
            )
        bound = self.program(case, SOFT)()
        ratios, ours, theirs = [], [], []
        for seed in range(self.pairs + 1):
            began = time.process_time()
            post = lmppl.infer(
                bound, method="smc", num_particles=size, lookahead="none", seed=seed, progress=False
            )
            mine = post.manifest["num_tokens"] / (time.process_time() - began)
            if seed == 0:
                continue
            found = subprocess.run(
                [python, str(here), source, case.prompt, str(size), str(case.num_tokens)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if found.returncode:
                raise RuntimeError(found.stderr[-2000:])
            rate = float(found.stdout.split()[-1])
            ours.append(mine), theirs.append(rate), ratios.append(mine / rate)
        self.show(
            Result("genlm-control smc", case.label, size, statistics.median(ratios), min(ratios),
                   max(ratios), 10.0, statistics.median(ours), statistics.median(theirs))
        )  # fmt: skip


ROWS = (
    "smc_soft",
    "smc_constraint",
    "smc_lookahead",
    "importance",
    "rejection",
    "steered",
    "floor",
    "drawing",
    "mcmc",
    "mcmc_mix",
    "memory",
    "bindings",
    "scaling",
    "genlm",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one size, one pair, short texts")
    parser.add_argument("--only", default=",".join(ROWS), help=f"rows among {', '.join(ROWS)}")
    parser.add_argument("--models", default="", help="labels that contain one of these, by comma")
    parser.add_argument("--sizes", default="16,64,256,1024")
    parser.add_argument("--tokens", type=int, help="tokens after the prompt (48, quick 24)")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--json", help="also write the results here")
    parser.add_argument("--words", help="a file with a word a line, for the row `steered`")
    parser.add_argument("--genlm", help="a Python that has genlm-control installed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    silence()
    rows = arguments.only.split(",")
    sizes = [64] if arguments.quick else [int(size) for size in arguments.sizes.split(",")]
    results: list[Result] = []

    def show(result: Result) -> None:
        results.append(result)
        print(result.line(), flush=True)
        if arguments.json:
            Path(arguments.json).write_text(json.dumps([asdict(r) for r in results], indent=1))

    bench = Bench(1 if arguments.quick else arguments.pairs, show)
    scratch = Path(tempfile.gettempdir()) / "lmppl-benchmark-models"
    wanted = arguments.models.split(",")
    chosen = [
        case
        for case in cases(scratch, arguments.tokens or (24 if arguments.quick else 48))
        if any(part in case.label for part in wanted)
    ]
    print(
        f"threads {torch.get_num_threads()}, torch {torch.__version__}, CPU time,"
        f" {bench.pairs} pairs"
    )
    for each in chosen:
        bench.warm(each)
        for row in rows:
            match row:
                case "scaling":
                    ladder = [16, 64] if arguments.quick else [64, 256, 1024, 4096]
                    bench.scaling(each, ladder)
                case "bindings":
                    bench.bindings(each, 64 if arguments.quick else 1024)
                case "floor" | "drawing" | "mcmc" | "mcmc_mix" | "memory":
                    getattr(bench, row)(each, 64 if arguments.quick else 256)
                case "steered":
                    listed = (
                        Path(arguments.words).read_text().split("\n") if arguments.words else []
                    )
                    words = [word for word in listed if word.strip()]
                    bench.steered(each, 64 if arguments.quick else 256, words)
                case "genlm":
                    if arguments.genlm:
                        bench.genlm(each, 64 if arguments.quick else 256, arguments.genlm)
                case _:
                    for size in sizes:
                        getattr(bench, row)(each, size)
    missed = [result for result in results if result.ratio < result.aim]
    print(f"{len(results) - len(missed)} of {len(results)} aims reached")


if __name__ == "__main__":
    main()
