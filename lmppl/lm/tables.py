"""Language models without a network: Markov chains, n-grams, and a function of the host.

All give exact float64 log probabilities, and all work on the same histories: the tokens so far.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lmppl.errors import InferenceError, InternalError
from lmppl.files import Files, Unreadable, in_words, read_plain
from lmppl.jsons import NotJson, half_character, read_json
from lmppl.lm.protocol import Chat, Prefixes, Prompt, Vocabulary
from lmppl.lm.refusal import refusal

# Prefixes that are asked for again where a function is doubted.
_ASKED_AGAIN = 8
# How far a row of log probabilities from the host may be from summing to one.
_NORMALISATION_TOLERANCE = 1e-4
# Every token of the corpus is counted after contexts of every length.
_MOST_ORDER = 100


@dataclass(frozen=True, slots=True)
class _History:
    """Tokens so far, right-aligned `[U, columns]`; row `i` begins at column `starts[i]`."""

    tokens: Tensor
    starts: Tensor


class HistoryLM(ABC):
    """A language model whose next-token distribution is computed from the tokens so far.

    Subclasses say what `log_probs` and `encode_prompt` are; the verbs are here.
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
            self.log_probs(history.tokens, history.starts),
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
        new = _History(torch.cat([before, appended[:, None]], dim=1), starts)
        logits = self.log_probs(new.tokens, new.starts)
        return Prefixes(index, logits, lengths + 1, new, identity, identity)

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
            rows, inverse = _distinct_rows(torch.cat([before, prompt.starts[live, None]], dim=1))
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

    def _history(self, sequences: Sequence[Sequence[int]]) -> _History:
        columns = max((len(sequence) for sequence in sequences), default=0)
        rows = [[0] * (columns - len(sequence)) + list(sequence) for sequence in sequences]
        starts = [columns - len(sequence) for sequence in sequences]
        tokens = torch.tensor(rows, dtype=torch.long, device=self.device)
        return _History(
            tokens.reshape(len(rows), columns),
            torch.tensor(starts, dtype=torch.long, device=self.device),
        )


def _history_of(prefixes: Prefixes) -> _History:
    if not isinstance(prefixes.state, _History):
        raise InternalError("these prefixes belong to another language model")
    return prefixes.state


def _distinct_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    distinct, inverse = torch.unique(rows, dim=0, return_inverse=True)
    return distinct, inverse


def _plain_vocabulary(tokens: Sequence[str], eos: int | None) -> Vocabulary:
    return Vocabulary(
        size=len(tokens),
        token_bytes=tuple(b"" if i == eos else t.encode() for i, t in enumerate(tokens)),
        eos_ids=frozenset() if eos is None else frozenset([eos]),
    )


