"""Causal language models of Hugging Face transformers, stepped with a cache of our own."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lmppl.errors import InternalError
from lmppl.lm.archive import KVArchive
from lmppl.lm.cache import (
    CachedPrefixes,
    KVStorage,
    SharedPrefix,
    attention_windows,
    cache_names,
)
from lmppl.lm.decoding import LlamaDecoder, perturbed
from lmppl.lm.kernels import without_plans
from lmppl.lm.protocol import Prefixes, Prompt
from lmppl.lm.refusal import refusal
from lmppl.lm.static import MODES, StaticStep, agrees, in_a_line
from lmppl.lm.tokenization import PromptEncoder, special_tokens_of, vocabulary_of

# A shared prefix shorter than this is cheaper to compute again than to copy.
_WORTH_SHARING = 8
_DEFAULT_ROOM = 32
# Ways of calling a model are tried on so many texts: near a tie, rounding sends a token to another
# expert, once; a cache that is not read shows every time.
_TRIALS = 2
# Cached and uncached steps multiply in another order, at every layer.
_ROUNDINGS = 32


@dataclass(frozen=True, slots=True)
class _Recomputed:
    """Prefixes of a model whose state cannot be kept: their tokens, right-aligned, and no more."""

    tokens: Tensor
    pads: Tensor


class HuggingFaceLM:
    """A causal language model as transformers loads it, in evaluation mode.

    `max_rows` bounds the rows of one forward pass (None: unlimited; it is halved when the device
    runs out of memory); the results do not depend on it.  `notes` says what a user should know of
    how this model is run.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        digest: Callable[[], str | None] | None = None,
        max_rows: int | None = None,
    ) -> None:
        config = model.config.get_text_config(decoder=True)
        self.name = name
        self.model: Any = model.eval()
        self.tokenizer = tokenizer
        self.max_rows = max_rows
        self.max_context: int | None = getattr(config, "max_position_embeddings", None)
        self.vocab = vocabulary_of(tokenizer, _num_logits(model), _end_ids(model, tokenizer))
        self.special_tokens = special_tokens_of(tokenizer, self.vocab)
        self.notes: tuple[str, ...] = ()
        self._slow: tuple[str, ...] = ()
        self._encode = PromptEncoder(tokenizer, _start_id(model, tokenizer), self.max_context)
        self._encoded: dict[Prompt, tuple[int, ...]] = {}
        self._digest_of = digest
        self._digest: str | None = None
        self._stepping = "none"
        self._inspect(config)

    def _inspect(self, config: Any) -> None:
        """Find out how the model wants to be called."""
        self._static: StaticStep | None = None
        self._static_steps: dict[str, StaticStep] = {}
        self._static_notes: tuple[str, ...] = ()
        self._slow = ()
        self.device = next(self.model.parameters()).device
        sdpa = getattr(config, "_attn_implementation", None) == "sdpa"
        windows = self._windows = attention_windows(config)
        # Where every layer sees every column, one mask serves all layers and can be given ready.
        self._takes_mask = sdpa and windows is not None and not any(windows)
        on_cpu = self.device.type == "cpu"
        # Elsewhere looking at the pads would stop the host at every step.
        self._may_skip = on_cpu and self._takes_mask
        self._prefill_tokens = 8_192 if on_cpu else 65_536
        self._ragged_tokens = 2_048 if on_cpu else 65_536
        self._max_log_probs = 2**24 if on_cpu else 2**28
        self._positions = torch.arange(self.max_context or 4_096, device=self.device)
        self._decoder: LlamaDecoder | None = None
        self._cache_name, self._keeps_logits = "", False
        if windows is None:
            self._recompute("a layer keeps a state that cannot be cut or copied by row")
        with torch.no_grad(), warnings.catch_warnings():
            # What a model says of the ways that are only tried is nothing to a user.
            warnings.simplefilter("ignore")
            self._try_cache()
            self._try_decoder()
        self.stepping = self._stepping

    @property
    def stepping(self) -> str:
        """How single tokens are computed: "none" (in the general way), "step" or "cuda-graph".

        "step" compiles a step of fixed shapes with torch.compile, "cuda-graph" captures it. Both
        are kept for later, and `notes` says what came of them.

        Raises:
            InferenceError: LMP403, no such way, or CUDA graphs without a CUDA device.
        """
        return self._stepping

    @stepping.setter
    def stepping(self, mode: str) -> None:
        if mode not in MODES or (mode == "cuda-graph" and self.device.type != "cuda"):
            raise refusal(
                "LMP403",
                f"{self.name} on {self.device} cannot be run with compile={mode!r}",
                notes=("CUDA graphs need a model on a CUDA device",) if mode in MODES else (),
                help='use device="cuda" where there is one, or compile="step" or "none"'
                if mode in MODES
                else f"use one of {', '.join(MODES)}",
            )
        self._stepping = mode
        self._static = None if mode == "none" else self._static_step(mode)
        self._renew_static_notes()

    def _static_step(self, mode: str) -> StaticStep:
        if (known := self._static_steps.get(mode)) is None:
            windows, config = self._windows, _innermost(self.model).config
            attention = getattr(config.get_text_config(decoder=True), "_attn_implementation", None)
            known = self._static_steps[mode] = StaticStep(
                self.model,
                len(windows or ()),
                mode=mode,
                name=self.name,
                device=self.device,
                keeps_logits=self._keeps_logits,
                cache_name=self._cache_name,
                adds_mask=attention == "eager",
            )
            if windows is None:
                known.give_up("its state is no cache of keys and values")
            elif any(windows):
                known.give_up("some layers see a sliding window")
            elif attention not in ("eager", "sdpa"):
                known.give_up(f"its attention is {attention!r}")
        return known

    def _renew_static_notes(self) -> None:
        """`notes` with what the present static step says, and not what another has said."""
        found = () if self._static is None else self._static.notes
        if found != self._static_notes:
            kept = tuple(note for note in self.notes if note not in self._static_notes)
            self.notes = kept + found
            self._static_notes = found

    @property
    def slow_paths(self) -> tuple[str, ...]:
        """What makes this model slower than it could be, a sentence each; `notes` has them too."""
        static = self._static
        failed = static is not None and static.failure is not None
        return self._slow + (static.notes[-1:] if static is not None and failed else ())

    def _try_cache(self) -> None:
        """Find out how the forward pass takes a cache, by a step with one against one without.

        The names of arguments differ by version and model, and what a forward pass does not know
        it may ignore without a word.
        """
        plain = self._probe_tokens(0)
        logits = _plain_logits(self.model, plain, self.name)
        if bool(logits.isnan().any()) or bool(logits.isposinf().any()):
            raise refusal(
                "LMP940",
                f"the forward pass of {self.name} gives numbers that are not finite",
                notes=(
                    "its weights are finite, so its config.json or the dtype does not fit them",
                ),
                help="use the config.json it was saved with, or another dtype (float32, bfloat16)",
            )
        try:
            self._keeps_logits = (
                self.model(input_ids=plain, use_cache=False, logits_to_keep=1).logits.shape[1] == 1
            )
        except Exception:
            # It knows no such argument; whatever else is wrong with it shows when it is used.
            self._keeps_logits = False
        if self._windows is None:
            return
        reasons = []
        given = self.model(input_ids=plain[:1, :1], use_cache=True)
        for name in cache_names(_innermost(self.model), given):
            self._cache_name = name
            for seed in range(_TRIALS):
                try:
                    reason = self._cached_step_fails(self._probe_tokens(seed))
                except Exception as error:
                    # What knows no such argument, or a cache of its own kind, fails in its own way.
                    reason = f"its forward pass takes no cache ({in_a_line(error)})"
                if not reason:
                    return
                reasons.append(reason)
        self._windows, self._takes_mask, self._may_skip = None, False, False
        self._recompute(reasons[0])

    def _probe_tokens(self, seed: int) -> Tensor:
        """Tokens `[2, 4]` that are text."""
        usable = [token for token, text in enumerate(self.vocab.token_bytes) if text]
        spread = [usable[(7 * i + 13 * seed) % len(usable)] for i in range(8)]
        return torch.tensor(spread, device=self.device).view(2, 4)

    def _cached_step_fails(self, tokens: Tensor) -> str:
        """Why a prefill and a step with a cache do not do for `tokens` `[2, 4]`; "": they do.

        The second row is one token shorter, so that positions and masks are compared as well.
        """
        assert self._windows is not None
        storage = KVStorage(self._windows, 2, 4, self.device)
        storage.tokens.copy_(tokens)
        storage.tokens[1, 1:] = tokens[1, :3]
        pads = torch.tensor([0, 1], device=self.device)
        whole = self.model(input_ids=tokens, use_cache=False).logits
        filled = self._forward(storage, 0, 2, 0, 3, pads)[:, -1]
        stepped = self._forward(storage, 0, 2, 3, 4, pads)[:, -1]
        if not all(layer.is_initialized for layer in storage.kept):
            return "its forward pass takes no cache"
        rows = torch.arange(2, device=self.device)
        last = 3 - pads.to(whole.device)
        rows = rows.to(whole.device)
        for found, expected in ((filled, whole[rows, last - 1]), (stepped, whole[rows, last])):
            if not agrees(found, expected, num_roundings=_ROUNDINGS):
                return "a step with a cache does not agree with one without"
        return ""

    def _try_decoder(self) -> None:
        """Use the decoder for single steps where there is one for this model and it agrees."""
        if self._windows is None:
            return
        try:
            decoder = LlamaDecoder.of(_innermost(self.model), self._windows)
            if decoder is None:
                return
            with perturbed(decoder.adapters):
                # Fresh adapters add nothing, which shows nothing.
                alike = self._decodes_alike(decoder)
        except Exception:
            # A later version may have moved what the decoder reads; the model itself still runs.
            alike = False
        if alike:
            self._decoder = decoder
        else:
            self._note_slow(
                f"{self.name} is stepped by its general forward pass: the decoder for models of its"
                " kind does not agree with this one"
            )

    def _decodes_alike(self, decoder: LlamaDecoder) -> bool:
        """Whether a step of the decoder agrees with the model's own, on a few tokens."""
        assert self._windows is not None
        storage = KVStorage(self._windows, 2, 4, self.device)
        storage.tokens.copy_(self._probe_tokens(0))
        pads = torch.tensor([0, 1], device=self.device)
        self._forward(storage, 0, 2, 0, 3, pads)
        expected = self._forward(storage, 0, 2, 3, 4, pads)
        try:
            self._decoder = decoder
            found = self._forward(storage, 0, 2, 3, 4, pads)
        finally:
            self._decoder = None
        return bool((found - expected).abs().max() <= 1e-3 * (1 + expected.abs().max()))

    def _recompute(self, reason: str) -> None:
        self._note_slow(
            f"{self.name} is recomputed from scratch at every token, which takes time quadratic in"
            f" the length: {reason}"
        )

    def _note_slow(self, text: str) -> None:
        self._note(text)
        self._slow += (text,)

    @property
    def digest(self) -> str:
        """SHA-256 of the files, or of the parameters where there are none; computed once."""
        if self._digest is None:
            of_files = self._digest_of() if self._digest_of else None
            self._digest = of_files or _digest_of_parameters(self)
        return self._digest

    def with_model(self, model: Any, name: str | None = None) -> HuggingFaceLM:
        """The same tokenizer and vocabulary over another module of the same architecture.

        The module may be a trainable copy or a peft model; it is used as it is at each call, so
        that its parameters may change between calls (prefixes from before are then stale).
        """
        other = object.__new__(HuggingFaceLM)
        other.__dict__.update(self.__dict__)
        other.model, other.name = model.eval(), name or self.name
        other._digest_of, other._digest = None, None
        other.notes = ()
        other._inspect(_innermost(model).config.get_text_config(decoder=True))
        return other

    def ending_at(self, tokens: Iterable[int]) -> HuggingFaceLM:
        """The same model, whose texts end at these tokens too."""
        ends = self.vocab.eos_ids | set(tokens)
        if ends == self.vocab.eos_ids:
            return self
        other = object.__new__(HuggingFaceLM)
        other.__dict__.update(self.__dict__)
        other.vocab = replace(self.vocab, eos_ids=ends)
        return other

    # --- starting -------------------------------------------------------------------------------

    def start(self, prompts: Sequence[Prompt], *, max_new_tokens: int | None = None) -> Prefixes:
        """Prefixes of no tokens after each prompt, a logical row each; equal prompts once.

        Raises:
            InferenceError: LMP912, prompt and `max_new_tokens` exceed the context.
        """
        distinct = list(dict.fromkeys(prompts))
        rank = {prompt: row for row, prompt in enumerate(distinct)}
        index = torch.tensor([rank[prompt] for prompt in prompts], device=self.device)
        encoded = [self._prompt_ids(prompt) for prompt in distinct]
        for prompt, ids in zip(distinct, encoded, strict=True):
            self._require_room(len(ids), max_new_tokens or 0, prompt)
        tokens, pads = self._right_aligned(encoded)
        room = tokens.shape[1] + (_DEFAULT_ROOM if max_new_tokens is None else max_new_tokens)
        state, logits = self._prefill(tokens, pads, 0, room)
        identity = len(distinct) == len(prompts)
        return Prefixes(index, logits, 0, state, identity, identity)

    def resume(
        self,
        prompts: Sequence[Prompt],
        tokens: Tensor,
        lengths: Tensor,
        *,
        max_new_tokens: int | None = None,
    ) -> Prefixes:
        """Prefixes of given continuations, `tokens[i, :lengths[i]]` after prompt `i`.

        One batched pass; equal rows once, and a prompt that all rows share once.

        Raises:
            InferenceError: LMP912, a row or `max_new_tokens` exceeds the context.
        """
        sequences = self._sequences(prompts, tokens, lengths)
        distinct = list(dict.fromkeys(sequences))
        # Longest first: the prefill takes rows in chunks and skips what is empty in all of one.
        distinct.sort(key=lambda sequence: -len(sequence[0]) - len(sequence[1]))
        rank = {sequence: row for row, sequence in enumerate(distinct)}
        index = torch.tensor([rank[sequence] for sequence in sequences], device=self.device)
        for (prompt_ids, ids), prompt in zip(sequences, prompts, strict=True):
            self._require_room(len(prompt_ids), max(len(ids), max_new_tokens or 0), prompt)
        whole = [prompt_ids + ids for prompt_ids, ids in distinct]
        aligned, pads = self._right_aligned(whole)
        room = aligned.shape[1] + _DEFAULT_ROOM
        if max_new_tokens is not None:
            room = max(len(prompt_ids) for prompt_ids, _ in distinct) + max_new_tokens
        shared = _num_shared([prompt_ids for prompt_ids, _ in distinct])
        state, logits = self._prefill(aligned, pads, shared, room)
        counts = [len(ids) for _, ids in distinct]
        one_to_one = len(distinct) == len(prompts)
        return Prefixes(index, logits, self._lengths(counts), state, False, one_to_one)

    def _prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        if (ids := self._encoded.get(prompt)) is None:
            ids = self._encoded[prompt] = tuple(self._encode(prompt))
            self._require_known(ids, prompt)
        return ids

    def _require_known(self, ids: Sequence[int], prompt: Prompt) -> None:
        """No token beyond the embedding: a tokenizer that was extended, with a model that was not.

        Raises:
            InferenceError: LMP918.
        """
        embedding = self.model.get_input_embeddings()
        size = int(embedding.weight.shape[0]) if hasattr(embedding, "weight") else self.vocab.size
        if max(ids) < size:
            return
        token = max(ids)
        raise refusal(
            "LMP918",
            f"the prompt has the token {token} ({self.tokenizer.convert_ids_to_tokens(token)!r}),"
            f" and {self.name} knows {size} tokens only",
            notes=(f"the prompt is {_shown(prompt)}",),
            help="its tokenizer was extended after it was trained: leave that token out, or resize"
            " and train its embedding",
        )

    def _sequences(
        self, prompts: Sequence[Prompt], tokens: Tensor, lengths: Tensor
    ) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        rows, counts = tokens.tolist(), lengths.tolist()
        return [
            (self._prompt_ids(prompt), tuple(row[:count]))
            for prompt, row, count in zip(prompts, rows, counts, strict=True)
        ]

    def _require_room(self, num_prompt: int, num_new: int, prompt: Prompt) -> None:
        if self.max_context is None or num_prompt + num_new <= self.max_context:
            return
        room = self.max_context - num_prompt
        if room < 1:
            message = (
                f"a prompt of {num_prompt} tokens leaves no room for a text in the "
                f"{self.max_context} tokens of context of {self.name}"
            )
            help_ = "use a shorter prompt"
        else:
            message = (
                f"a prompt of {num_prompt} tokens and a text of {num_new} do not fit "
                f"the {self.max_context} tokens of context of {self.name}"
            )
            help_ = f"use max_tokens={room} or less, or a shorter prompt"
        raise refusal("LMP912", message, notes=(f"the prompt is {_shown(prompt)}",), help=help_)

    def _right_aligned(self, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
        """The sequences `[rows, columns]`, filled with token 0 on the left, and their pads."""
        columns = max(len(sequence) for sequence in sequences)
        rows = [[0] * (columns - len(sequence)) + list(sequence) for sequence in sequences]
        tokens = torch.tensor(rows, dtype=torch.long, device=self.device)
        counts = [columns - len(sequence) for sequence in sequences]
        return tokens, torch.tensor(counts, device=self.device) if any(counts) else None

    def _lengths(self, counts: Sequence[int]) -> Tensor | int:
        if len(set(counts)) == 1:
            return counts[0]
        return torch.tensor(counts, device=self.device)

    # --- stepping -------------------------------------------------------------------------------

    @torch.no_grad()
    def extend(self, prefixes: Prefixes, tokens: Tensor) -> Prefixes:
        """Every logical row followed by its token; rows that are then equal are computed once.

        Rows stay where they are in storage as long as one of their continuations lives; other
        continuations are copied to rows that are free.  So dropping finished rows or resampling
        moves only what changes, at most once.
        """
        state = prefixes.state
        if isinstance(state, _Recomputed):
            return self._extend_recomputed(prefixes, state, tokens)
        if not isinstance(state, CachedPrefixes):
            raise InternalError("these prefixes belong to another language model")
        _require_unspent(state)
        storage, columns, pads = state.storage, state.columns, state.pads
        index, lengths = prefixes.index, prefixes.lengths
        identity, one_to_one = prefixes.identity, prefixes.one_to_one
        if identity:
            rows, parents = prefixes.num_rows, None
        elif one_to_one:
            rows, parents = prefixes.num_rows, None
            tokens = torch.empty_like(tokens).index_copy_(0, index, tokens)
        else:
            placed = _place(index, tokens, self.vocab.size)
            rows, parents, index, tokens = (
                placed.num_rows,
                placed.parents,
                placed.index,
                placed.tokens,
            )
            one_to_one = rows == prefixes.num_rows
            identity = (
                one_to_one
                and placed.targets is None
                and bool(torch.equal(index, torch.arange(rows, device=index.device)))
            )
        self._check_context(storage.num_shared + columns + 1, pads)
        room = max(rows, prefixes.num_rows)
        if self._is_worth_sharing(storage, room, columns):
            storage.version += 1
            storage = storage.fanned_out(room, columns, max(2, storage.num_columns - columns + 1))
            columns = 1
        else:
            storage.reserve(room, columns + 1, columns)
            if parents is not None and placed.targets is not None:
                storage.copy_rows(placed.targets, placed.sources, columns)
        if parents is not None:
            pads = None if pads is None else pads.index_select(0, parents)
            if isinstance(lengths, Tensor):
                lengths = lengths.index_select(0, parents)
        storage.tokens[:rows, columns] = tokens
        storage.version += 1
        logits = self._advance(storage, rows, columns, columns + 1, pads)
        new = CachedPrefixes(storage, storage.version, columns + 1, pads)
        return Prefixes(index, logits, lengths + 1, new, identity, one_to_one)

    def _steps_shared(self) -> bool:
        """Whether steps are of the decoder, which alone knows of shared prefixes."""
        static = self._static
        return self._decoder is not None and (static is None or static.failure is not None)

    def _is_worth_sharing(self, storage: KVStorage, num_rows: int, columns: int) -> bool:
        """Whether `num_rows` continuations of one row should read what they share together."""
        return (
            self._steps_shared()
            and storage.num_rows == 1
            and num_rows >= _WORTH_SHARING
            and columns > _WORTH_SHARING
        )

    def archive(self, num_rows: int, max_tokens: int) -> KVArchive | None:
        """Room for the keys and values of texts that moves come back to.

        None for a model that is recomputed anyway.
        """
        if self._windows is None:
            return None
        return KVArchive(
            num_rows,
            max_tokens,
            prompt_length=lambda prompt: len(self._prompt_ids(prompt)),
            share=self._shared_prefix,
            resume=partial(self.resume, max_new_tokens=max_tokens),
            last_logits=lambda storage, rows, columns, pads: self._advance(
                storage, rows, columns - 1, columns, pads
            ),
        )

    def _shared_prefix(self, prompt: Prompt) -> SharedPrefix | None:
        """All but the last token of a prompt, where rows may share it and it is worth it."""
        if not self._steps_shared() or len(self._prompt_ids(prompt)) <= _WORTH_SHARING:
            return None
        state = self.start([prompt], max_new_tokens=1).state
        assert isinstance(state, CachedPrefixes)
        return state.storage.fanned_out(1, state.columns, 1).shared

    def _check_context(self, columns: int, pads: Tensor | None) -> None:
        if self.max_context is None or columns <= self.max_context:
            return
        if pads is None or columns - int(pads.min()) > self.max_context:
            raise refusal(
                "LMP912",
                f"a prompt and its text are longer than the {self.max_context} tokens of context "
                f"of {self.name}",
                help="use a smaller max_tokens or a shorter prompt",
            )

    # --- the forward pass -----------------------------------------------------------------------

    @torch.no_grad()
    def _prefill(
        self, tokens: Tensor, pads: Tensor | None, num_shared: int, room: int
    ) -> tuple[CachedPrefixes | _Recomputed, Tensor]:
        """State and next-token logits `[rows, vocab]` of right-aligned `tokens`.

        The first `num_shared` tokens of all rows are the same; `room` columns will be needed.
        """
        num_rows, columns = tokens.shape
        if self._windows is None:
            pads = (
                torch.zeros(num_rows, dtype=torch.long, device=self.device)
                if pads is None
                else pads
            )
            return _Recomputed(tokens, pads), self._recomputed_logits(tokens, pads)
        if self.max_context is not None:
            room = min(room, max(self.max_context, columns))
        if self._static is not None:
            room = self._static.room_for(room)
        storage, first = self._shared_storage(tokens, pads, num_shared, room)
        logits = self._advance(storage, num_rows, first, columns, pads)
        return CachedPrefixes(storage, storage.version, columns, pads), logits

    def _shared_storage(
        self, tokens: Tensor, pads: Tensor | None, num_shared: int, room: int
    ) -> tuple[KVStorage, int]:
        """Storage for `tokens`, and the column from which it is still to be computed."""
        num_rows, columns = tokens.shape
        assert self._windows is not None
        shortest = columns - (0 if pads is None else int(pads.max()))
        # Every row keeps at least its last token to compute, which gives the logits.
        num_shared = min(num_shared, shortest - 1)
        if num_rows == 1 or num_shared < _WORTH_SHARING:
            shelf = None if self._static is None else self._static.shelf
            storage = KVStorage(
                self._windows, num_rows, max(room, columns), self.device, shelf=shelf
            )
            storage.tokens[:, :columns] = tokens
            return storage, 0
        start = columns - shortest
        row = 0 if pads is None else int(pads.argmax())
        prefix = KVStorage(self._windows, 1, num_shared, self.device)
        prefix.tokens.copy_(tokens[row : row + 1, start : start + num_shared])
        self._advance(prefix, 1, 0, num_shared, None)
        origin = torch.zeros(num_rows, dtype=torch.long, device=self.device)
        storage = prefix.realigned(
            origin,
            origin if pads is None else -pads,
            num_columns=columns,
            capacity=max(room, columns),
        )
        storage.tokens[:, :columns] = tokens
        # The longest row has the most columns left, and the fewest pads: none.
        return storage, num_shared

    def _advance(
        self, storage: KVStorage, num_rows: int, first: int, last: int, pads: Tensor | None
    ) -> Tensor:
        """Fill columns `first:last` of the first `num_rows` rows; the logits after the last.

        In a prefill, row `i` needs the columns from `first + pads[i]` on; rows whose pads ascend
        share chunks with others of like length, and a chunk starts at its longest row.
        """
        width = last - first
        ragged = width > 1 and pads is not None
        if width == 1:
            limit = num_rows
        else:
            limit = max(1, (self._ragged_tokens if ragged else self._prefill_tokens) // width)
        if self.max_rows is not None:
            limit = min(limit, self.max_rows)
        if num_rows <= limit:
            logits = self._attempt(storage, 0, num_rows, first, last, pads)
            if logits is not None:
                return logits[:, -1]
        parts = []
        done = 0
        while done < num_rows:
            limit = min(limit, self.max_rows or limit)
            until = min(num_rows, done + limit)
            start = first
            if ragged and pads is not None:
                start = min(last - 1, first + int(pads[done:until].min()))
            part = self._attempt(storage, done, until, start, last, pads)
            if part is not None:
                parts.append(part[:, -1])
                done = until
        return torch.cat(parts)

    def _attempt(
        self,
        storage: KVStorage,
        first_row: int,
        last_row: int,
        first: int,
        last: int,
        pads: Tensor | None,
    ) -> Tensor | None:
        """Logits, or None after the device ran out of memory and `max_rows` was halved."""
        try:
            return self._forward(storage, first_row, last_row, first, last, pads)
        except torch.OutOfMemoryError:
            if last_row - first_row == 1:
                raise
            self.max_rows = (last_row - first_row) // 2
            self._note(f"out of memory: at most {self.max_rows} rows are computed at once")
            for static in self._static_steps.values():
                static.forget()
            torch.cuda.empty_cache()
            return None

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes += (text,)

    @without_plans
    def _forward(
        self,
        storage: KVStorage,
        first_row: int,
        last_row: int,
        first: int,
        last: int,
        pads: Tensor | None,
        every_logit: bool = False,
    ) -> Tensor:
        """Logits `[rows, 1 or last - first, vocab]` of columns `first:last` of some rows."""
        if last > self._positions.shape[0]:
            self._positions = torch.arange(2 * last, device=self.device)
        if last - first == 1 and first > 0 and self._static is not None:
            found = self._statically(self._static, storage, first_row, last_row, first, pads)
            if found is not None:
                return found
        mask, start = None, 0
        if pads is not None:
            pads = pads[first_row:last_row, None]
            if last - first == 1 and self._may_skip:
                # Rows that began early have ended, so no row may begin in the first columns.
                start = int(pads.min())
            mask = self._positions[start:last] >= pads
        follows = first > 0 or storage.shared is not None
        if last - first == 1 and follows and self._decoder is not None:
            if not self._decoder.is_current:
                self._decoder = LlamaDecoder(_innermost(self.model))
            starts = None if pads is None else pads[:, 0]
            stepped = self._decoder.step(storage, first_row, last_row, first, starts, mask, start)
            return stepped.unsqueeze(1)
        positions = self._positions[first:last].unsqueeze(0)
        if pads is not None and mask is not None:
            positions = (positions - pads).clamp_(min=0)
            if self._takes_mask:
                mask = self._ready_mask(mask, first, last)
        storage.focus(first_row, last_row, first, start)
        options: dict[str, Any] = {}
        if self._keeps_logits and not every_logit:
            options["logits_to_keep"] = 1
        logits: Tensor = self.model(
            input_ids=storage.tokens[first_row:last_row, first:last],
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **{self._cache_name: storage},
            **options,
        ).logits
        return logits

    def _statically(
        self,
        static: StaticStep,
        storage: KVStorage,
        first_row: int,
        last_row: int,
        column: int,
        pads: Tensor | None,
    ) -> Tensor | None:
        """Logits `[rows, 1, vocab]` of one column by the static step; None where it has none."""
        if static.failure is not None or storage.shared is not None:
            return None

        def expected() -> Tensor:
            self._static = None
            try:
                return self._forward(storage, first_row, last_row, column, column + 1, pads)[:, -1]
            finally:
                self._static = static

        logits = static.step(storage, first_row, last_row, column, pads, expected)
        self._renew_static_notes()
        if static.failure is not None:
            # A step that went wrong may have written anywhere.
            num_rows = storage.num_rows if pads is None else pads.shape[0]
            logits = self._advance(storage, num_rows, 0, column + 1, pads)[first_row:last_row]
        return None if logits is None else logits.unsqueeze(1)

    def _ready_mask(self, visible: Tensor, first: int, last: int) -> Tensor:
        """`[rows, 1, queries, columns]`: causal, no column before a row's first.

        A query before its row's first column sees itself alone, because a softmax over nothing
        is NaN, and NaN spreads even from where it is masked.
        """
        if last - first == 1:
            return visible[:, None, None, :]
        columns = self._positions[:last]
        queries = self._positions[first:last, None]
        seen = visible[:, None, :] & (columns <= queries)
        return (seen | (columns == queries))[:, None]

    # --- scoring --------------------------------------------------------------------------------

    def token_log_probs(
        self,
        prompts: Sequence[Prompt],
        tokens: Tensor,
        lengths: Tensor,
        *,
        gradient: bool = False,
    ) -> Tensor:
        """float32 `[rows, length]`: log p(token t | prompt, tokens before t), untempered, in nats.

        0 at and past `lengths` `[rows]`.  Rows are computed in micro-batches by length, and the
        scores over the vocabulary are never held for all of them.  With `gradient`, in one pass
        that can be differentiated with respect to the model's parameters.
        """
        sequences = self._sequences(prompts, tokens, lengths)
        for (prompt_ids, ids), prompt in zip(sequences, prompts, strict=True):
            self._require_room(len(prompt_ids), len(ids), prompt)
        result = torch.zeros(tokens.shape, dtype=torch.float32, device=self.device)
        if not sequences or tokens.shape[1] == 0:
            return result
        distinct = list(dict.fromkeys(sequences))
        distinct.sort(key=lambda sequence: len(sequence[0]) + len(sequence[1]))
        rank = {sequence: row for row, sequence in enumerate(distinct)}
        index = torch.tensor([rank[sequence] for sequence in sequences], device=self.device)
        rows = []
        for batch in self._batches(distinct, 2**62 if gradient else None):
            with torch.set_grad_enabled(gradient and torch.is_grad_enabled()):
                rows += self._score(batch, tokens.shape[1], gradient)
        return torch.stack(rows).index_select(0, index)

    @without_plans
    def sequence_logits(self, prompts: Sequence[Prompt], tokens: Tensor, lengths: Tensor) -> Tensor:
        """`[rows, length, vocab]`: untempered logits of the token at every position of given texts.

        In one pass without a cache that can be differentiated with respect to the model's
        parameters.  What stands at and past `lengths` `[rows]` is meaningless.
        """
        width = tokens.shape[1]
        encoded = [self._prompt_ids(prompt) for prompt in prompts]
        for prompt_ids, prompt in zip(encoded, prompts, strict=True):
            self._require_room(len(prompt_ids), int(lengths.max()), prompt)
        # Filled on the right: a causal model needs no mask for that.
        columns = max(map(len, encoded)) + width - 1
        whole = [
            (list(prompt_ids) + row[:-1] + [0] * columns)[:columns]
            for prompt_ids, row in zip(encoded, tokens.tolist(), strict=True)
        ]
        first = min(map(len, encoded)) - 1
        options: dict[str, Any] = {"logits_to_keep": columns - first} if self._keeps_logits else {}
        logits: Tensor = self.model(
            input_ids=torch.tensor(whole, dtype=torch.long, device=self.device),
            use_cache=False,
            **options,
        ).logits[:, -(columns - first) :]
        starts = [len(prompt_ids) - 1 - first for prompt_ids in encoded]
        if not any(starts):
            return logits[:, :width]
        rows = torch.arange(len(starts), device=self.device).unsqueeze(-1)
        offsets = torch.tensor(starts, device=self.device).unsqueeze(-1)
        return logits[rows, offsets + torch.arange(width, device=self.device)]

    def _batches(
        self,
        sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
        budget: int | None,
    ) -> Iterator[Sequence[tuple[tuple[int, ...], tuple[int, ...]]]]:
        """Consecutive runs of `sequences`, longest last, that fit the budget of log probs."""
        budget = budget or self._max_log_probs
        first = 0
        while first < len(sequences):
            last = first + 1
            while last < len(sequences):
                count = last + 1 - first
                width = sum(map(len, sequences[last]))
                if count * width * self.vocab.size > budget or (
                    self.max_rows is not None and count > self.max_rows
                ):
                    break
                last += 1
            yield sequences[first:last]
            first = last

    def _score(
        self,
        sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
        width: int,
        gradient: bool,
    ) -> list[Tensor]:
        """A row `[width]` of token log probs for each sequence."""
        # The last token of a sequence is scored but never fed.
        fed = [
            (prompt_ids + ids)[: len(prompt_ids) + max(0, len(ids) - 1)]
            for prompt_ids, ids in sequences
        ]
        scored = torch.zeros(len(sequences), width, dtype=torch.long)
        for row, (_, ids) in enumerate(sequences):
            scored[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        scored = scored.to(self.device)
        aligned, pads = self._right_aligned(fed)
        columns = aligned.shape[1]
        counts = torch.tensor([len(ids) for _, ids in sequences], device=self.device)
        # Column c of row i predicts its token `c - (columns - counts[i])`.
        offsets = columns - counts.clamp(min=1)
        total = torch.zeros(len(sequences), width, dtype=torch.float32, device=self.device)
        place = torch.arange(width, device=self.device) + offsets[:, None]
        live = torch.arange(width, device=self.device) < counts[:, None]
        shared = _num_shared([prompt_ids for prompt_ids, _ in sequences])
        for first, logits in self._all_logits(aligned, pads, gradient, columns - width, shared):
            last = first + logits.shape[1]
            here = live & (place >= first) & (place < last)
            at = (place - first).clamp(0, logits.shape[1] - 1)
            wanted = _gathered(logits, at, scored)
            total = total + torch.where(here, wanted, 0.0)
        return list(total)

    def _all_logits(
        self,
        tokens: Tensor,
        pads: Tensor | None,
        gradient: bool,
        needed_from: int,
        num_shared: int,
    ) -> Iterator[tuple[int, Tensor]]:
        """Logits of every column from `needed_from` on, in chunks with their first column."""
        num_rows, columns = tokens.shape
        needed_from = max(0, needed_from)
        if self._windows is None:
            yield from self._all_logits_recomputed(tokens, pads)
            return
        if gradient:
            yield 0, self._forward_without_cache(tokens, pads)
            return
        num_shared = min(num_shared, needed_from)
        storage, done = self._shared_storage(tokens, pads, num_shared, columns)
        if needed_from > done:
            self._forward(storage, 0, num_rows, done, needed_from, pads)
        step = max(1, self._max_log_probs // (num_rows * self.vocab.size))
        for first in range(needed_from, columns, step):
            last = min(columns, first + step)
            yield first, self._forward(storage, 0, num_rows, first, last, pads, every_logit=True)

    @without_plans
    def _forward_without_cache(self, tokens: Tensor, pads: Tensor | None) -> Tensor:
        columns = tokens.shape[1]
        positions = torch.arange(columns, device=self.device).unsqueeze(0)
        mask = None
        if pads is not None:
            mask = positions >= pads[:, None]
            positions = (positions - pads[:, None]).clamp_(min=0)
            if self._takes_mask:
                if columns > self._positions.shape[0]:
                    self._positions = torch.arange(2 * columns, device=self.device)
                mask = self._ready_mask(mask, 0, columns)
        logits: Tensor = self.model(
            input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False
        ).logits
        return logits

    # --- models whose state cannot be kept ------------------------------------------------------

    @torch.no_grad()
    def _extend_recomputed(
        self, prefixes: Prefixes, state: _Recomputed, tokens: Tensor
    ) -> Prefixes:
        placed = _place(prefixes.index, tokens, self.vocab.size)
        history = state.tokens.index_select(0, placed.parents)
        history = torch.cat([history, placed.tokens[:, None]], dim=1)
        pads = state.pads.index_select(0, placed.parents)
        self._check_context(history.shape[1], pads)
        lengths = prefixes.lengths
        if isinstance(lengths, Tensor):
            lengths = lengths.index_select(0, placed.parents)
        logits = self._recomputed_logits(history, pads)
        one_to_one = placed.num_rows == prefixes.num_rows
        new = _Recomputed(history, pads)
        return Prefixes(placed.index, logits, lengths + 1, new, False, one_to_one)

    def _recomputed_logits(self, tokens: Tensor, pads: Tensor) -> Tensor:
        result: Tensor | None = None
        for rows, batch in self._equal_lengths(tokens, pads):
            logits = self._plain_forward(batch, last_only=True)[:, -1]
            if result is None:
                result = logits.new_empty(tokens.shape[0], logits.shape[1])
            result[rows] = logits
        assert result is not None
        return result

    def _all_logits_recomputed(
        self, tokens: Tensor, pads: Tensor | None
    ) -> Iterator[tuple[int, Tensor]]:
        num_rows, columns = tokens.shape
        if pads is None:
            pads = torch.zeros(num_rows, dtype=torch.long, device=self.device)
        result: Tensor | None = None
        for rows, batch in self._equal_lengths(tokens, pads):
            logits = self._plain_forward(batch, last_only=False)
            if result is None:
                result = logits.new_zeros(num_rows, columns, logits.shape[2])
            result[rows, columns - batch.shape[1] :] = logits
        assert result is not None
        yield 0, result

    def _equal_lengths(self, tokens: Tensor, pads: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows of equal length, without padding, because a recurrent state would see it."""
        for pad in torch.unique(pads).tolist():
            rows = (pads == pad).nonzero()[:, 0]
            for part in rows.split(self.max_rows or rows.shape[0]):
                yield part, tokens[part, pad:]

    @without_plans
    def _plain_forward(self, tokens: Tensor, *, last_only: bool) -> Tensor:
        options: dict[str, Any] = {}
        if self._keeps_logits and last_only:
            options["logits_to_keep"] = 1
        logits: Tensor = self.model(input_ids=tokens, use_cache=False, **options).logits
        return logits


@dataclass(frozen=True, slots=True)
class _Placement:
    """Where each distinct (parent, token) goes.

    Row `r` continues `parents[r]` with `tokens[r]`; logical row `i` is row `index[i]`; rows
    `targets` must be filled from rows `sources` first (None: no row moves).
    """

    num_rows: int
    parents: Tensor
    tokens: Tensor
    index: Tensor
    targets: Tensor | None
    sources: Tensor


def _place(index: Tensor, tokens: Tensor, vocab_size: int) -> _Placement:
    """Distinct continuations in as many rows, each parent's first one where the parent was."""
    pairs, inverse = torch.unique(index * vocab_size + tokens, return_inverse=True)
    num_rows = pairs.shape[0]
    parents = torch.div(pairs, vocab_size, rounding_mode="floor")
    stays = parents < num_rows
    # Sorted pairs put the continuations of one parent side by side.
    stays[1:] &= parents[1:] != parents[:-1]
    moves = ~stays
    free = torch.ones(num_rows, dtype=torch.bool, device=index.device)
    free[parents[stays]] = False
    targets = free.nonzero()[:, 0]
    rows = parents.clone()
    rows[moves] = targets
    sources = parents[moves]
    by_row = torch.empty_like(rows).index_copy_(0, rows, torch.arange(num_rows, device=rows.device))
    return _Placement(
        num_rows,
        parents.index_select(0, by_row),
        (pairs - parents * vocab_size).index_select(0, by_row),
        rows.index_select(0, inverse),
        targets if targets.shape[0] else None,
        sources,
    )


def _gathered(logits: Tensor, columns: Tensor, tokens: Tensor) -> Tensor:
    """float32 `[rows, width]`: log softmax of `logits[row, columns]` at `tokens`."""
    logits = logits.float()
    normaliser = logits.logsumexp(-1).gather(1, columns)
    rows = torch.arange(logits.shape[0], device=logits.device)[:, None]
    return logits[rows, columns, tokens] - normaliser


def _require_unspent(state: CachedPrefixes) -> None:
    if state.version != state.storage.version:
        raise InternalError(
            "these prefixes were spent by an earlier extend, which reused their storage"
        )


def _num_shared(sequences: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all the sequences begin with."""
    first, last = min(sequences), max(sequences)
    count = 0
    while count < min(len(first), len(last)) and first[count] == last[count]:
        count += 1
    return count


def _innermost(model: Any) -> Any:
    """The transformers model inside a peft wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _num_logits(model: Any) -> int:
    head = model.get_output_embeddings()
    if head is not None and hasattr(head, "weight"):
        return int(head.weight.shape[0])
    return int(model.config.get_text_config(decoder=True).vocab_size)


def _plain_logits(model: Any, tokens: Tensor, name: str) -> Tensor:
    """Logits without a cache; what fails here fails at every text."""
    try:
        logits: Tensor = model(input_ids=tokens, use_cache=False).logits
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise refusal(
            "LMP940",
            f"the forward pass of {name} fails: {in_a_line(error)}",
            notes=("its config.json does not fit its weights, or it is no causal language model",),
            help="use the config.json it was saved with",
        ) from error
    return logits


def _shown(prompt: Prompt) -> str:
    return repr(prompt) if len(repr(prompt)) <= 60 else repr(prompt)[:57] + "..."


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends a text: any declared end token, and the start token.

    A start token that is generated begins another text, so this one is over; some models (trained
    on stories laid end to end) know no other way to stop.
    """
    size = _num_logits(model)
    ids: set[int] = set()
    configs = (model.config, model.config.get_text_config(decoder=True), model.generation_config)
    for source in (*configs, tokenizer):
        for name in ("eos_token_id", "bos_token_id"):
            declared = getattr(source, name, None)
            found = {declared} if isinstance(declared, int) else set(declared or ())
            outside = sorted(token for token in found if not 0 <= token < size)
            if outside and name == "eos_token_id":
                raise refusal(
                    "LMP941",
                    f"the end token {outside[0]} is outside the {size} tokens of the model, so that"
                    " no text would ever end there",
                    notes=(f"it is the eos_token_id of its {type(source).__name__}",),
                    help="correct eos_token_id in config.json and generation_config.json, and the"
                    " eos_token of the tokenizer",
                )
            ids |= found
    return frozenset(token for token in ids if 0 <= token < size)


def _start_id(model: Any, tokenizer: Any) -> int | None:
    config = model.config.get_text_config(decoder=True)
    for declared in (
        tokenizer.bos_token_id,
        config.bos_token_id,
        tokenizer.eos_token_id,
        config.eos_token_id,
    ):
        if isinstance(declared, int):
            return declared
        if declared:
            return int(declared[0])
    return None


def _digest_of_parameters(lm: HuggingFaceLM) -> str:
    sha = hashlib.sha256(lm.vocab.digest.encode())
    for name, tensor in sorted(lm.model.state_dict().items()):
        sha.update(name.encode())
        sha.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
