"""How a model wants to be called, found out by calling it.

Names of arguments differ by version and model, and what a forward pass does not know it may ignore
without a word: so nothing is asked by name, and what is found is compared with a plain pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lmppl.lm.cache import KVStorage, attention_windows, cache_names
from lmppl.lm.decoding import LlamaDecoder, perturbed
from lmppl.lm.forward import Memory, RowLimit
from lmppl.lm.huggingface.anatomy import decoder_config, innermost
from lmppl.lm.huggingface.calling import Calling
from lmppl.lm.huggingface.forward_pass import ForwardPass
from lmppl.lm.refusal import refusal
from lmppl.lm.static import agrees, in_a_line

# Ways of calling a model are tried on so many texts: near a tie, rounding sends a token to another
# expert, once; a cache that is not read shows every time.
_TRIALS = 2
# Cached and uncached steps multiply in another order, at every layer.
_ROUNDINGS = 32


def tried(model: Any, name: str, token_bytes: Sequence[bytes], max_context: int | None) -> Calling:
    """How a model in evaluation mode is called.

    Raises:
        InferenceError: LMP940, its forward pass fails or gives what is not finite.
    """
    calling = Calling(model, name, attention_windows(decoder_config(model)), max_context)
    if calling.windows is None:
        calling.recompute("a layer keeps a state that cannot be cut or copied by row")
    with torch.no_grad(), warnings.catch_warnings():
        # What a model says of the ways that are only tried is nothing to a user.
        warnings.simplefilter("ignore")
        _try_cache(calling, token_bytes)
        _try_decoder(calling, token_bytes)
    return calling


def _try_cache(calling: Calling, token_bytes: Sequence[bytes]) -> None:
    """Find out how the forward pass takes a cache, by a step with one against one without."""
    model, plain = calling.model, calling.probe(token_bytes, 0)
    logits = _plain_logits(model, plain, calling.name)
    if bool(logits.isnan().any()) or bool(logits.isposinf().any()):
        raise refusal(
            "LMP940",
            f"the forward pass of {calling.name} gives numbers that are not finite",
            notes=("its weights are finite, so its config.json or the dtype does not fit them",),
            help="use the config.json it was saved with, or another dtype (float32, bfloat16)",
        )
    try:
        last = model(input_ids=plain, use_cache=False, logits_to_keep=1).logits
        calling.keeps_logits = last.shape[1] == 1
    except Exception:
        # It knows no such argument; whatever else is wrong with it shows when it is used.
        calling.keeps_logits = False
    if calling.windows is None:
        return
    reasons = []
    given = model(input_ids=plain[:1, :1], use_cache=True)
    for name in cache_names(innermost(model), given):
        calling.cache_name = name
        for seed in range(_TRIALS):
            try:
                reason = _cached_step_fails(calling, calling.probe(token_bytes, seed))
            except Exception as error:
                # What knows no such argument, or a cache of its own kind, fails in its own way.
                reason = f"its forward pass takes no cache ({in_a_line(error)})"
            if not reason:
                return
            reasons.append(reason)
    calling.recompute(reasons[0])


def _cached_step_fails(calling: Calling, tokens: Tensor) -> str:
    """Why a prefill and a step with a cache do not do for `tokens` `[2, 4]`; "": they do.

    The second row is one token shorter, so that positions and masks are compared as well.
    """
    storage, pads = _ragged_storage(calling, tokens)
    storage.tokens[1, 1:] = tokens[1, :3]
    whole = calling.model(input_ids=tokens, use_cache=False).logits
    passes = _passes(calling)
    filled = passes.logits(storage, 0, 2, 0, 3, pads)[:, -1]
    stepped = passes.logits(storage, 0, 2, 3, 4, pads)[:, -1]
    if not all(layer.is_initialized for layer in storage.kept):
        return "its forward pass takes no cache"
    rows = torch.arange(2, device=whole.device)
    last = 3 - pads.to(whole.device)
    for found, expected in ((filled, whole[rows, last - 1]), (stepped, whole[rows, last])):
        if not agrees(found, expected, num_roundings=_ROUNDINGS):
            return "a step with a cache does not agree with one without"
    return ""


def _try_decoder(calling: Calling, token_bytes: Sequence[bytes]) -> None:
    """Use the decoder for single steps where there is one for this model and it agrees."""
    if calling.windows is None:
        return
    try:
        decoder = LlamaDecoder.of(innermost(calling.model), calling.windows)
        if decoder is None:
            return
        with perturbed(decoder.adapters):
            # Fresh adapters add nothing, which shows nothing.
            alike = _decodes_alike(calling, decoder, calling.probe(token_bytes, 0))
    except Exception:
        # A later version may have moved what the decoder reads; the model itself still runs.
        alike = False
    if alike:
        calling.decoder = decoder
    else:
        calling.slow += (
            f"{calling.name} is stepped by its general forward pass: the decoder for models of its"
            " kind does not agree with this one",
        )


def _decodes_alike(calling: Calling, decoder: LlamaDecoder, tokens: Tensor) -> bool:
    """Whether a step of the decoder agrees with the model's own, on a few tokens `[2, 4]`."""
    storage, pads = _ragged_storage(calling, tokens)
    passes = _passes(calling)
    passes.logits(storage, 0, 2, 0, 3, pads)
    expected = passes.logits(storage, 0, 2, 3, 4, pads)
    try:
        calling.decoder = decoder
        found = passes.logits(storage, 0, 2, 3, 4, pads)
    finally:
        calling.decoder = None
    return bool((found - expected).abs().max() <= 1e-3 * (1 + expected.abs().max()))


def _passes(calling: Calling) -> ForwardPass:
    return ForwardPass(calling, RowLimit(None, Memory()))


def _ragged_storage(calling: Calling, tokens: Tensor) -> tuple[KVStorage, Tensor]:
    """Storage of tokens `[2, 4]`, and the first columns of its rows."""
    assert calling.windows is not None
    storage = KVStorage(calling.windows, 2, 4, calling.device)
    storage.tokens.copy_(tokens)
    return storage, torch.tensor([0, 1], device=calling.device)


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
