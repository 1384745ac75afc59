"""load, compile, bind, infer: the one line that the whole house is built around.

text ──parse──▶ Program ──check──▶ Model ──bind──▶ Target ──infer──▶ Posterior
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmppl.checker import Language, analyse_text, program_files
from lmppl.errors import InferenceError
from lmppl.files import AnyPath
from lmppl.guides import given, named, wanted
from lmppl.inference.listening import listening
from lmppl.inference.planning import Plan, plan_method
from lmppl.models import (
    BoundModel,
    CompiledModel,
    Inferable,
    bind_target,
    bound_model,
    require_one_program,
)
from lmppl.options import settings_for
from lmppl.progress import ProgressEvent
from lmppl.syntax import read_program, require_text

if TYPE_CHECKING:
    from lmppl.posterior import NoPosterior, Posterior
    from lmppl.progress import ProgressListener


def load(
    path: str | Path, *, pedantic: bool = False, allow: AnyPath | Iterable[AnyPath] = ()
) -> CompiledModel:
    """The program in a `.lmp` file, parsed and checked.

    What it reads (`file`, `import`, `markov`, …) lies in its own folder, or beneath one of the
    folders of `allow`, links followed. Models (`lm`, `classifier`, `reward_model`) may lie
    anywhere. `pedantic` adds warnings about what is legal and often not meant (6xx).

    Raises:
        LmpError: the file cannot be read (LMP027), or every error of the file, at once.

    >>> lmppl.load("examples/upbeat.lmp").model.name  # doctest: +SKIP
    'upbeat'
    """
    content = read_program(path)
    return _compile(content, str(path), str(Path(path).parent), pedantic, allow)


def compile(
    source: str, *, base_dir: str | Path = ".", allow: AnyPath | Iterable[AnyPath] = ()
) -> CompiledModel:
    """A program given as text; files that it names are found relative to `base_dir`.

    They lie beneath `base_dir`, or beneath one of the folders of `allow`.

    Raises:
        LmpError: every error of the program, at once.
    """
    return _compile(require_text(source), None, str(base_dir), allow=allow)


def _compile(
    text: str | bytes,
    path: str | None,
    base_dir: str,
    pedantic: bool = False,
    allow: AnyPath | Iterable[AnyPath] = (),
) -> CompiledModel:
    began = time.perf_counter()
    allow = (allow,) if isinstance(allow, (str, os.PathLike)) else tuple(allow)
    analysis = analyse_text(text, path, program_files(base_dir, allow), pedantic=pedantic)
    model = analysis.checked()
    _tell("checked %s in %.2f s", path or "a text", time.perf_counter() - began)
    return CompiledModel(model, analysis.diagnostics)


def explain(
    bound: Inferable, *, method: str | None = None, infer: str | None = None, **options: object
) -> Plan:
    """Whether a method would run on the model, and why not; nothing is loaded or run.

    What only the vocabulary of a language model tells, `target()` of a bound model says.
    """
    one = bound_model(bound, "explain")
    options, held = named(options)
    settings = settings_for(one.model, method, infer, options)
    wanted(one.model, settings, held)
    return plan_method(one.model, settings, dict(one.values))


def infer(
    bound: Inferable | Sequence[Inferable],
    *,
    method: str | None = None,
    infer: str | None = None,
    progress: ProgressListener | bool | None = None,
    budget: float | str | None = None,
    **options: object,
) -> Any:
    """The posterior of a model under a method: the file's own, a named `infer`, or any other.

    `method` picks a method by name, with its options as keywords (`num_particles=256`, `seed=0`);
    `infer` picks a named `infer` line of the file. When the method differs from the file's, only
    the seed and the number of draws carry over. `budget` ends a run early: seconds, or a string
    such as "30s" or "100000 tokens". `progress` is a function of `ProgressEvent`, or says whether
    to show how far the run is; by default on a terminal only. A list of models bound from one
    program is inferred in one batch and gives a list; where some of them have no posterior, a
    `NoPosterior` with its error stands in their place.

    Raises:
        LmpError: unknown method or option, or a method that cannot do this model (4xx).
        InferenceError: no probability is left, a reward is not a number, and the like (9xx).

    >>> post = lmppl.infer(model, method="smc", num_particles=64, seed=0)  # doctest: +SKIP
    """
    if isinstance(bound, Sequence) and not isinstance(bound, str):
        return _infer_many(list(bound), method, infer, progress, budget, options)
    return _infer_many([bound], method, infer, progress, budget, options)[0]


def _infer_many(
    models: list[Inferable],
    method: str | None,
    infer: str | None,
    progress: ProgressListener | bool | None,
    budget: float | str | None,
    options: Mapping[str, object],
) -> list[Posterior | NoPosterior]:
    bound = [bound_model(each, "infer") for each in models]
    if not bound:
        return []
    require_one_program(bound)
    model = bound[0].model
    options, held = named(options)
    settings = settings_for(model, method, infer, options)
    needs = wanted(model, settings, held)
    plans = [plan_method(model, settings, dict(each.values)) for each in bound]
    refusals = list(dict.fromkeys(refusal for plan in plans for refusal in plan.refusals))
    if refusals:
        raise InferenceError(refusals, model.sources)

    _tell("%s of %s by %s", model.name, model.path or "a text", settings)
    with ExitStack() as ending:
        with listening(progress) as listener:
            if listener is not None:
                listener(ProgressEvent("loading", 0, None, "libraries"))
            from lmppl.diagnostics import judge
            from lmppl.inference.execution import execute, parse_budget
            from lmppl.rng import fresh_seed

            target = bind_target(bound, settings.device, settings.dtype, listener)
            fitted, rest = None, parse_budget(budget)
            if needs is not None:
                if settings.seed is None:
                    settings = replace(settings, seed=fresh_seed())
                values = [each.values for each in bound]
                fitted, rest = given(needs, target, settings, values, rest, listener)
            found = execute(
                target,
                settings,
                progress=listener or False,
                budget=rest,
                parse=Language(model),
                ending=ending,
                given=fitted,
            )
        left = iter(found)
        results = [
            target.impossible[number] if number in target.impossible else next(left)
            for number in range(len(bound))
        ]
        return [
            _absent(each, bound, number)
            if isinstance(each, InferenceError)
            else judge(each, settings)
            for number, each in enumerate(results)
        ]


def _tell(message: str, *values: object) -> None:
    """Tells the log. Whoever listens to it has loaded `logging`, which is slow to load."""
    if "logging" in sys.modules:
        sys.modules["logging"].getLogger(__name__).info(message, *values)


def _absent(error: InferenceError, bound: Sequence[BoundModel], number: int) -> NoPosterior:
    """What stands for the posterior of a binding that has none, beside others that have one."""
    from lmppl.density.binding import with_defaults
    from lmppl.posterior.absent import NoPosterior

    first, *others = error.diagnostics
    note = f"this is binding {number + 1} of {len(bound)}; the others have their results"
    named = replace(first, notes=(*first.notes, note))
    parameters = with_defaults(bound[number].model, bound[number].values)
    return NoPosterior(InferenceError([named, *others], error.sources), parameters)
