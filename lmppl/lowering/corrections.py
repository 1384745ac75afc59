"""Trainable corrections of a fixed language model: logits that start at zero.

The guide of a language model that has no trainable weights of its own (a table, a function of the
host) is that model with a correction added to its logits. A correction is a function of the
context (binding and earlier discrete choices) and of the tokens so far; its state is a tensor with
a row per text, so that rows are reordered by indexing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmppl.lowering.sites import table_rates

# Above this many entries a table by full prefix gives way to a recurrent network.
MAX_TABLE_ENTRIES = 1 << 21


def num_prefixes(vocab_size: int, max_tokens: int) -> int:
    """How many sequences are shorter than `max_tokens`."""
    return sum(vocab_size**length for length in range(max_tokens))


class TableCorrection(nn.Module):
    """A logit for every prefix and token: any distribution over the texts can be reached.

    What prefixes of one length and one last token have in common is learnt together, in a table
    of its own that is added: most prefixes are drawn too rarely to learn it each for itself.
    """

    def __init__(self, num_contexts: int, vocab_size: int, max_tokens: int) -> None:
        super().__init__()
        self.vocab_size, self.max_tokens = vocab_size, max_tokens
        self.num_prefixes = num_prefixes(vocab_size, max_tokens)
        rows = num_contexts * self.num_prefixes
        self.logits = nn.Parameter(torch.zeros(rows, vocab_size, dtype=torch.float64))
        rows = num_contexts * max_tokens * (vocab_size + 1)
        self.shared = nn.Parameter(torch.zeros(rows, vocab_size, dtype=torch.float64))

    def rates(self, table_lr: float, num_draws: int) -> dict[str, float]:
        """The settings of Adam."""
        return table_rates(table_lr, num_draws)

    def initial(self, contexts: Tensor) -> Tensor:
        """The state before the first token, `[rows, 4]`, for contexts `[rows]`.

        Its columns are the context, the number of the prefix, its length and its last token.
        """
        nothing = torch.zeros_like(contexts)
        return torch.stack([contexts, nothing, nothing, nothing + self.vocab_size], -1)

    def advance(self, state: Tensor, tokens: Tensor) -> Tensor:
        """The state after one more token `[rows]`."""
        contexts, number, length, _ = state.unbind(-1)
        # Prefixes are numbered level by level, as the nodes of a complete tree.
        number = number * self.vocab_size + 1 + tokens
        return torch.stack([contexts, number, length + 1, tokens], -1)

    def forward(self, state: Tensor) -> Tensor:
        """The correction of the next token's logits, `[rows, vocab]`."""
        contexts, number, length, last = state.unbind(-1)
        # After the last token nothing is asked for; the state only has to stay inside the table.
        number = number.clamp(max=self.num_prefixes - 1)
        length = length.clamp(max=self.max_tokens - 1)
        common = (contexts * self.max_tokens + length) * (self.vocab_size + 1) + last
        return self.logits[contexts * self.num_prefixes + number] + self.shared[common]


class RecurrentCorrection(nn.Module):
    """A small GRU over the tokens so far, whose output layer starts at zero."""

    def __init__(self, num_contexts: int, vocab_size: int, hidden_size: int = 64) -> None:
        super().__init__()
        self.context = nn.Embedding(num_contexts, hidden_size)
        self.token = nn.Embedding(vocab_size, hidden_size)
        self.cell = nn.GRUCell(hidden_size, hidden_size)
        self.head = nn.Linear(hidden_size, vocab_size)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def rates(self, table_lr: float, num_draws: int) -> dict[str, float]:
        """The settings of Adam: a small network that starts from nothing, between a table and
        trained weights."""
        return {"lr": table_lr / 5.0}

    def initial(self, contexts: Tensor) -> Tensor:
        """The state before the first token, `[rows, hidden]`, for contexts `[rows]`."""
        state: Tensor = self.context(contexts).tanh()
        return state

    def advance(self, state: Tensor, tokens: Tensor) -> Tensor:
        """The state after one more token `[rows]`."""
        new: Tensor = self.cell(self.token(tokens), state)
        return new

    def forward(self, state: Tensor) -> Tensor:
        """The correction of the next token's logits, `[rows, vocab]`."""
        logits: Tensor = self.head(state)
        return logits


Correction = TableCorrection | RecurrentCorrection


def make_correction(num_contexts: int, vocab_size: int, max_tokens: int) -> Correction:
    """A table by full prefix where that is small, a recurrent network elsewhere."""
    if max_tokens * vocab_size <= MAX_TABLE_ENTRIES:
        entries = num_contexts * num_prefixes(vocab_size, max_tokens) * vocab_size
        if entries <= MAX_TABLE_ENTRIES:
            return TableCorrection(num_contexts, vocab_size, max_tokens)
    return RecurrentCorrection(num_contexts, vocab_size)
