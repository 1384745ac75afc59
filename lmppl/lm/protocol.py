"""What every language model of lmppl keeps: a vocabulary, batches of prefixes, and five verbs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import LongTensor, Tensor

from lmppl.lm.sizes import TokenSizes
from lmppl.records import brief


@dataclass(frozen=True, slots=True)
class Chat:
    """A prompt of one turn, rendered by the tokenizer's own chat template."""

    user: str
    system: str | None = None


Prompt: TypeAlias = str | Chat


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a language model and the bytes that each adds to a generated text.

    `token_bytes` has `size` entries; special tokens (end of text, padding, unused rows of the
    embedding) add nothing and have `b""`.  A text ends at any token of `eos_ids`; with none the
    text ends only at its budget.  `strips_leading_space` is true of SentencePiece-style
    tokenizers, where a text that has nothing before it (an empty prompt) loses one leading space.
    `decode` reads a suffix in context and never strips; with an empty prompt its caller does.
    """

    size: int
    token_bytes: tuple[bytes, ...]
    eos_ids: frozenset[int]
    strips_leading_space: bool = False

    __repr__ = brief

    def __post_init__(self) -> None:
        if len(self.token_bytes) != self.size:
            raise ValueError(f"{len(self.token_bytes)} token strings for {self.size} tokens")
        if any(not 0 <= token < self.size for token in self.eos_ids):
            raise ValueError(f"end tokens {sorted(self.eos_ids)} outside 0..{self.size - 1}")

    def decode_bytes(self, token_ids: Sequence[int]) -> bytes:
        """The bytes of a generated suffix; they may end inside a UTF-8 character."""
        token_bytes = self.token_bytes
        return b"".join([token_bytes[token] for token in token_ids])

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a generated suffix; U+FFFD stands for what is not UTF-8."""
        return self.decode_bytes(token_ids).decode("utf-8", errors="replace")

    @cached_property
    def sizes(self) -> TokenSizes:
        """How much one token can add to a text."""
        return TokenSizes.of(self.token_bytes)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the tokens and the end tokens, in hexadecimal."""
        sha = hashlib.sha256()
        for token in self.token_bytes:
            sha.update(len(token).to_bytes(4, "little"))
            sha.update(token)
        sha.update(repr((sorted(self.eos_ids), self.strips_leading_space)).encode())
        return sha.hexdigest()


@dataclass(frozen=True, slots=True)
class Prefixes:
    """A batch of `rows` logical prefixes over `U <= rows` physical ones that were computed.

    Logical row `i` is physical row `index[i]`: its next-token logits are `logits[index[i]]`.
    Rows that are equal are computed once and fanned out.  `identity` is true when `index` is known
    (on the host, without looking at it) to be 0, 1, …, U-1; `one_to_one` when it is known to be a
    permutation of that.  Both may be false although it is so.

    `logits` is `[U, vocab]`, unnormalised natural-log scores in the model's dtype (log
    probabilities for tables; −inf marks a token that cannot follow).  `lengths` counts the tokens
    after the prompt: an int when all physical rows agree, else `[U]`.  `state` belongs to the
    language model.
    """

    index: Tensor
    logits: Tensor
    lengths: Tensor | int
    state: object
    identity: bool = False
    one_to_one: bool = False

    def __repr__(self) -> str:
        after = self.lengths if isinstance(self.lengths, int) else "as many as lengths"
        return f"<Prefixes: {self.num_rows} rows over {self.num_physical}, after {after} tokens>"

    @property
    def num_rows(self) -> int:
        return self.index.shape[0]

    @property
    def num_physical(self) -> int:
        return self.logits.shape[0]

    def select(self, indices: Tensor) -> Prefixes:
        """The rows `indices` of this batch, in that order, with repeats; index arithmetic only.

        `indices` is a LongTensor `[new rows]`.  Caches are moved at the next `extend`, once.
        """
        index = indices if self.identity else self.index.index_select(0, indices)
        return replace(self, index=index, identity=False, one_to_one=False)

    def row_logits(self) -> Tensor:
        """`[rows, vocab]`: the logits of every logical row."""
        return self.logits if self.identity else self.logits.index_select(0, self.index)

    def row_lengths(self) -> Tensor:
        """`[rows]`: tokens after the prompt of every logical row."""
        if isinstance(self.lengths, int):
            return torch.full_like(self.index, self.lengths)
        return self.lengths.index_select(0, self.index)


class PrefixArchive(Protocol):
    """What was computed for the texts of some rows, for moves that keep the beginning of a text.

    A row has a current text and one proposed in its place. Prefixes that were recalled are spent at
    the next recall.
    """

    def recall(
        self, rows: Tensor, prompts: Sequence[Prompt], tokens: Tensor, lengths: Tensor
    ) -> Prefixes:
        """The first `lengths` `[n]` tokens of `tokens` `[n, max tokens]` after `prompts`.

        What the current texts of `rows` `[n]`, which may repeat, begin with is taken from here,
        the rest is computed.
        """
        ...

    def file(self, rows: Tensor, prefixes: Prefixes) -> None:
        """Keeps prefixes `[n]` as what is proposed for `rows` `[n]`, which do not repeat."""
        ...

    def settle(self, accepted: Tensor) -> None:
        """What was proposed is current where `accepted` (one flag for every row)."""
        ...

    def select(self, rows: Tensor) -> None:
        """Row i goes on with the current text of row `rows[i]`: one entry for every row."""
        ...


@runtime_checkable
class LanguageModel(Protocol):
    """A normalised distribution over token sequences, one token at a time.

    `start`, `extend` and `resume` return prefixes whose `logits` score the next token;
    stepping through a text and adding up gives `token_log_probs`, untempered.  `extend` may reuse
    the storage of the prefixes that it is given: those, and all that were selected from them,
    are then spent, and using them again is an `InternalError`.
    """

    name: str
    vocab: Vocabulary
    device: torch.device
    max_context: int | None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how this model is run, a sentence each."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of what determines the probabilities (weights, tables), in hexadecimal."""
        ...

    def start(self, prompts: Sequence[Prompt], *, max_new_tokens: int | None = None) -> Prefixes:
        """Prefixes of no tokens after each prompt, a logical row each; equal prompts once.

        `max_new_tokens` sizes the storage and is checked against `max_context`.

        Raises:
            InferenceError: prompt and `max_new_tokens` together exceed the context.
        """
        ...

    def extend(self, prefixes: Prefixes, tokens: LongTensor | Tensor) -> Prefixes:
        """Every logical row followed by its token of `tokens` `[rows]`; spends `prefixes`."""
        ...

    def resume(
        self,
        prompts: Sequence[Prompt],
        tokens: Tensor,
        lengths: Tensor,
        *,
        max_new_tokens: int | None = None,
    ) -> Prefixes:
        """Prefixes of given continuations: row `i` is its prompt and `tokens[i, :lengths[i]]`.

        `tokens` is `[rows, length]`, anything past `lengths` `[rows]` is ignored.
        `max_new_tokens` counts from each prompt, not from the continuation.
        """
        ...

    def archive(self, num_rows: int, max_tokens: int) -> PrefixArchive | None:
        """Room for what is computed for `num_rows` texts of up to `max_tokens` tokens.

        None where keeping it would save nothing: use `resume` there.
        """
        ...

    def token_log_probs(self, prompts: Sequence[Prompt], tokens: Tensor, lengths: Tensor) -> Tensor:
        """float32 or better `[rows, length]`: log p(token t | prompt, tokens before t).

        Untempered, in nats; 0 at and past `lengths` `[rows]`.
        """
        ...