class MarkovLM(HistoryLM):
    """A Markov chain: the next token depends on the last one alone."""

    def __init__(
        self,
        name: str,
        vocab: Vocabulary,
        log_initial: Tensor,
        log_transition: Tensor,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(name, vocab, device)
        # Row `size` is what begins a text.
        self._table = torch.cat([log_transition, log_initial[None]]).to(self.device)

    @property
    def digest(self) -> str:
        """SHA-256 of the vocabulary and of the normalised table."""
        sha = hashlib.sha256(self.vocab.digest.encode())
        sha.update(self._table.cpu().numpy().tobytes())
        return sha.hexdigest()

    def log_probs(self, tokens: Tensor, starts: Tensor) -> Tensor:
        """float64 `[U, vocab]`: the row of the last token, or the initial one."""
        if tokens.shape[1] == 0:
            return self._table[-1].expand(tokens.shape[0], -1)
        last = torch.where(starts < tokens.shape[1], tokens[:, -1], self.vocab.size)
        return self._table.index_select(0, last)


def load_markov(
    path: str | Path,
    *,
    base_dir: str | Path | None = None,
    device: str | torch.device | None = None,
    files: Files | None = None,
) -> MarkovLM:
    """The Markov chain of a JSON file.

    `{"tokens": [...], "initial": [w, ...], "transition": [[w, ...], ...], "eos": null or a token}`,
    with non-negative weights that are normalised by row.  The row of `eos` may be left all zero,
    since nothing follows it.  `files` says what may be read; without it everything may.

    Raises:
        InferenceError: LMP916, the file cannot be read as such.
    """
    content = _content(path, base_dir, files)
    path = Path(base_dir or ".") / path
    spec = _read_json(path, content)
    tokens = spec.get("tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(t, str) for t in tokens):
        raise _bad_file(path, 'at "tokens": expected a list of at least one string')
    if len(set(tokens)) != len(tokens):
        twice = next(token for token in tokens if tokens.count(token) > 1)
        raise _bad_file(path, f'at "tokens": {twice!r} is listed twice')
    eos_token = spec.get("eos")
    if eos_token is not None and eos_token not in tokens:
        raise _bad_file(path, f'at "eos": {eos_token!r} is not one of the tokens')
    eos = None if eos_token is None else tokens.index(eos_token)
    initial = _log_row(path, '"initial"', spec.get("initial"), len(tokens))
    table = spec.get("transition")
    if not isinstance(table, list) or len(table) != len(tokens):
        raise _bad_file(path, f'at "transition": expected {len(tokens)} rows, one per token')
    rows = []
    for number, (token, weights) in enumerate(zip(tokens, table, strict=True)):
        if number == eos and isinstance(weights, list) and not any(weights):
            weights = [1.0] * len(tokens)
        rows.append(_log_row(path, f'"transition", row {number} ({token!r})', weights, len(tokens)))
    unknown = sorted(set(spec) - {"tokens", "initial", "transition", "eos"})
    if unknown:
        raise _bad_file(path, f"at {unknown[0]!r}: there is no such entry")
    return MarkovLM(
        path.name,
        _plain_vocabulary(tokens, eos),
        initial,
        torch.stack(rows),
        device,
    )


def _content(path: str | Path, base_dir: str | Path | None, files: Files | None) -> bytes:
    """The bytes of a file, which `files` may not let us read."""
    whole = Path(base_dir or ".") / path
    try:
        return read_plain(whole) if files is None else files.read(str(path))
    except Unreadable as error:
        raise _bad_file(whole, f"it {error.reason}") from error
    except (OSError, ValueError) as error:
        raise _bad_file(whole, f"it cannot be read: {in_words(error)}") from error


def _read_json(path: Path, content: bytes) -> dict[str, Any]:
    try:
        spec = read_json(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _bad_file(path, f"it is not UTF-8: {error.reason} at byte {error.start}") from error
    except NotJson as error:
        raise _bad_file(path, f"it is not JSON: {error}") from error
    if not isinstance(spec, dict):
        raise _bad_file(path, "expected an object with tokens, initial, transition and eos")
    return spec


def _log_row(path: Path, place: str, weights: object, size: int) -> Tensor:
    """float64 `[size]`: log of the weights, normalised."""
    if not isinstance(weights, list) or len(weights) != size:
        raise _bad_file(path, f"at {place}: expected a list of {size} weights")
    for number, weight in enumerate(weights):
        if not _is_weight(weight):
            shown = repr(weight) if len(repr(weight)) <= 40 else repr(weight)[:37] + "..."
            raise _bad_file(
                path, f"at {place}, weight {number}: {shown} is not a finite number >= 0"
            )
    if not any(weights):
        raise _bad_file(path, f"at {place}: all weights are zero, so nothing can follow")
    row = torch.tensor([float(weight) for weight in weights], dtype=torch.float64)
    total = row.sum()
    if not bool(torch.isfinite(total)):
        raise _bad_file(path, f"at {place}: the weights are too large, their sum is infinite")
    return (row / total).log()


def _is_weight(weight: object) -> bool:
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        return False
    try:
        return math.isfinite(weight) and weight >= 0
    except OverflowError:
        # An integer beyond the largest float.
        return False


def _bad_file(path: Path, reason: str) -> Exception:
    return refusal("LMP916", f"{path} is not a language model table", notes=(reason,))


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
        distinct, inverse = _distinct_rows(context)
        rows = [self._row(tuple(row)) for row in distinct.tolist()]
        return torch.stack(rows).to(self.device).index_select(0, inverse)

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
    raw = _content(path, base_dir, files)
    path = Path(base_dir or ".") / path
    try:
        lines = raw.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise _bad_file(path, f"it is not UTF-8: {error.reason} at byte {error.start}") from error
    for number, line in enumerate(lines, 1):
        if (at := line.find("\ufeff")) >= 0:
            place = f"line {number}, character {at + 1}"
            raise _bad_file(
                path,
                f"{place} is a byte order mark (U+FEFF), which nobody sees and which would be a"
                " token: save the file as UTF-8 without one",
            )
    texts = [_split(line, unit) for line in lines if line.strip()]
    if not texts:
        raise _bad_file(path, "it has no line with text on it")
    tokens = sorted({part for text in texts for part in text})
    ids = {token: number for number, token in enumerate(tokens)}
    vocab = _plain_vocabulary([*tokens, "<end>"], len(tokens))
    digest = hashlib.sha256(raw + f"\0{order}\0{unit}".encode()).hexdigest()
    coded = [[ids[part] for part in text] for text in texts]
    return NgramLM(path.name, vocab, order, unit, coded, digest, device)


def _split(text: str, unit: Unit) -> list[str]:
    return list(text) if unit == "character" else _WORD.findall(text)


class FunctionLM(HistoryLM):
    """A language model given by a function of the host.

    `next_log_probs(prefixes)` gets ids `[batch, length]` (length may be 0) and returns natural log
    probabilities `[batch, vocab]`; they must sum to one within 1e-4 and are then renormalised in
    float64.  Prefixes of different lengths come in different calls.

        lm = FunctionLM(tokens=["a", "b", "<eos>"], eos="<eos>", next_log_probs=f)
    """

    def __init__(
        self,
        *,
        tokens: Sequence[str],
        eos: str | None,
        next_log_probs: Callable[[Tensor], Any],
        name: str = "function",
        device: str | torch.device | None = None,
    ) -> None:
        tokens = list(tokens)
        for token in tokens:
            if not isinstance(token, str) or half_character(token):
                raise refusal(
                    "LMP917", f"the tokens of {name} are strings of whole characters, not {token!a}"
                )
        if not tokens or len(set(tokens)) != len(tokens):
            raise refusal("LMP917", f"the tokens of {name} must be distinct and at least one")
        if eos is not None and eos not in tokens:
            raise refusal(
                "LMP917",
                f"the end token {eos!r} of {name} is not one of its tokens",
                help="list it among the tokens, or give eos=None",
            )
        super().__init__(
            name, _plain_vocabulary(tokens, None if eos is None else tokens.index(eos)), device
        )
        self._tokens = tuple(tokens)
        self._next_log_probs = next_log_probs
        # How many of the next batches are asked for again, and what disagreed.
        self.doubts = 0
        self.disagreement = ""

    def doubted(self, num_batches: int) -> FunctionLM:
        """The same language model, whose next batches are asked for again; see `disagreement`."""
        other = copy.copy(self)
        other.doubts, other.disagreement = num_batches, ""
        return other

    @property
    def digest(self) -> str:
        """SHA-256 of the vocabulary and of the function's source, as far as that can be read.

        What the function refers to is not in it: a host that changes that must name it anew.
        """
        try:
            source = inspect.getsource(self._next_log_probs)
        except (OSError, TypeError):
            source = getattr(self._next_log_probs, "__qualname__", type(self).__qualname__)
        return hashlib.sha256(f"{self.vocab.digest}{self.name}{source}".encode()).hexdigest()

    def log_probs(self, tokens: Tensor, starts: Tensor) -> Tensor:
        """float64 `[U, vocab]`: what the function returns, checked and renormalised.

        Raises:
            InferenceError: LMP917, a wrong shape, NaN, +inf, or a row that does not sum to one.
        """
        result = torch.empty(
            tokens.shape[0], self.vocab.size, dtype=torch.float64, device=self.device
        )
        for rows, batch in self._equal_lengths(tokens, starts):
            result[rows] = found = self._checked(batch)
            if self.doubts:
                self.doubts -= 1
                self._ask_again(batch, found)
        return result

    def _ask_again(self, prefixes: Tensor, before: Tensor) -> None:
        """Whether the function gives a few prefixes the same row, twice in a batch of their own.

        They are fewer than before and in another order: a row is of its prefix and of no other.
        """
        few = torch.arange(min(_ASKED_AGAIN, max(1, prefixes.shape[0] - 1))).flip(0)
        first, second = self._checked(prefixes[few]), self._checked(prefixes[few])
        for one, other, atol, when in (
            (first, second, 1e-6, "the second time"),
            # A network in half precision rounds otherwise in another batch.
            (before[few], first, 1e-2, "in another batch"),
        ):
            agree = torch.isclose(one.exp(), other.exp(), rtol=0.0, atol=atol).all(-1)
            if not bool(agree.all()):
                row = int(few[(~agree).nonzero()[0]])
                self.disagreement = (
                    f"the language model {self.name} gave other probabilities {when} after"
                    f" {self._shown(prefixes[row])}"
                )
                self.doubts = 0
                return

    def _equal_lengths(self, tokens: Tensor, starts: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for start in torch.unique(starts).tolist():
            rows = (starts == start).nonzero()[:, 0]
            yield rows, tokens[rows, start:]

    def _checked(self, prefixes: Tensor) -> Tensor:
        values = self._called(prefixes)
        expected = (prefixes.shape[0], self.vocab.size)
        if tuple(values.shape) != expected:
            raise refusal(
                "LMP917",
                f"{self.name} returned log probabilities of shape {list(values.shape)} "
                f"for {prefixes.shape[0]} prefixes, not {list(expected)}",
                help="return one row per prefix, one column per token",
            )
        wrong = values.isnan() | (values == math.inf)
        if bool(wrong.any()):
            row, token = wrong.nonzero()[0].tolist()
            raise refusal(
                "LMP917",
                f"{self.name} returned {values[row, token].item()} "
                f"for the token {self._tokens[token]!r}",
                notes=(f"after {self._shown(prefixes[row])}",),
                help="log probabilities are at most 0; use -inf for what cannot follow",
            )
        totals = values.logsumexp(1)
        if bool((off := totals.abs() > _NORMALISATION_TOLERANCE).any()):
            row = int(off.nonzero()[0])
            raise refusal(
                "LMP917",
                f"the probabilities that {self.name} returned sum to "
                f"{totals[row].exp().item():.6g}, not 1",
                notes=(f"after {self._shown(prefixes[row])}",),
                help="return normalised natural logs, for instance torch.log_softmax(scores, -1)",
            )
        return values - totals[:, None]

    def _called(self, prefixes: Tensor) -> Tensor:
        """float64: what the function returns for these prefixes, without its graph."""
        try:
            with torch.no_grad():
                returned = self._next_log_probs(prefixes.clone())
        except InferenceError:
            raise
        except Exception as error:
            raise refusal(
                "LMP917",
                f"the function of {self.name} raised {type(error).__name__}: {error}",
                notes=(f"for {prefixes.shape[0]} prefixes of {prefixes.shape[1]} tokens",),
                help="it must take ids [batch, length], also of length 0",
            ) from error
        try:
            values = torch.as_tensor(returned, device=self.device).detach()
            if values.is_complex() or values.dtype == torch.bool:
                raise TypeError(values.dtype)
            return values.to(torch.float64)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            kind = type(returned).__name__
            what = kind if returned is None or isinstance(returned, str) else f"a {kind}"
            raise refusal(
                "LMP917",
                f"{self.name} returned {what.replace('NoneType', 'None')} that cannot be read as"
                " log probabilities",
                help="return a tensor or array of floats, one row per prefix, one column per token",
            ) from error

    def _shown(self, prefix: Tensor) -> str:
        if not prefix.shape[0]:
            return "the empty prefix"
        return "the prefix " + " ".join(repr(self._tokens[token]) for token in prefix.tolist())
