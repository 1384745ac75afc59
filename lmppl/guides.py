"""What a run takes of other `infer` lines: they are run first, within its budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, cast

from lmppl.errors import Diagnostic, InferenceError, LmpError
from lmppl.inference import Settings
from lmppl.inference.planning import plan_method
from lmppl.inference.proposed import TWIST
from lmppl.inference.references import (
    kind_taken,
    line_implied,
    line_named,
    reference_mistake,
    references,
)
from lmppl.ir.model import InferSpec, Model
from lmppl.options import settings_for
from lmppl.records import dataclass, replace

if TYPE_CHECKING:
    from lmppl.density import Target
    from lmppl.inference.guides import Given
    from lmppl.inference.loop import Budget
    from lmppl.posterior import Posterior
    from lmppl.progress import ProgressListener

# What a guide that somebody holds is called in the settings of a run.
_HELD = "given"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the settings of a run take from elsewhere: an `infer` line, or something that is held.

    `kind` says what `setting` takes. `line` is to be run first; `held` is what was fitted, a
    posterior that has it, or a directory.
    """

    setting: str
    kind: str
    line: InferSpec | None
    held: object = None


def named(options: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """Options in which everything that is no plain value is called by a word, and those things."""
    plain = (str, int, float, bool, type(None))
    held = {
        name: value
        for name, value in options.items()
        if not isinstance(value, plain) and _is_held(value)
    }
    words = {name: str(v) if isinstance(v, PathLike) else _HELD for name, v in held.items()}
    return {**options, **words}, held


def _is_held(value: object) -> bool:
    """Whether a value may be something that a run draws from: no number and no list of them."""
    return (
        isinstance(value, PathLike) or hasattr(value, "save_pretrained") or hasattr(value, "guide")
    )


def wanted(model: Model, settings: Settings, held: Mapping[str, object]) -> Wanted | None:
    """What the settings take from elsewhere; None: nothing.

    Raises:
        LmpError: LMP407, there is no such line.
    """
    found = list(references(settings))
    if len(found) > 1:
        names = " and ".join(setting.name for setting, _ in found)
        raise LmpError([_too_many(names)])
    for setting, value in found:
        line = line_named(model.infers, value)
        given = held.get(setting.name)
        if given is None and line is None and _is_directory(value):
            given = value
        if given is not None:
            return Wanted(setting.name, kind_taken(setting), None, given)
        if mistake := reference_mistake(setting, value, model.infers):
            raise LmpError([mistake])
        implied = line or line_implied(setting, value, model.span)
        return Wanted(setting.name, kind_taken(setting), implied)
    return None


def _is_directory(value: str) -> bool:
    from pathlib import Path

    return bool(value) and "\0" not in value and Path(value).is_dir()


def _too_many(names: str) -> Diagnostic:
    return Diagnostic(
        "LMP407",
        "error",
        f"{names} name two things that were fitted, and a run draws by one of them",
        help="a guide that proposes looks ahead by itself: leave the other out",
    )


def given(
    wanted: Wanted,
    target: Target,
    settings: Settings,
    values: Sequence[Mapping[str, object]],
    budget: Budget,
    progress: ProgressListener | None,
) -> tuple[Given, Budget]:
    """What a run is to draw by, and what is left of its budget; a line is run first.

    Raises:
        InferenceError: LMP408, it is none of this model; or why the line cannot be run.
        KeyboardInterrupt: the run of the line was interrupted.
    """
    from lmppl.inference.guides import GivenGuide, GivenTwist, held_guide, held_twist, misfit

    is_twist = wanted.kind == TWIST
    if wanted.line is None:
        found: Given | None
        if is_twist:
            found = held_twist(wanted.held, target)
        else:
            found = held_guide(wanted.held, target, _floor(settings))
        if found is None:
            why = f"{wanted.setting} is {wanted.held!r:.60}, which is no {wanted.kind}"
            raise misfit(why, wanted.kind)
        return found, budget
    name = wanted.line.name or wanted.line.method
    earlier, left = run_line(wanted.line, target, settings, values, budget, progress)
    made = [each for each in earlier if not isinstance(each, InferenceError)]
    manifest = made[0].manifest
    facts = {
        "line": name,
        "method": made[0].method,
        "settings": manifest["settings"],
        "seconds": manifest["seconds"],
        "num_tokens": manifest["num_tokens"],
        "complete": all(each.complete for each in made),
    }
    if is_twist:
        return GivenTwist.of(made[0].guide, target, **facts), left
    guides = [None if isinstance(each, InferenceError) else each.guide for each in earlier]
    # A binding that the line found impossible is not run afterwards either.
    held = [made[0].guide if guide is None else guide for guide in guides]
    return GivenGuide.of(held, target, _floor(settings), **facts), left


def _floor(settings: Settings) -> float:
    floor: float = cast(Any, settings).floor
    return floor


def run_line(
    line: InferSpec,
    target: Target,
    settings: Settings,
    values: Sequence[Mapping[str, object]],
    budget: Budget,
    progress: ProgressListener | None,
) -> tuple[list[Posterior | InferenceError], Budget]:
    """What an `infer` line finds, for every binding, and what is left of a budget.

    It may spend half of the budget. Without a seed of its own it has one that follows from that of
    the run which wants it.

    Raises:
        InferenceError: it cannot be run.
        KeyboardInterrupt: it was interrupted.
    """
    from lmppl.inference.execution import execute
    from lmppl.inference.loop import Budget
    from lmppl.posterior import Posterior
    from lmppl.rng import Stream

    assert settings.seed is not None
    model = target.model
    name = line.name or line.method
    own = settings_for(replace(model, infers=(line,)), None, name, {})
    if own.seed is None:
        own = replace(own, seed=Stream.from_seed(settings.seed).child("line", name).key % 2**31)
    own = replace(own, device=settings.device, dtype=settings.dtype)
    plans = [plan_method(model, own, dict(each)) for each in values]
    refusals = list(dict.fromkeys(refusal for plan in plans for refusal in plan.refusals))
    if refusals:
        raise InferenceError(refusals, model.sources)
    half = Budget(0.5 * budget.seconds, 0.5 * budget.num_tokens)
    found = execute(target, own, progress=progress or False, budget=half)
    first = next(each for each in found if isinstance(each, Posterior))
    if any("interrupted" in warning for warning in first.warnings if not first.complete):
        raise KeyboardInterrupt
    spent = first.manifest
    left = Budget(budget.seconds - spent["seconds"], budget.num_tokens - spent["num_tokens"])
    return found, left
