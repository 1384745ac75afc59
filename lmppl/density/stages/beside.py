"""Language models beside the prior, which propose tokens in its place."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmppl.lm.protocol import LanguageModel, Prefixes
from lmppl.sequences.drawing import IDENTITY_WARP, Warp


@dataclass(frozen=True, slots=True)
class Proposed:
    """What proposes tokens in the prior's place: a language model of the same vocabulary.

    `warp` changes its logits as that of a site does. Without a `floor` it must be able to draw all
    that the prior can. With one the proposal is a mixture of whole texts, of the language model's
    with probability 1 − `floor` and of the prior's with the rest, each kept to what masks allow.
    `looks_ahead` then makes the ratio of the mixture to the prior a twist as well, so that it comes
    into the weights when a text is whole: what is preferred for what it leads to costs nothing
    before that is seen.
    """

    lm: LanguageModel
    warp: Warp = IDENTITY_WARP
    floor: float | None = None
    looks_ahead: bool = False


@dataclass(frozen=True, slots=True)
class Beside:
    """What proposes tokens, and what its language model computed.

    `prefixes` has the same rows as those of the prior beside it. `log_odds` `[open]` float64, where
    there is a floor ε, is the log of how much likelier its component is than the prior's given the
    tokens so far, log((1 − ε) g(x≤t)) − log(ε p(x≤t)).
    """

    proposal: Proposed
    prefixes: Prefixes
    log_odds: Tensor | None = None

    @classmethod
    def begin(cls, proposal: Proposed, prefixes: Prefixes) -> Beside:
        """Before the first token."""
        floor = proposal.floor
        if floor is None:
            return cls(proposal, prefixes)
        odds = -math.inf if floor >= 1.0 else math.log1p(-floor) - math.log(floor)
        index = prefixes.index
        return cls(proposal, prefixes, torch.full_like(index, odds, dtype=torch.float64))

    def select(self, indices: Tensor) -> Beside:
        odds = None if self.log_odds is None else self.log_odds[indices]
        return replace(self, prefixes=self.prefixes.select(indices), log_odds=odds)

    def extend(self, tokens: Tensor) -> Beside:
        return replace(self, prefixes=self.proposal.lm.extend(self.prefixes, tokens))

    def log_probs(self) -> Tensor:
        """log g of every next token, `[open, vocab]` float64; −inf where it is no number: a guide
        that has run away has nothing to say."""
        log_probs = self.proposal.warp(self.prefixes.row_logits()).double().log_softmax(-1)
        return torch.where(log_probs.isnan(), -math.inf, log_probs)
