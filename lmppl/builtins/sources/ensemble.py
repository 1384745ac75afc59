"""`ensemble([source, …])`: several sources as one uncertain reward."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmppl.builtins.kinds import Source
from lmppl.builtins.signature import Argument
from lmppl.ir.types import UNCERTAIN

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from lmppl.builtins.loading import Place
    from lmppl.rewards.ensemble import EnsembleSource
    from lmppl.rewards.scorer import Source as ScoreSource


def load(place: Place, members: tuple[ScoreSource, ...]) -> EnsembleSource:
    from lmppl.rewards.ensemble import EnsembleSource

    return EnsembleSource(members)


def instances(random: Random, folder: Path) -> dict[str, object]:
    from lmppl.rewards.texts import CountSource

    return {"members": tuple(CountSource(random.choice("abc!")) for _ in range(3))}


ENSEMBLE = Source(
    name="ensemble",
    arguments=(Argument("members", "sources", "an array of sources", known="file"),),
    result=UNCERTAIN,
    doc="An uncertain reward: each member is equally likely to be right.",
    example="reward helpful(t: string): uncertain ="
    ' ensemble([reward_model("a"), reward_model("b")])',
    load=load,
    max_texts=2,
    gives_members=True,
    instances=instances,
)
