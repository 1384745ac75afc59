"""Log probabilities of given texts, batch by batch, without holding the scores of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmppl.lm.forward import RowLimit
from lmppl.lm.huggingface.calling import Calling
from lmppl.lm.huggingface.engine import Engine
from lmppl.lm.huggingface.prompts import Prompts, Sequenced, num_shared
from lmppl.lm.kernels import without_plans
from lmppl.lm.protocol import Prompt
from lmppl.records import brief


@dataclass(frozen=True, slots=True)
class Scoring:
    """What one model says of texts that are given to it."""

    engine: Engine
    calling: Calling
    limit: RowLimit
    prompts: Prompts
    vocab_size: int

    __repr__ = brief

    @property
    def device(self) -> torch.device:
        return self.calling.device

    def token_log_probs(
        self, prompts: Sequence[Prompt], tokens: Tensor, lengths: Tensor, *, gradient: bool
    ) -> Tensor:
        """float32 `[rows, length]`; 0 at and past `lengths` `[rows]`. Equal rows are scored once.

        With `gradient`, in one pass that can be differentiated.
        """
        sequences = self.prompts.sequences(prompts, tokens, lengths)
        for (_, ids), prompt in zip(sequences, prompts, strict=True):
            self.prompts.require_room(prompt, len(ids))
        result = torch.zeros(tokens.shape, dtype=torch.float32, device=self.device)
        if not sequences or tokens.shape[1] == 0:
            return result
        distinct = list(dict.fromkeys(sequences))
        distinct.sort(key=lambda sequence: len(sequence[0]) + len(sequence[1]))
        rank = {sequence: row for row, sequence in enumerate(distinct)}
        index = torch.tensor([rank[sequence] for sequence in sequences], device=self.device)
        rows = []
        budget = 2**62 if gradient else self.calling.budgets.max_log_probs
        for batch in self._batches(distinct, budget):
            with torch.set_grad_enabled(gradient and torch.is_grad_enabled()):
                rows += self._score(batch, tokens.shape[1], gradient)
        return torch.stack(rows).index_select(0, index)

    @without_plans
    def sequence_logits(self, prompts: Sequence[Prompt], tokens: Tensor, lengths: Tensor) -> Tensor:
        """`[rows, length, vocab]`: untempered logits of the token at every position of given texts.

        In one pass without a cache that can be differentiated with respect to the model's
        parameters.  What stands at and past `lengths` `[rows]` is meaningless.
        """
        width = tokens.shape[1]
        longest = int(lengths.max())
        for prompt in prompts:
            self.prompts.require_room(prompt, longest)
        encoded = [self.prompts.ids(prompt) for prompt in prompts]
        # Filled on the right: a causal model needs no mask for that.
        columns = max(map(len, encoded)) + width - 1
        whole = [
            (list(prompt_ids) + row[:-1] + [0] * columns)[:columns]
            for prompt_ids, row in zip(encoded, tokens.tolist(), strict=True)
        ]
        first = min(map(len, encoded)) - 1
        options: dict[str, Any] = {}
        if self.calling.keeps_logits:
            options["logits_to_keep"] = columns - first
        logits: Tensor = self.calling.model(
            input_ids=torch.tensor(whole, dtype=torch.long, device=self.device),
            use_cache=False,
            **options,
        ).logits[:, -(columns - first) :]
        starts = [len(prompt_ids) - 1 - first for prompt_ids in encoded]
        if not any(starts):
            return logits[:, :width]
        rows = torch.arange(len(starts), device=self.device).unsqueeze(-1)
        offsets = torch.tensor(starts, device=self.device).unsqueeze(-1)
        return logits[rows, offsets + torch.arange(width, device=self.device)]

    def _batches(
        self, sequences: Sequence[Sequenced], budget: int
    ) -> Iterator[Sequence[Sequenced]]:
        """Consecutive runs of `sequences`, longest last, that fit the budget of log probs."""
        first, most = 0, self.limit.value
        while first < len(sequences):
            last = first + 1
            while last < len(sequences):
                count = last + 1 - first
                width = sum(map(len, sequences[last]))
                if count * width * self.vocab_size > budget or (most is not None and count > most):
                    break
                last += 1
            yield sequences[first:last]
            first = last

    def _score(self, sequences: Sequence[Sequenced], width: int, gradient: bool) -> list[Tensor]:
        """A row `[width]` of token log probs for each sequence."""
        # The last token of a sequence is scored but never fed.
        fed = [
            (prompt_ids + ids)[: len(prompt_ids) + max(0, len(ids) - 1)]
            for prompt_ids, ids in sequences
        ]
        scored = torch.zeros(len(sequences), width, dtype=torch.long)
        for row, (_, ids) in enumerate(sequences):
            scored[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        scored = scored.to(self.device)
        aligned, pads = self.prompts.right_aligned(fed)
        columns = aligned.shape[1]
        counts = torch.tensor([len(ids) for _, ids in sequences], device=self.device)
        # Column c of row i predicts its token `c - (columns - counts[i])`.
        offsets = columns - counts.clamp(min=1)
        total = torch.zeros(len(sequences), width, dtype=torch.float32, device=self.device)
        place = torch.arange(width, device=self.device) + offsets[:, None]
        live = torch.arange(width, device=self.device) < counts[:, None]
        for first, logits in self.engine.all_logits(
            aligned,
            pads,
            gradient=gradient,
            needed_from=columns - width,
            num_shared=num_shared([prompt_ids for prompt_ids, _ in sequences]),
        ):
            last = first + logits.shape[1]
            here = live & (place >= first) & (place < last)
            at = (place - first).clamp(0, logits.shape[1] - 1)
            wanted = _gathered(logits, at, scored)
            total = total + torch.where(here, wanted, 0.0)
        return list(total)


def _gathered(logits: Tensor, columns: Tensor, tokens: Tensor) -> Tensor:
    """float32 `[rows, width]`: log softmax of `logits[row, columns]` at `tokens`."""
    logits = logits.float()
    normaliser = logits.logsumexp(-1).gather(1, columns)
    rows = torch.arange(logits.shape[0], device=logits.device)[:, None]
    return logits[rows, columns, tokens] - normaliser
