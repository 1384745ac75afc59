"""The values of a text site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from lmppl.evaluation.columns import TextColumn


@dataclass(frozen=True, slots=True)
class TextBatch:
    """The finished texts of one site, one per row: a `SiteValue`.

    `tokens` is `[rows, max_tokens]`, meaningful below `lengths` `[rows]` (which counts a final end
    token); `finished` `[rows]` is true where the text ended by an end token or a stop string.
    `num_tokens` `[rows]` is the length without the end token. `strings` are the texts' values.
    `token_log_prob` and `token_log_mass`, `[rows, max_tokens]` or None, are what each token cost:
    its log probability under the prior and the log of the probability that the mask allowed.
    """

    tokens: Tensor
    lengths: Tensor
    finished: Tensor
    num_tokens: Tensor
    strings: tuple[str, ...]
    token_log_prob: Tensor | None = None
    token_log_mass: Tensor | None = None

    def __repr__(self) -> str:
        shown = ", ".join(repr(text) for text in self.strings[:3])
        return f"<{len(self.strings)} texts: {shown}{', …' if len(self.strings) > 3 else ''}>"

    def select(self, indices: Tensor) -> TextBatch:
        """The rows `indices` (LongTensor), in that order, with repeats."""
        strings = self.strings
        return TextBatch(
            tokens=self.tokens[indices],
            lengths=self.lengths[indices],
            finished=self.finished[indices],
            num_tokens=self.num_tokens[indices],
            strings=tuple(strings[i] for i in indices.tolist()),
            token_log_prob=None if self.token_log_prob is None else self.token_log_prob[indices],
            token_log_mass=None if self.token_log_mass is None else self.token_log_mass[indices],
        )

    def merge(self, other: TextBatch, take: Tensor) -> TextBatch:
        """This batch with the rows of `other` where `take` (bool `[rows]`) is true."""
        chosen = take.tolist()
        values: dict[str, Any] = {}
        for column in fields(self):
            mine, theirs = getattr(self, column.name), getattr(other, column.name)
            if column.name == "strings":
                pairs = zip(mine, theirs, chosen, strict=True)
                values[column.name] = tuple(b if t else a for a, b, t in pairs)
            elif mine is None:
                values[column.name] = None
            else:
                where = take.view(-1, *[1] * (mine.dim() - 1))
                values[column.name] = torch.where(where, theirs, mine)
        return TextBatch(**values)

    def concatenate(self, others: Sequence[TextBatch]) -> TextBatch:
        """These rows, and then those of the others in order."""
        columns: dict[str, Any] = {}
        for column in fields(self):
            parts = [getattr(batch, column.name) for batch in (self, *others)]
            if column.name == "strings":
                columns[column.name] = tuple(text for part in parts for text in part)
            elif any(part is None for part in parts):
                columns[column.name] = None
            else:
                columns[column.name] = torch.cat(parts)
        return TextBatch(**columns)

    def differs(self, other: TextBatch) -> Tensor:
        """Where the tokens are different ones, bool `[rows]`."""
        return (self.tokens != other.tokens).any(-1) | (self.lengths != other.lengths)

    def log_prob(self) -> Tensor:
        """The recorded log probability under the prior, `[rows]` float64."""
        assert self.token_log_prob is not None
        return self.token_log_prob.sum(-1)

    def log_mass(self, where: Tensor | None = None) -> Tensor:
        """The log of what the masks allowed, at all tokens or `where` (bool `[rows, length]`)."""
        assert self.token_log_mass is not None
        inside = torch.ones_like(self.tokens, dtype=torch.bool) if where is None else where
        return torch.where(inside, self.token_log_mass, 0.0).sum(-1)

    def light(self) -> TextBatch:
        """The texts without what each token cost."""
        return replace(self, token_log_prob=None, token_log_mass=None)

    def token_ids(self) -> tuple[Tensor, Tensor]:
        """The tokens and the lengths."""
        return self.tokens, self.lengths

    def kept(self) -> dict[str, NDArray[Any]]:
        """What the tokens do not tell: whether they ended, and what their end token counts."""
        return {
            "finished": self.finished.cpu().numpy(),
            "num_tokens": self.num_tokens.cpu().numpy(),
        }

    def column(self) -> TextColumn:
        """The texts as expressions see them."""
        return TextColumn(
            strings=self.strings,
            num_tokens=self.num_tokens.cpu().numpy(),
            finished=self.finished.cpu().numpy(),
            token_ids=self.tokens,
        )

    def listed(self) -> list[object]:
        """The strings."""
        return list(self.strings)
