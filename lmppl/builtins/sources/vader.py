"""`vader()`: the sentiment of a text by word lists and rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmppl.builtins.kinds import Arguments, Source
from lmppl.builtins.signature import Argument
from lmppl.ir.types import REAL, Interval

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from lmppl.builtins.loading import Place
    from lmppl.rewards.vader import VaderSource

_COMPOUND = "compound"
_COMPONENTS = (_COMPOUND, "pos", "neg", "neu")


def load(place: Place, component: str) -> VaderSource:
    from lmppl.rewards.vader import VaderSource

    return VaderSource(component)


def score_range(arguments: Arguments) -> Interval:
    """The compound lies in [-1, 1], and the shares in [0, 1]."""
    is_share = arguments.get("component", _COMPOUND) != _COMPOUND
    return Interval(0.0 if is_share else -1.0, 1.0)


def instances(random: Random, folder: Path) -> dict[str, object]:
    return {"component": random.choice(_COMPONENTS)}


VADER = Source(
    name="vader",
    arguments=(
        Argument(
            "component",
            "string",
            "`compound` in [-1, 1], or the share of `pos`, `neg` or `neu` words in [0, 1]",
            required=False,
            default=_COMPOUND,
            known="file",
            choices=_COMPONENTS,
            named_only=True,
        ),
    ),
    result=REAL,
    doc="The sentiment of a text in [-1, 1], by the VADER word lists and rules.",
    example="reward sentiment(t: string): real<lower=-1, upper=1> = vader()",
    load=load,
    score_range=score_range,
    instances=instances,
)
