"""Keys and values of the texts of a batch of executions, kept from one move to the next.

A move keeps the beginning of a chain's text and draws the rest again. What is kept was computed
when it was drawn, so a move that finds it here computes nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lmppl.lm.cache import CachedPrefixes, KVStorage, SharedPrefix
from lmppl.lm.protocol import Prefixes, Prompt

# What all rows after one prompt may share; None where nothing is.
Share = Callable[[Prompt], SharedPrefix | None]
# Computes given continuations from scratch: (prompts, tokens, lengths) -> prefixes.
Resume = Callable[[Sequence[Prompt], Tensor, Tensor], Prefixes]
# Logits after the last of so many columns of right-aligned rows: (storage, rows, columns, pads).
LastLogits = Callable[[KVStorage, int, int, Tensor | None], Tensor]


class KVArchive:
    """Storage with two places for every row: its current text, and one proposed instead.

    In `_home` a place's columns begin with the prompt (with what follows the shared prefix, where
    there is one). `_known` counts the text's tokens whose keys and values are there; they are
    compared with what is asked for, so nothing stale is ever used. `_work` is the storage that
    moves step in: prefixes that were recalled are spent at the next recall.
    """

    def __init__(
        self,
        num_rows: int,
        max_tokens: int,
        *,
        prompt_length: Callable[[Prompt], int],
        share: Share,
        resume: Resume,
        last_logits: LastLogits,
    ) -> None:
        self._num_rows, self._max_tokens = num_rows, max_tokens
        self._prompt_length, self._share = prompt_length, share
        self._resume, self._last_logits = resume, last_logits
        self._prompts: list[Prompt] = []
        # Of every row: the place of its current text, and the columns of its prompt.
        self._place = self._lead = torch.zeros(num_rows, dtype=torch.long)
        self._known = torch.full((2 * num_rows,), -1, dtype=torch.long)
        self._home: KVStorage | None = None
        self._work: KVStorage | None = None

    def __repr__(self) -> str:
        return f"<KVArchive: {self._num_rows} rows of up to {self._max_tokens} tokens>"

    @torch.no_grad()
    def recall(
        self, rows: Tensor, prompts: Sequence[Prompt], tokens: Tensor, lengths: Tensor
    ) -> Prefixes:
        """Prefixes `[len(rows)]` of the first `lengths` tokens of given texts of these rows.

        `rows` may repeat; `prompts`, `tokens` `[n, max tokens]` and `lengths` `[n]` go with it.
        What is not here is computed, in one batch.
        """
        missing = self._find_missing(rows, prompts, tokens, lengths)
        if missing.numel():
            self._compute(missing, rows, prompts, tokens, lengths)
        home = self._home
        assert home is not None
        base = self._max_tokens + 1
        keys, index = torch.unique(rows * base + lengths, return_inverse=True)
        own, kept = torch.div(keys, base, rounding_mode="floor"), keys % base
        totals = self._lead[own] + kept
        columns = int(totals.max())
        pads = columns - totals
        work = self._workspace(own.shape[0], columns)
        home.copy_aligned(work, 2 * own + self._place[own], -pads, columns)
        ragged = pads if bool(pads.any()) else None
        logits = self._last_logits(work, own.shape[0], columns, ragged)
        identity = own.shape[0] == rows.shape[0] and bool(
            torch.equal(index, torch.arange(own.shape[0], device=index.device))
        )
        shortest, longest = int(kept.min()), int(kept.max())
        return Prefixes(
            index,
            logits,
            longest if shortest == longest else kept,
            CachedPrefixes(work, work.version, columns, ragged),
            identity,
            own.shape[0] == rows.shape[0],
        )

    @torch.no_grad()
    def file(self, rows: Tensor, prefixes: Prefixes) -> None:
        """Keeps prefixes `[n]` as what is proposed for `rows` `[n]`, which do not repeat."""
        if rows.numel():
            self._store(rows, 1 - self._place[rows], prefixes)

    def settle(self, accepted: Tensor) -> None:
        """What was proposed is current where `accepted` `[rows]`."""
        self._place = torch.where(accepted, 1 - self._place, self._place)

    @torch.no_grad()
    def select(self, rows: Tensor) -> None:
        """Row i goes on with the current text of row `rows[i]`; `rows` has an entry for every row.

        Each has a free place for what is proposed, which takes what comes from elsewhere.
        """
        home = self._home
        if home is None:
            return
        every = torch.arange(self._num_rows, device=rows.device)
        new = (rows != every).nonzero().squeeze(-1)
        if not new.numel():
            return
        old = rows[new]
        source, target = 2 * old + self._place[old], 2 * new + 1 - self._place[new]
        self._known[target] = -1
        columns = int((self._lead[old] + self._known[source].clamp(min=0)).max())
        home.copy_aligned(home, source, torch.zeros_like(source), columns, targets=target)
        self._known[target] = self._known[source]
        place, lead = self._place.clone(), self._lead.clone()
        place[new], lead[new] = 1 - self._place[new], self._lead[old]
        prompts = list(self._prompts)
        for row, other in zip(new.tolist(), old.tolist(), strict=True):
            prompts[row] = self._prompts[other]
        # All at once: what is broken off before is as it was.
        self._place, self._lead, self._prompts = place, lead, prompts

    def _find_missing(
        self, rows: Tensor, prompts: Sequence[Prompt], tokens: Tensor, lengths: Tensor
    ) -> Tensor:
        """Positions in `rows` of which some tokens are not here."""
        if self._home is None or not self._knows(rows, prompts):
            self._reset(rows, prompts, tokens.device)
            return torch.arange(rows.shape[0], device=tokens.device)
        place = 2 * rows + self._place[rows]
        steps = torch.arange(tokens.shape[1], device=tokens.device)
        columns = (self._lead[rows, None] + steps).clamp_(max=self._home.num_columns - 1)
        known = self._known[place]
        same = (self._home.tokens[place[:, None], columns] == tokens) & (steps < known[:, None])
        found = torch.where(known < 0, -1, same.long().cumprod(1).sum(1))
        return (found < lengths).nonzero().squeeze(-1)

    def _knows(self, rows: Tensor, prompts: Sequence[Prompt]) -> bool:
        return all(
            self._prompts[row] == prompt for row, prompt in zip(rows.tolist(), prompts, strict=True)
        )

    def _reset(self, rows: Tensor, prompts: Sequence[Prompt], device: torch.device) -> None:
        """Forget everything: the first use, or a prompt has changed."""
        if not self._prompts:
            self._prompts = [prompts[0]] * self._num_rows
        for row, prompt in zip(rows.tolist(), prompts, strict=True):
            self._prompts[row] = prompt
        counts = [self._prompt_length(prompt) for prompt in self._prompts]
        same = all(prompt == self._prompts[0] for prompt in self._prompts)
        self._shared = self._share(self._prompts[0]) if same else None
        num_shared = 0 if self._shared is None else self._shared.num_columns
        self._lead = torch.tensor(counts, device=device) - num_shared
        self._place = torch.zeros(self._num_rows, dtype=torch.long, device=device)
        self._known = torch.full((2 * self._num_rows,), -1, dtype=torch.long, device=device)
        self._home = self._work = None

    def _compute(
        self,
        missing: Tensor,
        rows: Tensor,
        prompts: Sequence[Prompt],
        tokens: Tensor,
        lengths: Tensor,
    ) -> None:
        """Computes what is missing, each row once: the longest that is asked of it."""
        asked = zip(
            rows[missing].tolist(), lengths[missing].tolist(), missing.tolist(), strict=True
        )
        wanted = {row: number for row, _, number in sorted(asked)}
        at = torch.tensor(list(wanted.values()), device=rows.device)
        found = self._resume([prompts[i] for i in wanted.values()], tokens[at], lengths[at])
        self._store(rows[at], self._place[rows[at]], found)

    def _store(self, rows: Tensor, place: Tensor, prefixes: Prefixes) -> None:
        state = prefixes.state
        assert isinstance(state, CachedPrefixes)
        source, at = state.storage, prefixes.index
        if self._home is None:
            width = int(self._lead.max()) + self._max_tokens
            self._home = source.empty_like(2 * self._num_rows, width, self._shared)
        home = self._home
        pads = torch.zeros_like(at) if state.pads is None else state.pads[at]
        starts = pads + (home.num_shared - source.num_shared)
        lengths = prefixes.row_lengths()
        columns = int((self._lead[rows] + lengths).max())
        targets = 2 * rows + place
        # Nothing is known of a place until all of it has been copied.
        self._known[targets] = -1
        source.copy_aligned(home, at, starts, columns, targets=targets)
        self._known[targets] = lengths

    def _workspace(self, num_rows: int, columns: int) -> KVStorage:
        home = self._home
        assert home is not None
        room = columns + self._max_tokens
        work = self._work
        if work is None or work.num_rows < num_rows or work.num_columns < room:
            rows = max(num_rows, self._num_rows)
            self._work = work = home.empty_like(
                rows, home.num_columns + self._max_tokens, home.shared
            )
        work.version += 1
        return work
