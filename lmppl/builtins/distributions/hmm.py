"""`hmm(path)`: a text of a hidden Markov model over tokens."""

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
    from lmppl.lm.hmm import load_hmm

    return load_hmm(path, base_dir=place.base_dir, device=place.one_device, files=place.files)


def instances(random: Random, folder: Path) -> dict[str, object]:
    import json

    tokens, states = ["a", "b ", ".", "<eos>"], range(random.randint(1, 3))

    def row(size: int) -> list[float]:
        return [random.random() + 0.1 for _ in range(size)]

    model = {
        "tokens": tokens,
        "initial": row(len(states)),
        "transition": [row(len(states)) for _ in states],
        "emission": [row(len(tokens)) for _ in states],
        "eos": random.choice([None, "<eos>"]),
    }
    (folder / "hmm.json").write_text(json.dumps(model), encoding="utf-8")
    return {"path": "hmm.json", "max_tokens": random.randint(1, 3)}


HMM = TextDistribution(
    name="hmm",
    arguments=(Argument("path", "path", "a JSON file with the model", known="bind"), *DRAWING),
    doc="A text of a hidden Markov model over tokens.",
    example='text ~ hmm("prior.json", max_tokens=6)',
    load=load,
    states="hidden",
    instances=instances,
)
