"""Options as they are written, read as a method's settings, or what is wrong with them."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lmppl.errors import Diagnostic, closest
from lmppl.inference.methods import METHODS
from lmppl.inference.settings import Settings

# No machine holds more draws than this, and tensors count in 64 bits.
_LARGEST_COUNT = 2**31 - 1
# Any number that Python prints is a seed.
_MOST_DIGITS = 1000


def settings_from_options(
    method: type[Settings], options: Mapping[str, object]
) -> tuple[Settings | None, list[Diagnostic]]:
    """The settings that the options ask for, and what is wrong with the options (402, 403)."""
    problems: list[Diagnostic] = []
    known = {f.name: f for f in fields(method)}
    values: dict[str, object] = {}
    for name, value in options.items():
        if name not in known:
            problems.append(_unknown_option(method, name, value, known))
            continue
        if value is None and "none" in known[name].metadata["choices"]:
            # The command line reads `none` as no value, and here it is one of the words.
            value = "none"
        wrong = _misfit(known[name], value)
        if wrong:
            problems.append(
                Diagnostic(
                    "LMP403",
                    "error",
                    f"option {name} of {method.name} is {_shown(value)}: {wrong}",
                    help=f"{name}: {known[name].metadata['doc']}",
                )
            )
            continue
        if isinstance(value, float) and str(known[name].type).startswith("int"):
            value = int(value)
        values[name] = float(value) if known[name].type == "float" else value  # type: ignore[arg-type]
    return (None if problems else method(**values)), problems  # type: ignore[arg-type]


def _unknown_option(
    method: type[Settings], name: str, value: object, settings: Mapping[str, Any]
) -> Diagnostic:
    known = tuple(settings)
    meant = _meant_option(method, name, known)
    owners = [m.name for m in METHODS if name in {f.name for f in fields(m)}]
    elsewhere = f"{name} is an option of {', '.join(owners)}" if owners else ""
    if meant is not None and value and value == settings[meant].metadata["fits"]:
        help_ = f'{method.name} has `{meant}` for that: `{meant}="{value}"`'
    elif meant is not None:
        help_ = "; ".join(filter(None, (f"{method.name} has `{meant}` for that", elsewhere)))
    elif guess := closest(name, known):
        help_ = f"did you mean `{guess}`?"
    else:
        takes = f"{method.name} takes {', '.join(sorted(known))}"
        help_ = elsewhere or "; ".join(filter(None, (_similar_elsewhere(name), takes)))
    return Diagnostic("LMP402", "error", f"{method.name} has no option {name}", help=help_)


def _similar_elsewhere(name: str) -> str:
    """Which methods have an option of nearly that name; nothing where none has."""
    guess = closest(name, {f.name for method in METHODS for f in fields(method)})
    owners = [m.name for m in METHODS if guess in {f.name for f in fields(m)}]
    return f"`{guess}` is an option of {', '.join(owners)}" if owners else ""


# What is meant by names that other methods, and other libraries, have for the same thing.
_DRAWS = (
    "num_samples num_particles num_draws n_samples n_particles n_draws samples particles draws n"
    " size count num n_samps sample_size population_size num_posterior_samples"
)
_MEANINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("chains n_chains nchains num_chains", ("num_chains", "num_runs")),
    ("runs n_runs nruns num_runs restarts repeats replicates", ("num_runs", "num_chains")),
    ("steps n_steps nsteps num_steps iterations num_iterations n_iter epochs", ("num_steps",)),
    ("tries attempts num_attempts max_tries", ("max_attempts",)),
    ("warmup warmups num_warmup warm_up burnin burn_in tune n_tune", ("warmup_steps",)),
    ("thin", ("thinning",)),
    ("learning_rate step_size eta", ("lr",)),
    ("random_seed random_state rng rng_seed rng_key", ("seed",)),
    ("ess threshold resample_threshold ess_ratio", ("ess_threshold",)),
    ("look_ahead twist", ("lookahead",)),
    ("rank lora_r r", ("lora_rank",)),
    ("batch batchsize num_rows", ("batch_size", "max_rows")),
    ("precision", ("dtype",)),
)


def _meant_option(method: type[Settings], name: str, known: tuple[str, ...]) -> str | None:
    """The option of a method that does what the name says elsewhere, or None."""
    plain = name.lower().replace("-", "_")
    if plain in _DRAWS.split():
        return method.num_draws_option or "num_samples"
    for words, options in _MEANINGS:
        if plain in words.split():
            return next((option for option in options if option in known), None)
    return None


def option_of_no_method(name: str) -> list[Diagnostic]:
    """LMP402 for an option that no method has, with a suggestion; nothing where one has it."""
    known = {f.name for method in METHODS for f in fields(method)}
    if name in known:
        return []
    guess = closest(name, known)
    help_ = f"did you mean `{guess}`?" if guess else None
    return [Diagnostic("LMP402", "error", f"no method has an option {name}", help=help_)]


def _shown(value: object) -> str:
    """A value as an error shows it; Python refuses to print numbers of thousands of digits."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**40:
        return f"a number of {int(value.bit_length() * math.log10(2)) + 1} digits"
    return repr(value)


def _misfit(setting: Any, value: object) -> str | None:
    """Why a value does not fit a setting, or None."""
    if value is None:
        return None if setting.default is None else "it needs a value"
    kind = str(setting.type).split(" | ")[0]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "int" and not (number and (isinstance(value, int) or value.is_integer())):  # type: ignore[attr-defined]
        return "it must be a whole number"
    if kind == "int" and setting.name != "seed" and value > _LARGEST_COUNT:  # type: ignore[operator]
        return f"it must be at most {_LARGEST_COUNT:,}"
    if kind == "int" and value >= 10**_MOST_DIGITS:
        return f"it must have at most {_MOST_DIGITS:,} digits"
    if kind == "float" and isinstance(value, int) and abs(value) > sys.float_info.max:
        return "it is larger than a number can be"
    if kind == "float" and not number:
        return "it must be a number"
    if kind == "bool" and not isinstance(value, bool):
        return "it must be true or false"
    if kind == "str" and not isinstance(value, str):
        if setting.metadata["takes"] and isinstance(value, (list, tuple)):
            return f"it must be one {setting.metadata['takes']}, for all bindings"
        return "it must be a string"
    choices = setting.metadata["choices"]
    if choices and value not in choices and not setting.metadata["takes"]:
        return "it must be one of " + ", ".join(repr(choice) for choice in choices)
    if number and value not in setting.metadata["range"]:
        return f"it must be {setting.metadata['range'].in_words()}"
    return None
