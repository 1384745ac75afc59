"""`lmppl compare`: several methods on one program, and whether their answers agree."""

from __future__ import annotations

import textwrap
import time
from dataclasses import fields
from typing import TYPE_CHECKING

from lmppl.cli.batches import require_one
from lmppl.cli.outcome import Exit, UsageError
from lmppl.cli.parsing import Arguments
from lmppl.cli.programs import load_program
from lmppl.cli.running import bind, infer_once, interruptible
from lmppl.cli.streams import say, show, show_summary
from lmppl.diagnostics.comparison import FALSE_ALARM, Comparison, Measured, compare_posteriors
from lmppl.errors import InferenceError, closest
from lmppl.inference import METHODS, method_named

if TYPE_CHECKING:
    from lmppl.posterior import Posterior


def compare(arguments: Arguments) -> int:
    """`lmppl compare FILE --methods a,b`; 3 where none ran or two disagree."""
    names = [name.strip() for name in arguments.methods.split(",") if name.strip()]
    _require_known(names)
    require_one(arguments, "compare")
    bound = bind(load_program(arguments.file, allow=arguments.allow_path), arguments)
    results: dict[str, Posterior] = {}
    notes: list[str] = []
    with interruptible() as was_interrupted:
        for name in names:
            began = time.monotonic()
            try:
                posterior = infer_once(
                    bound,
                    _arguments_for(name, names, arguments),
                    method=name,
                    infer=None,
                    was_interrupted=was_interrupted,
                )
            except InferenceError as error:
                notes.append(f"{name}: {error.diagnostics[0].message}")
                continue
            results[name] = posterior
            state = "" if posterior.complete else ", INCOMPLETE"
            notes.append(f"{name}: {time.monotonic() - began:.1f} s{state}")
            notes.extend(f"{name}: warning: {warning}" for warning in posterior.warnings)
            if was_interrupted():
                break
    comparison = compare_posteriors(results)
    show(comparison_table(comparison))
    for note in notes:
        say(note)
    if not results:
        return Exit.INFERENCE
    show_summary(verdict(comparison))
    if was_interrupted():
        return Exit.INTERRUPTED
    return Exit.INFERENCE if comparison.disagreements else Exit.FINE


def _arguments_for(method: str, others: list[str], arguments: Arguments) -> Arguments:
    """The command line for one method: without options that only others of the compared ones have.

    An enumeration is compared whole, not by draws from it.
    """
    mine = _options_of(method)
    theirs = set().union(*(_options_of(other) for other in others)) - mine
    kept = [pair for pair in arguments.set if pair.partition("=")[0].strip() not in theirs]
    changed: dict[str, object] = {"set": kept}
    settings = method_named(method)
    if settings is not None and not settings.num_draws_option:
        changed["num_samples"] = None
    return arguments.changed(**changed)


def _options_of(method: str) -> set[str]:
    settings = method_named(method)
    return set() if settings is None else {option.name for option in fields(settings)}


def _require_known(names: list[str]) -> None:
    known = [method.name for method in METHODS]
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        near = closest(wrong[0], known) if wrong else None
        hint = f"; did you mean {near}?" if near else ""
        raise UsageError(
            f"--methods takes {', '.join(known)}; not {', '.join(wrong) or 'nothing'}{hint}"
        )
    if len(set(names)) < len(names):
        raise UsageError("--methods names a method twice")


def comparison_table(comparison: Comparison) -> str:
    """A row for each quantity and a column for each method."""
    tables = comparison.tables
    names = dict.fromkeys(name for table in tables.values() for name in table)
    shown = [name for name in names if name not in comparison.hidden]
    from lmppl.posterior.layout import table

    rows = [[name, *(_cell(found.get(name)) for found in tables.values())] for name in shown]
    lines = table(("", *tables), rows, ruled=False)
    return "".join(f"{line}\n" for line in lines) if shown else ""


def _cell(measured: Measured | None) -> str:
    if measured is None:
        return "—"
    estimate = measured.estimate
    text = str(estimate)
    if estimate.is_exact or estimate.kind == "bracket":
        return text
    mark = {"lower bound": "≥ ", "upper bound": "≤ "}.get(estimate.kind, "")
    return mark + text.split(" (")[0]


def verdict(comparison: Comparison) -> str:
    """In words: what was compared, and whether the methods agree in it."""
    if len(comparison.tables) < 2:
        return ""
    if not comparison.differences:
        return (
            "\nNothing could be compared: where two methods give a number, its error is unknown.\n"
        )
    compared = f"compared: {', '.join(comparison.compared)}"
    if not comparison.disagreements:
        words = f"The methods agree within their errors; {compared}."
        return "\n" + textwrap.fill(words, 96, subsequent_indent="  ") + "\n"
    lines = [
        f"  {each.quantity}: {each.first} and {each.second} are {each.sigmas:.1f} standard errors"
        " apart\n"
        for each in comparison.disagreements
    ]
    head = f"\nThe methods DISAGREE (false alarms: {FALSE_ALARM:.0%}):\n"
    return head + "".join(lines) + textwrap.fill(compared, 96, subsequent_indent="  ") + "\n"
