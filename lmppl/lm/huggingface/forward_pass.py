"""Rows and columns of storage through a model, in as many passes as memory asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmppl.lm.cache import KVStorage
from lmppl.lm.forward import RowLimit
from lmppl.lm.huggingface.calling import Calling
from lmppl.lm.kernels import without_plans
from lmppl.lm.static import StaticStep
from lmppl.records import brief


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """The passes of one model under the settings of one run.

    A single column is computed by the first of these that can: a static step, the decoder, the
    model's own forward pass.
    """

    calling: Calling
    limit: RowLimit
    static: StaticStep | None = None

    __repr__ = brief

    @property
    def device(self) -> torch.device:
        return self.calling.device

    @property
    def steps_shared(self) -> bool:
        """Whether steps are of the decoder, which alone knows of shared prefixes."""
        is_static = self.static is not None and self.static.failure is None
        return self.calling.decoder is not None and not is_static

    def advance(
        self, storage: KVStorage, num_rows: int, first: int, last: int, pads: Tensor | None
    ) -> Tensor:
        """Fill columns `first:last` of the first `num_rows` rows; the logits after the last.

        In a prefill, row `i` needs the columns from `first + pads[i]` on; rows whose pads ascend
        share chunks with others of like length, and a chunk starts at its longest row.
        """
        width, budgets = last - first, self.calling.budgets
        ragged = width > 1 and pads is not None
        if width == 1:
            limit = num_rows
        else:
            tokens = budgets.ragged_tokens if ragged else budgets.prefill_tokens
            limit = max(1, tokens // width)
        limit = min(limit, self.limit.value or limit)
        if num_rows <= limit:
            logits = self._attempt(storage, 0, num_rows, first, last, pads)
            if logits is not None:
                return logits[:, -1]
        parts = []
        done = 0
        while done < num_rows:
            limit = min(limit, self.limit.value or limit)
            until = min(num_rows, done + limit)
            start = first
            if ragged and pads is not None:
                start = min(last - 1, first + int(pads[done:until].min()))
            part = self._attempt(storage, done, until, start, last, pads)
            if part is not None:
                parts.append(part[:, -1])
                done = until
        return torch.cat(parts)

    def _attempt(
        self,
        storage: KVStorage,
        first_row: int,
        last_row: int,
        first: int,
        last: int,
        pads: Tensor | None,
    ) -> Tensor | None:
        """Logits, or None after the device ran out of memory and the rows were halved."""
        try:
            return self.logits(storage, first_row, last_row, first, last, pads)
        except torch.OutOfMemoryError:
            if last_row - first_row == 1:
                raise
            self.limit.memory.max_rows = (last_row - first_row) // 2
            self.calling.forget_static_steps()
            torch.cuda.empty_cache()
            return None

    def logits(
        self,
        storage: KVStorage,
        first_row: int,
        last_row: int,
        first: int,
        last: int,
        pads: Tensor | None,
        every_logit: bool = False,
    ) -> Tensor:
        """Logits `[rows, 1 or last - first, vocab]` of columns `first:last` of some rows."""
        if last - first == 1 and first > 0 and self.static is not None:
            found = self._statically(self.static, storage, first_row, last_row, first, pads)
            if found is not None:
                return found
        return self._generally(storage, first_row, last_row, first, last, pads, every_logit)

    @without_plans
    def _generally(
        self,
        storage: KVStorage,
        first_row: int,
        last_row: int,
        first: int,
        last: int,
        pads: Tensor | None,
        every_logit: bool = False,
    ) -> Tensor:
        calling = self.calling
        mask, start = None, 0
        if pads is not None:
            pads = pads[first_row:last_row, None]
            if last - first == 1 and calling.may_skip:
                # Rows that began early have ended, so no row may begin in the first columns.
                start = int(pads.min())
            mask = calling.positions(start, last) >= pads
        follows = first > 0 or storage.shared is not None
        decoder = calling.current_decoder() if last - first == 1 and follows else None
        if decoder is not None:
            starts = None if pads is None else pads[:, 0]
            stepped = decoder.step(storage, first_row, last_row, first, starts, mask, start)
            return stepped.unsqueeze(1)
        positions = calling.positions(first, last).unsqueeze(0)
        if pads is not None and mask is not None:
            positions = (positions - pads).clamp_(min=0)
            if calling.takes_mask:
                mask = self._ready_mask(mask, first, last)
        storage.focus(first_row, last_row, first, start)
        options: dict[str, Any] = {}
        if calling.keeps_logits and not every_logit:
            options["logits_to_keep"] = 1
        logits: Tensor = calling.model(
            input_ids=storage.tokens[first_row:last_row, first:last],
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **{calling.cache_name: storage},
            **options,
        ).logits
        return logits

    def _statically(
        self,
        static: StaticStep,
        storage: KVStorage,
        first_row: int,
        last_row: int,
        column: int,
        pads: Tensor | None,
    ) -> Tensor | None:
        """Logits `[rows, 1, vocab]` of one column by the static step; None where it has none."""
        if static.failure is not None or storage.shared is not None:
            return None

        def expected() -> Tensor:
            return self._generally(storage, first_row, last_row, column, column + 1, pads)[:, -1]

        logits = static.step(storage, first_row, last_row, column, pads, expected)
        if static.failure is not None:
            # A step that went wrong may have written anywhere.
            num_rows = storage.num_rows if pads is None else pads.shape[0]
            logits = self.advance(storage, num_rows, 0, column + 1, pads)[first_row:last_row]
        return None if logits is None else logits.unsqueeze(1)

    @without_plans
    def without_cache(self, tokens: Tensor, pads: Tensor | None) -> Tensor:
        """Logits `[rows, columns, vocab]` of whole rows, in one pass that can be differentiated."""
        calling, columns = self.calling, tokens.shape[1]
        positions = torch.arange(columns, device=self.device).unsqueeze(0)
        mask = None
        if pads is not None:
            mask = positions >= pads[:, None]
            positions = (positions - pads[:, None]).clamp_(min=0)
            if calling.takes_mask:
                mask = self._ready_mask(mask, 0, columns)
        logits: Tensor = calling.model(
            input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False
        ).logits
        return logits

    def _ready_mask(self, visible: Tensor, first: int, last: int) -> Tensor:
        """`[rows, 1, queries, columns]`: causal, no column before a row's first.

        A query before its row's first column sees itself alone, because a softmax over nothing
        is NaN, and NaN spreads even from where it is masked.
        """
        if last - first == 1:
            return visible[:, None, None, :]
        columns = self.calling.positions(0, last)
        queries = self.calling.positions(first, last)[:, None]
        seen = visible[:, None, :] & (columns <= queries)
        return (seen | (columns == queries))[:, None]
