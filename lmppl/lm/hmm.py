"""Hidden Markov models from a JSON file of weights."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lmppl.files import Files
from lmppl.lm.histories import HistoryLM, bad_table, plain_vocabulary, table_content
from lmppl.lm.protocol import Prompt, Vocabulary
from lmppl.lm.states import StateTables
from lmppl.lm.table_files import log_row, read_object, refuse_others, tokens_and_end
from lmppl.sequences.log_space import LogMatrix

_ENTRIES = ("tokens", "initial", "transition", "emission", "eos")


class HmmLM(HistoryLM):
    """A hidden Markov model: in a hidden state a token is drawn, and then the next state.

    The next token has the distribution Σ_s p(s | tokens so far) e(s, ·), where the belief p(s | …)
    is carried forward a token at a time (Rabiner 1989, *A tutorial on hidden Markov models*,
    section III A), in log space, so that no belief is ever rounded to zero. After a token that has
    probability zero, of which no belief is left, the next state is believed as if the token had
    not been seen.
    """

    def __init__(
        self,
        name: str,
        vocab: Vocabulary,
        log_initial: Tensor,
        log_transition: Tensor,
        log_emission: Tensor,
        device: str | torch.device | None = None,
    ) -> None:
        """`log_initial` is `[S]`, `log_transition` `[S, S]` (from, to), `log_emission` `[S, V]`."""
        super().__init__(name, vocab, device)
        self.log_initial = log_initial.to(self.device)
        self.log_transition = log_transition.to(self.device)
        self.log_emission = log_emission.to(self.device)

    @property
    def digest(self) -> str:
        """SHA-256 of the vocabulary and of the normalised tables."""
        sha = hashlib.sha256(self.vocab.digest.encode())
        for table in (self.log_initial, self.log_transition, self.log_emission):
            sha.update(table.cpu().numpy().tobytes())
        return sha.hexdigest()

    def log_probs(self, tokens: Tensor, starts: Tensor) -> Tensor:
        """float64 `[U, vocab]`: the tokens of every state, weighted by what is believed of it."""
        return self.log_probs_from(self.remembered(tokens, starts))

    def remembered(self, tokens: Tensor, starts: Tensor) -> Tensor:
        """float64 `[U, states]`: the log belief in each state before the next token."""
        memory = self.log_initial.expand(tokens.shape[0], -1)
        for column in range(tokens.shape[1]):
            begun = (starts <= column)[:, None]
            memory = torch.where(begun, self.after(memory, tokens[:, column]), memory)
        return memory

    def after(self, memory: Tensor, tokens: Tensor) -> Tensor:
        seen = memory + self.log_emission.T[tokens]
        total = torch.logsumexp(seen, -1, keepdim=True)
        seen = torch.where(total == -math.inf, memory, seen - total)
        return LogMatrix.of(seen).times(self.log_transition)

    def log_probs_from(self, memory: Tensor) -> Tensor:
        found = LogMatrix.of(memory).times(self.log_emission)
        return found - torch.logsumexp(found, -1, keepdim=True)

    def states(self) -> StateTables:
        """The tables of the file."""
        return StateTables(self.log_emission, self.log_initial, log_transition=self.log_transition)

    def token_log_probs(self, prompts: Sequence[Prompt], tokens: Tensor, lengths: Tensor) -> Tensor:
        """float64 `[rows, length]`: log p(token t | tokens before t); 0 past `lengths`."""
        for prompt in prompts:
            self.encode_prompt(prompt)
        tokens, lengths = tokens.to(self.device), lengths.to(self.device)
        result = torch.zeros(tokens.shape, dtype=torch.float64, device=self.device)
        memory = self.log_initial.expand(tokens.shape[0], -1)
        for step in range(int(lengths.max()) if len(lengths) else 0):
            drawn = tokens[:, step]
            found = self.log_probs_from(memory).gather(1, drawn[:, None]).squeeze(1)
            result[:, step] = torch.where(lengths > step, found, 0.0)
            memory = self.after(memory, drawn)
        return result


def load_hmm(
    path: str | Path,
    *,
    base_dir: str | Path | None = None,
    device: str | torch.device | None = None,
    files: Files | None = None,
) -> HmmLM:
    """The hidden Markov model of a JSON file.

    `{"tokens": [...], "initial": [w, ...], "transition": [[w, ...], ...], "emission": [[w, ...],
    ...], "eos": null or a token}`: one weight of `initial` for each hidden state; one row of
    `transition` for each, with a weight for each; one row of `emission` for each, with a weight for
    each token.  Weights are not negative and are normalised by row.  `files` says what may be
    read; without it everything may.

    Raises:
        InferenceError: LMP916, the file cannot be read as such.
    """
    content = table_content(path, base_dir, files)
    path = Path(base_dir or ".") / path
    spec = read_object(path, content, _ENTRIES)
    tokens, eos = tokens_and_end(path, spec)
    weights = spec.get("initial")
    if not isinstance(weights, list) or not weights:
        raise bad_table(path, 'at "initial": expected a list of at least one weight, one per state')
    num_states = len(weights)
    initial = log_row(path, '"initial"', weights, num_states)
    transition = _log_rows(path, spec, "transition", num_states, num_states)
    emission = _log_rows(path, spec, "emission", num_states, len(tokens))
    refuse_others(path, spec, _ENTRIES)
    vocab = plain_vocabulary(tokens, eos)
    return HmmLM(path.name, vocab, initial, transition, emission, device)


def _log_rows(
    path: Path, spec: dict[str, object], entry: str, num_states: int, size: int
) -> Tensor:
    table = spec.get(entry)
    if not isinstance(table, list) or len(table) != num_states:
        raise bad_table(
            path, f'at "{entry}": expected {num_states} rows, one per weight of "initial"'
        )
    rows = enumerate(table)
    return torch.stack([log_row(path, f'"{entry}", row {i}', row, size) for i, row in rows])
