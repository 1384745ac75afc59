"""Fitted guides and twists that other methods draw by: given, saved, or left by another line."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from safetensors import SafetensorError

from lmppl.density import Target
from lmppl.density.proposal import Proposal
from lmppl.errors import Diagnostic, InferenceError
from lmppl.inference.proposed import GUIDE, TWIST
from lmppl.inference.twists import FittedTwist, read_twist
from lmppl.lm.protocol import LanguageModel
from lmppl.lowering.fitted import FittedGuide, read_guide
from lmppl.lowering.guide import Guide
from lmppl.lowering.proposal import GuideProposal
from lmppl.posterior import Posterior
from lmppl.posterior.storage import guide_directory
from lmppl.records import brief

# What reading something raises that is no guide, or a damaged one.
_UNREADABLE = (ValueError, KeyError, TypeError, OSError, RuntimeError, SafetensorError)


class Given(Protocol):
    """Something fitted that a run is to draw by; `facts` are what the manifest keeps of it."""

    @property
    def setting(self) -> str:
        """The option that takes it."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]: ...

    def of_groups(self, groups: Sequence[int]) -> Given:
        """The same for some of the bindings, which are then numbered anew."""
        ...

    def engine_options(
        self, target: Target, change: Callable[[LanguageModel], LanguageModel]
    ) -> dict[str, Any]:
        """What the engine of the run is made with; `change` is done to language models."""
        ...


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

    setting: ClassVar[str] = "proposal"

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

    def engine_options(
        self, target: Target, change: Callable[[LanguageModel], LanguageModel]
    ) -> dict[str, Any]:
        proposal: Proposal = GuideProposal(target, self.guide, self.groups, self.floor, change)
        return {"proposal": proposal}


@dataclass(frozen=True, slots=True)
class GivenTwist:
    """A twist that a run is to look ahead by."""

    twist: FittedTwist
    facts: Mapping[str, Any]

    setting: ClassVar[str] = "lookahead"

    __repr__ = brief

    @classmethod
    def of(cls, twist: FittedTwist, target: Target, **facts: Any) -> GivenTwist:
        """A twist for a target.

        Raises:
            InferenceError: LMP408, it is of another model.
        """
        if why := twist.misfit(target):
            raise misfit(why, TWIST)
        return cls(twist, {**facts, "digest": twist.digest})

    def of_groups(self, groups: Sequence[int]) -> GivenTwist:
        return replace(self, twist=self.twist.of_groups(groups))

    def engine_options(
        self, target: Target, change: Callable[[LanguageModel], LanguageModel]
    ) -> dict[str, Any]:
        return {"learned": self.twist.on(target)}


def held_twist(value: object, target: Target) -> GivenTwist | None:
    """A twist that somebody holds, as `held_guide`.

    Raises:
        InferenceError: LMP408, it is of another model, or the directory holds none.
    """
    if isinstance(value, Posterior):
        value = value.guide
    if isinstance(value, FittedTwist):
        return GivenTwist.of(value, target)
    if not isinstance(value, (str, os.PathLike)):
        return None
    place = _within(Path(value), TWIST)
    try:
        found = read_twist(target, place)
    except _UNREADABLE as error:
        why = f"what {value} holds is no twist of this model: {_in_words(error, place)}"
        raise misfit(why, TWIST) from error
    return GivenTwist.of(found, target, directory=str(value))


def _within(place: Path, kind: str) -> Path:
    """The directory of what was fitted: that of a saved posterior is inside it."""
    if not (place / "posterior.json").is_file():
        return place
    try:
        within = guide_directory(place)
    except _UNREADABLE as error:
        why = f"the posterior in {place} cannot be read: {_in_words(error, place)}"
        raise misfit(why, kind) from error
    if within is None:
        raise misfit(f"the posterior in {place} was saved without a {kind}", kind)
    return within


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
    place = _within(Path(value), GUIDE)
    try:
        guide = read_guide(target.of_groups([0]), place)
    except _UNREADABLE as error:
        why = f"what {value} holds is no guide of this model: {_in_words(error, place)}"
        raise misfit(why) from error
    return GivenGuide.of([guide], target, floor, directory=str(value))


def _in_words(error: Exception, place: Path) -> str:
    """What is wrong with something in a directory."""
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing"
    if isinstance(error, NotADirectoryError):
        return "it is no directory"
    if isinstance(error, FileNotFoundError):
        if not place.is_dir():
            return "there is no such directory"
        # What reads numbers does not say the name of the file by itself.
        return f"{Path(error.filename).name} is missing" if error.filename else str(error)
    if isinstance(error, SafetensorError):
        return f"its numbers cannot be read ({error}): it is damaged"
    return str(error)


def misfit(why: str, kind: str = GUIDE) -> InferenceError:
    """LMP408: a guide, or a twist, that cannot be used for a model."""
    help_ = (
        "fit a guide to this model with `infer svi(…) as tuned`, and name it: `proposal=tuned`"
        if kind == GUIDE
        else "fit a twist to this model with `infer twist(…) as t`, and name it: `lookahead=t`"
    )
    what = "propose for" if kind == GUIDE else "look ahead for"
    return InferenceError(
        [
            Diagnostic(
                "LMP408",
                "error",
                f"this {kind} cannot {what} the model: {why}",
                help=help_,
            )
        ]
    )
