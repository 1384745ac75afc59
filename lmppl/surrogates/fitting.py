"""Fitting a surrogate: which length of contexts and which discount, by texts that are held out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from lmppl.records import brief
from lmppl.surrogates.backoff import BackoffLM
from lmppl.surrogates.counting import BUDGET, Budget, count_contexts
from lmppl.surrogates.counts import NOTHING, ContextCounts, Corpus
from lmppl.surrogates.smoothing import smoothed

# Of the texts, this share is held out to choose by; all of them are counted in the end.
_HELD_OUT = 0.1
ORDERS = (2, 3)
# Longer contexts are taken where they save as many nats per token: they cost time ever after.
_WORTH = 0.01
DISCOUNTS = (0.4, 0.6, 0.75, 0.85, 0.95)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A surrogate: its counts and discounts, which are all of it, and the model that they make.

    `held_out` are the nats per token of texts that were not counted when it was measured, NaN
    where there were none.
    """

    counts: ContextCounts
    discounts: tuple[float, ...]
    model: BackoffLM
    held_out: float

    __repr__ = brief

    @classmethod
    def of(cls, counts: ContextCounts, discounts: tuple[float, ...], held_out: float) -> Fitted:
        return cls(counts, discounts, BackoffLM.of(counts, smoothed(counts, discounts)), held_out)

    @property
    def longest(self) -> int:
        """Tokens of its longest contexts."""
        return int(self.counts.levels().max())

    def shorter(self, longest: int) -> BackoffLM:
        """The model of the same counts with contexts of at most so many tokens."""
        counts = self.counts.shorter(longest)
        return BackoffLM.of(counts, smoothed(counts, self.discounts[:longest]))


def fit(corpus: Corpus, budget: Budget = BUDGET, orders: tuple[int, ...] = ORDERS) -> Fitted:
    """The n-gram model of a corpus that gives texts held out of it the least nats per token."""
    counted, held = corpus.split(_HELD_OUT)
    if not held.num_tokens:
        order = min(orders)
        counts = count_contexts(corpus, order, budget)
        return Fitted.of(counts, (DISCOUNTS[-1],) * (order - 1), float("nan"))
    best: tuple[float, int, tuple[float, ...]] = math.inf, min(orders), ()
    for order in sorted(orders):
        counts = count_contexts(counted, order, budget)
        tried = []
        for discount in DISCOUNTS:
            discounts = (discount,) * (order - 1)
            model = BackoffLM.of(counts, smoothed(counts, discounts))
            tried.append((nats_per_token(model, held), order, discounts))
        if min(tried)[0] < best[0] - _WORTH:
            best = min(tried)
    loss, order, discounts = best
    return Fitted.of(count_contexts(corpus, order, budget), discounts, loss)


def nats_per_token(model: BackoffLM, corpus: Corpus) -> float:
    """Minus the mean log probability of the tokens of a corpus, in nats."""
    rows = torch.from_numpy(corpus.rows)
    leads, which = torch.unique(rows[:, : corpus.lead], dim=0, return_inverse=True)
    states = [
        model.state_after([token for token in lead if token != NOTHING]) for lead in leads.tolist()
    ]
    beliefs = torch.tensor(states)[which]
    total, num_tokens = 0.0, 0
    for column in range(corpus.lead, rows.shape[1]):
        live = (rows[:, column] != NOTHING).nonzero().squeeze(-1)
        if not len(live):
            break
        tokens = rows[live, column]
        total -= float(model.log_prob_of(beliefs[live], tokens).sum())
        num_tokens += len(live)
        beliefs = beliefs.index_copy(0, live, model.advance(beliefs[live], tokens))
    return total / num_tokens
