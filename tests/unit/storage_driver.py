"""Saves that are stopped in every way; a process of its own, because it forks and kills.

every kill|error DIR     one save for every call to the file system, stopped at that call
random N DIR             N saves killed after a random time
writers N DIR            two processes that save N times each, and one that reads
"""

from __future__ import annotations

import builtins
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from lmppl import load_posterior
from lmppl.posterior import Posterior

_CALLS = (
    "open close chmod fsync rename replace mkdir rmdir unlink listdir scandir lstat stat read write"
).split()
_SIZE = 50

# A killed process loses nothing that the system has: waiting for the disk would only take time.
os.fsync = lambda descriptor: None


class _Guide:
    def __init__(self, value: float) -> None:
        self.value = value

    def save_pretrained(self, place: Path) -> None:
        place.mkdir()
        for name in ("lmppl_guide.json", "model.safetensors"):
            with open(place / name, "w") as file:
                file.write(f"{self.value}" * 500)


def posterior(value: float) -> Posterior:
    """A posterior in which everything depends on one number."""
    return Posterior(
        sites={"x": np.full(_SIZE, value)},
        log_weights=np.zeros(_SIZE),
        method=f"m{value:g}",
        guide=_Guide(value),
    )


def value_of(place: Path) -> float:
    """The number of a saved posterior; an error where it is not whole."""
    back = load_posterior(place)
    value = float(back["x"][0])
    assert (np.asarray(back["x"]) == value).all() and back.method == f"m{value:g}"
    guide = json.loads((place / "posterior.json").read_bytes())["names"]["guide"]
    assert (place / guide / "model.safetensors").read_text() == f"{value}" * 500
    return value


def is_clean(place: Path) -> bool:
    """Whether a directory holds one result and nothing else."""
    return len(list(place.rglob("*"))) == 5 and len(list(place.parent.iterdir())) == 1


class Saboteur:
    """Counts calls to the file system, and stops the one of a number."""

    def __init__(self, at: int, how: str) -> None:
        self.at, self.how, self.count = at, how, 0

    def install(self) -> None:
        for name in _CALLS:
            setattr(os, name, self.wrapped(getattr(os, name)))
        builtins.open = self.wrapped(builtins.open)
        safetensors.numpy.save_file = self.wrapped(safetensors.numpy.save_file)

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                if self.how == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(28, "No space left on device")
            return function(*arguments, **options)

        return call


def _child(work: Callable[[], None]) -> int:
    number = os.fork()
    if number == 0:
        try:
            work()
        except OSError:
            os._exit(3)
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
            os._exit(4)
        os._exit(0)
    return number


def _save_sabotaged(place: Path, value: float, at: int, how: str) -> None:
    saboteur = Saboteur(at, how)
    new = posterior(value)
    saboteur.install()
    new.save(place)
    if saboteur.count < at:
        os._exit(9)


def every(how: str, directory: Path) -> dict[str, Any]:
    place = directory / "run"
    told: dict[str, Any] = {"stops": 0, "old": 0, "new": 0, "wrong": []}
    posterior(0.0).save(place)
    value, at, beyond = 0.0, 0, False
    while not beyond:
        at += 1
        number = _child(partial(_save_sabotaged, place, value + 1.0, at, how))
        status = os.waitpid(number, 0)[1]
        beyond = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 9
        told["stops"] += 1
        try:
            found = value_of(place)
            # A save that said nothing has saved.
            silent = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
            if found not in (value, value + 1.0) or (silent and found == value):
                told["wrong"].append([at, status, found])
            told["old" if found == value else "new"] += 1
            if how == "error" and found == value and not is_clean(place):
                told["wrong"].append([at, "something was left behind"])
            if at % 4 == 0 or how == "error":
                # Otherwise leftovers pile up, and the next stopped save meets them.
                found += 2.0
                posterior(found).save(place)
                if value_of(place) != found or not is_clean(place):
                    told["wrong"].append([at, "not clean", sorted(map(str, place.rglob("*")))])
            value = found
        except BaseException as error:
            told["wrong"].append([at, repr(error)])
            break
    return told


def at_random(kills: int, directory: Path) -> dict[str, Any]:
    place = directory / "run"
    told: dict[str, Any] = {"kills": 0, "wrong": [], "changed": 0}
    posterior(0.0).save(place)
    generator = random.Random(1)

    def save_for_ever() -> None:
        number = 1.0
        while True:
            posterior(number).save(place)
            number += 1.0

    for _ in range(kills):
        number = _child(save_for_ever)
        time.sleep(generator.uniform(0.0, 0.05))
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
        told["kills"] += 1
        try:
            value_of(place)
        except BaseException as error:
            told["wrong"].append(repr(error))
    posterior(0.5).save(place)
    if not is_clean(place):
        told["wrong"].append("leftovers stay")
    return told


def writers(saves: int, directory: Path) -> dict[str, Any]:
    place = directory / "run"
    told: dict[str, Any] = {"reads": 0, "wrong": []}
    posterior(0.0).save(place)

    def save_often(first: float) -> None:
        for step in range(saves):
            posterior(first + step).save(place)

    running = {_child(lambda: save_often(100.0)), _child(lambda: save_often(200.0))}
    while running:
        try:
            load_posterior(place)
            told["reads"] += 1
        except BaseException as error:
            told["wrong"].append(repr(error))
        number, status = os.waitpid(-1, os.WNOHANG)
        if number:
            running.remove(number)
            if status:
                told["wrong"].append(status)
    if value_of(place) not in (100.0 + saves - 1, 200.0 + saves - 1) or not is_clean(place):
        told["wrong"].append("the last save did not win")
    return told


if __name__ == "__main__":
    what, argument, where = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    if what == "every":
        result = every(argument, where)
    elif what == "random":
        result = at_random(int(argument), where)
    else:
        result = writers(int(argument), where)
    print(json.dumps(result))
