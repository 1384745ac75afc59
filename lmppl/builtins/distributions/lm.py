"""`lm(model, prompt)`: a text of a causal language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lmppl.builtins.arguments import DRAWING, PROMPT
from lmppl.builtins.kinds import TextDistribution
from lmppl.builtins.signature import Argument

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from lmppl.builtins.loading import Place
    from lmppl.lm.protocol import LanguageModel


def load(place: Place, model: str, revision: str | None, **drawing: Any) -> LanguageModel:
    from lmppl.lm.loading import load_language_model

    return load_language_model(
        model,
        revision=revision,
        dtype=place.dtype,
        device=place.device,
        base_dir=place.base_dir,
    )


def instances(random: Random, folder: Path) -> dict[str, object]:
    prompt = random.choice(["", "Once upon a time"])
    return {"model": "builtin:stories", "prompt": prompt, "max_tokens": random.randint(1, 3)}


LM = TextDistribution(
    name="lm",
    arguments=(
        Argument("model", "model", "`builtin:…`, a local directory or a hub id", known="bind"),
        PROMPT,
        *DRAWING,
        Argument(
            "revision",
            "string",
            "the commit or tag of a hub id",
            required=False,
            known="bind",
            named_only=True,
        ),
    ),
    doc="A text of a causal language model after a prompt.",
    example='text ~ lm("builtin:stories", prompt="Once upon a time", max_tokens=40)',
    load=load,
    instances=instances,
)
