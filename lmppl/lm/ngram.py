"""N-gram models of a text file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lmppl.files import Files
from lmppl.lm.histories import (
    HistoryLM,
    bad_table,
    distinct_rows,
    plain_vocabulary,
    table_content,
)
from lmppl.lm.protocol import Chat, Prompt, Vocabulary
from lmppl.lm.refusal import refusal
from lmppl.lm.states import MOST_ENTRIES, StateTables, TooManyStates

# Every token of the corpus is counted after contexts of every length.
_MOST_ORDER = 100

Unit = Literal["character", "word"]
_WORD = re.compile(r"\s*\S+")


class NgramLM(HistoryLM):
    """An n-gram model with interpolated Witten–Bell smoothing.

    With c counts, d the number of distinct tokens seen after a context h, and h' the context
    without its oldest token,

        p(w | h) = (c(h, w) + d(h) p(w | h')) / (c(h) + d(h)),

    down to the uniform distribution over the vocabulary.  So every token has positive probability
    everywhere, and rows sum to one (Witten and Bell 1991; Chen and Goodman 1999, section 2.4).
    """

    def __init__(
        self,
        name: str,
        vocab: Vocabulary,
        order: int,
        unit: Unit,
        texts: Sequence[Sequence[int]],
        digest: str,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(name, vocab, device)
        self.order = order
        self.unit: Unit = unit
        self._digest = digest
        self._ids = {
            token.decode(): number
            for number, token in enumerate(vocab.token_bytes)
            if number not in vocab.eos_ids
        }
        # The context before a text is filled with the number `size`, which is no token.
        self._counts: dict[tuple[int, ...], dict[int, int]] = {}
        (end,) = vocab.eos_ids
        for text in texts:
            padded = [vocab.size] * (order - 1) + list(text) + [end]
            for place in range(order - 1, len(padded)):
                for length in range(order):
                    context = tuple(padded[place - length : place])
                    following = self._counts.setdefault(context, {})
                    following[padded[place]] = following.get(padded[place], 0) + 1
        self._rows: dict[tuple[int, ...], Tensor] = {}

    @property
    def digest(self) -> str:
        """SHA-256 of the corpus, the order and the unit."""
        return self._digest

    def encode_prompt(self, prompt: Prompt) -> tuple[int, ...]:
        """The characters or words of the prompt.

        Raises:
            InferenceError: LMP918, one of them is not in the corpus.
        """
        if isinstance(prompt, Chat):
            return super().encode_prompt(prompt)
        parts = _split(prompt, self.unit)
        for part in parts:
            if part not in self._ids:
                raise refusal(
                    "LMP918",
                    f"the {self.unit} {part!r} of the prompt {prompt!r} is not in the corpus of "
                    f"{self.name}",
                    help=f"use only {self.unit}s of the corpus in the prompt",
                )
        return tuple(self._ids[part] for part in parts)

    def log_probs(self, tokens: Tensor, starts: Tensor) -> Tensor:
        """float64 `[U, vocab]`: the smoothed distribution after the last `order - 1` tokens."""
        num_rows, columns = tokens.shape
        width = self.order - 1
        context = tokens.new_full((num_rows, width), self.vocab.size)
        if width and columns:
            seen = min(width, columns)
            place = torch.arange(columns - seen, columns, device=self.device)
            recent = torch.where(place >= starts[:, None], tokens[:, -seen:], self.vocab.size)
            context[:, width - seen :] = recent
        if not width:
            return self._row(()).to(self.device).expand(num_rows, -1)
        distinct, inverse = distinct_rows(context)
        rows = [self._row(tuple(row)) for row in distinct.tolist()]
        return torch.stack(rows).to(self.device).index_select(0, inverse)

    def states(self) -> StateTables:
        """A state for each context that the corpus has, of any length; the longest says most.

        Raises:
            TooManyStates: the table of contexts × tokens would be too large.
        """
        size, width = self.vocab.size, self.order - 1
        contexts = sorted(self._counts, key=lambda context: (len(context), context))
        if len(contexts) * size > MOST_ENTRIES:
            raise TooManyStates(
                f"{self.name} has {len(contexts):,} contexts of {size:,} tokens each"
            )
        number = {context: state for state, context in enumerate(contexts)}

        def longest(context: tuple[int, ...]) -> int:
            context = context[max(0, len(context) - width) :]
            while context not in number:
                context = context[1:]
            return number[context]

        # A context goes on as its longest end that the corpus has: where `context + token` is none
        # of them, as the context without its oldest token does.
        following = torch.empty(len(contexts), size, dtype=torch.long)
        for state, context in enumerate(contexts):
            if context:
                following[state] = following[number[context[1:]]]
            else:
                following[state] = torch.tensor([longest((token,)) for token in range(size)])
            if context and len(context) < width:
                # Only what is one longer than the context itself is new here.
                for token in self._counts[context]:
                    if (longer := number.get((*context, token))) is not None:
                        following[state, token] = longer
        emission = torch.stack([self._row(context) for context in contexts])
        initial = longest((size,) * width)
        return StateTables(emission.to(self.device), initial, following.to(self.device))

    def _row(self, context: tuple[int, ...]) -> Tensor:
        if (row := self._rows.get(context)) is None:
            row = self._rows[context] = self._probs(context).log()
        return row

    def _probs(self, context: tuple[int, ...]) -> Tensor:
        size = self.vocab.size
        probs = torch.full((size,), 1.0 / size, dtype=torch.float64)
        for length in range(len(context) + 1):
            following = self._counts.get(context[len(context) - length :])
            if following is None:
                break
            counts = torch.zeros(size, dtype=torch.float64)
            counts[list(following)] = torch.tensor(list(following.values()), dtype=torch.float64)
            distinct = len(following)
            probs = (counts + distinct * probs) / (counts.sum() + distinct)
        return probs / probs.sum()


def load_ngram(
    path: str | Path,
    *,
    order: int = 3,
    unit: Unit = "character",
    base_dir: str | Path | None = None,
    device: str | torch.device | None = None,
    files: Files | None = None,
) -> NgramLM:
    """The n-gram model of a text file, each of whose lines is a text; empty lines are skipped.

    `unit` is what a token is: a character, or a word with the white space before it.  The end of a
    line is the end token.  `files` says what may be read; without it everything may.

    Raises:
        InferenceError: LMP916, no such file, not UTF-8, or no text in it.
    """
    if order < 1:
        raise refusal("LMP916", f"an n-gram model of order {order}: the order is at least 1")
    if order > _MOST_ORDER:
        raise refusal(
            "LMP916",
            f"an n-gram model of order {order}: the order is at most {_MOST_ORDER}",
            help="contexts of more than a few tokens are hardly ever seen twice",
        )
    raw = table_content(path, base_dir, files)
    path = Path(base_dir or ".") / path
    try:
        lines = raw.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise bad_table(path, f"it is not UTF-8: {error.reason} at byte {error.start}") from error
    for number, line in enumerate(lines, 1):
        if (at := line.find("\ufeff")) >= 0:
            place = f"line {number}, character {at + 1}"
            raise bad_table(
                path,
                f"{place} is a byte order mark (U+FEFF), which nobody sees and which would be a"
                " token: save the file as UTF-8 without one",
            )
    texts = [_split(line, unit) for line in lines if line.strip()]
    if not texts:
        raise bad_table(path, "it has no line with text on it")
    tokens = sorted({part for text in texts for part in text})
    ids = {token: number for number, token in enumerate(tokens)}
    vocab = plain_vocabulary([*tokens, "<end>"], len(tokens))
    digest = hashlib.sha256(raw + f"\0{order}\0{unit}".encode()).hexdigest()
    coded = [[ids[part] for part in text] for text in texts]
    return NgramLM(path.name, vocab, order, unit, coded, digest, device)


def _split(text: str, unit: Unit) -> list[str]:
    return list(text) if unit == "character" else _WORD.findall(text)
