"""From counts to probabilities: interpolated Kneser–Ney, for contexts of which some were pruned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmppl.records import brief
from lmppl.surrogates.counts import ContextCounts, Floats, Ints, find


@dataclass(frozen=True, slots=True)
class Smoothed:
    """Probabilities by context: p(v | s) = own[s, v] + rest[s] · p(v | parent of s).

    `own` `[A]` is of the counted pairs, 0 for all others; `rest` `[S]`, of which the empty
    context has 0: `root` `[V]` is its distribution, everywhere positive. `whole` `[A]` is p of the
    counted pairs, and `shorter` `[A]` p of their tokens after the parent (0 for the root).

    Where a token leads is the longest context that is kept: `after` `[A]` for the counted pairs,
    `after_shorter` `[A]` the same from the parent, and `root_after` `[V]` from the empty context.
    A token that was not counted after s leads to where it leads from the parent of s.
    """

    own: Floats
    rest: Floats
    root: Floats
    whole: Floats
    shorter: Floats
    after: Ints
    after_shorter: Ints
    root_after: Ints

    __repr__ = brief


def smoothed(counts: ContextCounts, discounts: Sequence[float]) -> Smoothed:
    """Interpolated Kneser–Ney with a discount for each length of a context.

    Every counted pair gives up its discount, and the shorter context is estimated from what the
    longer ones gave up and from what followed it where no longer one was kept. So the tokens of
    a text come as often as they did in the corpus, which counting them anew in the shorter
    context would not give (Kneser and Ney 1995; Chen and Goodman 1999, section 2.7). The empty
    context is mixed with the uniform distribution (Witten and Bell 1991): none has probability 0.
    """
    vocab, source, levels = counts.vocab_size, counts.sources(), counts.levels()
    keys = source * vocab + counts.token
    level = levels[source]
    # Where the token of a pair stands among the counts of the shorter context.
    place, known = find(keys, counts.parent[source] * vocab + counts.token)
    assert bool(known.all())
    effective = counts.count.astype(np.float64)
    for each in range(int(levels.max()), 0, -1):
        here = level == each
        returned = np.minimum(effective[here], discounts[each - 1]) - counts.count[here]
        np.add.at(effective, place[here], returned)
    # What is left of a difference of whole numbers may be a rounding below nothing.
    effective = np.maximum(effective, 0.0)
    total = np.bincount(source, effective, counts.num_contexts)
    given = np.concatenate([[0.0], np.asarray(discounts)])[level]
    own: Floats = np.where(
        level > 0, np.maximum(effective - given, 0.0) / np.maximum(total[source], 1e-300), 0.0
    )
    rest = 1.0 - np.bincount(source, own, counts.num_contexts).astype(np.float64)
    rest[0] = 0.0
    size = counts.first[1]
    root = np.zeros(vocab)
    root[counts.token[:size]] = effective[:size]
    distinct = np.count_nonzero(root)
    root = (root + distinct / vocab) / (root.sum() + distinct)
    root /= root.sum()
    whole, shorter = np.zeros(counts.num_arcs), np.zeros(counts.num_arcs)
    whole[:size] = root[counts.token[:size]]
    for each in range(1, int(levels.max()) + 1):
        here = (level == each).nonzero()[0]
        shorter[here] = whole[place[here]]
        whole[here] = own[here] + rest[source[here]] * shorter[here]
    after, after_shorter, root_after = _successors(counts, levels, place)
    return Smoothed(own, rest, root, whole, shorter, after, after_shorter, root_after)


def _successors(counts: ContextCounts, levels: Ints, place: Ints) -> tuple[Ints, Ints, Ints]:
    """`after`, `after_shorter` and `root_after` of `Smoothed`; `place` `[A]` is where the token of
    a pair stands among those of the shorter context."""
    vocab, source = counts.vocab_size, counts.sources()
    contexts = counts.parent * (vocab + 1) + counts.oldest
    order = np.argsort(contexts[1:], kind="stable") + 1
    root_after = np.zeros(vocab, np.int64)
    ones = ((levels == 1) & (counts.oldest < vocab)).nonzero()[0]
    root_after[counts.oldest[ones]] = ones
    after, after_shorter = np.zeros(counts.num_arcs, np.int64), np.zeros(counts.num_arcs, np.int64)
    size = counts.first[1]
    after[:size] = after_shorter[:size] = root_after[counts.token[:size]]
    for level in range(1, int(levels.max()) + 1):
        here = (levels[source] == level).nonzero()[0]
        behind = after[place[here]]
        after_shorter[here] = behind
        # One token more of what came before, where that context is kept.
        found, kept = find(contexts[order], behind * (vocab + 1) + counts.oldest[source[here]])
        kept &= levels[behind] == level
        after[here] = np.where(kept, order[found], behind)
    return after, after_shorter, root_after
