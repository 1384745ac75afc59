"""Long posteriors over finite-state priors, solved a second time in plain Python.

The referee goes from the beginning of a text to its end, with dictionaries of plain numbers, and
knows nothing of tensors, logs or automata of the package: a case says what a text weighs by a
function of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

State = Any
# The state after a token, None where the text is lost, and the log weight of the token.
Follow = Callable[[State, int], tuple[State, float] | None]


@dataclass(frozen=True)
class Answers:
    """What is true of the posterior: `tokens[place][token]`, and logs in nats."""

    log_z: float
    kl: float
    entropy: float | None
    tokens: list[list[float]]


@dataclass(frozen=True)
class LongCase:
    """A prior in a file, a program over it, and what a text weighs, in plain Python.

    `follow` and `final(state, number of tokens, ended)` give log weights; `body` is the program's.
    """

    name: str
    kind: str  # which prior
    table: dict[str, Any]
    max_tokens: int
    start: State
    follow: Follow
    final: Callable[[State, int, bool], float | None]
    body: str = ""
    head: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    _solved: dict[str, Answers] = field(default_factory=dict, compare=False)
    _rows: dict[State, Any] = field(default_factory=dict, compare=False)

    @property
    def eos(self) -> int | None:
        eos = self.table["eos"]
        return None if eos is None else self.table["tokens"].index(eos)

    def write(self, folder: Path) -> str:
        """The program, its prior in a file of the folder."""
        (folder / f"{self.name}.json").write_text(json.dumps(self.table), encoding="utf-8")
        for name, content in self.files.items():
            (folder / name).write_text(content, encoding="utf-8")
        return f"""{self.head}
