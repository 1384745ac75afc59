"""The methods and their settings: what a user may set, and which models a method cannot do.

Free of torch, so that `lmppl check` and `lmppl methods` are fast; each method names its engine.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

from lmppl.errors import Diagnostic, closest
from lmppl.ir.expr import Call
from lmppl.ir.model import Model, Potential
from lmppl.ir.types import Interval


def option(
    default: Any,
    doc: str,
    *,
    lower: float = -math.inf,
    upper: float = math.inf,
    choices: tuple[str, ...] = (),
) -> Any:
    """A setting with its default, its meaning in one sentence and its permitted values."""
    metadata = {"doc": doc, "range": Interval(lower, upper), "choices": choices}
    return field(default=default, metadata=metadata)


_DEFAULT_CHAINS = 32
_FEWEST_PER_CHAIN = 25
# No machine holds more draws than this, and tensors count in 64 bits.
_LARGEST_COUNT = 2**31 - 1
# Any number that Python prints is a seed.
_MOST_DIGITS = 1000
# Adam moves a weight by about the rate in each step.
_LARGEST_RATE = 100.0


def _whole(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) and value > 0 else otherwise


def _common_seed() -> Any:
    return option(None, "seed of all randomness; drawn afresh and recorded if absent", lower=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What every method shares."""

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    engine: ClassVar[str] = ""  # "module:Class", imported when the method runs
    num_draws_option: ClassVar[str] = "num_samples"  # kept when the method changes

    seed: int | None = _common_seed()
    device: str | None = option(
        None,
        "torch device of language models and tensors, as 'cuda:0'; 'auto' spreads models over all",
    )
    dtype: str | None = option(
        None,
        "dtype of the language models' weights; their own by default",
        choices=("float32", "float16", "bfloat16", "float64"),
    )
    max_rows: int | None = option(
        None,
        "rows of one forward pass at most; the draws do not depend on it; by default all, and"
        " halved when memory runs out",
        lower=1,
    )
    compile: str = option(
        "none",
        "how a token is computed: 'step' compiles it with torch.compile (half a minute at first),"
        " 'cuda-graph' replays it on a GPU; where a model cannot, a note says why",
        choices=("none", "step", "cuda-graph"),
    )

    @classmethod
    def draws_per_option(cls, options: Mapping[str, object]) -> int:
        """How many draws one unit of `num_draws_option` stands for."""
        return 1

    @classmethod
    def option_for_draws(cls, num_draws: int, options: Mapping[str, object]) -> int:
        """The value of `num_draws_option` that gives about this many draws."""
        return num_draws

    def unsupported(self, model: Model) -> tuple[Diagnostic, ...]:
        """Why the method cannot give a right answer for the model; empty where it can."""
        return ()

    def warnings(self, model: Model) -> tuple[Diagnostic, ...]:
        """What the method can do but the user should know before it runs."""
        return ()


def _refusal(code: str, message: str, potential: Potential | None, help_: str) -> Diagnostic:
    span = None if potential is None else potential.span
    return Diagnostic(code, "error", message, span=span, help=help_)


