"""How much of something one token of a vocabulary can add to a text, at most.

A text is the tokens' bytes, read as UTF-8. Tokens that are UTF-8 of their own add the characters
that they are, whatever stands around them; of the others every byte may become a character, so
each counts as one of any kind.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmppl.records import brief


@dataclass(frozen=True, slots=True)
class TokenSizes:
    """The tokens of a vocabulary as texts, those that add nothing left out.

    `whole` are the tokens that are UTF-8 of their own, `most_partial` is how many bytes the longest
    other one has. `points` `[characters]` are the code points of all whole tokens, one after the
    other, as indices into `distinct`; `starts` `[whole tokens]` is where each token's begin.
    """

    whole: tuple[str, ...]
    most_partial: int
    distinct: NDArray[np.int64]
    points: NDArray[np.int64]
    starts: NDArray[np.int64]

    __repr__ = brief

    @classmethod
    def of(cls, token_bytes: Iterable[bytes]) -> TokenSizes:
        """The sizes of these tokens."""
        whole, most_partial = [], 0
        for token in set(token_bytes):
            try:
                text = token.decode()
            except UnicodeDecodeError:
                most_partial = max(most_partial, len(token))
                continue
            if text:
                whole.append(text)
        every = np.frombuffer("".join(whole).encode("utf-32-le"), dtype="<u4")
        # By ticking off code points: sorting all of them takes ten times as long.
        number = np.zeros(sys.maxunicode + 1, dtype=np.int64)
        number[every] = 1
        distinct = np.flatnonzero(number)
        number[distinct] = np.arange(distinct.size)
        lengths = np.fromiter(map(len, whole), dtype=np.int64, count=len(whole))
        return cls(
            tuple(whole), most_partial, distinct, number[every], np.cumsum(lengths) - lengths
        )

    def most(self, is_meant: Callable[[NDArray[np.int64]], NDArray[Any]]) -> int:
        """The most characters of a kind in one token; `is_meant` says which code points are."""
        if not self.whole:
            return self.most_partial
        found = np.asarray(is_meant(self.distinct), dtype=np.int64)[self.points]
        return max(self.most_partial, int(np.add.reduceat(found, self.starts).max()))

    @property
    def most_characters(self) -> int:
        """The characters of the longest token."""
        return self.most(np.ones_like)

    def most_pieces(self, count: Callable[[str], int]) -> int:
        """The most pieces in one token, where `count` says how many a text has.

        Of pieces that only grow together where texts are joined, as words do, and are at least a
        character each: a text has no more of them than its tokens have by themselves.
        """
        return max(self.most_partial, max(map(count, self.whole), default=0))
