"""Runs a method on a target, from settings to posteriors."""

from __future__ import annotations

import math
import re
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from lmppl.density import Target
from lmppl.errors import Diagnostic, InferenceError, LmpError
from lmppl.fence import fenced
from lmppl.inference.doubts import Doubts
from lmppl.inference.listening import listening
from lmppl.inference.loop import Budget, run
from lmppl.inference.results import ParseExpression, posterior_of, spent_on_rewards
from lmppl.inference.settings import Settings
from lmppl.inference.starting import engine_of
from lmppl.inference.zero_mass import zero_mass
from lmppl.lm.forward import ForwardSettings, under
from lmppl.posterior import Posterior
from lmppl.progress import ProgressListener
from lmppl.rng import Stream, fresh_seed

if TYPE_CHECKING:
    from lmppl.inference.guides import Given

_BUDGET = re.compile(
    r"\s*([\d_.]+(?:e\d+)?)\s*(s|sec|seconds?|m|min|minutes?|h|hours?|k?\s*tokens?)?\s*$"
)


@fenced
def execute(
    target: Target,
    settings: Settings,
    *,
    progress: ProgressListener | bool | None = None,
    budget: Budget | float | str | None = None,
    parse: ParseExpression | None = None,
    ending: ExitStack | None = None,
    given: Given | None = None,
) -> list[Posterior | InferenceError]:
    """One posterior per binding of the target; for a binding that has none, why.

    `ending` as in `run`; `given` is what methods that have such an option draw by.

    Raises:
        InferenceError: no binding has one.
    """
    seed = fresh_seed() if settings.seed is None else settings.seed
    settings = replace(settings, seed=seed)
    kept = _with_mass_at_start(target)
    if len(kept) < target.num_groups:
        rest = iter(
            execute(
                target.of_groups(kept),
                settings,
                progress=progress,
                budget=budget,
                parse=parse,
                given=None if given is None else given.of_groups(kept),
            )
        )
        why = "a requirement fails whatever is drawn"
        return [
            next(rest) if group in kept else zero_mass(target, why, group, num_probes=1)
            for group in range(target.num_groups)
        ]
    forward = ForwardSettings(settings.max_rows, settings.compile)
    adjusted = partial(under, settings=forward)
    doubts = Doubts.of(target.with_language_models(adjusted), settings)
    target = doubts.target
    options = {} if given is None else given.engine_options(target, adjusted)
    engine = engine_of(settings, target, Stream.from_seed(seed), **options)
    before = spent_on_rewards(target)
    with listening(progress) as listener:
        outcome = run(
            engine,
            budget=parse_budget(budget),
            progress=listener,
            check=doubts.require_functions,
            ending=ending,
        )
    outcome = replace(outcome, rewards=spent_on_rewards(target, before))
    found: list[Posterior | InferenceError] = []
    for group, draws in enumerate(outcome.draws):
        try:
            if draws.failure is not None:
                raise draws.failure
            found.append(
                posterior_of(
                    target,
                    draws,
                    group,
                    settings=settings,
                    seed=seed,
                    outcome=outcome,
                    parse=parse,
                )
            )
        except InferenceError as error:
            found.append(error)
    if failures := [each for each in found if isinstance(each, InferenceError)]:
        if len(failures) == len(found):
            raise failures[0]
    if given is not None:
        found = [_drawn_by(each, given) for each in found]
    # After the expectations, whose rewards may not have been asked before.
    doubts.require_functions()
    warnings = doubts.warnings()
    return [
        each.replace(warnings=(*each.warnings, *warnings))
        if warnings and isinstance(each, Posterior)
        else each
        for each in found
    ]


def _drawn_by(found: Posterior | InferenceError, given: Given) -> Posterior | InferenceError:
    """A posterior whose manifest says by what its draws were made."""
    if isinstance(found, InferenceError):
        return found
    return found.replace(manifest={**found.manifest, given.setting: dict(given.facts)})


def _with_mass_at_start(target: Target) -> list[int]:
    """The bindings that no requirement on parameters alone rules out; all, where it does all."""
    start = target.start(torch.arange(target.num_groups))
    alive = (start.total_log_potential() > -math.inf).nonzero().squeeze(-1).tolist()
    return alive or list(range(target.num_groups))


def parse_budget(budget: Budget | float | str | None) -> Budget:
    """Seconds as a number, or a string such as "90", "90s", "2min" or "100000 tokens".

    Raises:
        LmpError: LMP405, not a budget.
    """
    if budget is None:
        return Budget()
    if isinstance(budget, Budget):
        return budget
    if isinstance(budget, (int, float)) and not isinstance(budget, bool) and budget > 0:
        return Budget(seconds=float(budget))
    found = _BUDGET.match(str(budget))
    if found is None or not _amount(found[1]) > 0.0:
        raise LmpError(
            [
                Diagnostic(
                    "LMP405",
                    "error",
                    f"{budget!r} is not a budget",
                    help="give seconds above 0, as 90, 90s or 2min, or tokens, as '100000 tokens'",
                )
            ]
        )
    amount, unit = _amount(found[1]), (found[2] or "s").replace(" ", "")
    if "token" in unit:
        return Budget(num_tokens=amount * (1000 if unit.startswith("k") else 1))
    seconds = amount * {"s": 1, "m": 60, "h": 3600}[unit[0]]
    return Budget(seconds=seconds)


def _amount(digits: str) -> float:
    """The number of a budget; NaN for dots and underscores that are none."""
    try:
        return float(digits)
    except ValueError:
        return math.nan
