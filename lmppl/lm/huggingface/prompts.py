"""Prompts as token ids, and what does not fit into a model's context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lmppl.lm.huggingface.anatomy import num_embedded, start_id
from lmppl.lm.protocol import Prompt, Vocabulary
from lmppl.lm.refusal import refusal
from lmppl.lm.tokenization import PromptEncoder
from lmppl.records import brief

Ids = tuple[int, ...]
Sequenced = tuple[Ids, Ids]  # the token ids of a prompt, and of what follows it


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of one model: encoded once each, and refused where they do not fit."""

    name: str
    tokenizer: Any
    encoder: PromptEncoder
    num_known: int
    max_context: int | None
    device: torch.device
    _encoded: dict[Prompt, Ids] = field(default_factory=dict, repr=False)

    __repr__ = brief

    @classmethod
    def of(
        cls, model: Any, tokenizer: Any, name: str, vocab: Vocabulary, max_context: int | None
    ) -> Prompts:
        """Those of a model as transformers loads it."""
        return cls(
            name,
            tokenizer,
            PromptEncoder(tokenizer, start_id(model, tokenizer), max_context),
            num_embedded(model, vocab),
            max_context,
            next(model.parameters()).device,
        )

    def ids(self, prompt: Prompt) -> Ids:
        """The token ids of a prompt.

        Raises:
            InferenceError: LMP918, a token beyond the embedding: a tokenizer that was extended,
                with a model that was not; what `PromptEncoder` raises.
        """
        if (ids := self._encoded.get(prompt)) is None:
            ids = tuple(self.encoder(prompt))
            if max(ids) >= self.num_known:
                raise self._unknown(max(ids), prompt)
            self._encoded[prompt] = ids
        return ids

    def _unknown(self, token: int, prompt: Prompt) -> Exception:
        return refusal(
            "LMP918",
            f"the prompt has the token {token} ({self.tokenizer.convert_ids_to_tokens(token)!r}),"
            f" and {self.name} knows {self.num_known} tokens only",
            notes=(f"the prompt is {_shown(prompt)}",),
            help="its tokenizer was extended after it was trained: leave that token out, or resize"
            " and train its embedding",
        )

    def sequences(
        self, prompts: Sequence[Prompt], tokens: Tensor, lengths: Tensor
    ) -> list[Sequenced]:
        """The ids of each prompt, and of the first `lengths` of its `tokens` `[rows, length]`."""
        rows, counts = tokens.tolist(), lengths.tolist()
        return [
            (self.ids(prompt), tuple(row[:count]))
            for prompt, row, count in zip(prompts, rows, counts, strict=True)
        ]

    def require_room(self, prompt: Prompt, num_new: int) -> None:
        """A prompt and so many tokens fit the context.

        Raises:
            InferenceError: LMP912, they do not.
        """
        num_prompt = len(self.ids(prompt))
        if self.max_context is None or num_prompt + num_new <= self.max_context:
            return
        room = self.max_context - num_prompt
        if room < 1:
            message = (
                f"a prompt of {num_prompt} tokens leaves no room for a text in the "
                f"{self.max_context} tokens of context of {self.name}"
            )
            help_ = "use a shorter prompt"
        else:
            message = (
                f"a prompt of {num_prompt} tokens and a text of {num_new} do not fit "
                f"the {self.max_context} tokens of context of {self.name}"
            )
            help_ = f"use max_tokens={room} or less, or a shorter prompt"
        raise refusal("LMP912", message, notes=(f"the prompt is {_shown(prompt)}",), help=help_)

    def require_columns(self, columns: int, pads: Tensor | None) -> None:
        """Rows of so many columns, the first `pads` `[rows]` of them empty, fit the context.

        Raises:
            InferenceError: LMP912, they do not.
        """
        if self.max_context is None or columns <= self.max_context:
            return
        if pads is None or columns - int(pads.min()) > self.max_context:
            raise refusal(
                "LMP912",
                f"a prompt and its text are longer than the {self.max_context} tokens of context "
                f"of {self.name}",
                help="use a smaller max_tokens or a shorter prompt",
            )

    def right_aligned(self, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
        """The sequences `[rows, columns]`, filled with token 0 on the left, and their pads."""
        columns = max(len(sequence) for sequence in sequences)
        rows = [[0] * (columns - len(sequence)) + list(sequence) for sequence in sequences]
        tokens = torch.tensor(rows, dtype=torch.long, device=self.device)
        counts = [columns - len(sequence) for sequence in sequences]
        return tokens, torch.tensor(counts, device=self.device) if any(counts) else None


def num_shared(sequences: Sequence[Ids]) -> int:
    """How many tokens all the sequences begin with."""
    first, last = min(sequences), max(sequences)
    count = 0
    while count < min(len(first), len(last)) and first[count] == last[count]:
        count += 1
    return count


def _shown(prompt: Prompt) -> str:
    return repr(prompt) if len(repr(prompt)) <= 60 else repr(prompt)[:57] + "..."