model {self.name}() {{
    text ~ {self.kind}("{self.name}.json", max_tokens={self.max_tokens})
    {self.body}
    return text
}}"""

    def answers(self) -> Answers:
        if "" not in self._solved:
            self._solved[""] = self._solve()
        return self._solved[""]

    # ------------------------------------------------------------------ the referee

    def _solve(self) -> Answers:
        """Forward over (prior state, automaton state); then backward over the same pairs.

        Forward goes the mass of each pair, with the sums of mass · log weight and mass · log prior.
        """
        layer = {(s, self.start): (p, 0.0, 0.0) for s, p in self._begin().items() if p}
        whole_mass = whole_phi = whole_prior = 0.0
        layers, moves, ends = [], [], []
        for place in range(self.max_tokens):
            after: dict[Any, tuple[float, float, float]] = {}
            moved = []
            for (state, own), (mass, phi, prior) in layer.items():
                for token, targets in self._next(state):
                    found = self.follow(own, token)
                    if found is None:
                        continue
                    later, log_w = found
                    weight = math.exp(log_w)
                    for target, p, log_p in targets:
                        goal = (target, later, token == self.eos)
                        factor = p * weight
                        gained = mass * factor
                        old = after.get(goal, _NOTHING)
                        after[goal] = (
                            old[0] + gained,
                            old[1] + phi * factor + gained * log_w,
                            old[2] + prior * factor + gained * log_p,
                        )
                        moved.append((state, own, token, goal, factor))
            layers.append(layer)
            moves.append(moved)
            layer, end = {}, {}
            for goal, (mass, phi, prior) in after.items():
                target, own, ended = goal
                if not ended and place < self.max_tokens - 1:
                    layer[target, own] = (mass, phi, prior)
                    continue
                at_end = self.final(own, place + 1, ended)
                if at_end is None:
                    continue
                weight = end[goal] = math.exp(at_end)
                whole_mass += mass * weight
                whole_phi += (phi + mass * at_end) * weight
                whole_prior += prior * weight
            ends.append(end)
        tokens = [[0.0] * len(self.table["tokens"]) for _ in range(self.max_tokens)]
        value: dict[Any, float] = {}
        for place in reversed(range(self.max_tokens)):
            here: dict[Any, float] = {}
            for state, own, token, goal, factor in moves[place]:
                ahead = ends[place].get(goal)
                if ahead is None:
                    ahead = 0.0 if goal[2] else value.get((goal[0], goal[1]), 0.0)
                here[state, own] = here.get((state, own), 0.0) + factor * ahead
                mass = layers[place][state, own][0]
                tokens[place][token] += mass * factor * ahead / whole_mass
            value = here
        log_z = math.log(whole_mass)
        entropy = None
        if self.kind != "hmm":
            entropy = log_z - (whole_phi + whole_prior) / whole_mass
        return Answers(log_z, whole_phi / whole_mass - log_z, entropy, tokens)

    def _begin(self) -> Mapping[State, float]:
        if self.kind == "hmm":
            return dict(enumerate(_row(self.table["initial"])))
        return {None: 1.0}

    def _next(self, state: State) -> list[tuple[int, list[tuple[State, float, float]]]]:
        """For each token that can follow: the states after it, with p and log p of both."""
        if state not in self._rows:
            if self.kind == "hmm":
                emitted = _row(self.table["emission"][state])
                moved = list(enumerate(_row(self.table["transition"][state])))
                self._rows[state] = [
                    (v, [(s, e * p, math.log(e * p)) for s, p in moved if p])
                    for v, e in enumerate(emitted)
                    if e
                ]
            else:
                row = _row(
                    self.table["initial"] if state is None else self.table["transition"][state]
                )
                self._rows[state] = [(v, [(v, p, math.log(p))]) for v, p in enumerate(row) if p]
        return self._rows[state]


_NOTHING = (0.0, 0.0, 0.0)


def _row(weights: list[float]) -> list[float]:
    total = sum(weights)
    return [weight / total for weight in weights]


def _chain(random: Random, tokens: list[str], eos: str | None = None) -> dict[str, Any]:
    def row() -> list[int]:
        return [random.randint(1, 99) for _ in tokens]

    return {
        "tokens": tokens,
        "initial": row(),
        "transition": [row() for _ in tokens],
        "eos": eos,
    }


def _hidden(random: Random, tokens: list[str], num_states: int) -> dict[str, Any]:
    def rows(size: int) -> list[list[int]]:
        return [[random.choice([0, 1, 5, 60]) + 1 for _ in range(size)] for _ in range(num_states)]

    return {
        "tokens": tokens,
        "initial": rows(num_states)[0],
        "transition": rows(num_states),
        "emission": rows(len(tokens)),
        "eos": None,
    }


LETTERS = [chr(ord("a") + i) for i in range(26)] + [chr(ord("A") + i) for i in range(24)]


def _keyword(word: str, letters: list[str]) -> Follow:
    def follow(state: int, token: int) -> tuple[int, float]:
        if state == len(word):
            return state, 0.0
        seen = word[:state] + letters[token]
        fits = [k for k in range(len(word) + 1) if k <= len(seen) and seen.endswith(word[:k])]
        return max(fits), 0.0

    return follow


def _plain(state: State, num_tokens: int, ended: bool) -> float:
    return 0.0


def keyword() -> LongCase:
    return LongCase(
        "keyword",
        "markov",
        _chain(Random(18), LETTERS),
        40,
        0,
        _keyword("bcb", LETTERS),
        lambda state, n, ended: 0.0 if state == 3 else None,
        body='require contains(text, "bcb")',
    )


def counting() -> LongCase:
    letters = LETTERS[:20]
    return LongCase(
        "counting",
        "markov",
        _chain(Random(19), letters),
        40,
        0,
        lambda state, token: (min(state + (token < 10), 13), 0.0),
        lambda state, n, ended: 0.0 if state == 12 else None,
        head='reward early(t: string): int<lower=0> = count("[a-j]")',
        body="require early(text) == 12",
    )


SCORES = [1.3, -0.2, 0.4, -1.9, 0.8]


def heavy_tail() -> LongCase:
    letters = LETTERS[:5]
    rewards = [f'reward n{c}(t: string): int<lower=0> = count("{c}")' for c in letters]
    terms = " + ".join(
        f"{score} * n{c}(text)" for score, c in zip(SCORES, letters, strict=True)
    ).replace("+ -", "- ")
    return LongCase(
        "heavy",
        "markov",
        _chain(Random(22), letters),
        40,
        0,
        lambda state, token: (0, SCORES[token] / 0.3),
        _plain,
        head="\n".join(rewards),
        body=f"factor tilt: ({terms}) / 0.3",
    )


def hidden() -> LongCase:
    letters = LETTERS[:20]
    word = "dad"
    return LongCase(
        "hidden",
        "hmm",
        _hidden(Random(23), letters, 4),
        40,
        0,
        _keyword(word, letters),
        lambda state, n, ended: 0.0 if state == 3 else None,
        body=f'require contains(text, "{word}")',
    )


def ending() -> LongCase:
    letters = [*LETTERS[:19], "<eos>"]

    def follow(state: tuple[bool, int], token: int) -> tuple[State, float] | None:
        after_a, count = state
        if after_a and token == 1:
            return None
        # A text has no more tokens than that.
        return (token == 0, min(count + (token != 19), 40)), 0.0

    return LongCase(
        "ending",
        "markov",
        _chain(Random(24), letters, "<eos>"),
        40,
        (False, 0),
        follow,
        lambda state, n, ended: -0.05 * (state[1] - 25) ** 2 - (0.0 if ended else 1.5),
        body='require never(text, "ab")\n'
        "    factor near: -0.05 * (length(text) - 25)^2 - (if finished(text) then 0 else 1.5)",
    )


PAIRS = {0: "()", 1: "[]"}


def dyck(depth: int = 4) -> LongCase:
    """Balanced brackets of two kinds, nested up to `depth`; no program says that."""
    letters = ["(", ")", "[", "]", "x"]

    def follow(state: str, token: int) -> tuple[str, float] | None:
        if token == 4:
            return state, 0.3
        kind, closes = divmod(token, 2)
        if not closes:
            return (state + str(kind), 0.0) if len(state) < depth else None
        return (state[:-1], 0.0) if state.endswith(str(kind)) else None

    return LongCase(
        "dyck",
        "markov",
        _chain(Random(20), letters),
        40,
        "",
        follow,
        lambda state, n, ended: 0.0 if state == "" else None,
    )


WORDS = {"ab": 1.25, "ba": -0.5, "a": 0.4, "abba": 2.5, "cab": -1.75, "b-a": 3.0, "dab": 1.25}


def scored() -> LongCase:
    """Words weigh what a lexicon says; the run of characters so far is the state, as far as any
    word begins like it."""
    letters = [*LETTERS[:14], *(" " + c for c in LETTERS[:8]), "-", " ", ".", "<eos>"]
    begin = {word[:n] for word in WORDS for n in range(1, len(word) + 1)}

    def worth(run: str) -> float:
        return WORDS.get(run.rstrip("-"), 0.0) / 0.8

    def follow(run: str, token: int) -> tuple[str, float]:
        gained = 0.0
        for char in "" if letters[token] == "<eos>" else letters[token]:
            if char in " .":
                run, gained = "", gained + worth(run)
            elif run or char != "-":
                longer = run + char
                # What a word ends with is no part of it, unless another letter comes.
                while longer.endswith("---"):
                    longer = longer[:-1]
                run = longer if longer.rstrip("-") in begin else "?"
        return run, gained

    return LongCase(
        "scored",
        "markov",
        _chain(Random(25), letters, "<eos>"),
        40,
        "",
        follow,
        lambda run, n, ended: worth(run),
        head='reward warmth(t: string): real = lexicon("scored.tsv")',
        body="factor tone: warmth(text) / 0.8",
        files={"scored.tsv": "".join(f"{word}\t{score}\n" for word, score in WORDS.items())},
    )


IN_PROGRAMS = (keyword, counting, heavy_tail, hidden, ending, scored)
EVERY = (*IN_PROGRAMS, dyck)
