"""Markov chains from a JSON file of weights."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmppl.files import Files
from lmppl.jsons import NotJson, read_json
from lmppl.lm.histories import HistoryLM, bad_table, plain_vocabulary, table_content
from lmppl.lm.protocol import Vocabulary


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
    spec = _read_json(path, content)
    tokens = spec.get("tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(t, str) for t in tokens):
        raise bad_table(path, 'at "tokens": expected a list of at least one string')
    if len(set(tokens)) != len(tokens):
        twice = next(token for token in tokens if tokens.count(token) > 1)
        raise bad_table(path, f'at "tokens": {twice!r} is listed twice')
    eos_token = spec.get("eos")
    if eos_token is not None and eos_token not in tokens:
        raise bad_table(path, f'at "eos": {eos_token!r} is not one of the tokens')
    eos = None if eos_token is None else tokens.index(eos_token)
    initial = _log_row(path, '"initial"', spec.get("initial"), len(tokens))
    table = spec.get("transition")
    if not isinstance(table, list) or len(table) != len(tokens):
        raise bad_table(path, f'at "transition": expected {len(tokens)} rows, one per token')
    rows = []
    for number, (token, weights) in enumerate(zip(tokens, table, strict=True)):
        if number == eos and isinstance(weights, list) and not any(weights):
            weights = [1.0] * len(tokens)
        rows.append(_log_row(path, f'"transition", row {number} ({token!r})', weights, len(tokens)))
    unknown = sorted(set(spec) - {"tokens", "initial", "transition", "eos"})
    if unknown:
        raise bad_table(path, f"at {unknown[0]!r}: there is no such entry")
    return MarkovLM(
        path.name,
        plain_vocabulary(tokens, eos),
        initial,
        torch.stack(rows),
        device,
    )


def _read_json(path: Path, content: bytes) -> dict[str, Any]:
    try:
        spec = read_json(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise bad_table(path, f"it is not UTF-8: {error.reason} at byte {error.start}") from error
    except NotJson as error:
        raise bad_table(path, f"it is not JSON: {error}") from error
    if not isinstance(spec, dict):
        raise bad_table(path, "expected an object with tokens, initial, transition and eos")
    return spec


def _log_row(path: Path, place: str, weights: object, size: int) -> Tensor:
    """float64 `[size]`: log of the weights, normalised."""
    if not isinstance(weights, list) or len(weights) != size:
        raise bad_table(path, f"at {place}: expected a list of {size} weights")
    for number, weight in enumerate(weights):
        if not _is_weight(weight):
            shown = repr(weight) if len(repr(weight)) <= 40 else repr(weight)[:37] + "..."
            raise bad_table(
                path, f"at {place}, weight {number}: {shown} is not a finite number >= 0"
            )
    if not any(weights):
        raise bad_table(path, f"at {place}: all weights are zero, so nothing can follow")
    row = torch.tensor([float(weight) for weight in weights], dtype=torch.float64)
    total = row.sum()
    if not bool(torch.isfinite(total)):
        raise bad_table(path, f"at {place}: the weights are too large, their sum is infinite")
    return (row / total).log()


def _is_weight(weight: object) -> bool:
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        return False
    try:
        return math.isfinite(weight) and weight >= 0
    except OverflowError:
        # An integer beyond the largest float.
        return False
