"""What followed what in texts: tokens counted after contexts of one, two, … tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmppl.records import brief

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Before the first token of a text stands nothing that was counted.
NOTHING = -1


@dataclass(frozen=True, slots=True)
class ContextCounts:
    """How often each token followed each context, for the contexts that were kept.

    Contexts are numbered 0 … S−1, shorter ones first; 0 is the empty one. Context s is its token
    `oldest[s]` followed by the tokens of the context `parent[s]`, which is in here too. The number
    `vocab_size` as a token marks the beginning of a text. `oldest[0]` and `parent[0]` are 0.

    After context s came the tokens `token[first[s]:first[s + 1]]`, in order and each once,
    `count[…]` times.
    """

    vocab_size: int
    parent: Ints
    oldest: Ints
    first: Ints
    token: Ints
    count: Ints

    __repr__ = brief

    @property
    def num_contexts(self) -> int:
        return len(self.parent)

    @property
    def num_arcs(self) -> int:
        return len(self.token)

    @property
    def is_closed(self) -> bool:
        """Whether what followed a context also followed its parent, and no less often."""
        source = self.sources()
        keys = source * self.vocab_size + self.token
        place, known = find(keys, self.parent[source] * self.vocab_size + self.token)
        children = np.bincount(place[source > 0], self.count[source > 0], self.num_arcs)
        return bool(known.all()) and bool((children <= self.count).all())

    def levels(self) -> Ints:
        """`[S]`: of how many tokens each context consists."""
        levels = np.zeros(self.num_contexts, np.int64)
        for context in range(1, self.num_contexts):
            levels[context] = levels[self.parent[context]] + 1
        return levels

    def shorter(self, longest: int) -> ContextCounts:
        """The counts after contexts of at most so many tokens."""
        size = int((self.levels() <= longest).sum())
        pairs = self.first[size]
        return ContextCounts(
            self.vocab_size,
            self.parent[:size],
            self.oldest[:size],
            self.first[: size + 1],
            self.token[:pairs],
            self.count[:pairs],
        )

    def sources(self) -> Ints:
        """`[A]`: the context of every count."""
        return np.repeat(np.arange(self.num_contexts), np.diff(self.first))


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts as rows `[N, lead + T]` of tokens; `NOTHING` where there is none.

    The first `lead` columns are what stood before the text, right-aligned: the end of its prompt,
    and before that, where there is room, the mark `vocab_size` of a beginning.
    """

    vocab_size: int
    rows: Ints
    lead: int

    __repr__ = brief

    @classmethod
    def of(
        cls, vocab_size: int, prompts: list[tuple[int, ...]], texts: list[Ints], lead: int
    ) -> Corpus:
        """Texts `[n, T]` drawn after each prompt, padded with `NOTHING`."""
        width = max(each.shape[1] for each in texts)
        parts = []
        for prompt, drawn in zip(prompts, texts, strict=True):
            rows = np.full((len(drawn), lead + width), NOTHING, np.int64)
            before = (vocab_size, *prompt)[-lead:] if lead else ()
            rows[:, lead - len(before) : lead] = before
            rows[:, lead : lead + drawn.shape[1]] = drawn
            parts.append(rows)
        return cls(vocab_size, np.concatenate(parts), lead)

    @property
    def num_texts(self) -> int:
        return len(self.rows)

    @property
    def num_tokens(self) -> int:
        return int((self.rows[:, self.lead :] != NOTHING).sum())

    def split(self, share: float) -> tuple[Corpus, Corpus]:
        """Two corpora: all but every k-th text, and those, about a `share` of them."""
        every = max(2, round(1.0 / share))
        held = np.arange(self.num_texts) % every == every - 1
        return (
            Corpus(self.vocab_size, self.rows[~held], self.lead),
            Corpus(self.vocab_size, self.rows[held], self.lead),
        )


def find(keys: Ints, wanted: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Where `wanted` stand among sorted `keys`, and whether they do."""
    if not len(keys):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return place, keys[place] == wanted
