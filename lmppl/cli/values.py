"""Values from the command line: parameters by the model's types, options, externs from Python."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmppl.cli.outcome import UsageError
from lmppl.errors import closest
from lmppl.files import Unreadable, read_plain
from lmppl.jsons import read_json

if TYPE_CHECKING:
    from lmppl.ir.model import Model
    from lmppl.ir.types import Type


def split_pair(text: str, option: str) -> tuple[str, str]:
    """The name and the value of `name=value`.

    Raises: UsageError where there is no name or no equals sign.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"{option} {text!r} is not of the form name=value")
    return name.strip(), value


def read_parameters(model: Model, pairs: Sequence[str], data: str | None) -> dict[str, Any]:
    """Parameters from `--data` and `--param`, which wins, typed by the model's declarations.

    Raises: UsageError for a name that is no parameter, or a value that its type cannot read.
    """
    return checked_parameters(model, pairs, {} if data is None else _read_json_object(data))


def checked_parameters(
    model: Model, pairs: Sequence[str], data: Mapping[str, Any]
) -> dict[str, Any]:
    """The same of data that have been read.

    Raises: UsageError for a name that is no parameter, or a value that its type cannot read.
    """
    types = {parameter.name: parameter.type for parameter in model.parameters}
    values = dict(data)
    given = [split_pair(pair, "--param") for pair in pairs]
    for name in (*values, *(name for name, _ in given)):
        if name not in types:
            raise UsageError(_no_parameter(model, name))
    for name, text in given:
        values[name] = read_value(text, types[name], name)
    return values


def require_complete(model: Model, values: Mapping[str, Any], externs: Mapping[str, Any]) -> None:
    """Raises: UsageError naming the options that would give what is missing."""
    missing = [
        f"--param {parameter.name}=… ({parameter.type})"
        for parameter in model.parameters
        if parameter.default is None and parameter.name not in values
    ]
    missing += [
        f"--extern {name}=module:attribute" for name in extern_names(model) if name not in externs
    ]
    if missing:
        raise UsageError(f"{model.name} needs {', '.join(missing)}")


def read_value(text: str, type: Type, name: str) -> Any:
    """A value of a declared type: strings as they are, arrays as JSON.

    Raises: UsageError where the text is no such value.
    """
    if type.is_array:
        example = '["a", "b"]' if type.kind == "string" else "[1, 2]"
        wanted = f"parameter {name} is {type}: give a JSON array, as --param '{name}={example}'"
        try:
            value = read_json(text, finite=True)
        except ValueError as error:
            raise UsageError(f"{wanted} ({error})") from error
        if not isinstance(value, list):
            raise UsageError(wanted)
        return value
    match type.kind:
        case "string":
            return text
        case "bool":
            lowered = text.strip().lower()
            if lowered in ("true", "false"):
                return lowered == "true"
            raise UsageError(f"parameter {name} is a bool: give true or false, not {text!r}")
        case "int":
            return _number(int, text, f"parameter {name} is an int")
        case _:
            return _number(float, text, f"parameter {name} is a {type.kind}")


def _number(kind: type[int] | type[float], text: str, what: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        raise UsageError(f"{what}: {text!r} is not") from None
    if math.isnan(value):
        raise UsageError(f"{what}: {text!r} is not")
    return value


def read_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Inference options from `--set`: numbers, true, false, none, JSON, or else a string."""
    return {name: _option(text) for name, text in (split_pair(pair, "--set") for pair in pairs)}


def _option(text: str) -> Any:
    plain = text.strip()
    words = {"true": True, "false": False, "none": None, "null": None}
    if plain.lower() in words:
        return words[plain.lower()]
    for kind in (int, float):
        try:
            return kind(plain)
        except ValueError:
            continue
    if plain[:1] in ("[", "{", '"'):
        try:
            return read_json(plain, finite=True)
        except ValueError:
            return text
    return text


def read_externs(model: Model, pairs: Sequence[str]) -> dict[str, Any]:
    """Externs imported from Python as `name=module:attribute` or `name=path.py:attribute`.

    Raises: UsageError for a name that the program does not declare, or what cannot be imported.
    """
    names = extern_names(model)
    found = {}
    for pair in pairs:
        name, reference = split_pair(pair, "--extern")
        if name not in names:
            known = ", ".join(names) or "none"
            raise UsageError(f"the program has no extern {name!r}; it declares: {known}")
        found[name] = _imported(reference)
    return found


def extern_names(model: Model) -> list[str]:
    """Every name that the host program has to give."""
    rewards = [name for name, each in model.rewards.items() if each.source.is_extern]
    return [*rewards, *model.externs]


def _imported(reference: str) -> Any:
    module_name, colon, attribute = reference.rpartition(":")
    if not colon or not module_name or not attribute:
        raise UsageError(f"--extern takes name=module:attribute, not {reference!r}")
    try:
        if module_name.endswith(".py"):
            module = _module_from_file(Path(module_name))
        else:
            if "" not in sys.path and str(Path.cwd()) not in sys.path:
                # As `python -m` does: modules beside the user come first.
                sys.path.insert(0, str(Path.cwd()))
            module = importlib.import_module(module_name)
    except (ImportError, OSError) as error:
        raise UsageError(f"cannot import {module_name}: {error}") from error
    value: Any = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            near = closest(part, [name for name in dir(value) if not name.startswith("_")])
            hint = f"; did you mean {near}?" if near else ""
            raise UsageError(f"{module_name} has no {attribute}{hint}")
        value = getattr(value, part)
    return value


def _module_from_file(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look their module up by name while it is being executed.
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def _read_json_object(path: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if path == "-" else read_plain(path).decode("utf-8-sig")
        value = read_json(text, finite=True)
    except Unreadable as error:
        raise UsageError(f"{path} {error.reason}") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(
            f"{path} must hold a JSON object of parameters by name; many bindings go into"
            " FILE.jsonl, an object a line"
        )
    return value


def _no_parameter(model: Model, name: str) -> str:
    names = [parameter.name for parameter in model.parameters]
    if name in extern_names(model):
        return f"{name} is an extern: give it by --extern {name}=module:attribute"
    guess = closest(name, names)
    hint = f"did you mean {guess}?" if guess else f"it has: {', '.join(names) or 'none'}"
    return f"{model.name} has no parameter {name!r}; {hint}"
