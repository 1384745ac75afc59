"""Stepping a model whose state cannot be cut or copied by row: every token anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmppl.errors import InternalError
from lmppl.lm.forward import RowLimit
from lmppl.lm.huggingface.calling import Calling
from lmppl.lm.huggingface.engine import Resume
from lmppl.lm.huggingface.placement import place
from lmppl.lm.huggingface.prompts import Prompts
from lmppl.lm.kernels import without_plans
from lmppl.lm.protocol import Prefixes


@dataclass(frozen=True, slots=True)
class Recomputed:
    """Prefixes of a model whose state cannot be kept: their tokens, right-aligned, and no more."""

    tokens: Tensor
    pads: Tensor

    def __repr__(self) -> str:
        return f"<Recomputed: {self.tokens.shape[0]} rows, {self.tokens.shape[1]} columns>"


@dataclass(frozen=True, slots=True)
class UncachedEngine:
    """An `Engine` that keeps tokens and computes whole rows: quadratic in the length, and right."""

    calling: Calling
    limit: RowLimit
    prompts: Prompts
    vocab_size: int

    @property
    def device(self) -> torch.device:
        return self.calling.device

    @torch.no_grad()
    def prefill(
        self, tokens: Tensor, pads: Tensor | None, num_shared: int, room: int
    ) -> tuple[Recomputed, Tensor]:
        state = Recomputed(tokens, self._known_pads(tokens, pads))
        return state, self._last_logits(state)

    @torch.no_grad()
    def extend(self, prefixes: Prefixes, tokens: Tensor) -> Prefixes:
        state = prefixes.state
        if not isinstance(state, Recomputed):
            raise InternalError("these prefixes belong to another language model")
        placed = place(prefixes.index, tokens, self.vocab_size)
        history = state.tokens.index_select(0, placed.parents)
        history = torch.cat([history, placed.tokens[:, None]], dim=1)
        pads = state.pads.index_select(0, placed.parents)
        self.prompts.require_columns(history.shape[1], pads)
        lengths = prefixes.lengths
        if isinstance(lengths, Tensor):
            lengths = lengths.index_select(0, placed.parents)
        new = Recomputed(history, pads)
        one_to_one = placed.num_rows == prefixes.num_rows
        logits = self._last_logits(new)
        return Prefixes(placed.index, logits, lengths + 1, new, False, one_to_one)

    def archive(self, num_rows: int, max_tokens: int, resume: Resume) -> None:
        return None

    def all_logits(
        self,
        tokens: Tensor,
        pads: Tensor | None,
        *,
        gradient: bool,
        needed_from: int,
        num_shared: int,
    ) -> Iterator[tuple[int, Tensor]]:
        num_rows, columns = tokens.shape
        result: Tensor | None = None
        for rows, batch in self._equal_lengths(tokens, self._known_pads(tokens, pads)):
            logits = self._forward(batch, last_only=False)
            if result is None:
                result = logits.new_zeros(num_rows, columns, logits.shape[2])
            result[rows, columns - batch.shape[1] :] = logits
        assert result is not None
        yield 0, result

    def _last_logits(self, state: Recomputed) -> Tensor:
        result: Tensor | None = None
        for rows, batch in self._equal_lengths(state.tokens, state.pads):
            logits = self._forward(batch, last_only=True)[:, -1]
            if result is None:
                result = logits.new_empty(state.tokens.shape[0], logits.shape[1])
            result[rows] = logits
        assert result is not None
        return result

    def _known_pads(self, tokens: Tensor, pads: Tensor | None) -> Tensor:
        if pads is not None:
            return pads
        return torch.zeros(tokens.shape[0], dtype=torch.long, device=tokens.device)

    def _equal_lengths(self, tokens: Tensor, pads: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows of equal length, without padding, because a recurrent state would see it."""
        for pad in torch.unique(pads).tolist():
            rows = (pads == pad).nonzero()[:, 0]
            for part in rows.split(self.limit.value or rows.shape[0]):
                yield part, tokens[part, pad:]

    @without_plans
    def _forward(self, tokens: Tensor, *, last_only: bool) -> Tensor:
        options: dict[str, Any] = {}
        if self.calling.keeps_logits and last_only:
            options["logits_to_keep"] = 1
        logits: Tensor = self.calling.model(input_ids=tokens, use_cache=False, **options).logits
        return logits
