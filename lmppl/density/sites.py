"""From the distribution of a site to its stage: a binder for each kind of distribution."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from lmppl.automata.stopping import Stopping
from lmppl.builtins.kinds import ChoiceDistribution, TextDistribution
from lmppl.builtins.loading import Place
from lmppl.density.spelling import ending_at, require_no_tokens
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
    top_k, top_p, until = known["top_k"], known["top_p"], known["until"]
    lm, before = ending_at(model, site, described.load(place, **known), "stop", known)
    lm, after = ending_at(model, site, lm, "stop_after", known)
    if until is not None:
        require_no_tokens(model, site, lm, str(until))
    return TextStage(
        name=site.name,
        lm=lm,
        max_tokens=int(known["max_tokens"]),
        warp=Warp(
            temperature=float(known["temperature"]),
            top_k=None if top_k is None else int(top_k),
            top_p=None if top_p is None else float(top_p),
        ),
        stopping=Stopping(before, after, None if until is None else str(until)),
    )
