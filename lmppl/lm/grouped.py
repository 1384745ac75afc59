"""Attention of one new token whose query heads share keys and values, without repeating these.

transformers repeats them where a mask is given (up to 5.17, and whenever it is compiled), which
moves more memory than everything else in a step of many rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "lmppl_grouped"
_as_it_is = AttentionInterface()["sdpa"]  # type: ignore[no-untyped-call]
# Options that change the scores; transformers sees to them.
_CHANGES = ("softcap", "position_bias", "s_aux", "head_mask", "sliding_window", "cache")
# torch.bmm has `out_dtype` from here on, on CUDA devices.
_WIDENS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 8)


def grouped_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """As transformers' "sdpa"; `query` is `[rows, heads, 1, dim]`, `key` `[rows, kv heads, …]`.

    The heads of a group are so many queries of one head: a mask that is the same for all heads
    serves them all.
    """
    rows, heads, num_queries, dim = query.shape
    groups = heads // key.shape[1]
    if (
        groups == 1
        or num_queries != 1
        or dropout
        or attention_mask is None
        or attention_mask.shape[1] != 1
        or attention_mask.dtype == torch.bool
        or any(options.get(name) is not None for name in _CHANGES)
    ):
        found: tuple[Tensor, None] = _as_it_is(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return found
    packed = query.reshape(rows, key.shape[1], groups, dim)
    scale = dim**-0.5 if scaling is None else scaling
    mixed = attend(packed, key, value, attention_mask, scale)
    return mixed.reshape(rows, 1, heads, value.shape[3]), None


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """softmax(q kᵀ · scale + mask) v, `[rows, heads, queries, dim]` for a few queries.

    `key` and `value` are `[rows, heads, columns, dim]`, `mask` is added, `[rows, 1, 1, columns]`.
    """
    if query.device.type == "cuda" and _WIDENS:
        # For so few queries a third faster than torch's fused kernels at 1024 rows on an H200,
        # and two thirds faster than the one it chooses by itself (benchmarks/NOTES.md).
        return by_products(query, key, value, mask, scale)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


def by_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """`attend` as two batched products, with scores and softmax in float32."""
    rows, heads, num_queries, dim = query.shape
    queries = query.reshape(rows * heads, num_queries, dim)
    keys = key.flatten(0, 1).transpose(1, 2)
    if query.dtype in (torch.bfloat16, torch.float16):
        scores = torch.bmm(queries, keys, out_dtype=torch.float32)
    else:
        scores = torch.bmm(queries, keys)
    scores = scores.view(rows, heads, num_queries, -1)
    weights = torch.add(mask.to(scores.dtype), scores, alpha=scale).softmax(-1).to(value.dtype)
    mixed = torch.bmm(weights.flatten(0, 1), value.flatten(0, 1))
    return mixed.view(rows, heads, num_queries, value.shape[3])


AttentionInterface.register(NAME, grouped_attention)
# Another thread may build a mask meanwhile: it gets what "sdpa" would get.
AttentionMaskInterface.register(NAME, AttentionMaskInterface()["sdpa"])  # type: ignore[no-untyped-call]


def shares_heads(model: Any) -> bool:
    """Whether a model's query heads share keys, and its attention is one that this may replace."""
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_attention_heads", None) or 0
    kept = getattr(config, "num_key_value_heads", None) or heads
    return kept < heads and getattr(config, "_attn_implementation", None) == "sdpa"


@contextmanager
def grouping(config: Any) -> Iterator[None]:
    """Attends so while the block runs."""
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
