"""Markov chains from a JSON file of weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from lmppl.files import Files
from lmppl.lm.histories import HistoryLM, bad_table, plain_vocabulary, table_content
from lmppl.lm.protocol import Vocabulary
from lmppl.lm.states import StateTables
from lmppl.lm.table_files import log_row, read_object, refuse_others, tokens_and_end

_ENTRIES = ("tokens", "initial", "transition", "eos")


class MarkovLM(HistoryLM):
    """A Markov chain: the next token depends on the last one alone."""

    def __init__(
        self,
        name: str,
        vocab: Vocabulary,
        log_initial: Tensor,
        log_transition: Tensor,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(name, vocab, device)
        # Row `size` is what begins a text.
        self._table = torch.cat([log_transition, log_initial[None]]).to(self.device)

    @property
    def digest(self) -> str:
        """SHA-256 of the vocabulary and of the normalised table."""
        sha = hashlib.sha256(self.vocab.digest.encode())
        sha.update(self._table.cpu().numpy().tobytes())
        return sha.hexdigest()

    def log_probs(self, tokens: Tensor, starts: Tensor) -> Tensor:
        """float64 `[U, vocab]`: the row of the last token, or the initial one."""
        if tokens.shape[1] == 0:
            return self._table[-1].expand(tokens.shape[0], -1)
        last = torch.where(starts < tokens.shape[1], tokens[:, -1], self.vocab.size)
        return self._table.index_select(0, last)

    def states(self) -> StateTables:
        """A state for each last token, and one for none."""
        every = torch.arange(self.vocab.size, device=self.device)
        return StateTables(self._table, self.vocab.size, successor=every)


def load_markov(
    path: str | Path,
    *,
    base_dir: str | Path | None = None,
    device: str | torch.device | None = None,
    files: Files | None = None,
) -> MarkovLM:
    """The Markov chain of a JSON file.

    `{"tokens": [...], "initial": [w, ...], "transition": [[w, ...], ...], "eos": null or a token}`,
    with non-negative weights that are normalised by row.  The row of `eos` may be left all zero,
    since nothing follows it.  `files` says what may be read; without it everything may.

    Raises:
        InferenceError: LMP916, the file cannot be read as such.
    """
    content = table_content(path, base_dir, files)
    path = Path(base_dir or ".") / path
    spec = read_object(path, content, _ENTRIES)
    tokens, eos = tokens_and_end(path, spec)
    initial = log_row(path, '"initial"', spec.get("initial"), len(tokens))
    table = spec.get("transition")
    if not isinstance(table, list) or len(table) != len(tokens):
        raise bad_table(path, f'at "transition": expected {len(tokens)} rows, one per token')
    rows = []
    for number, (token, weights) in enumerate(zip(tokens, table, strict=True)):
        if number == eos and isinstance(weights, list) and not any(weights):
            weights = [1.0] * len(tokens)
        rows.append(log_row(path, f'"transition", row {number} ({token!r})', weights, len(tokens)))
    refuse_others(path, spec, _ENTRIES)
    return MarkovLM(
        path.name,
        plain_vocabulary(tokens, eos),
        initial,
        torch.stack(rows),
        device,
    )
