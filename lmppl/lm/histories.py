"""Language models that look at the tokens so far and keep nothing else.

They give exact float64 log probabilities and need no network: tables, n-grams, a host's function.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lmppl.errors import InternalError
from lmppl.files import Files, Unreadable, in_words, read_plain
from lmppl.lm.protocol import Prefixes, Prompt, Vocabulary
from lmppl.lm.refusal import refusal


@dataclass(frozen=True, slots=True)
class History:
    """Tokens so far, right-aligned `[U, columns]`; row `i` begins at column `starts[i]`.

    `memory` `[U, …]` is what a model keeps of them so as not to read them again; None: nothing.
    """

    tokens: Tensor
    starts: Tensor
    memory: Tensor | None = None

    def __repr__(self) -> str:
        return f"<History: {self.tokens.shape[0]} rows, {self.tokens.shape[1]} columns>"


class HistoryLM(ABC):
    """A language model whose next-token distribution is computed from the tokens so far.

    Subclasses say what `log_probs` and `encode_prompt` are; the verbs are here. Where reading all
    tokens again for every new one would cost much, `remembered` gives what to keep of them instead,
    and `after` goes on from there.
    """

    max_context: int | None = None
    notes: tuple[str, ...] = ()

    def __init__(self, name: str, vocab: Vocabulary, device: str | torch.device | None) -> None:
        self.name = name
        self.vocab = vocab
        self.device = torch.device("cpu" if device is None else device)

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 of what determines the probabilities, in hexadecimal."""

    @abstractmethod
    def log_probs(self, tokens: Tensor, starts: Tensor) -> Tensor:
        """float64 `[U, vocab]`, normalised: what follows `tokens[i, starts[i]:]`."""

    def remembered(self, tokens: Tensor, starts: Tensor) -> Tensor | None:
        """`[U, …]`: what `after` needs to know of the tokens; None: nothing is kept."""
        return None

    def after(self, memory: Tensor, tokens: Tensor) -> Tensor:
        """`[U, …]`: what is remembered after one more token `[U]` each."""
        raise InternalError(f"{type(self).__name__} remembers nothing")

    def log_probs_from(self, memory: Tensor) -> Tensor:
        """float64 `[U, vocab]`, normalised: what follows the tokens that this remembers."""
        raise InternalError(f"{type(self).__name__} remembers nothing")

    def encode_prompt(self, prompt: Prompt) -> tuple[int, ...]:
        """The tokens of a prompt; most of these models take none but the empty one.

        Raises:
            InferenceError: LMP918, this model cannot be prompted with that.
        """
        if prompt == "":
            return ()
        raise refusal(
            "LMP918",
            f"{self.name} takes no prompt, and was given {prompt!r}",
            help="leave the prompt out",
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.vocab.size} tokens>"

    def start(self, prompts: Sequence[Prompt], *, max_new_tokens: int | None = None) -> Prefixes:
        """Prefixes of no tokens after each prompt, a logical row each; equal prompts once."""
        nothing = torch.zeros(len(prompts), 0, dtype=torch.long, device=self.device)
        return self.resume(prompts, nothing, nothing.new_zeros(len(prompts)))

    def resume(
        self,
        prompts: Sequence[Prompt],
        tokens: Tensor,
        lengths: Tensor,
        *,
        max_new_tokens: int | None = None,
    ) -> Prefixes:
        """Prefixes of given continuations, `tokens[i, :lengths[i]]` after prompt `i`."""
        sequences = self._sequences(prompts, tokens, lengths)
        distinct = list(dict.fromkeys(sequences))
        rank = {sequence: row for row, sequence in enumerate(distinct)}
        index = torch.tensor([rank[sequence] for sequence in sequences], device=self.device)
        history = self._history([prompt_ids + ids for prompt_ids, ids in distinct])
        counts = [len(ids) for _, ids in distinct]
        same = len(set(counts)) == 1
        identity = len(distinct) == len(sequences)
        return Prefixes(
            index,
            self._next(history),
            counts[0] if same else torch.tensor(counts, device=self.device),
            history,
            identity,
            identity,
        )

    def extend(self, prefixes: Prefixes, tokens: Tensor) -> Prefixes:
        """Every logical row followed by its token; rows that are then equal are computed once."""
        history = _history_of(prefixes)
        index, lengths, starts = prefixes.index, prefixes.lengths, history.starts
        parents, appended, identity = index, tokens, True
        if prefixes.identity:
            index = prefixes.index
        else:
            pairs, inverse = torch.unique(index * self.vocab.size + tokens, return_inverse=True)
            if pairs.shape[0] == index.shape[0]:
                index = torch.arange(index.shape[0], device=self.device)
            else:
                parents = torch.div(pairs, self.vocab.size, rounding_mode="floor")
                appended = pairs - parents * self.vocab.size
                index, identity = inverse, False
            starts = starts.index_select(0, parents)
            if isinstance(lengths, Tensor):
                lengths = lengths.index_select(0, parents)
        before = history.tokens.index_select(0, parents)
        memory = history.memory
        if memory is not None:
            memory = self.after(memory.index_select(0, parents), appended)
        new = History(torch.cat([before, appended[:, None]], dim=1), starts, memory)
        return Prefixes(index, self._next(new), lengths + 1, new, identity, identity)

    def archive(self, num_rows: int, max_tokens: int) -> None:
        """Looking a prefix up costs no more than keeping it."""
        return None

    def token_log_probs(self, prompts: Sequence[Prompt], tokens: Tensor, lengths: Tensor) -> Tensor:
        """float64 `[rows, length]`: log p(token t | prompt, tokens before t); 0 past `lengths`."""
        encoded = [self.encode_prompt(prompt) for prompt in prompts]
        tokens = tokens.to(self.device)
        result = torch.zeros(tokens.shape, dtype=torch.float64, device=self.device)
        prompt = self._history(encoded)
        whole = torch.cat([prompt.tokens, tokens], dim=1)
        num_prompt = prompt.tokens.shape[1]
        for step in range(tokens.shape[1]):
            live = (lengths.to(self.device) > step).nonzero()[:, 0]
            if not live.shape[0]:
                break
            before = whole[live, : num_prompt + step]
            rows, inverse = distinct_rows(torch.cat([before, prompt.starts[live, None]], dim=1))
            log_probs = self.log_probs(rows[:, :-1], rows[:, -1])
            result[live, step] = log_probs[inverse, tokens[live, step]]
        return result

    def _sequences(
        self, prompts: Sequence[Prompt], tokens: Tensor, lengths: Tensor
    ) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        return [
            (self.encode_prompt(prompt), tuple(row[:count]))
            for prompt, row, count in zip(prompts, tokens.tolist(), lengths.tolist(), strict=True)
        ]

    def _history(self, sequences: Sequence[Sequence[int]]) -> History:
        columns = max((len(sequence) for sequence in sequences), default=0)
        rows = [[0] * (columns - len(sequence)) + list(sequence) for sequence in sequences]
        starts = [columns - len(sequence) for sequence in sequences]
        tokens = torch.tensor(rows, dtype=torch.long, device=self.device)
        tokens = tokens.reshape(len(rows), columns)
        begins = torch.tensor(starts, dtype=torch.long, device=self.device)
        return History(tokens, begins, self.remembered(tokens, begins))

    def _next(self, history: History) -> Tensor:
        if history.memory is not None:
            return self.log_probs_from(history.memory)
        return self.log_probs(history.tokens, history.starts)


def _history_of(prefixes: Prefixes) -> History:
    if not isinstance(prefixes.state, History):
        raise InternalError("these prefixes belong to another language model")
    return prefixes.state


def distinct_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    distinct, inverse = torch.unique(rows, dim=0, return_inverse=True)
    return distinct, inverse


def plain_vocabulary(tokens: Sequence[str], eos: int | None) -> Vocabulary:
    return Vocabulary(
        size=len(tokens),
        token_bytes=tuple(b"" if i == eos else t.encode() for i, t in enumerate(tokens)),
        eos_ids=frozenset() if eos is None else frozenset([eos]),
    )


def table_content(path: str | Path, base_dir: str | Path | None, files: Files | None) -> bytes:
    """The bytes of a file, which `files` may not let us read."""
    whole = Path(base_dir or ".") / path
    try:
        return read_plain(whole) if files is None else files.read(str(path))
    except Unreadable as error:
        raise bad_table(whole, f"it {error.reason}") from error
    except (OSError, ValueError) as error:
        raise bad_table(whole, f"it cannot be read: {in_words(error)}") from error


def bad_table(path: Path, reason: str) -> Exception:
    return refusal("LMP916", f"{path} is not a language model table", notes=(reason,))
