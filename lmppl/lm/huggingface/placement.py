"""Where in storage the continuations of rows go, so that little has to move."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Placement:
    """Where each distinct (parent, token) goes.

    Row `r` continues `parents[r]` with `tokens[r]`; logical row `i` is row `index[i]`; rows
    `targets` must be filled from rows `sources` first (None: no row moves).
    """

    num_rows: int
    parents: Tensor
    tokens: Tensor
    index: Tensor
    targets: Tensor | None
    sources: Tensor


def place(index: Tensor, tokens: Tensor, vocab_size: int) -> Placement:
    """Distinct continuations in as many rows, each parent's first one where the parent was."""
    pairs, inverse = torch.unique(index * vocab_size + tokens, return_inverse=True)
    num_rows = pairs.shape[0]
    parents = torch.div(pairs, vocab_size, rounding_mode="floor")
    stays = parents < num_rows
    # Sorted pairs put the continuations of one parent side by side.
    stays[1:] &= parents[1:] != parents[:-1]
    moves = ~stays
    free = torch.ones(num_rows, dtype=torch.bool, device=index.device)
    free[parents[stays]] = False
    targets = free.nonzero()[:, 0]
    rows = parents.clone()
    rows[moves] = targets
    sources = parents[moves]
    by_row = torch.empty_like(rows).index_copy_(0, rows, torch.arange(num_rows, device=rows.device))
    return Placement(
        num_rows,
        parents.index_select(0, by_row),
        (pairs - parents * vocab_size).index_select(0, by_row),
        rows.index_select(0, inverse),
        targets if targets.shape[0] else None,
        sources,
    )
