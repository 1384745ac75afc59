"""A text site inside Pyro: padded token ids."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from lmppl.density import SiteRows, TextBatch, TextStage
from lmppl.density.steering.automaton import stop_automata
from lmppl.lm.huggingface import HuggingFaceLM
from lmppl.lowering.distribution import TokenSequences, padding_token, read_tokens
from lmppl.lowering.sites import Batch, SiteValues
from lmppl.lowering.text_guides import CorrectedGuide, NetworkGuide, TextGuide


class LoweredText:
    """A text site, whose values are token ids `[max_tokens]`, padded after the end."""

    event_dim = 1

    def __init__(self, stage: TextStage) -> None:
        self.stage = stage

    def prior(self, rows: SiteRows, batch: Batch) -> TokenSequences:
        """The language model's distribution after each row's prompt."""
        return TokenSequences(self.stage, rows.prompts, index=batch.index, marks=batch.marks)

    def read(self, rows: SiteRows, value: Tensor) -> TextBatch:
        """The texts in padded token ids `[rows, max_tokens]`."""
        stops = stop_automata(self.stage, rows.prompts)
        return read_tokens(self.stage, rows.prompts, value, stops)[0]

    def written(self, value: TextBatch) -> Tensor:
        """The token ids, padded, `[rows, max_tokens]`."""
        tokens, stage = value.tokens, self.stage
        shape = (tokens.shape[0], stage.max_tokens)
        padded = torch.full(shape, padding_token(stage), device=tokens.device)
        columns = min(tokens.shape[1], stage.max_tokens)
        inside = torch.arange(columns, device=padded.device) < value.lengths.unsqueeze(-1)
        padded[:, :columns] = torch.where(inside, tokens[:, :columns], padded[:, :columns])
        return padded

    def given(self, values: SiteValues) -> Tensor:
        """Token ids, or strings where the language model has a tokenizer, as padded token ids."""
        stage = self.stage
        if isinstance(values, Tensor) or (len(values) and not isinstance(values[0], str)):
            rows = [[int(token) for token in row] for row in cast(Any, values)]
        else:
            rows = [self._tokenized(str(value)) for value in values]
        shape = (len(rows), stage.max_tokens)
        padded = torch.full(shape, padding_token(stage), device=stage.device)
        for number, row in enumerate(rows):
            row = row[: stage.max_tokens]
            ends = [i for i, token in enumerate(row) if token in stage.lm.vocab.eos_ids]
            row = row[: ends[0] + 1] if ends else row
            padded[number, : len(row)] = torch.tensor(row, dtype=torch.long)
        return padded

    def _tokenized(self, text: str) -> list[int]:
        stage = self.stage
        tokenizer = getattr(stage.lm, "tokenizer", None)
        if tokenizer is None:
            raise ValueError(f"{stage.lm.name} has no tokenizer: give token ids for {stage.name}")
        ids = list(tokenizer.encode(text, add_special_tokens=False))
        if len(ids) < stage.max_tokens and not stage.stopping:
            ids.append(padding_token(stage))
        return ids

    def guide(self, num_contexts: int, *, kind: str, lora_rank: int) -> TextGuide:
        """A copy of a network, or a language model without weights with a correction beside it."""
        lm = self.stage.lm
        if isinstance(lm, HuggingFaceLM):
            return NetworkGuide(self.stage, lm, lora_rank=lora_rank if kind == "lora" else None)
        return CorrectedGuide(self.stage, num_contexts)
