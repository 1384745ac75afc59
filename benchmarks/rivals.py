"""What lmppl is compared with: the same model's own batched sampling."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lmppl.lm.huggingface import HuggingFaceLM


@dataclass(frozen=True, slots=True)
class Generated:
    """Tokens of a batch: those that belong to a text (an end token included), and all computed.

    `generate` goes on computing rows that have ended until the last one has; lmppl does not.
    """

    num_useful: int
    num_computed: int


def generate(
    lm: HuggingFaceLM, prompt: str, num_rows: int, num_tokens: int, **options: object
) -> Generated:
    """`transformers`' `generate(do_sample=True)` from the untempered prior, `num_rows` at once.

    `options` are more of its own.
    """
    ids = torch.tensor([lm.prompts.ids(prompt)], device=lm.device).repeat(num_rows, 1)
    ends = sorted(lm.vocab.eos_ids)
    with torch.no_grad():
        found = lm.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            max_new_tokens=num_tokens,
            eos_token_id=ends,
            pad_token_id=ends[0],
            **options,
        )
    new = found[:, ids.shape[1] :]
    is_end = torch.isin(new, torch.tensor(ends, device=lm.device))
    useful = ((is_end.cumsum(-1) - is_end.long()) == 0).sum()
    return Generated(int(useful), new.numel())
