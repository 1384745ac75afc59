"""`markov(path)`: a text of a Markov chain over tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lmppl.builtins.arguments import DRAWING
from lmppl.builtins.kinds import TextDistribution
from lmppl.builtins.signature import Argument

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from lmppl.builtins.loading import Place
    from lmppl.lm.protocol import LanguageModel


def load(place: Place, path: str, **drawing: Any) -> LanguageModel:
    from lmppl.lm.markov import load_markov

    return load_markov(path, base_dir=place.base_dir, device=place.one_device, files=place.files)


def instances(random: Random, folder: Path) -> dict[str, object]:
    import json

    tokens = ["a", "b ", ".", "<eos>"]
    chain = {
        "tokens": tokens,
        "initial": [random.random() + 0.1 for _ in tokens],
        "transition": [[random.random() + 0.1 for _ in tokens] for _ in tokens],
        "eos": random.choice([None, "<eos>"]),
    }
    (folder / "chain.json").write_text(json.dumps(chain), encoding="utf-8")
    return {"path": "chain.json", "max_tokens": random.randint(1, 3)}


MARKOV = TextDistribution(
    name="markov",
    arguments=(Argument("path", "path", "a JSON file with the chain", known="bind"), *DRAWING),
    doc="A text of a Markov chain over tokens.",
    example='text ~ markov("prior.json", max_tokens=6)',
    load=load,
    states="known",
    instances=instances,
)
