"""An `extern reward`: a function that the host program gives by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmppl.builtins.kinds import Source
from lmppl.ir.model import EXTERN
from lmppl.ir.types import REAL

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from lmppl.builtins.loading import Place
    from lmppl.rewards.host import HostSource


def load(place: Place) -> HostSource:
    """The function as a source.

    Raises:
        InferenceError: the host gave none (LMP919).
    """
    from lmppl.rewards.host import HostSource
    from lmppl.rewards.scorer import failure

    reward = place.reward
    assert reward is not None
    if not callable(place.host):
        raise failure(
            "LMP919",
            f"reward `{reward.name}` was not given",
            help=f"bind it: model({reward.name}=function)",
        )
    return HostSource(
        place.host,
        reward.name,
        is_uncertain=reward.type.kind == "uncertain",
        reads_tokens=reward.inputs == "tokens",
        is_text=tuple(each.type.kind == "string" for each in reward.parameters),
    )


def instances(random: Random, folder: Path) -> dict[str, object]:
    return {}


# It has no name of its own in a program, so that it is not listed.
EXTERN_REWARD = Source(
    name=EXTERN,
    arguments=(),
    result=REAL,
    doc="A reward that the host program gives.",
    example="extern reward score(t: string): real",
    load=load,
    runs_a_model=True,
    instances=instances,
)
