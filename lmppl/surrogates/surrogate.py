"""A surrogate of a language model, and what is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lmppl.lm.histories import HistoryLM
from lmppl.lm.protocol import LanguageModel, Prompt
from lmppl.records import brief
from lmppl.surrogates.backoff import BackoffLM
from lmppl.surrogates.fitting import Fitted

Origin = Literal["shipped", "cache", "fitted"]


@dataclass(frozen=True, slots=True)
class Report:
    """How a surrogate came about.

    `held_out` are its nats per token of texts that were held out, NaN where there were too few;
    `entropy` what the language model itself needs per token of all that it drew: an estimate of
    what no surrogate can undercut. Seconds are of the wall.
    """

    num_texts: int
    num_tokens: int
    max_tokens: int
    held_out: float
    entropy: float
    drawing_seconds: float
    fitting_seconds: float


@dataclass(frozen=True, slots=True)
class Surrogate:
    """A small model with finitely many states in the place of a language model, to look ahead with.

    It need not be right: what it says guides draws and never weighs them. `language_model` is the
    digest of the model whose draws it was fitted to.
    """

    language_model: str
    fitted: Fitted
    report: Report
    origin: Origin = "fitted"

    __repr__ = brief

    @property
    def model(self) -> BackoffLM:
        return self.fitted.model

    def begin(self, lm: LanguageModel, prompts: Sequence[Prompt]) -> Tensor:
        """`[n]`: what it believes before the first token after each prompt."""
        return self.model.begin([prompt_tokens(lm, prompt) for prompt in prompts])


def prompt_tokens(lm: LanguageModel, prompt: Prompt) -> tuple[int, ...]:
    """The tokens that a language model reads a prompt as; none where it does not tell.

    Raises:
        InferenceError: the model cannot be prompted with that.
    """
    if isinstance(lm, HistoryLM):
        return lm.encode_prompt(prompt)
    encoder = getattr(getattr(lm, "prompts", None), "ids", None)
    return () if encoder is None else tuple(encoder(prompt))
