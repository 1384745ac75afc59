"""`reward_model(model)`: the score of a sequence classifier with one output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmppl.builtins.arguments import REVISION, TRUNCATE
from lmppl.builtins.kinds import Source
from lmppl.builtins.signature import Argument
from lmppl.builtins.sources.classifier import write_tiny_classifier
from lmppl.ir.types import REAL

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from lmppl.builtins.loading import Place
    from lmppl.rewards.huggingface import ClassifierSource


def load(place: Place, model: str, revision: str | None, truncate: bool) -> ClassifierSource:
    from lmppl.rewards.huggingface import load_sequence_classifier

    return load_sequence_classifier(
        place.model(model),
        head="score",
        revision=revision,
        truncate=truncate,
        device=place.device,
        dtype=place.dtype,
    )


def instances(random: Random, folder: Path) -> dict[str, object]:
    write_tiny_classifier(folder / "scorer", num_labels=1, seed=random.randrange(1000))
    return {"model": "scorer"}


REWARD_MODEL = Source(
    name="reward_model",
    arguments=(
        Argument("model", "model", "a local directory or a hub id", known="file"),
        REVISION,
        TRUNCATE,
    ),
    result=REAL,
    doc="The score of a sequence classifier with one output.",
    example='reward helpful(q: string, a: string): real = reward_model("acme/rm")',
    load=load,
    max_texts=2,
    runs_a_model=True,
    instances=instances,
)
