"""What a method says of itself without being run: its settings, refusals and words.

Free of torch, so that `lmppl check` and `lmppl methods` are fast. Each method's own are in its
folder; `methods` lists them and `options` reads them from what was written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, field
from typing import Any, ClassVar, Literal

from lmppl.errors import Diagnostic, InternalError
from lmppl.ir.model import Model, Potential
from lmppl.ir.types import Interval
from lmppl.lm.names import STEPPINGS
from lmppl.records import dataclass

# Draws that are independent and exact, weighted with an unbiased evidence, of Markov chains, or of
# a fitted guide.
Referee = Literal["independent", "weighted", "chain", "guide"]
# The values of parameters, as far as they are known.
Values = Mapping[str, object]


def option(
    default: Any,
    doc: str,
    *,
    lower: float = -math.inf,
    upper: float = math.inf,
    choices: tuple[str, ...] = (),
    takes: str = "",
    fits: str = "",
) -> Any:
    """A setting with its default, its meaning in one sentence and its permitted values.

    With `takes` it may also name another `infer` line whose method gives that kind of thing; `fits`
    is a word that stands for such a line, with the options that its method has by default, where no
    line is called so.
    """
    metadata = {
        "doc": doc,
        "range": Interval(lower, upper),
        "choices": choices,
        "takes": takes,
        "fits": fits,
    }
    return field(default=default, metadata=metadata)


def _common_seed() -> Any:
    return option(None, "seed of all randomness; drawn afresh and recorded if absent", lower=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What every method shares."""

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    engine: ClassVar[str] = ""  # "module:Class", imported when the method runs
    restoring: ClassVar[str] = ""  # module that reads a saved guide, of methods that fit one
    num_draws_option: ClassVar[str] = "num_samples"  # kept when the method changes
    referee: ClassVar[Referee]  # how tests judge its draws
    is_exact: ClassVar[bool] = False  # independent draws of the posterior, or all of it
    steers: ClassVar[bool] = True  # keeps to what the requirements allow, token by token
    follows_log_prob: ClassVar[bool] = False  # of texts, where requirements ask for that
    more_draws: ClassVar[str] = ""  # in words, what gives more of its draws
    gives: ClassVar[str] = ""  # what options of other lines can take of its result

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
        choices=STEPPINGS,
    )

    @classmethod
    def draws_per_option(cls, options: Mapping[str, object]) -> int:
        """How many draws one unit of `num_draws_option` stands for."""
        return 1

    @classmethod
    def option_for_draws(cls, num_draws: int, options: Mapping[str, object]) -> int:
        """The value of `num_draws_option` that gives about this many draws."""
        return num_draws

    @classmethod
    def small_runs(cls, num_runs: int, size: int) -> Settings:
        """Settings of so many runs of so many particles, to begin another method with."""
        raise InternalError(f"{cls.name} has no small runs that another method could begin with")

    @classmethod
    def suits(cls, model: Model) -> bool:
        """Whether it is what a file without an `infer` line gets, unless a method before it is."""
        return False

    @classmethod
    def is_random(cls, options: Mapping[str, object]) -> bool:
        """Whether another seed gives other draws."""
        return True

    @classmethod
    def better_draws(cls, *, scored: bool) -> str:
        """In words, what gives draws worth more; `scored` where the model has factors."""
        return ""

    def unsupported(self, model: Model, values: Values) -> tuple[Diagnostic, ...]:
        """Why the method cannot give a right answer for the model with these parameters."""
        return ()

    def unknowns(self, model: Model, values: Values) -> tuple[Diagnostic, ...]:
        """What may stop the run and only the run itself can tell."""
        return ()

    def how(self, model: Model, values: Values) -> str:
        """In words, which of its ways the method would go; "" where it has one."""
        return ""

    def warnings(self, model: Model) -> tuple[Diagnostic, ...]:
        """What the method can do but the user should know before it runs."""
        return ()


def refusal(code: str, message: str, potential: Potential | None, help_: str) -> Diagnostic:
    """Why a method cannot do a model, at the potential that is the reason."""
    span = None if potential is None else potential.span
    return Diagnostic(code, "error", message, span=span, help=help_)


def noisy(model: Model, method: str) -> tuple[Diagnostic, ...]:
    """Potentials of which only estimates are known, for a method that needs their values."""
    return tuple(
        refusal(
            "LMP418",
            f"{p.title} is scored with noise, and {method} needs the score itself",
            p,
            "use smc or importance, which an estimate that is right on average is enough for",
        )
        for p in model.potentials
        if p.facts.noise != "none"
    )


def option_default(setting: Any) -> object:
    """The default of a settings field, None where there is none."""
    return None if setting.default is MISSING else setting.default
