"""Posteriors on Markov priors solved by brute force in plain Python.

A case writes its own prior into a folder, is a program, and is, a second time and independently, a
sum over all texts: nothing here asks lmppl for a number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Prior:
    """A Markov chain over tokens, as in the JSON file that a program names."""

    tokens: tuple[str, ...]
    initial: tuple[float, ...]
    transition: Rows
    eos: str | None = None

    def write(self, path: Path) -> None:
        written = {
            "tokens": self.tokens,
            "initial": self.initial,
            "transition": self.transition,
            "eos": self.eos,
        }
        path.write_text(json.dumps(written), encoding="utf-8")

    def texts(self, max_tokens: int, temperature: float) -> list[tuple[str, bool, float]]:
        """Every text with whether it ended and its log probability."""
        start = _log_row(self.initial, temperature)
        rows = [_log_row(row, temperature) for row in self.transition]
        end = None if self.eos is None else self.tokens.index(self.eos)
        found: list[tuple[str, bool, float]] = []
        open_texts: list[tuple[str, int, float]] = [("", -1, 0.0)]
        for _ in range(max_tokens):
            longer = []
            for text, last, log_p in open_texts:
                for token, log_step in enumerate(start if last < 0 else rows[last]):
                    if log_step == -math.inf:
                        continue
                    if token == end:
                        found.append((text, True, log_p + log_step))
                    else:
                        longer.append((text + self.tokens[token], token, log_p + log_step))
            open_texts = longer
        return found + [(text, False, log_p) for text, _, log_p in open_texts]


def _log_row(row: tuple[float, ...], temperature: float) -> list[float]:
    powers = [p ** (1.0 / temperature) for p in row]
    total = math.fsum(powers)
    return [math.log(p / total) if p > 0.0 else -math.inf for p in powers]


def iid_prior(tokens: str, probs: tuple[float, ...]) -> Prior:
    """A chain whose tokens do not depend on each other."""
    return Prior(tuple(tokens), probs, (probs,) * len(tokens))


@dataclass(frozen=True)
class Outcome:
    """One execution: the text, whether it ended, and the other choices."""

    text: str
    finished: bool
    choices: Mapping[str, object]


@dataclass(frozen=True)
class Statistic:
    """A number of the posterior: as the language writes it, and as a function of an execution."""

    source: str
    kind: str
    value: Callable[[Outcome], float]
    q: float | None = None

    @property
    def written(self) -> str:
        level = "" if self.q is None else f", {self.q}"
        return f"{self.kind}({self.source}{level})"


@dataclass(frozen=True)
class Truth:
    """The value of a statistic, and the scale on which distances from it are measured."""

    value: float
    scale: float


@dataclass(frozen=True)
class Claim:
    """A comparison with a bound, and whether it is true."""

    operator: str
    bound: float
    true: bool
    near: bool

    def written(self, statistic: Statistic) -> str:
        return f"{statistic.written} {self.operator} {self.bound:.12f}"


@dataclass(frozen=True)
class Case:
    """A program without its `expect` lines, its prior, and what it says in plain Python.

    `program` has `{claims}` where they belong and names the prior's file as `prior.json`.
    `log_factor` is the sum of all factors and conditions of an execution, −inf where a
    requirement fails. `choices` are the values of discrete choices with their probabilities, drawn
    before the text.
    """

    name: str
    about: str
    prior: Prior
    max_tokens: int
    program: str
    log_factor: Callable[[Outcome], float]
    statistics: tuple[Statistic, ...]
    temperature: float = 1.0
    choices: tuple[tuple[Mapping[str, object], float], ...] = (({}, 1.0),)

    @cached_property
    def executions(self) -> tuple[list[Outcome], np.ndarray]:
        """All executions of positive density, and their unnormalised log densities."""
        outcomes, logs = [], []
        for text, finished, log_p in self.prior.texts(self.max_tokens, self.temperature):
            for choices, p in self.choices:
                outcome = Outcome(text, finished, choices)
                log_density = log_p + math.log(p) + self.log_factor(outcome)
                if log_density > -math.inf:
                    outcomes.append(outcome)
                    logs.append(log_density)
        return outcomes, np.array(logs)

    @cached_property
    def log_evidence(self) -> float:
        logs = self.executions[1]
        return float(logs.max() + np.log(np.exp(logs - logs.max()).sum()))

    @cached_property
    def truths(self) -> tuple[Truth, ...]:
        outcomes, logs = self.executions
        weights = np.exp(logs - self.log_evidence)
        return tuple(_truth(statistic, outcomes, weights) for statistic in self.statistics)

    def claims(self, number: int) -> tuple[Claim, ...]:
        """Two false claims a hair's breadth from the truth, and a true one half a scale away."""
        truth = self.truths[number]
        hair, far = 1e-6 * max(truth.scale, 1e-3), 0.5 * truth.scale
        claims = (
            Claim("<=", truth.value - hair, true=False, near=True),
            Claim(">=", truth.value + hair, true=False, near=True),
            Claim("<=", truth.value + far, true=True, near=False),
            Claim(">=", truth.value - far, true=True, near=False),
        )
        lower = -math.inf if self.statistics[number].kind in ("mean", "quantile") else 0.0
        upper = 1.0 if self.statistics[number].kind == "probability" else math.inf
        possible = [claim for claim in claims if lower < claim.bound < upper]
        return tuple(possible[:3])

    def written(self) -> str:
        """The program with all claims."""
        lines = [
            f"expect s{number}_{index}: {claim.written(statistic)}"
            for number, statistic in enumerate(self.statistics)
            for index, claim in enumerate(self.claims(number))
        ]
        return self.program.replace("{claims}", "\n    ".join(lines))

    def write(self, folder: Path) -> Path:
        """The program and its prior, as files."""
        self.prior.write(folder / "prior.json")
        path = folder / f"{self.name}.lmp"
        path.write_text(self.written(), encoding="utf-8")
        return path


def _truth(statistic: Statistic, outcomes: list[Outcome], weights: np.ndarray) -> Truth:
    values = np.array([float(statistic.value(outcome)) for outcome in outcomes])
    mean = float(weights @ values)
    deviation = math.sqrt(max(float(weights @ (values - mean) ** 2), 0.0))
    if statistic.kind == "std":
        return Truth(deviation, deviation)
    if statistic.kind == "quantile":
        assert statistic.q is not None
        order = np.argsort(values, kind="stable")
        cumulative = np.cumsum(weights[order])
        index = int(np.searchsorted(cumulative, statistic.q))
        # A level that the distribution function hits exactly would have no one value.
        assert abs(cumulative - statistic.q).min() > 1e-6
        return Truth(float(values[order][index]), deviation)
    return Truth(mean, deviation)
