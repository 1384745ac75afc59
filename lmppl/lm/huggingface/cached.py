"""Stepping with keys and values that are kept, shared and moved as little as can be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lmppl.errors import InternalError
from lmppl.lm.archive import KVArchive
from lmppl.lm.cache import CachedPrefixes, KVStorage, SharedPrefix
from lmppl.lm.huggingface.engine import Resume
from lmppl.lm.huggingface.forward_pass import ForwardPass
from lmppl.lm.huggingface.placement import place
from lmppl.lm.huggingface.prompts import Prompts
from lmppl.lm.protocol import Prefixes, Prompt
from lmppl.records import brief

# A shared prefix shorter than this is cheaper to compute again than to copy.
_WORTH_SHARING = 8


@dataclass(frozen=True, slots=True)
class CachedEngine:
    """An `Engine` for models whose state is keys and values of past tokens.

    Rows stay where they are in storage as long as one of their continuations lives; other
    continuations are copied to rows that are free. So dropping finished rows or resampling moves
    only what changes, at most once.
    """

    passes: ForwardPass
    prompts: Prompts
    vocab_size: int

    __repr__ = brief

    @torch.no_grad()
    def prefill(
        self, tokens: Tensor, pads: Tensor | None, num_shared: int, room: int
    ) -> tuple[CachedPrefixes, Tensor]:
        num_rows, columns = tokens.shape
        if self.prompts.max_context is not None:
            room = min(room, max(self.prompts.max_context, columns))
        if self.passes.static is not None:
            room = self.passes.static.room_for(room)
        storage, first = self._shared_storage(tokens, pads, num_shared, room)
        logits = self.passes.advance(storage, num_rows, first, columns, pads)
        return CachedPrefixes(storage, storage.version, columns, pads), logits

    def _shared_storage(
        self, tokens: Tensor, pads: Tensor | None, num_shared: int, room: int
    ) -> tuple[KVStorage, int]:
        """Storage for `tokens`, and the column from which it is still to be computed."""
        num_rows, columns = tokens.shape
        windows, static = self.passes.calling.windows, self.passes.static
        assert windows is not None
        shortest = columns - (0 if pads is None else int(pads.max()))
        # Every row keeps at least its last token to compute, which gives the logits.
        num_shared = min(num_shared, shortest - 1)
        if num_rows == 1 or num_shared < _WORTH_SHARING:
            shelf = None if static is None else static.shelf
            storage = KVStorage(windows, num_rows, max(room, columns), tokens.device, shelf=shelf)
            storage.tokens[:, :columns] = tokens
            return storage, 0
        start = columns - shortest
        row = 0 if pads is None else int(pads.argmax())
        prefix = KVStorage(windows, 1, num_shared, tokens.device)
        prefix.tokens.copy_(tokens[row : row + 1, start : start + num_shared])
        self.passes.advance(prefix, 1, 0, num_shared, None)
        origin = torch.zeros(num_rows, dtype=torch.long, device=tokens.device)
        storage = prefix.realigned(
            origin,
            origin if pads is None else -pads,
            num_columns=columns,
            capacity=max(room, columns),
        )
        storage.tokens[:, :columns] = tokens
        # The longest row has the most columns left, and the fewest pads: none.
        return storage, num_shared

    @torch.no_grad()
    def extend(self, prefixes: Prefixes, tokens: Tensor) -> Prefixes:
        state = _unspent(prefixes)
        storage, columns, pads = state.storage, state.columns, state.pads
        index, lengths = prefixes.index, prefixes.lengths
        identity, one_to_one = prefixes.identity, prefixes.one_to_one
        if identity:
            rows, parents = prefixes.num_rows, None
        elif one_to_one:
            rows, parents = prefixes.num_rows, None
            tokens = torch.empty_like(tokens).index_copy_(0, index, tokens)
        else:
            placed = place(index, tokens, self.vocab_size)
            rows, parents, index, tokens = (
                placed.num_rows,
                placed.parents,
                placed.index,
                placed.tokens,
            )
            one_to_one = rows == prefixes.num_rows
            identity = (
                one_to_one
                and placed.targets is None
                and bool(torch.equal(index, torch.arange(rows, device=index.device)))
            )
        self.prompts.require_columns(storage.num_shared + columns + 1, pads)
        room = max(rows, prefixes.num_rows)
        if self._is_worth_sharing(storage, room, columns):
            storage.version += 1
            storage = storage.fanned_out(room, columns, max(2, storage.num_columns - columns + 1))
            columns = 1
        else:
            storage.reserve(room, columns + 1, columns)
            if parents is not None and placed.targets is not None:
                storage.copy_rows(placed.targets, placed.sources, columns)
        if parents is not None:
            pads = None if pads is None else pads.index_select(0, parents)
            if isinstance(lengths, Tensor):
                lengths = lengths.index_select(0, parents)
        storage.tokens[:rows, columns] = tokens
        storage.version += 1
        logits = self.passes.advance(storage, rows, columns, columns + 1, pads)
        new = CachedPrefixes(storage, storage.version, columns + 1, pads)
        return Prefixes(index, logits, lengths + 1, new, identity, one_to_one)

    def _is_worth_sharing(self, storage: KVStorage, num_rows: int, columns: int) -> bool:
        """Whether `num_rows` continuations of one row should read what they share together."""
        return (
            self.passes.steps_shared
            and storage.num_rows == 1
            and num_rows >= _WORTH_SHARING
            and columns > _WORTH_SHARING
        )

    def archive(self, num_rows: int, max_tokens: int, resume: Resume) -> KVArchive:
        return KVArchive(
            num_rows,
            max_tokens,
            prompt_length=lambda prompt: len(self.prompts.ids(prompt)),
            share=self._shared_prefix,
            resume=resume,
            last_logits=lambda storage, rows, columns, pads: self.passes.advance(
                storage, rows, columns - 1, columns, pads
            ),
        )

    def _shared_prefix(self, prompt: Prompt) -> SharedPrefix | None:
        """All but the last token of a prompt, where rows may share it and it is worth it."""
        ids = self.prompts.ids(prompt)
        if not self.passes.steps_shared or len(ids) <= _WORTH_SHARING:
            return None
        tokens, pads = self.prompts.right_aligned([ids])
        state, _ = self.prefill(tokens, pads, 0, len(ids) + 1)
        return state.storage.fanned_out(1, state.columns, 1).shared

    def all_logits(
        self,
        tokens: Tensor,
        pads: Tensor | None,
        *,
        gradient: bool,
        needed_from: int,
        num_shared: int,
    ) -> Iterator[tuple[int, Tensor]]:
        if gradient:
            yield 0, self.passes.without_cache(tokens, pads)
            return
        num_rows, columns = tokens.shape
        needed_from = max(0, needed_from)
        num_shared = min(num_shared, needed_from)
        storage, done = self._shared_storage(tokens, pads, num_shared, columns)
        if needed_from > done:
            self.passes.logits(storage, 0, num_rows, done, needed_from, pads)
        budget = self.passes.calling.budgets.max_log_probs
        step = max(1, budget // (num_rows * self.vocab_size))
        for first in range(needed_from, columns, step):
            last = min(columns, first + step)
            logits = self.passes.logits(storage, 0, num_rows, first, last, pads, every_logit=True)
            yield first, logits


def _unspent(prefixes: Prefixes) -> CachedPrefixes:
    """The state of prefixes that no later extend has written over."""
    state = prefixes.state
    if not isinstance(state, CachedPrefixes):
        raise InternalError("these prefixes belong to another language model")
    if state.version != state.storage.version:
        raise InternalError(
            "these prefixes were spent by an earlier extend, which reused their storage"
        )
    return state
