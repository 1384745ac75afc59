"""Steering by a small head on a language model's hidden state, fitted to where the posterior is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmppl.density.steering.protocol import Steering
from lmppl.records import brief

if TYPE_CHECKING:
    from lmppl.density.stages.run import TextRun

# What is trained, by name.
TRAINED = ("inner", "time", "context", "outer")
# What a twist says at most, in nats: weights that undo it are no larger.
LARGEST = 8.0
_LOWEST = -50.0


@dataclass(frozen=True, slots=True)
class Head:
    """log ψ of every next token from what the language model says of it.

    The hidden state h of the last layer is read from the logits, which are linear in it: h is what
    the pseudo-inverse `reading` `[vocab, hidden]` of the output embedding makes of them, scaled to
    a length of √hidden. With a = tanh(h `inner` + s `time` + `context`), where s is the share of
    the tokens that are drawn, log ψ(x<t v) = a `outer` · (embedding of v), bent so that it stays
    within `LARGEST` nats: all v in one product.
    `inner` `[hidden, width]`, `time` `[width]`, `context` `[contexts, width]`, `outer` `[width,
    hidden]`, which starts at 0, so that ψ = 1; `embedding` `[vocab, hidden]` is the model's own.
    """

    reading: Tensor
    embedding: Tensor
    inner: Tensor
    time: Tensor
    context: Tensor
    outer: Tensor

    __repr__ = brief

    @classmethod
    def fresh(
        cls, unembedding: Tensor, num_contexts: int, width: int, generator: torch.Generator
    ) -> Head:
        """A head of ψ = 1 for a language model with this output embedding, `[vocab, hidden]`."""
        weight = unembedding.detach().double()
        size = weight.shape[1]
        inner = torch.randn(size, width, generator=generator).to(weight.device)
        scale = weight.pow(2).mean().sqrt().clamp(min=1e-12)
        return cls(
            reading=torch.linalg.pinv(weight).t().contiguous().float(),
            embedding=(weight / scale).float() / size**0.5,
            inner=inner / size**0.5,
            time=torch.zeros(width, device=weight.device),
            context=torch.zeros(num_contexts, width, device=weight.device),
            outer=torch.zeros(width, size, device=weight.device),
        )

    @property
    def trained(self) -> Mapping[str, Tensor]:
        """What is fitted, by name."""
        return {name: getattr(self, name) for name in TRAINED}

    def with_trained(self, tensors: Mapping[str, Tensor]) -> Head:
        """The head with other values of these.

        Raises: ValueError where they are of a head of other shapes.
        """
        own = self.trained
        for name in TRAINED:
            if tensors[name].shape[-1] != own[name].shape[-1] and name != "outer":
                raise ValueError(f"{name} is of another width")
        if tensors["inner"].shape[0] != self.reading.shape[1]:
            raise ValueError("the language model has another hidden size")
        return replace(self, **{name: tensors[name].to(self.reading.device) for name in TRAINED})

    def read(self, logits: Tensor) -> Tensor:
        """The hidden state `[…, hidden]` as the logits give it, before it is scaled."""
        # Tokens that a model never writes may have −∞.
        return logits.float().clamp(min=_LOWEST) @ self.reading

    def hidden(self, logits: Tensor) -> Tensor:
        """h, `[…, hidden]`, from logits `[…, vocab]` before any warp."""
        return scaled(self.read(logits))

    def log_psi(self, hidden: Tensor, share: Tensor, contexts: Tensor) -> Tensor:
        """log ψ(x<t v), `[…, vocab]`, from h `[…, hidden]`, `share` and `contexts` `[…]`."""
        inner = hidden @ self.inner + share.float().unsqueeze(-1) * self.time
        raw = (torch.tanh(inner + self.context[contexts]) @ self.outer) @ self.embedding.t()
        return LARGEST * torch.tanh(raw / LARGEST)


def scaled(raw: Tensor) -> Tensor:
    """Hidden states `[…, hidden]`, scaled to a length of √hidden."""
    return raw * torch.rsqrt(raw.pow(2).mean(-1, keepdim=True).clamp(min=1e-12))


@dataclass(frozen=True, slots=True)
class Seen:
    """The hidden states that a run has read before each token of its texts, `[rows, tokens,
    hidden]`, unscaled; filled in place. A row is what it was from the first token to the last."""

    hidden: Tensor

    __repr__ = brief

    @classmethod
    def empty(cls, num_rows: int, max_tokens: int, head: Head) -> Seen:
        return cls(head.reading.new_zeros(num_rows, max_tokens, head.reading.shape[1]))

    def keep(self, run: TextRun, raw: Tensor) -> None:
        """What is known before the next token of the open texts, `[open, hidden]`."""
        self.hidden[run.open, run.positions[run.open]] = raw


@dataclass(frozen=True, slots=True)
class LearnedTwist(Steering):
    """ψ of a head; a state is the context of a row, `contexts` `[rows]` of what it was made for.

    What it reads of the language model is kept in `seen`, where that is asked for.
    It must be the only steering of a run that scores tokens by numbers: log ψ of the text so far is
    what these have added up to.
    """

    head: Head
    contexts: Tensor
    seen: Seen | None = None

    __repr__ = brief

    @property
    def is_trivial(self) -> bool:
        return not bool(self.head.outer.any())

    def begin(self, rows: Tensor) -> Tensor:
        return self.contexts[rows]

    @torch.no_grad()
    def log_next(self, run: TextRun, states: Tensor) -> Tensor:
        assert run.prefixes is not None
        raw = self.head.read(run.prefixes.logits)
        if not run.prefixes.identity:
            raw = raw.index_select(0, run.prefixes.index)
        if self.seen is not None:
            self.seen.keep(run, raw)
        hidden = scaled(raw)
        share = run.positions[run.open] / run.max_tokens
        log_psi = self.head.log_psi(hidden, share, states).double()
        before = run.steered.log_tokens
        return log_psi if before is None else log_psi - before[run.open].unsqueeze(-1)
