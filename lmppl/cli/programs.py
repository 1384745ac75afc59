"""Commands on the text of a program: `check`, `fmt`, `info`. No tensors are loaded."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from lmppl.cli.outcome import Exit, exit_code
from lmppl.cli.parsing import Arguments
from lmppl.cli.streams import say, say_diagnostics, show
from lmppl.errors import LmpError, render
from lmppl.errors.plain import harmless


def load_program(
    path: str, *, allow: Sequence[str] = (), pedantic: bool = False, foresees: bool = False
) -> Any:
    """The compiled program at a path; warnings go to standard error.

    `foresees`: also what its `infer` lines will be refused for, which running one says by itself.

    Raises: LmpError where the file cannot be read, or with every error of the program.
    """
    from lmppl.pipeline import load

    compiled = load(path, pedantic=pedantic, allow=allow)
    shown = [each for each in compiled.warnings if foresees or not each.code.startswith("LMP4")]
    if shown:
        say_diagnostics(render(shown, {compiled.path: compiled.source}))
    return compiled


def check(arguments: Arguments) -> int:
    """`lmppl check FILE...`: every problem of every file."""
    code = Exit.FINE
    for path in arguments.files:
        try:
            compiled = load_program(
                path, allow=arguments.allow_path, pedantic=arguments.pedantic, foresees=True
            )
        except LmpError as error:
            say_diagnostics(str(error))
            count = sum(each.severity == "error" for each in error.diagnostics)
            say(f"{path}: {count} {'error' if count == 1 else 'errors'}")
            code = max(code, exit_code(error))
        else:
            count = len(compiled.warnings)
            say(f"{path}: {f'{count} warning' + 's' * (count > 1) if count else 'fine'}")
    return code


def fmt(arguments: Arguments) -> int:
    """`lmppl fmt [--check] FILE...`: formatted in place, or from standard input to output."""
    from lmppl.syntax import format_source, read_program
    from lmppl.writing import write_whole

    code = Exit.FINE
    for path in arguments.files:
        try:
            data = sys.stdin.buffer.read() if path == "-" else read_program(path)
            formatted = format_source(data, None if path == "-" else path)
        except LmpError as error:
            say_diagnostics(str(error))
            code = max(code, exit_code(error))
            continue
        changed = formatted.encode("utf-8") != data
        if arguments.check:
            if changed:
                say(f"{path}: would be formatted")
                code = max(code, Exit.PROGRAM)
        elif path == "-":
            show(formatted)
        elif changed:
            write_whole(path, formatted.encode("utf-8"))
            say(f"{path}: formatted")
    return code


def info(arguments: Arguments) -> int:
    """`lmppl info FILE [--json]`: parameters, choices, factors with their facts, infer lines."""
    described = load_program(arguments.file, allow=arguments.allow_path).describe()
    if arguments.json:
        show(harmless(json.dumps(described, indent=2, ensure_ascii=False)) + "\n")
    else:
        show(describe_in_words(described))
    return Exit.FINE


def describe_in_words(described: dict[str, Any]) -> str:
    """A description of a program, one section for each kind of thing that it has."""
    lines = [f"model {described['name']}"]

    def section(title: str, rows: list[str]) -> None:
        if rows:
            lines.extend(["", f"{title}:", *(f"  {row}" for row in rows)])

    section(
        "parameters",
        [
            f"{p['name']}: {p['type']}"
            + (" (required)" if p["required"] else f" = {_shown(p['default'])}")
            for p in described["parameters"]
        ],
    )
    section(
        "choices",
        [f"{site['name']} ~ {_distribution(site['distribution'])}" for site in described["sites"]],
    )
    section("rewards", [f"{r['name']}: {r['type']} = {_source(r)}" for r in described["rewards"]])
    section("externs", [f"{e['kind']} {e['name']}" for e in described["externs"]])
    section("factors and requirements", [_potential(p) for p in described["potentials"]])
    section("returns", [f"{output['name']}: {output['type']}" for output in described["outputs"]])
    section("expects", [each["claim"] for each in described["expectations"]])
    section("infer", [_infer(each) for each in described["infer"]])
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, dict) and value.keys() == {"expression"}:
        return str(value["expression"])
    return harmless(json.dumps(value, ensure_ascii=False))


def _distribution(distribution: dict[str, Any]) -> str:
    arguments = [f"{name}={_shown(value)}" for name, value in distribution["arguments"].items()]
    return f"{distribution.get('extern', distribution['kind'])}({', '.join(arguments)})"


def _source(reward: dict[str, Any]) -> str:
    source = reward["source"]
    members = [_source({"source": member}) for member in source.get("members", [])]
    arguments = [f"{name}={_shown(value)}" for name, value in source["arguments"].items()]
    return f"{source['kind']}({', '.join([*members, *arguments])})"


def _potential(potential: dict[str, Any]) -> str:
    facts = potential["facts"]
    low, high = facts["range"]
    known = [
        f"in [{'−∞' if low is None else f'{low:g}'}, {'∞' if high is None else f'{high:g}'}] nats"
        if potential["kind"] == "factor"
        else "",
        f"decided by {facts['decidable']}",
        "" if facts["noise"] == "none" else f"noise: {facts['noise']}",
        f"known after {potential['stage']}" if potential["stage"] else "",
    ]
    source = potential["source"] or f"{potential['kind']} {potential['label']}"
    return f"{source}  ({', '.join(filter(None, known))})"


def _infer(line: dict[str, Any]) -> str:
    options = ", ".join(f"{name}={_shown(value)}" for name, value in line["options"].items())
    return f"{line['method']}({options})" + (f" as {line['name']}" if line["name"] else "")
