"""A causal language model of transformers as lmppl steps it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lmppl.lm.forward import ForwardSettings, Memory, RowLimit
from lmppl.lm.huggingface.anatomy import digest_of_parameters, end_ids, num_logits
from lmppl.lm.huggingface.cached import CachedEngine
from lmppl.lm.huggingface.engine import Engine
from lmppl.lm.huggingface.forward_pass import ForwardPass
from lmppl.lm.huggingface.prompts import Prompts, num_shared
from lmppl.lm.huggingface.scoring import Scoring
from lmppl.lm.huggingface.trials import tried
from lmppl.lm.huggingface.without_cache import UncachedEngine
from lmppl.lm.protocol import PrefixArchive, Prefixes, Prompt
from lmppl.lm.tokenization import special_tokens_of, vocabulary_of

_DEFAULT_ROOM = 32


class HuggingFaceLM:
    """A causal language model as transformers loads it, in evaluation mode.

    `max_rows` and `stepping` are its own settings of a forward pass; a run has others on a view of
    it (`under`). Results do not depend on them. `notes` says what a user should know of how this
    model is run.
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
        self.name = name
        self.model: Any = model.eval()
        self.tokenizer = tokenizer
        config = model.config.get_text_config(decoder=True)
        self.max_context: int | None = getattr(config, "max_position_embeddings", None)
        self.vocab = vocabulary_of(tokenizer, num_logits(model), end_ids(model, tokenizer))
        self.special_tokens = special_tokens_of(tokenizer, self.vocab)
        self.prompts = Prompts.of(model, tokenizer, name, self.vocab, self.max_context)
        self._digest_of = digest
        self._digest: str | None = None
        self.memory = Memory()
        self._settings = ForwardSettings(max_rows)
        self.calling = tried(model, name, self.vocab.token_bytes, self.max_context)
        self._assemble()

    def _assemble(self) -> None:
        """The engine for how the model is called, under the settings there are."""
        self.device = self.calling.device
        limit, size = RowLimit(self._settings.max_rows, self.memory), self.vocab.size
        self.static = self.calling.static_step(self._settings.stepping)
        self.engine: Engine
        if self.calling.windows is None:
            self.engine = UncachedEngine(self.calling, limit, self.prompts, size)
        else:
            passes = ForwardPass(self.calling, limit, self.static)
            self.engine = CachedEngine(passes, self.prompts, size)
        self._limit = limit
        self._scoring = Scoring(self.engine, self.calling, limit, self.prompts, size)

    def __repr__(self) -> str:
        return f"<HuggingFaceLM {self.name}: {self.vocab.size} tokens, on {self.device}>"

    # Settings -----------------------------------------------------------------------------------

    def under(self, settings: ForwardSettings) -> HuggingFaceLM:
        """The same language model under the settings of a run; its weights and what is compiled
        are shared.

        Raises:
            InferenceError: LMP403, a way of stepping that this model has not.
        """
        if settings.max_rows is None:
            settings = replace(settings, max_rows=self._settings.max_rows)
        return self if settings == self._settings else self._changed(_settings=settings)

    def _changed(self, **changes: Any) -> HuggingFaceLM:
        """A copy that shares what is not changed."""
        other = copy.copy(self)
        other.__dict__.update(changes)
        other._assemble()
        return other

    @property
    def max_rows(self) -> int | None:
        """The most rows of one forward pass (None: any number); halved by itself when the device
        runs out of memory."""
        return self._limit.value

    @max_rows.setter
    def max_rows(self, rows: int | None) -> None:
        self._settings = replace(self._settings, max_rows=rows)
        self._assemble()

    @property
    def stepping(self) -> str:
        """How single tokens are computed: "none" (in the general way), "step" or "cuda-graph".

        "step" compiles a step of fixed shapes with torch.compile, "cuda-graph" captures it. Both
        are kept for later, and `notes` says what came of them.

        Raises:
            InferenceError: LMP403, no such way, or CUDA graphs without a CUDA device.
        """
        return self._settings.stepping

    @stepping.setter
    def stepping(self, mode: str) -> None:
        self.calling.static_step(mode)
        self._settings = replace(self._settings, stepping=mode)
        self._assemble()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how this model is run, a sentence each."""
        static = () if self.static is None else self.static.notes
        return (*self.calling.slow, *self.memory.notes, *static)

    @property
    def slow_paths(self) -> tuple[str, ...]:
        """What makes this model slower than it could be, a sentence each; `notes` has them too."""
        has_failed = self.static is not None and self.static.failure is not None
        failed = self.static.notes[-1:] if self.static is not None and has_failed else ()
        return (*self.calling.slow, *failed)

    @property
    def digest(self) -> str:
        """SHA-256 of the files, or of the parameters where there are none; computed once."""
        if self._digest is None:
            of_files = self._digest_of() if self._digest_of else None
            self._digest = of_files or digest_of_parameters(self.model, self.vocab)
        return self._digest

    @property
    def unembedding(self) -> Tensor | None:
        """The weights `[vocab, hidden]` that make logits of the last hidden state; None: there is
        no such layer."""
        head = self.model.get_output_embeddings()
        weight: Tensor | None = getattr(head, "weight", None)
        return weight

    def with_model(self, model: Any, name: str | None = None) -> HuggingFaceLM:
        """The same tokenizer and vocabulary over another module of the same architecture.

        The module may be a trainable copy or a peft model; it is used as it is at each call, so
        that its parameters may change between calls (prefixes from before are then stale).
        """
        name = name or self.name
        calling = tried(model.eval(), name, self.vocab.token_bytes, self.max_context)
        return self._changed(
            model=model,
            name=name,
            calling=calling,
            prompts=replace(self.prompts, name=name, device=calling.device),
            memory=copy.copy(self.memory),
            _digest_of=None,
            _digest=None,
        )

    def ending_at(self, tokens: Iterable[int]) -> HuggingFaceLM:
        """The same model, whose texts end at these tokens too."""
        ends = self.vocab.eos_ids | set(tokens)
        if ends == self.vocab.eos_ids:
            return self
        return self._changed(vocab=replace(self.vocab, eos_ids=ends))

    # The verbs of a language model --------------------------------------------------------------

    def start(self, prompts: Sequence[Prompt], *, max_new_tokens: int | None = None) -> Prefixes:
        """Prefixes of no tokens after each prompt, a logical row each; equal prompts once.

        Raises:
            InferenceError: LMP912, prompt and `max_new_tokens` exceed the context.
        """
        distinct = list(dict.fromkeys(prompts))
        rank = {prompt: row for row, prompt in enumerate(distinct)}
        index = torch.tensor([rank[prompt] for prompt in prompts], device=self.device)
        for prompt in distinct:
            self.prompts.require_room(prompt, max_new_tokens or 0)
        tokens, pads = self.prompts.right_aligned([self.prompts.ids(each) for each in distinct])
        room = tokens.shape[1] + (_DEFAULT_ROOM if max_new_tokens is None else max_new_tokens)
        state, logits = self.engine.prefill(tokens, pads, 0, room)
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
        sequences = self.prompts.sequences(prompts, tokens, lengths)
        distinct = list(dict.fromkeys(sequences))
        # Longest first: the prefill takes rows in chunks and skips what is empty in all of one.
        distinct.sort(key=lambda sequence: -len(sequence[0]) - len(sequence[1]))
        rank = {sequence: row for row, sequence in enumerate(distinct)}
        index = torch.tensor([rank[sequence] for sequence in sequences], device=self.device)
        for (_, ids), prompt in zip(sequences, prompts, strict=True):
            self.prompts.require_room(prompt, max(len(ids), max_new_tokens or 0))
        whole = [prompt_ids + ids for prompt_ids, ids in distinct]
        aligned, pads = self.prompts.right_aligned(whole)
        room = aligned.shape[1] + _DEFAULT_ROOM
        if max_new_tokens is not None:
            room = max(len(prompt_ids) for prompt_ids, _ in distinct) + max_new_tokens
        shared = num_shared([prompt_ids for prompt_ids, _ in distinct])
        state, logits = self.engine.prefill(aligned, pads, shared, room)
        counts = [len(ids) for _, ids in distinct]
        same = len(set(counts)) == 1
        one_to_one = len(distinct) == len(prompts)
        return Prefixes(
            index,
            logits,
            counts[0] if same else torch.tensor(counts, device=self.device),
            state,
            False,
            one_to_one,
        )

    def extend(self, prefixes: Prefixes, tokens: Tensor) -> Prefixes:
        """Every logical row followed by its token; rows that are then equal are computed once."""
        return self.engine.extend(prefixes, tokens)

    def archive(self, num_rows: int, max_tokens: int) -> PrefixArchive | None:
        """Room for the keys and values of texts that moves come back to.

        None for a model that is recomputed anyway.
        """
        resume = partial(self.resume, max_new_tokens=max_tokens)
        return self.engine.archive(num_rows, max_tokens, resume)

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
        return self._scoring.token_log_probs(prompts, tokens, lengths, gradient=gradient)

    def sequence_logits(self, prompts: Sequence[Prompt], tokens: Tensor, lengths: Tensor) -> Tensor:
        """`[rows, length, vocab]`: untempered logits of the token at every position of given texts.

        In one pass without a cache that can be differentiated with respect to the model's
        parameters.  What stands at and past `lengths` `[rows]` is meaningless.
        """
        return self._scoring.sequence_logits(prompts, tokens, lengths)
