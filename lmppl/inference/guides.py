"""Fitted guides that other methods draw from: given, saved, or left by a run of another line."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmppl.density import Target
from lmppl.density.proposal import Proposal
from lmppl.errors import Diagnostic, InferenceError
from lmppl.lm.protocol import LanguageModel
from lmppl.lowering.fitted import FittedGuide, read_guide
from lmppl.lowering.guide import Guide
from lmppl.lowering.proposal import GuideProposal
from lmppl.posterior import Posterior
from lmppl.posterior.storage import guide_directory
from lmppl.records import brief


@dataclass(frozen=True, slots=True)
class GivenGuide:
    """A guide that a run is to draw from, mixed with the prior, whose share is `floor`.

    `groups` says which of the guide's bindings each binding of the run draws from, and `facts` what
    the manifest keeps of it.
    """

    guide: Guide
    groups: tuple[int, ...]
    floor: float
    facts: Mapping[str, Any]

    __repr__ = brief

    @classmethod
    def of(
        cls, found: Sequence[FittedGuide], target: Target, floor: float, **facts: Any
    ) -> GivenGuide:
        """From the guide of every binding, or one for all of them.

        Raises:
            InferenceError: LMP408, it cannot propose for this model.
        """
        guide = found[0].module
        if why := guide.misfit(target):
            raise misfit(why)
        groups = tuple(each.group for each in found)
        if len(groups) == 1:
            groups = groups * target.num_groups
        return cls(guide, groups, floor, {**facts, "digest": guide.digest, "floor": floor})

    def of_groups(self, groups: Sequence[int]) -> GivenGuide:
        """The same for some of the bindings, which are then numbered anew."""
        return replace(self, groups=tuple(self.groups[group] for group in groups))

    def proposal(
        self, target: Target, change: Callable[[LanguageModel], LanguageModel]
    ) -> Proposal:
        """What proposes draws of a target; `change` is done to the guide's language models."""
        return GuideProposal(target, self.guide, self.groups, self.floor, change)


def held_guide(value: object, target: Target, floor: float) -> GivenGuide | None:
    """A guide that somebody holds: as itself, in a posterior, or in a directory; None: it is none.

    Raises:
        InferenceError: LMP408, it cannot propose for this model, or the directory holds none.
    """
    if isinstance(value, Posterior):
        value = value.guide
    if isinstance(value, FittedGuide):
        return GivenGuide.of([value], target, floor)
    if not isinstance(value, (str, os.PathLike)):
        return None
    place = Path(value)
    if (place / "posterior.json").is_file():
        within = guide_directory(place)
        if within is None:
            raise misfit(f"the posterior in {place} was saved without a guide")
        place = within
    try:
        guide = read_guide(target.of_groups([0]), place)
    except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
        words = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise misfit(f"what {value} holds is no guide of this model: {words}") from error
    return GivenGuide.of([guide], target, floor, directory=str(value))


def misfit(why: str) -> InferenceError:
    """LMP408: a guide that cannot propose for a model."""
    return InferenceError(
        [
            Diagnostic(
                "LMP408",
                "error",
                f"this guide cannot propose for the model: {why}",
                help="fit a guide to this model with `infer svi(…) as tuned`, and name it:"
                " `proposal=tuned`",
            )
        ]
    )
