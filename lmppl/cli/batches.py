"""Many bindings of one program, `--data FILE.jsonl`: one batch, a result for each."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmppl.cli.delivering import check_destinations, deliver, deliver_together
from lmppl.cli.outcome import Exit, UsageError
from lmppl.cli.parsing import Arguments
from lmppl.cli.streams import say, show
from lmppl.cli.values import checked_parameters, read_externs, require_complete
from lmppl.errors import LmpError
from lmppl.files import Unreadable, read_plain
from lmppl.jsons import read_json

if TYPE_CHECKING:
    from lmppl.posterior import NoPosterior, Posterior

_ENDINGS = (".jsonl", ".ndjson")
# The longest value that names a binding among others.
_LONGEST = 60


def is_batch(data: str | None) -> bool:
    """Whether `--data` names many bindings, one JSON object a line."""
    return data is not None and data.lower().endswith(_ENDINGS)


def require_one(arguments: Arguments, command: str) -> None:
    """Raises: UsageError for many bindings, where a command takes one."""
    if is_batch(arguments.data):
        raise UsageError(
            f"{command} takes one set of parameters: give --data FILE.json, or lmppl run for"
            f" every line of {arguments.data}"
        )


def bind_all(compiled: Any, arguments: Arguments) -> list[Any]:
    """The program with the parameters of each line, and the externs of the command line.

    Raises: UsageError for what is missing or unreadable; LmpError for values that do not fit.
    """
    externs = read_externs(compiled.model, arguments.extern)
    bound = []
    for number, values in _lines(arguments.data):
        where = f"line {number} of {arguments.data}"
        try:
            parameters = checked_parameters(compiled.model, arguments.param, values)
            require_complete(compiled.model, parameters, externs)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
        try:
            bound.append(compiled(**parameters, **externs))
        except LmpError as error:
            first, *others = error.diagnostics
            named = replace(first, notes=(*first.notes, f"the values are those of {where}"))
            raise type(error)([named, *others], error.sources) from error
    if not bound:
        raise UsageError(f"{arguments.data} has no line with parameters")
    return bound


def _lines(path: str) -> list[tuple[int, dict[str, Any]]]:
    """The object of every line that is not blank, with its number."""
    try:
        text = read_plain(path).decode("utf-8-sig")
    except Unreadable as error:
        raise UsageError(f"{path} {error.reason}") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not UTF-8: {error}") from error
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = read_json(line)
        except ValueError as error:
            raise UsageError(f"line {number} of {path} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise UsageError(f"line {number} of {path} is no JSON object of parameters by name")
        found.append((number, value))
    return found


def destinations(arguments: Arguments, number: int, total: int) -> Arguments:
    """Where the result of one binding goes: a directory of its own in `--out`, a numbered report.

    The draws of all go to one `--jsonl` file.
    """
    changed: dict[str, object] = {"jsonl": None}
    label = f"{number:0{len(str(total))}d}"
    if arguments.out is not None:
        changed["out"] = str(Path(arguments.out) / label)
    if arguments.report is not None:
        report = Path(arguments.report)
        changed["report"] = str(report.with_name(f"{report.stem}-{label}{report.suffix}"))
    return arguments.changed(**changed)


def check_all_destinations(arguments: Arguments, total: int) -> None:
    """Raises: UsageError for what cannot be written."""
    check_destinations(arguments.changed(out=None, report=None))
    out = None if arguments.out is None else Path(arguments.out)
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; the results of many bindings go to a directory")
    if out is not None and (out / "posterior.json").exists():
        raise UsageError(f"{out} is a saved posterior; many go to a directory of their own")
    for number in range(1, total + 1):
        check_destinations(destinations(arguments, number, total))


def deliver_all(posteriors: list[Posterior | NoPosterior], arguments: Arguments) -> int:
    """Saves and shows every result under a line that says whose it is; the worst exit code."""
    from lmppl.posterior import NoPosterior

    total = len(posteriors)
    code = int(Exit.FINE)
    parameters = [
        each.parameters if isinstance(each, NoPosterior) else each.manifest["parameters"]
        for each in posteriors
    ]
    names = _varying(parameters)
    if arguments.out is not None:
        with suppress(OSError):
            # Where that fails, each result is saved elsewhere, with the reason.
            Path(arguments.out).mkdir(parents=True, exist_ok=True)
    if arguments.jsonl is not None:
        code = deliver_together(posteriors, arguments.jsonl)
    lost = 0
    speak = say if arguments.jsonl == "-" else show
    for number, posterior in enumerate(posteriors, start=1):
        if not arguments.quiet:
            title = f"binding {number} of {total}"
            values = _named(parameters[number - 1], names)
            gap, end = "" if number == 1 else "\n", "" if speak is say else "\n"
            speak(f"{gap}── {title}{': ' if values else ''}{values}\n{end}")
        if isinstance(posterior, NoPosterior):
            say(str(posterior.error))
            lost += 1
            continue
        mine = destinations(arguments, number, total)
        code = max(code, deliver(posterior, mine, to_stderr=arguments.jsonl == "-"))
    sys.stdout.flush()
    if lost:
        say(f"{lost} of {total} bindings have no posterior; those of the others are above")
        code = max(code, int(Exit.INFERENCE))
    return code


def _varying(parameters: list[Mapping[str, Any]]) -> list[str]:
    """The parameters that tell the bindings apart."""
    first = parameters[0]
    return [name for name in first if any(each[name] != first[name] for each in parameters)]


def _named(parameters: Mapping[str, Any], names: list[str]) -> str:
    return ", ".join(f"{name} = {_shortened(parameters[name])}" for name in names)


def _shortened(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
