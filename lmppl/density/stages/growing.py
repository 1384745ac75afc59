"""Texts in the making as strings: decoded as far as they go, a few tokens at a time."""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(slots=True)
class GrowingStrings:
    """What the tokens of each row spell so far, so that a longer text costs its new tokens only.

    Row i has read `num_read[i]` tokens of `tokens` `[rows, max_tokens]`. They spell `strings[i]`
    and then `tails[i]`, at most three bytes that may be the beginning of a character. `tokens` is
    written in place while texts grow; another tensor means other texts, and nothing is known then.
    """

    tokens: Tensor | None = None
    num_read: list[int] = field(default_factory=list)
    strings: list[str] = field(default_factory=list)
    tails: list[bytes] = field(default_factory=list)

    def select(self, indices: Tensor, tokens: Tensor) -> GrowingStrings:
        """The rows `indices`, with repeats, whose tokens now live in `tokens`."""
        if self.tokens is None:
            return GrowingStrings()
        rows = indices.tolist()
        return GrowingStrings(
            tokens,
            [self.num_read[row] for row in rows],
            [self.strings[row] for row in rows],
            [self.tails[row] for row in rows],
        )

    def read(
        self, tokens: Tensor, rows: Tensor, lengths: Tensor, token_bytes: Sequence[bytes]
    ) -> list[str]:
        """The first `lengths` tokens of `rows`, `[asked]` each, as decoding them all spells them.

        U+FFFD stands for what is not UTF-8, also for a character that is not complete yet.
        """
        if self.tokens is not tokens:
            num_rows = tokens.shape[0]
            self.tokens = tokens
            self.num_read = [0] * num_rows
            self.strings, self.tails = [""] * num_rows, [b""] * num_rows
        asked, wanted = rows.tolist(), lengths.tolist()
        num_read, strings, tails = self.num_read, self.strings, self.tails
        for row, length in zip(asked, wanted, strict=True):
            if num_read[row] > length:  # the text was cut
                num_read[row], strings[row], tails[row] = 0, "", b""
        first = min((num_read[row] for row in asked), default=0)
        fresh = tokens[rows, first : max(wanted, default=0)].tolist()
        texts = []
        for row, length, ids in zip(asked, wanted, fresh, strict=True):
            known = num_read[row]
            if length > known:
                new = b"".join(
                    [token_bytes[token] for token in ids[known - first : length - first]]
                )
                # Bytes at the end that a continuation may complete are kept for the next time, so
                # pieces spell what the whole does.
                spelled, used = utf_8_decode(tails[row] + new, "replace", False)
                tails[row] = (tails[row] + new)[used:]
                strings[row] += spelled
                num_read[row] = length
            tail = tails[row]
            texts.append(strings[row] + tail.decode("utf-8", "replace") if tail else strings[row])
        return texts
