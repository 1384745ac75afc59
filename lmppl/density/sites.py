"""From the distribution of a site to its stage: a binder for each kind of distribution."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from lmppl.builtins.kinds import ChoiceDistribution, TextDistribution
from lmppl.builtins.loading import Place
from lmppl.builtins.signature import as_words
from lmppl.density.spelling import ending_at
from lmppl.density.stages.choice import ChoiceStage, weights_of
from lmppl.density.stages.text import TextStage
from lmppl.ir.model import Model, Site
from lmppl.sequences.drawing import Warp


def bind_choice(
    model: Model,
    site: Site,
    described: ChoiceDistribution,
    known: Mapping[str, Any],
    place: Place,
) -> ChoiceStage:
    """The stage of a discrete site; `known` are the arguments that are the same for all rows."""
    support = described.support(**known)
    return ChoiceStage(site.name, support, partial(weights_of, described, len(support)))


def bind_text(
    model: Model,
    site: Site,
    described: TextDistribution,
    known: Mapping[str, Any],
    place: Place,
) -> TextStage:
    """The stage of a text site, its language model loaded from `place`."""
    stop, top_k, top_p = as_words(known["stop"] or ()), known["top_k"], known["top_p"]
    lm, stops = ending_at(model, site, described.load(place, **known), stop)
    return TextStage(
        name=site.name,
        lm=lm,
        max_tokens=int(known["max_tokens"]),
        warp=Warp(
            temperature=float(known["temperature"]),
            top_k=None if top_k is None else int(top_k),
            top_p=None if top_p is None else float(top_p),
        ),
        stop=stops,
    )
