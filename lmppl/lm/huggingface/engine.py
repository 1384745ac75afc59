"""What steps and scores the rows of a model: with a cache, or without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from torch import Tensor

from lmppl.lm.protocol import PrefixArchive, Prefixes, Prompt

# Prefixes of given continuations: (prompts, tokens, lengths) -> prefixes.
Resume = Callable[[Sequence[Prompt], Tensor, Tensor], Prefixes]


class Engine(Protocol):
    """Rows of right-aligned tokens `[rows, columns]` through a model.

    `pads` `[rows]` are the first columns of the rows (None: all 0); the state of prefixes is the
    engine's own. There are two, and which one steps a model is found out once, at loading.
    """

    def prefill(
        self, tokens: Tensor, pads: Tensor | None, num_shared: int, room: int
    ) -> tuple[object, Tensor]:
        """State and next-token logits `[rows, vocab]`.

        The first `num_shared` tokens of all rows are the same; `room` columns will be needed.
        """
        ...

    def extend(self, prefixes: Prefixes, tokens: Tensor) -> Prefixes:
        """Every logical row followed by its token; rows that are then equal are computed once."""
        ...

    def archive(self, num_rows: int, max_tokens: int, resume: Resume) -> PrefixArchive | None:
        """Room for what was computed, or None where keeping it saves nothing."""
        ...

    def all_logits(
        self,
        tokens: Tensor,
        pads: Tensor | None,
        *,
        gradient: bool,
        needed_from: int,
        num_shared: int,
    ) -> Iterator[tuple[int, Tensor]]:
        """Logits of every column from `needed_from` on, in chunks with their first column."""
        ...
