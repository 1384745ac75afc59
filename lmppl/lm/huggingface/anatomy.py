"""What is read off a transformers model: its sizes, and where its texts begin and end."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from lmppl.lm.protocol import Vocabulary
from lmppl.lm.refusal import refusal


def innermost(model: Any) -> Any:
    """The transformers model inside a peft wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decoder_config(model: Any) -> Any:
    """The configuration of the part that writes text."""
    return innermost(model).config.get_text_config(decoder=True)


def num_logits(model: Any) -> int:
    """How many tokens the model scores."""
    head = model.get_output_embeddings()
    if head is not None and hasattr(head, "weight"):
        return int(head.weight.shape[0])
    return int(model.config.get_text_config(decoder=True).vocab_size)


def num_embedded(model: Any, vocab: Vocabulary) -> int:
    """How many tokens the model can read."""
    embedding = model.get_input_embeddings()
    return int(embedding.weight.shape[0]) if hasattr(embedding, "weight") else vocab.size


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends a text: any declared end token, and the start token.

    A start token that is generated begins another text, so this one is over; some models (trained
    on stories laid end to end) know no other way to stop.
    """
    size = num_logits(model)
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


def start_id(model: Any, tokenizer: Any) -> int | None:
    """The token that stands for an empty prompt."""
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


def digest_of_parameters(model: Any, vocab: Vocabulary) -> str:
    """SHA-256 of the vocabulary and of all parameters."""
    sha = hashlib.sha256(vocab.digest.encode())
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(name.encode())
        sha.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
