"""Tiny language models of every style, built on the spot: random weights, real tokenizers."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from lmppl.lm.huggingface import HuggingFaceLM

CORPUS = (
    "Once upon a time there was a little girl named Lily. She loved to play outside.",
    'The dog said, "Hello! How are you?" and ran away, because it was late.',
    "Tom was sad. He wanted the big red ball, but it was too high for him to reach.",
    "Ünïcödé façade — naïve café, 日本語 and émigrés; don't they look nice?\n\nThe end.",
)
TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
START, END, PAD = "<s>", "</s>", "<pad>"


def byte_level_tokenizer(template: str | None = None) -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE without a start token before prompts, as GPT-2 and Qwen have."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, pad_token=PAD
    )
    tokenizer.chat_template = template
    return tokenizer


def sentencepiece_tokenizer(*, strips: bool = True) -> transformers.PreTrainedTokenizerFast:
    """A BPE over ▁ with byte fallback and a start token; `strips` as Llama 2, else as Gemma."""
    vocab = {token: i for i, token in enumerate(["<unk>", START, END, PAD])}
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    merges: list[tuple[str, str]] = []
    for character in "▁abcdefghijklmnopqrstuvwxyzTOLSHU.,!?'\"é":
        vocab[character] = len(vocab)
    for left, right in (("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "a"), ("e", "r"), ("▁", "s")):
        vocab[left + right] = len(vocab)
        merges.append((left, right))
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    steps = [normalizers.Replace(" ", "▁")]
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), *steps] if strips else steps
    )
    tail = [decoders.Strip(" ", 1, 0)] if strips else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *tail]
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, vocab[START])]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        unk_token="<unk>",
    )


_SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "initializer_range": 0.4,
}


def _config(style: str, vocab_size: int) -> transformers.PreTrainedConfig:
    """Logits spread by several nats, so that a law which fails does so by much."""
    small = {**_SMALL, "vocab_size": vocab_size}
    ids = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
    match style:
        case "llama":
            return transformers.LlamaConfig(**small, **ids, tie_word_embeddings=False)
        case "gpt2":
            return transformers.GPT2Config(
                vocab_size=vocab_size,
                n_embd=32,
                n_layer=2,
                n_head=4,
                n_positions=96,
                initializer_range=0.4,
                **ids,
            )
        case "gpt_neox":
            return transformers.GPTNeoXConfig(
                vocab_size=vocab_size,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=96,
                initializer_range=0.4,
                **ids,
            )
        case "qwen2":
            return transformers.Qwen2Config(**small, **ids, tie_word_embeddings=True)
        case "qwen3":
            return transformers.Qwen3Config(**small, **ids, head_dim=8)
        case "mistral":
            return transformers.MistralConfig(**small, **ids, head_dim=8, sliding_window=6)
        case "gemma2":
            return transformers.Gemma2Config(**small, **ids, head_dim=8, sliding_window=6)
        case "gemma3":
            return transformers.Gemma3TextConfig(
                **small,
                **ids,
                head_dim=8,
                sliding_window=6,
                layer_types=["sliding_attention", "full_attention"],
            )
        case "mamba":
            return transformers.MambaConfig(
                vocab_size=vocab_size,
                hidden_size=32,
                state_size=4,
                num_hidden_layers=2,
                initializer_range=0.4,
                **ids,
            )
    raise ValueError(style)


STYLES = ("llama", "gpt2", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "mamba")
# Styles whose original tokenizers are SentencePiece ones.
_SENTENCEPIECE = {"mistral": True, "gemma2": False, "gemma3": False}


def tiny_model(
    style: str, dtype: torch.dtype = torch.float32
) -> tuple[torch.nn.Module, transformers.PreTrainedTokenizerFast]:
    """A causal model of this style with random weights (seed 0), and its tokenizer."""
    if style in _SENTENCEPIECE:
        tokenizer = sentencepiece_tokenizer(strips=_SENTENCEPIECE[style])
    else:
        tokenizer = byte_level_tokenizer(TEMPLATE if style == "qwen2" else None)
    # Three rows more than there are tokens: embeddings are padded in real checkpoints.
    config = _config(style, len(tokenizer) + 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.eval(), tokenizer


def tiny_lm(style: str, dtype: torch.dtype = torch.float32) -> HuggingFaceLM:
    """`tiny_model` behind lmppl's protocol."""
    model, tokenizer = tiny_model(style, dtype)
    return HuggingFaceLM(model, tokenizer, name=f"tiny-{style}")


def save_tiny_model(style: str, directory: Path) -> Path:
    """A directory as `save_pretrained` writes it."""
    model, tokenizer = tiny_model(style)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def write_markov(path: Path, *, eos: str | None = "<eos>") -> Path:
    """A Markov chain over five tokens, with a zero here and there."""
    tokens = ["a", "b", " c", "dé", "<eos>"]
    weights = [
        [1, 2, 3, 4, 1],
        [0, 1, 1, 2, 0.5],
        [5, 0, 1, 1, 1],
        [1, 1, 1, 0, 2],
        [1, 1, 1, 1, 0],
    ]
    spec = {"tokens": tokens, "initial": [3, 1, 0, 1, 0.25], "transition": weights, "eos": eos}
    path.write_text(json.dumps(spec), encoding="utf-8")
    return path


def write_hmm(path: Path, *, eos: str | None = "<eos>") -> Path:
    """A hidden Markov model of three states over five tokens, with a zero here and there."""
    spec = {
        "tokens": ["a", "b", " c", "dé", "<eos>"],
        "initial": [3, 0, 1],
        "transition": [[4, 1, 0], [1, 3, 1], [2, 0, 1]],
        "emission": [[1, 2, 0, 4, 1], [0, 1, 5, 0, 0.5], [1, 1, 1, 1, 3]],
        "eos": eos,
    }
    path.write_text(json.dumps(spec), encoding="utf-8")
    return path
