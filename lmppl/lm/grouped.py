"""Attention of one new token whose query heads share keys and values, without repeating these.

transformers repeats them where a mask is given (up to 5.17, and whenever it is compiled), which
costs more memory traffic than everything else in a step of many rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attend
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "lmppl_grouped"
# Options that change the scores; transformers sees to them.
_CHANGES = ("softcap", "position_bias", "s_aux", "head_mask", "sliding_window", "cache")


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
    asks_for_more = any(options.get(name) is not None for name in _CHANGES)
    if (
        groups == 1
        or num_queries != 1
        or attention_mask is None
        or attention_mask.shape[1] != 1
        or asks_for_more
    ):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    packed = query.reshape(rows, key.shape[1], groups, dim)
    found = attend(packed, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling)
    return found.reshape(rows, 1, heads, value.shape[3]), None


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def shares_heads(model: Any) -> bool:
    """Whether a model's query heads share keys, and its attention is one that this may replace."""
    config = model.config.get_text_config(decoder=True)
    heads, kept = (
        getattr(config, name, None) for name in ("num_attention_heads", "num_key_value_heads")
    )
    attention = getattr(config, "_attn_implementation", None)
    return attention == "sdpa" and bool(heads) and bool(kept) and kept < heads


@contextmanager
def grouping(config: Any) -> Iterator[None]:
    """Attends so while the block runs."""
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
