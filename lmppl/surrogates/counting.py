"""Counting a corpus, and which contexts are worth a state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmppl.surrogates.counts import NOTHING, ContextCounts, Corpus, Floats, Ints, find

# The discount by which contexts are judged; how those that are kept are smoothed is another matter.
_DISCOUNT = 0.75


@dataclass(frozen=True, slots=True)
class Budget:
    """How large the tables may become: states of the model, and counted (context, token) pairs."""

    states: int = 6_000
    arcs: int = 300_000


BUDGET = Budget()


def count_contexts(corpus: Corpus, order: int, budget: Budget) -> ContextCounts:
    """Counts after contexts of up to `order` − 1 tokens.

    A context is kept where it says more than the shorter one: by the nats that the corpus becomes
    more probable by its discounted counts, the best first (as Stolcke 1998, arXiv cs/0006025,
    prunes). Contexts of one token come before those of two where both want the last states.
    """
    vocab, lead = corpus.vocab_size, corpus.lead
    body = corpus.rows[:, lead:]
    text, column = (body != NOTHING).nonzero()
    tokens = body[text, column]
    # The context of every token so far, and the first of its tokens; NOTHING where it has none.
    context = np.zeros(len(tokens), np.int64)
    counts = _root(vocab, tokens)
    level_start = 0
    for level in range(1, order):
        before = column + lead - level
        older = np.where(before >= 0, corpus.rows[text, np.maximum(before, 0)], NOTHING)
        possible = (context >= level_start) & (older != NOTHING)
        key = np.where(possible, context * (vocab + 1) + older, NOTHING)
        room = budget.states - counts.num_contexts, budget.arcs - counts.num_arcs
        level_start = counts.num_contexts
        counts, context = _with_level(counts, key, tokens, context, room)
        if counts.num_contexts == level_start:
            break
    return counts


def _root(vocab: int, tokens: Ints) -> ContextCounts:
    token, count = np.unique(tokens, return_counts=True)
    zero = np.zeros(1, np.int64)
    first = np.array([0, len(token)])
    return ContextCounts(vocab, zero, zero, first, token, count.astype(np.int64))


def _with_level(
    counts: ContextCounts, key: Ints, tokens: Ints, context: Ints, room: tuple[int, int]
) -> tuple[ContextCounts, Ints]:
    """The counts with contexts of one more token, and the context of every token."""
    vocab = counts.vocab_size
    has = key >= 0
    candidates, number = np.unique(key[has], return_inverse=True)
    pairs, count = np.unique(number * vocab + tokens[has], return_counts=True)
    of, token = pairs // vocab, pairs % vocab
    first = np.searchsorted(of, np.arange(len(candidates) + 1))
    parent = candidates // (vocab + 1)
    gain = _gains(counts, parent, of, token, count)
    order = np.argsort(-gain, kind="stable")
    order = order[gain[order] > 0.0]
    fits = np.cumsum(np.diff(first)[order]) <= room[1]
    kept = np.sort(order[: min(room[0], int(fits.sum()))])
    new = np.full(len(candidates) + 1, NOTHING)
    new[kept] = counts.num_contexts + np.arange(len(kept))
    taken = new[of] >= 0
    sizes = np.diff(first)[kept]
    grown = ContextCounts(
        vocab,
        np.concatenate([counts.parent, parent[kept]]),
        np.concatenate([counts.oldest, candidates[kept] % (vocab + 1)]),
        np.concatenate([counts.first, counts.first[-1] + np.cumsum(sizes)]),
        np.concatenate([counts.token, token[taken]]),
        np.concatenate([counts.count, count[taken]]),
    )
    context = context.copy()
    found = new[number]
    context[has] = np.where(found >= 0, found, context[has])
    return grown, context


def _gains(counts: ContextCounts, parent: Ints, of: Ints, token: Ints, count: Ints) -> Floats:
    """`[candidates]`: nats by which their counts are more probable than after the parent."""
    totals = np.bincount(of, count, len(parent))
    kept = np.maximum(count - _DISCOUNT, 0.0)
    share = kept / totals[of]
    rest = 1.0 - np.bincount(of, share, len(parent))
    place, known = find(
        counts.sources() * counts.vocab_size + counts.token, parent[of] * counts.vocab_size + token
    )
    assert bool(known.all())
    total = np.add.reduceat(counts.count, counts.first[:-1])
    shorter = counts.count[place] / total[parent[of]]
    log_ratio = np.log(share + rest[of] * shorter) - np.log(shorter)
    gains: Floats = np.bincount(of, kept * log_ratio, len(parent)).astype(np.float64)
    return gains
