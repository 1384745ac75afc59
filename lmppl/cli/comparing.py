"""`lmppl compare`: several methods on one program, and whether their answers agree."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, fields
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from lmppl.cli.batches import require_one
from lmppl.cli.outcome import Exit, UsageError
from lmppl.cli.parsing import Arguments
from lmppl.cli.programs import load_program
from lmppl.cli.running import bind, infer_once, interruptible
from lmppl.cli.streams import say, show, show_summary
from lmppl.errors import InferenceError, closest
from lmppl.inference import METHODS, method_named
from lmppl.posterior.intervals import normal_quantile

if TYPE_CHECKING:
    from lmppl.posterior import Estimate, Posterior

FALSE_ALARM = 0.01
_EVIDENCE = "log evidence"


@dataclass(frozen=True, slots=True)
class Disagreement:
    """How many standard errors two methods' estimates of one quantity are apart."""

    quantity: str
    first: str
    second: str
    sigmas: float


def compare(arguments: Arguments) -> int:
    """`lmppl compare FILE --methods a,b`; 3 where none ran or two disagree."""
    names = [name.strip() for name in arguments.methods.split(",") if name.strip()]
    _require_known(names)
    require_one(arguments, "compare")
    bound = bind(load_program(arguments.file, allow=arguments.allow_path), arguments)
    results: dict[str, dict[str, Estimate]] = {}
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
            results[name] = quantities(posterior)
            state = "" if posterior.complete else ", INCOMPLETE"
            notes.append(f"{name}: {time.monotonic() - began:.1f} s{state}")
            notes.extend(f"{name}: warning: {warning}" for warning in posterior.warnings)
            if was_interrupted():
                break
    found = disagreements(results)
    show(comparison_table(results))
    for note in notes:
        say(note)
    if not results:
        return Exit.INFERENCE
    show_summary(_verdict(results, found))
    if was_interrupted():
        return Exit.INTERRUPTED
    return Exit.INFERENCE if found else Exit.FINE


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


def quantities(posterior: Posterior) -> dict[str, Estimate]:
    """What can be compared: log evidence, means of factors, numeric values and text lengths."""
    found: dict[str, Estimate] = {}
    if posterior.log_evidence is not None:
        found[_EVIDENCE] = posterior.log_evidence
    alive = posterior.log_weights > -math.inf
    for label in posterior.potential_labels:
        values = posterior.log_potential(label)
        if np.isfinite(values[alive]).all() and np.ptp(values[alive]) > 0.0:
            found[f"mean of {label}"] = posterior.expectation(values)
    for name in dict.fromkeys((*posterior.names, *posterior.site_names)):
        column = posterior[name]
        if isinstance(column, np.ndarray):
            found[f"mean of {name}"] = posterior.expectation(column)
        elif all(isinstance(value, str) for value in column):
            lengths = np.array([len(value) for value in column], dtype=np.float64)
            found[f"mean length of {name}"] = posterior.expectation(lengths)
    return found


def disagreements(results: dict[str, dict[str, Estimate]]) -> list[Disagreement]:
    """Pairs of estimates further apart than chance allows at `FALSE_ALARM` over all pairs.

    Evidences are compared where both are exact or unbiased; a lower bound only has to be below.
    Estimates whose error is unknown are not compared.
    """
    pairs = distances(results)
    if not pairs:
        return []
    threshold = normal_quantile(1.0 - FALSE_ALARM / (2 * len(pairs)))
    far = [pair for pair in pairs if pair.sigmas > threshold]
    return sorted(far, key=lambda pair: -pair.sigmas)


def distances(results: dict[str, dict[str, Estimate]]) -> list[Disagreement]:
    """How far every two methods are apart in every quantity that can be compared."""
    pairs = []
    for first, second in combinations(results, 2):
        for quantity in results[first].keys() & results[second].keys():
            sigmas = _distance(results[first][quantity], results[second][quantity])
            if sigmas is not None:
                pairs.append(Disagreement(quantity, first, second, sigmas))
    return pairs


def _distance(a: Estimate, b: Estimate) -> float | None:
    """How many standard errors two estimates are apart; None where that means nothing."""
    if "bracket" in (a.kind, b.kind):
        return math.inf if a.lower > b.upper or b.lower > a.upper else 0.0
    excess = abs(a.value - b.value)
    bounds = {"lower bound": 1.0, "upper bound": -1.0}
    if not math.isfinite(excess) or (a.kind in bounds and b.kind in bounds):
        return None
    if a.kind in bounds:
        excess = max(0.0, bounds[a.kind] * (a.value - b.value))
    elif b.kind in bounds:
        excess = max(0.0, bounds[b.kind] * (b.value - a.value))
    error = math.hypot(_error_towards(a, b.value), _error_towards(b, a.value))
    if not math.isfinite(error):
        return None
    # Two exact answers may differ by rounding.
    error = math.hypot(error, 1e-6 * max(1.0, abs(a.value)))
    return excess / error


def _error_towards(estimate: Estimate, other: float) -> float:
    """The standard error of an estimate, or what stands for it where the draws show none.

    Draws that are all alike have no spread to read an error from, but an interval that reaches
    as far as what they may have missed.
    """
    if estimate.standard_error > 0.0 or estimate.kind == "exact":
        return estimate.standard_error
    above = other > estimate.value
    reach = estimate.upper - estimate.value if above else estimate.value - estimate.lower
    return reach / normal_quantile(0.5 + 0.5 * estimate.confidence)


def comparison_table(results: dict[str, dict[str, Estimate]]) -> str:
    """A row for each quantity and a column for each method."""
    names = list(dict.fromkeys(name for row in results.values() for name in row))
    rows = [["", *results]]
    for name in names:
        rows.append([name, *(_cell(row.get(name)) for row in results.values())])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "".join(line.rstrip() + "\n" for line in lines) if names else ""


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return "—"
    text = str(estimate)
    if estimate.kind in ("exact", "bracket"):
        return text
    mark = {"lower bound": "≥ ", "upper bound": "≤ "}.get(estimate.kind, "")
    return mark + text.split(" (")[0]


def _verdict(results: dict[str, dict[str, Estimate]], found: list[Disagreement]) -> str:
    if len(results) < 2:
        return ""
    if not distances(results):
        return (
            "\nNothing could be compared: where two methods give a number, its error is unknown.\n"
        )
    if not found:
        return "\nThe methods agree within their errors.\n"
    lines = [
        f"  {each.quantity}: {each.first} and {each.second} are {each.sigmas:.1f} standard errors"
        " apart\n"
        for each in found
    ]
    return f"\nThe methods DISAGREE (false alarms: {FALSE_ALARM:.0%}):\n" + "".join(lines)
