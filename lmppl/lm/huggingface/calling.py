"""How one model wants to be called, and what is kept for calling it fast."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmppl.lm.decoding import LlamaDecoder
from lmppl.lm.huggingface.anatomy import decoder_config, innermost
from lmppl.lm.names import STEPPINGS
from lmppl.lm.refusal import refusal
from lmppl.lm.static import StaticStep


@dataclass(frozen=True, slots=True)
class Budgets:
    """What one forward pass may hold: tokens of a prefill, of one whose rows begin in different
    columns, and scores over the vocabulary."""

    prefill_tokens: int
    ragged_tokens: int
    max_log_probs: int

    @classmethod
    def of(cls, device: torch.device) -> Budgets:
        """Those that run well on a device."""
        return cls(8_192, 2_048, 2**24) if device.type == "cpu" else cls(65_536, 65_536, 2**28)


class Calling:
    """One model and how it is called: found out by `trials`, and the same under all settings.

    `windows` are the sliding windows of its layers (None: its state cannot be cut or copied by row,
    so nothing of it is kept), `cache_name` is the argument that takes a cache, `takes_mask` says
    that one mask serves all layers and can be given ready, `may_skip` that looking for the columns
    that no row begins in costs nothing, `keeps_logits` that only the last logits can be had.
    `decoder` does single steps where there is one; `slow` says what makes the model slower than it
    could be.
    """

    def __init__(
        self, model: Any, name: str, windows: tuple[int | None, ...] | None, max_context: int | None
    ) -> None:
        self.model, self.name, self.windows = model, name, windows
        self.device: torch.device = next(model.parameters()).device
        # Where every layer sees every column, one mask serves all layers.
        self.takes_mask = self.attention == "sdpa" and windows is not None and not any(windows)
        # Elsewhere looking at the pads would stop the host at every step.
        self.may_skip = self.takes_mask and self.device.type == "cpu"
        self.cache_name, self.keeps_logits = "", False
        self.decoder: LlamaDecoder | None = None
        self.slow: tuple[str, ...] = ()
        self.budgets = Budgets.of(self.device)
        self._positions = torch.arange(max_context or 4_096, device=self.device)
        self._static_steps: dict[str, StaticStep] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        how = "without a cache" if self.windows is None else f"with a cache as {self.cache_name}"
        by = "" if self.decoder is None else ", single steps by a decoder"
        return f"<Calling {self.name} {how}{by}>"

    @property
    def attention(self) -> str | None:
        """The name of its attention in transformers."""
        return getattr(decoder_config(self.model), "_attn_implementation", None)

    def recompute(self, reason: str) -> None:
        """Keep no state of this model."""
        self.windows, self.takes_mask, self.may_skip = None, False, False
        self.slow += (
            f"{self.name} is recomputed from scratch at every token, which takes time quadratic in"
            f" the length: {reason}",
        )

    def positions(self, first: int, last: int) -> Tensor:
        """The numbers of columns `first:last`."""
        known = self._positions
        if last > known.shape[0]:
            known = self._positions = torch.arange(2 * last, device=self.device)
        return known[first:last]

    def current_decoder(self) -> LlamaDecoder | None:
        """The decoder with the parameters that the model has now."""
        decoder = self.decoder
        if decoder is not None and not decoder.is_current:
            decoder = self.decoder = LlamaDecoder(innermost(self.model))
        return decoder

    def static_step(self, mode: str) -> StaticStep | None:
        """The steps of fixed shapes for a way of stepping, kept for later; None for "none".

        Raises:
            InferenceError: LMP403, no such way, or CUDA graphs without a CUDA device.
        """
        if mode not in STEPPINGS or (mode == "cuda-graph" and self.device.type != "cuda"):
            raise refusal(
                "LMP403",
                f"{self.name} on {self.device} cannot be run with compile={mode!r}",
                notes=("CUDA graphs need a model on a CUDA device",) if mode in STEPPINGS else (),
                help='use device="cuda" where there is one, or compile="step" or "none"'
                if mode in STEPPINGS
                else f"use one of {', '.join(STEPPINGS)}",
            )
        if mode == "none":
            return None
        with self._lock:
            if mode not in self._static_steps:
                self._static_steps[mode] = self._new_static_step(mode)
            return self._static_steps[mode]

    def _new_static_step(self, mode: str) -> StaticStep:
        step = StaticStep(
            self.model,
            len(self.windows or ()),
            mode=mode,
            name=self.name,
            device=self.device,
            keeps_logits=self.keeps_logits,
            cache_name=self.cache_name,
            adds_mask=self.attention == "eager",
        )
        if self.windows is None:
            step.give_up("its state is no cache of keys and values")
        elif any(self.windows):
            step.give_up("some layers see a sliding window")
        elif self.attention not in ("eager", "sdpa"):
            step.give_up(f"its attention is {self.attention!r}")
        return step

    def forget_static_steps(self) -> None:
        """Give back the memory of all steps of fixed shapes."""
        for step in list(self._static_steps.values()):
            step.forget()

    def probe(self, token_bytes: Sequence[bytes], seed: int) -> Tensor:
        """Tokens `[2, 4]` that are text."""
        usable = [token for token, text in enumerate(token_bytes) if text]
        spread = [usable[(7 * i + 13 * seed) % len(usable)] for i in range(8)]
        return torch.tensor(spread, device=self.device).view(2, 4)
