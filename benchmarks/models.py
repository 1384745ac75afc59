"""The language models that are measured: embedded, given, and built here with random weights."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import tokenizers
import torch
import transformers
from tokenizers import decoders, pre_tokenizers
from tokenizers.models import BPE

END = "<|end|>"


@dataclass(frozen=True, slots=True)
class Case:
    """A model by the name that a program gives it, the prompt and the tokens drawn after it."""

    label: str
    source: str
    prompt: str
    num_tokens: int


def byte_pair_tokenizer(size: int) -> transformers.PreTrainedTokenizerFast:
    """All bytes, then as many pairs of bytes as fit, then the end token; `size` tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Letters first, so that small vocabularies hold readable pairs.
    letters.sort(key=lambda letter: (not letter.isascii(), not letter.isalpha(), letter))
    pairs = list(itertools.islice(itertools.product(letters, letters), size - len(letters) - 1))
    names = [*letters, *(left + right for left, right in pairs), END]
    backend = tokenizers.Tokenizer(BPE(vocab={n: i for i, n in enumerate(names)}, merges=pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END)


def save_random_llama(
    directory: Path,
    *,
    vocab_size: int,
    num_layers: int = 6,
    width: int = 288,
    heads: int = 6,
    num_kv_heads: int | None = None,
    hidden: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Path:
    """A Llama-style checkpoint with random weights (seed 0), tied, and its tokenizer.

    Six layers of width 288 have 6 M parameters; the embedding comes on top. A large one is built
    on the `device` that will run it, which is quicker.
    """
    if (directory / "config.json").exists():
        return directory
    tokenizer = byte_pair_tokenizer(vocab_size)
    config = transformers.LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=hidden or width * 8 // 3,
        num_hidden_layers=num_layers,
        num_attention_heads=heads,
        num_key_value_heads=num_kv_heads or heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config).to(dtype)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def cases(scratch: Path, tokens: int) -> list[Case]:
    """What is measured; `scratch` keeps the models that are built here."""
    small = save_random_llama(scratch / "llama6m", vocab_size=512)
    wide = save_random_llama(scratch / "llama15m", vocab_size=32_000)
    found = [
        Case("stories", "builtin:stories", "Once upon a time", tokens),
        Case("llama 6M, V 512", str(small), "Once upon a time", tokens),
        Case("llama 15M, V 32000", str(wide), "Once upon a time", tokens),
    ]
    given = Path(__file__).resolve().parents[2] / "shared" / "models" / "babyllama940K-hf"
    if given.is_dir():
        found.insert(1, Case("babyllama 940K", str(given), "Once upon a time", tokens))
    return found


def silence() -> None:
    """transformers without its advice about generation options and its progress bars."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
