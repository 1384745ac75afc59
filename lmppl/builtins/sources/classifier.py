"""`classifier(model, label)`: the probability of a class under a sequence classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lmppl.builtins.arguments import REVISION, TRUNCATE
from lmppl.builtins.kinds import Arguments, Source
from lmppl.builtins.signature import Argument
from lmppl.ir.types import REAL, Interval

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from lmppl.builtins.loading import Place
    from lmppl.rewards.huggingface import ClassifierSource


def load(
    place: Place, model: str, label: str | int | None, revision: str | None, truncate: bool
) -> ClassifierSource:
    from lmppl.rewards.huggingface import load_sequence_classifier

    return load_sequence_classifier(
        place.model(model),
        head="class",
        label=label,
        revision=revision,
        truncate=truncate,
        device=place.device,
        dtype=place.dtype,
    )


def score_range(arguments: Arguments) -> Interval:
    return Interval(0.0, 1.0)


def instances(random: Random, folder: Path) -> dict[str, object]:
    write_tiny_classifier(folder / "classes", num_labels=3, seed=random.randrange(1000))
    return {"model": "classes", "label": random.randrange(3)}


def write_tiny_classifier(directory: Path, *, num_labels: int, seed: int) -> None:
    """A classifier of a few thousand random weights that reads letters, saved by transformers."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    vocabulary = {token: number for number, token in enumerate((*special, *"abcdefgh !."))}
    letters = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=letters,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    )
    config = BertConfig(  # type: ignore[call-arg]
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        num_labels=num_labels,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = BertForSequenceClassification(config)
    network.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


CLASSIFIER = Source(
    name="classifier",
    arguments=(
        Argument("model", "model", "a local directory or a hub id", known="file"),
        Argument(
            "label",
            "label",
            "the class, by name or number; the last class when not written",
            required=False,
            known="file",
            named_only=True,
        ),
        REVISION,
        TRUNCATE,
    ),
    result=REAL,
    doc="The probability of a class under a sequence classifier.",
    example="reward kind(t: string): real<lower=0, upper=1> ="
    ' classifier("acme/kind", label="kind")',
    load=load,
    score_range=score_range,
    max_texts=2,
    runs_a_model=True,
    instances=instances,
)
