"""An `extern lm`: a language model that the host program gives, called by its own name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lmppl.builtins.arguments import DRAWING, NO_PROMPT
from lmppl.builtins.kinds import TextDistribution
from lmppl.ir.model import EXTERN

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from lmppl.builtins.loading import Place
    from lmppl.lm.protocol import LanguageModel


def load(place: Place, **drawing: Any) -> LanguageModel:
    """What the host gave, which was checked before."""
    from lmppl.lm.protocol import LanguageModel

    assert isinstance(place.host, LanguageModel)
    return place.host


def instances(random: Random, folder: Path) -> dict[str, object]:
    return {"max_tokens": random.randint(1, 3)}


# It is not listed: programs call it by the name of what the host gives.
EXTERN_LM = TextDistribution(
    name=EXTERN,
    arguments=(NO_PROMPT, *DRAWING),
    doc="A text of a language model that the host program gives.",
    example="text ~ prior(max_tokens=6)",
    load=load,
    instances=instances,
)