def _noisy(model: Model, method: str) -> tuple[Diagnostic, ...]:
    """Potentials whose value changes when they are evaluated again."""
    return tuple(
        _refusal(
            "LMP418",
            f"{method} would exponentiate a noisy estimate of {p.label}: the result is biased",
            p,
            "give a deterministic score, or one that is an unbiased estimate of exp(factor)",
        )
        for p in model.potentials
        if p.facts.noise != "none"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact(Settings):
    """Enumeration of every execution that the constraints leave open: the referee of all others."""

    name: ClassVar[str] = "exact"
    summary: ClassVar[str] = "enumerates the support; exact evidence, weights and draws"
    engine: ClassVar[str] = "lmppl.inference.exact.engine:ExactEngine"

    num_draws_option: ClassVar[str] = ""

    num_samples: int | None = option(
        None,
        "number of independent exact draws; by default the whole weighted support is returned",
        lower=1,
    )
    max_sequences: int = option(
        1_000_000, "how many executions may be enumerated before the method refuses", lower=1
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection(Settings):
    """Draws from the prior, each kept with probability exp(factors − upper bound)."""

    name: ClassVar[str] = "rejection"
    summary: ClassVar[str] = "independent exact draws, at a cost of one over the acceptance rate"
    engine: ClassVar[str] = "lmppl.inference.rejection.engine:RejectionEngine"

    num_samples: int = option(100, "number of accepted draws to stop at", lower=1)
    max_attempts: int = option(
        100_000, "attempts after which what was accepted is returned as incomplete", lower=1
    )
    batch_size: int = option(256, "attempts run together; the draws do not depend on it", lower=1)

    def unsupported(self, model: Model) -> tuple[Diagnostic, ...]:
        unbounded = tuple(
            _refusal(
                "LMP410",
                f"rejection needs an upper bound of {p.title}, which has none: its range"
                f" is {p.facts.range}",
                p,
                "declare the reward's range, as in `reward r(t: string): real<lower=-1, upper=1>`",
            )
            for p in model.potentials
            if p.kind == "factor" and not p.facts.range.is_bounded_above
        )
        return unbounded + _noisy(model, "rejection")


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance(Settings):
    """Weighted draws from the prior, or from the prior masked by the constraints."""

    name: ClassVar[str] = "importance"
    summary: ClassVar[str] = "weighted draws from the (masked) prior; unbiased evidence"
    engine: ClassVar[str] = "lmppl.inference.importance.engine:ImportanceEngine"

    num_samples: int = option(1000, "number of weighted draws", lower=1)
    proposal: str = option(
        "masked",
        "'masked' keeps to what the constraints allow and weights the difference; 'prior' does not",
        choices=("masked", "prior"),
    )
    batch_size: int = option(1024, "draws run together; they do not depend on it", lower=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SMC(Settings):
    """Sequential Monte Carlo, one token at a time."""

    name: ClassVar[str] = "smc"
    summary: ClassVar[str] = "a population of texts grown token by token, resampled by weight"
    engine: ClassVar[str] = "lmppl.inference.smc.engine:SMCEngine"
    num_draws_option: ClassVar[str] = "num_particles"

    num_particles: int = option(256, "particles in each run", lower=2)
    num_runs: int = option(
        1, "independent runs, batched together; their spread is the error of the evidence", lower=1
    )
    ess_threshold: float = option(
        0.5,
        "resample when the effective sample size falls below this share of the particles",
        lower=0.0,
        upper=1.0,
    )
    lookahead: str = option(
        "prefix",
        "'prefix' scores unfinished texts with the factors and divides the score out at the end;"
        " 'none' looks at constraints only",
        choices=("prefix", "none"),
    )
    lookahead_every: int = option(4, "tokens between two scores of unfinished texts", lower=1)

    def warnings(self, model: Model) -> tuple[Diagnostic, ...]:
        can_look = self.lookahead == "prefix" and any(
            p.kind == "factor" and _reads_text(model, p) for p in model.potentials
        )
        masks = any(
            p.kind == "require" and p.facts.decidable in ("safety", "automaton")
            for p in model.potentials
        )
        if can_look or masks or not model.text_sites:
            return ()
        return (
            Diagnostic(
                "LMP414",
                "warning",
                "smc has nothing to look at before the end of a text: it is importance sampling"
                " here",
                span=model.span,
                help="`importance` does the same"
                if self.lookahead == "prefix"
                else 'use `importance`, or lookahead="prefix" where a factor makes sense on an'
                " unfinished text",
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MCMC(Settings):
    """Metropolis–Hastings by regenerating suffixes and blocks, with Gibbs on discrete sites."""

    name: ClassVar[str] = "mcmc"
    summary: ClassVar[str] = "many chains of texts, each step regenerating a part of one"
    engine: ClassVar[str] = "lmppl.inference.mcmc.engine:MCMCEngine"

    num_chains: int = option(_DEFAULT_CHAINS, "chains, all advanced in one batch", lower=1)
    num_samples: int = option(100, "kept draws of each chain", lower=1)
    warmup_steps: int = option(100, "steps before the first kept draw", lower=0)
    thinning: int = option(1, "steps between two kept draws", lower=1)
    start: str = option(
        "smc",
        "where chains start: 'smc' from a small particle run each, 'prior' from the masked prior",
        choices=("smc", "prior"),
    )
    block_probability: float = option(
        0.2, "share of text moves that rewrite a block in the middle", lower=0.0, upper=1.0
    )
    block_size: int = option(4, "tokens in a block move", lower=1)

    @classmethod
    def draws_per_option(cls, options: Mapping[str, object]) -> int:
        return _whole(options.get("num_chains"), _DEFAULT_CHAINS)

    @classmethod
    def option_for_draws(cls, num_draws: int, options: Mapping[str, object]) -> int:
        # Fewer kept draws than this say nothing about whether a chain has converged.
        return max(_FEWEST_PER_CHAIN, -(-num_draws // cls.draws_per_option(options)))

    def unsupported(self, model: Model) -> tuple[Diagnostic, ...]:
        return tuple(
            _refusal(
                "LMP415",
                f"{p.title} changes when it is evaluated again, and mcmc has no"
                " pseudo-marginal rule for it",
                p,
                "use smc or importance, or make the score deterministic",
            )
            for p in model.potentials
            if p.facts.noise != "none"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SVI(Settings):
    """Stochastic variational inference: a trainable copy of the prior fitted by reverse KL."""

    name: ClassVar[str] = "svi"
    summary: ClassVar[str] = "fits a guide (a tuned copy of the prior) and draws from it"
    engine: ClassVar[str] = "lmppl.inference.svi.engine:SVIEngine"

    num_steps: int = option(300, "optimiser steps", lower=0)
    num_particles: int = option(64, "texts drawn from the guide in each step", lower=2)
    lr: float | None = option(
        None,
        "learning rate of Adam at the start, falls linearly to a tenth; by default 1e-4 for"
        " guide='full' and 1e-3 for guide='lora'",
        lower=0.0,
        upper=_LARGEST_RATE,
    )
    table_lr: float = option(
        0.05,
        "the same for what is a table of logits: discrete choices, and language models without"
        " weights (a fifth of it where a recurrent network stands for a table too large)",
        lower=0.0,
        upper=_LARGEST_RATE,
    )
    max_grad_norm: float | None = option(
        None, "length to which a longer gradient is cut; absent: never", lower=0.0
    )
    guide: str = option(
        "full",
        "'full' trains a copy of the prior's weights, 'lora' low-rank adapters (peft)",
        choices=("full", "lora"),
    )
    lora_rank: int = option(8, "rank of the adapters of guide='lora'", lower=1)
    num_samples: int = option(256, "draws from the fitted guide, weighted to the target", lower=2)

    @property
    def starting_lr(self) -> float:
        """The learning rate of weights, given or the guide's default."""
        if self.lr is not None:
            return self.lr
        return 1e-3 if self.guide == "lora" else 1e-4

    def unsupported(self, model: Model) -> tuple[Diagnostic, ...]:
        avoidable = ("constant", "safety", "automaton", "liveness")
        blocked = tuple(
            _refusal(
                "LMP411",
                f"the posterior is zero where {p.label} fails, and the guide cannot see that from"
                " a prefix: the reverse KL is infinite",
                p,
                "use smc, mcmc or rejection; or turn the requirement into a factor",
            )
            for p in model.potentials
            if p.kind == "require" and p.facts.decidable not in avoidable
        )
        minus_infinity = tuple(
            _refusal(
                "LMP411",
                f"{p.title} can be −∞, where the posterior is zero and no guide can know it",
                p,
                "bound the factor from below, for instance by declaring the reward's lower bound",
            )
            for p in model.potentials
            if p.kind == "factor" and _can_be_log_of_zero(model, p)
        )
        return blocked + minus_infinity + _noisy(model, "svi")


def _can_be_log_of_zero(model: Model, potential: Potential) -> bool:
    return any(
        isinstance(node, Call) and node.function == "log" and node.type.range.lower == -math.inf
        for node in model.nodes(potential.expr)
    )


def _reads_text(model: Model, potential: Potential) -> bool:
    texts = {site.name for site in model.text_sites}
    return bool(model.sites_of(potential.expr) & texts)


def settings_from_options(
    method: type[Settings], options: Mapping[str, object]
) -> tuple[Settings | None, list[Diagnostic]]:
    """The settings that the options ask for, and what is wrong with the options (402, 403)."""
    problems: list[Diagnostic] = []
    known = {f.name: f for f in fields(method)}
    values: dict[str, object] = {}
    for name, value in options.items():
        if name not in known:
            problems.append(_unknown_option(method, name, tuple(known)))
            continue
        if value is None and "none" in known[name].metadata["choices"]:
            # The command line reads `none` as no value, and here it is one of the words.
            value = "none"
        wrong = _misfit(known[name], value)
        if wrong:
            problems.append(
                Diagnostic(
                    "LMP403",
                    "error",
                    f"option {name} of {method.name} is {_shown(value)}: {wrong}",
                    help=f"{name}: {known[name].metadata['doc']}",
                )
            )
            continue
        if isinstance(value, float) and str(known[name].type).startswith("int"):
            value = int(value)
        values[name] = float(value) if known[name].type == "float" else value  # type: ignore[arg-type]
    return (None if problems else method(**values)), problems  # type: ignore[arg-type]


def _unknown_option(method: type[Settings], name: str, known: tuple[str, ...]) -> Diagnostic:
    meant = _meant_option(method, name, known)
    owners = [m.name for m in METHODS if name in {f.name for f in fields(m)}]
    elsewhere = f"{name} is an option of {', '.join(owners)}" if owners else ""
    if meant is not None:
        help_ = "; ".join(filter(None, (f"{method.name} has `{meant}` for that", elsewhere)))
    elif guess := closest(name, known):
        help_ = f"did you mean `{guess}`?"
    else:
        takes = f"{method.name} takes {', '.join(sorted(known))}"
        help_ = elsewhere or "; ".join(filter(None, (_similar_elsewhere(name), takes)))
    return Diagnostic("LMP402", "error", f"{method.name} has no option {name}", help=help_)


def _similar_elsewhere(name: str) -> str:
    """Which methods have an option of nearly that name; nothing where none has."""
    guess = closest(name, {f.name for method in METHODS for f in fields(method)})
    owners = [m.name for m in METHODS if guess in {f.name for f in fields(m)}]
    return f"`{guess}` is an option of {', '.join(owners)}" if owners else ""


# What is meant by names that other methods, and other libraries, have for the same thing.
_DRAWS = (
    "num_samples num_particles num_draws n_samples n_particles n_draws samples particles draws n"
    " size count num n_samps sample_size population_size num_posterior_samples"
)
_MEANINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("chains n_chains nchains num_chains", ("num_chains", "num_runs")),
    ("runs n_runs nruns num_runs restarts repeats replicates", ("num_runs", "num_chains")),
    ("steps n_steps nsteps num_steps iterations num_iterations n_iter epochs", ("num_steps",)),
    ("tries attempts num_attempts max_tries", ("max_attempts",)),
    ("warmup warmups num_warmup warm_up burnin burn_in tune n_tune", ("warmup_steps",)),
    ("thin", ("thinning",)),
    ("learning_rate step_size eta", ("lr",)),
    ("random_seed random_state rng rng_seed rng_key", ("seed",)),
    ("ess threshold resample_threshold ess_ratio", ("ess_threshold",)),
    ("look_ahead twist", ("lookahead",)),
    ("rank lora_r r", ("lora_rank",)),
    ("batch batchsize num_rows", ("batch_size", "max_rows")),
    ("precision", ("dtype",)),
)


def _meant_option(method: type[Settings], name: str, known: tuple[str, ...]) -> str | None:
    """The option of a method that does what the name says elsewhere, or None."""
    plain = name.lower().replace("-", "_")
    if plain in _DRAWS.split():
        return method.num_draws_option or "num_samples"
    for words, options in _MEANINGS:
        if plain in words.split():
            return next((option for option in options if option in known), None)
    return None


def option_of_no_method(name: str) -> list[Diagnostic]:
    """LMP402 for an option that no method has, with a suggestion; nothing where one has it."""
    known = {f.name for method in METHODS for f in fields(method)}
    if name in known:
        return []
    guess = closest(name, known)
    help_ = f"did you mean `{guess}`?" if guess else None
    return [Diagnostic("LMP402", "error", f"no method has an option {name}", help=help_)]


def _shown(value: object) -> str:
    """A value as an error shows it; Python refuses to print numbers of thousands of digits."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**40:
        return f"a number of {int(value.bit_length() * math.log10(2)) + 1} digits"
    return repr(value)


def _misfit(setting: Any, value: object) -> str | None:
    """Why a value does not fit a setting, or None."""
    if value is None:
        return None if setting.default is None else "it needs a value"
    kind = str(setting.type).split(" | ")[0]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "int" and not (number and (isinstance(value, int) or value.is_integer())):  # type: ignore[attr-defined]
        return "it must be a whole number"
    if kind == "int" and setting.name != "seed" and value > _LARGEST_COUNT:  # type: ignore[operator]
        return f"it must be at most {_LARGEST_COUNT:,}"
    if kind == "int" and value >= 10**_MOST_DIGITS:
        return f"it must have at most {_MOST_DIGITS:,} digits"
    if kind == "float" and isinstance(value, int) and abs(value) > sys.float_info.max:
        return "it is larger than a number can be"
    if kind == "float" and not number:
        return "it must be a number"
    if kind == "bool" and not isinstance(value, bool):
        return "it must be true or false"
    if kind == "str" and not isinstance(value, str):
        return "it must be a string"
    choices = setting.metadata["choices"]
    if choices and value not in choices:
        return "it must be one of " + ", ".join(repr(choice) for choice in choices)
    if number and value not in setting.metadata["range"]:
        return f"it must be {setting.metadata['range'].in_words()}"
    return None


def option_default(setting: Any) -> object:
    """The default of a settings field, None where there is none."""
    return None if setting.default is MISSING else setting.default


METHODS: tuple[type[Settings], ...] = (Exact, Rejection, Importance, SMC, MCMC, SVI)


def method_named(name: str) -> type[Settings] | None:
    """The method of a name, or None."""
    return next((method for method in METHODS if method.name == name), None)


def method_meant(name: str) -> type[Settings] | None:
    """The method that a misspelt name was probably meant to be, or None."""
    guess = closest(name, [method.name for method in METHODS])
    return None if guess is None else method_named(guess)


def check_method(name: str) -> Diagnostic | None:
    """LMP401 for a method that does not exist, with a suggestion."""
    if method_named(name) is not None:
        return None
    meant = method_meant(name)
    names = ", ".join(method.name for method in METHODS)
    help_ = f"did you mean `{meant.name}`?" if meant else f"the methods are {names}"
    return Diagnostic("LMP401", "error", f"there is no inference method `{name}`", help=help_)
