"""`finished(text)`: the text ended by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmppl.builtins.kinds import Predicate
from lmppl.builtins.signature import Argument

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random


def holds(ended: bool) -> bool:
    """Whether the text ended by an end token or a stop string, not by reaching `max_tokens`."""
    return ended


def instances(random: Random, folder: Path) -> dict[str, object]:
    return {}


FINISHED = Predicate(
    name="finished",
    arguments=(Argument("text", "generated", "the text of a site"),),
    doc="True when the text ended by an end token or a stop string, not by reaching max_tokens.",
    example="require finished(text)",
    reads="ending",
    holds=holds,
    instances=instances,
)
