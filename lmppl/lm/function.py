"""A language model that is a function of the host."""

from __future__ import annotations

import copy
import hashlib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lmppl.errors import InferenceError
from lmppl.jsons import half_character
from lmppl.lm.histories import HistoryLM, plain_vocabulary
from lmppl.lm.refusal import refusal

# Prefixes that are asked for again where a function is doubted.
_ASKED_AGAIN = 8
# How far a row of log probabilities from the host may be from summing to one.
_NORMALISATION_TOLERANCE = 1e-4


class FunctionLM(HistoryLM):
    """A language model given by a function of the host.

    `next_log_probs(prefixes)` gets ids `[batch, length]` (length may be 0) and returns natural log
    probabilities `[batch, vocab]`; they must sum to one within 1e-4 and are then renormalised in
    float64.  Prefixes of different lengths come in different calls.

        lm = FunctionLM(tokens=["a", "b", "<eos>"], eos="<eos>", next_log_probs=f)
    """

    def __init__(
        self,
        *,
        tokens: Sequence[str],
        eos: str | None,
        next_log_probs: Callable[[Tensor], Any],
        name: str = "function",
        device: str | torch.device | None = None,
    ) -> None:
        tokens = list(tokens)
        for token in tokens:
            if not isinstance(token, str) or half_character(token):
                raise refusal(
                    "LMP917", f"the tokens of {name} are strings of whole characters, not {token!a}"
                )
        if not tokens or len(set(tokens)) != len(tokens):
            raise refusal("LMP917", f"the tokens of {name} must be distinct and at least one")
        if eos is not None and eos not in tokens:
            raise refusal(
                "LMP917",
                f"the end token {eos!r} of {name} is not one of its tokens",
                help="list it among the tokens, or give eos=None",
            )
        super().__init__(
            name, plain_vocabulary(tokens, None if eos is None else tokens.index(eos)), device
        )
        self._tokens = tuple(tokens)
        self._next_log_probs = next_log_probs
        # How many of the next batches are asked for again, and what disagreed.
        self.doubts = 0
        self.disagreement = ""

    def doubted(self, num_batches: int) -> FunctionLM:
        """The same language model, whose next batches are asked for again; see `disagreement`."""
        other = copy.copy(self)
        other.doubts, other.disagreement = num_batches, ""
        return other

    @property
    def digest(self) -> str:
        """SHA-256 of the vocabulary and of the function's source, as far as that can be read.

        What the function refers to is not in it: a host that changes that must name it anew.
        """
        try:
            source = inspect.getsource(self._next_log_probs)
        except (OSError, TypeError):
            source = getattr(self._next_log_probs, "__qualname__", type(self).__qualname__)
        return hashlib.sha256(f"{self.vocab.digest}{self.name}{source}".encode()).hexdigest()

    def log_probs(self, tokens: Tensor, starts: Tensor) -> Tensor:
        """float64 `[U, vocab]`: what the function returns, checked and renormalised.

        Raises:
            InferenceError: LMP917, a wrong shape, NaN, +inf, or a row that does not sum to one.
        """
        result = torch.empty(
            tokens.shape[0], self.vocab.size, dtype=torch.float64, device=self.device
        )
        for rows, batch in self._equal_lengths(tokens, starts):
            result[rows] = found = self._checked(batch)
            if self.doubts:
                self.doubts -= 1
                self._ask_again(batch, found)
        return result

    def _ask_again(self, prefixes: Tensor, before: Tensor) -> None:
        """Whether the function gives a few prefixes the same row, twice in a batch of their own.

        They are fewer than before and in another order: a row is of its prefix and of no other.
        """
        few = torch.arange(min(_ASKED_AGAIN, max(1, prefixes.shape[0] - 1))).flip(0)
        first, second = self._checked(prefixes[few]), self._checked(prefixes[few])
        for one, other, atol, when in (
            (first, second, 1e-6, "the second time"),
            # A network in half precision rounds otherwise in another batch.
            (before[few], first, 1e-2, "in another batch"),
        ):
            agree = torch.isclose(one.exp(), other.exp(), rtol=0.0, atol=atol).all(-1)
            if not bool(agree.all()):
                row = int(few[(~agree).nonzero()[0]])
                self.disagreement = (
                    f"the language model {self.name} gave other probabilities {when} after"
                    f" {self._shown(prefixes[row])}"
                )
                self.doubts = 0
                return

    def _equal_lengths(self, tokens: Tensor, starts: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for start in torch.unique(starts).tolist():
            rows = (starts == start).nonzero()[:, 0]
            yield rows, tokens[rows, start:]

    def _checked(self, prefixes: Tensor) -> Tensor:
        values = self._called(prefixes)
        expected = (prefixes.shape[0], self.vocab.size)
        if tuple(values.shape) != expected:
            raise refusal(
                "LMP917",
                f"{self.name} returned log probabilities of shape {list(values.shape)} "
                f"for {prefixes.shape[0]} prefixes, not {list(expected)}",
                help="return one row per prefix, one column per token",
            )
        wrong = values.isnan() | (values == math.inf)
        if bool(wrong.any()):
            row, token = wrong.nonzero()[0].tolist()
            raise refusal(
                "LMP917",
                f"{self.name} returned {values[row, token].item()} "
                f"for the token {self._tokens[token]!r}",
                notes=(f"after {self._shown(prefixes[row])}",),
                help="log probabilities are at most 0; use -inf for what cannot follow",
            )
        totals = values.logsumexp(1)
        if bool((off := totals.abs() > _NORMALISATION_TOLERANCE).any()):
            row = int(off.nonzero()[0])
            raise refusal(
                "LMP917",
                f"the probabilities that {self.name} returned sum to "
                f"{totals[row].exp().item():.6g}, not 1",
                notes=(f"after {self._shown(prefixes[row])}",),
                help="return normalised natural logs, for instance torch.log_softmax(scores, -1)",
            )
        return values - totals[:, None]

    def _called(self, prefixes: Tensor) -> Tensor:
        """float64: what the function returns for these prefixes, without its graph."""
        try:
            with torch.no_grad():
                returned = self._next_log_probs(prefixes.clone())
        except InferenceError:
            raise
        except Exception as error:
            raise refusal(
                "LMP917",
                f"the function of {self.name} raised {type(error).__name__}: {error}",
                notes=(f"for {prefixes.shape[0]} prefixes of {prefixes.shape[1]} tokens",),
                help="it must take ids [batch, length], also of length 0",
            ) from error
        try:
            values = torch.as_tensor(returned, device=self.device).detach()
            if values.is_complex() or values.dtype == torch.bool:
                raise TypeError(values.dtype)
            return values.to(torch.float64)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            kind = type(returned).__name__
            what = kind if returned is None or isinstance(returned, str) else f"a {kind}"
            raise refusal(
                "LMP917",
                f"{self.name} returned {what.replace('NoneType', 'None')} that cannot be read as"
                " log probabilities",
                help="return a tensor or array of floats, one row per prefix, one column per token",
            ) from error

    def _shown(self, prefix: Tensor) -> str:
        if not prefix.shape[0]:
            return "the empty prefix"
        return "the prefix " + " ".join(repr(self._tokens[token]) for token in prefix.tolist())
