"""Where in their texts particles are compared: after every token, at the ends of words, or at the
end of the text."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lmppl.density import Stage
from lmppl.inference.smc.state import State

_SPACE = b" \t\r\n\f\v"


def compared_weights(at: str, before: State, after: State, stage: Stage) -> Tensor:
    """What particles are compared by after a step, log weights `[populations, particles]`.

    Of a text that is not complete, its weight when its last word had ended, where particles are
    compared at words, and its weight at the start, where they are compared at the end of texts.
    Resampled by these, a particle goes on with what it has gained since: so the estimates are as
    unbiased as they were, and a score of half a word decides nothing.
    """
    weight = after.log_weight
    if at == "token" or after.run is None or stage.text is None:
        return weight
    run: Any = after.run
    compared = before.compared.view(-1)
    if at == "word":
        last = run.tokens.gather(1, (run.positions - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1)
        begins = _beginning_words(stage.text.lm.vocab.token_bytes).to(last.device)[last]
        # A token that begins a word says that the one before it has ended.
        compared = torch.where(begins, before.log_weight.view(-1), compared)
        is_open = torch.zeros(run.num_rows, dtype=torch.bool, device=last.device)
        is_open[run.open] = True
        compared = torch.where(is_open, compared, weight.view(-1))
    return compared.view_as(weight).masked_fill(weight == -math.inf, -math.inf)


@lru_cache(maxsize=8)
def _beginning_words(tokens: tuple[bytes, ...]) -> Tensor:
    """Which tokens begin a word: those that begin with white space, bool `[vocab]`."""
    return torch.tensor([bytes_[:1] in _SPACE and bytes_ != b"" for bytes_ in tokens])
