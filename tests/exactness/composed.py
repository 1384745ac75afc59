"""Small programs put together at random, each solved by brute force in plain Python.

A seed gives a program of discrete choices and of one or two texts, under two bindings, with
factors and requirements of all kinds between them; and, written a second time, what each of its
executions weighs. The referee knows nothing of the engine: it lists all texts token by token.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

import lmppl
from lmppl.density import Target, Traces
from lmppl.models import bind_target


@dataclass(frozen=True)
class Text:
    """A text with its tokens, an end token included."""

    string: str
    tokens: tuple[int, ...]
    finished: bool
    num_tokens: int  # without the end token


Value = Any
Next = Callable[[str, tuple[int, ...]], Sequence[float]]


@dataclass(frozen=True)
class Env:
    """Values of parameters and sites of one execution, and the log prior of each site."""

    values: dict[str, Value]
    log_prior: dict[str, float]

    def __getitem__(self, name: str) -> Value:
        return self.values[name]


@dataclass(frozen=True)
class Site:
    name: str
    written: str
    # The values it can have, given those before it, with their log probabilities.
    listed: Callable[[Env], list[tuple[Value, float]]]
    is_text: bool = False


@dataclass(frozen=True)
class Potential:
    written: str
    log_value: Callable[[Env], float]


@dataclass
class Composed:
    """A program, its files, the values of its parameter, and its executions by binding."""

    head: list[str] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    potentials: list[tuple[int, Potential]] = field(default_factory=list)
    files: dict[str, object] = field(default_factory=dict)
    biases: tuple[float, ...] = (0.6, -0.4)
    externs: dict[str, object] = field(default_factory=dict)

    @property
    def program(self) -> str:
        lines = [*dict.fromkeys(self.head), "model composed(bias: real = 0.5) {"]
        for number, site in enumerate(self.sites):
            lines.append(f"    {site.name} ~ {site.written}")
            lines += [f"    {p.written}" for at, p in self.potentials if at == number]
        names = ", ".join(site.name for site in self.sites)
        return "\n".join([*lines, f"    return {names}", "}"])

    def executions(self, bias: float) -> list[tuple[tuple[Value, ...], float, float, Env]]:
        """Keys, log priors, log potentials."""
        found = []
        envs = [Env({"bias": bias}, {})]
        for site in self.sites:
            after = []
            for env in envs:
                for value, log_p in site.listed(env):
                    values = env.values | {site.name: value}
                    after.append(Env(values, env.log_prior | {site.name: log_p}))
            envs = after
        for env in envs:
            log_phi = sum(p.log_value(env) for _, p in self.potentials)
            key = tuple(env[s.name].tokens if s.is_text else env[s.name] for s in self.sites)
            found.append((key, sum(env.log_prior.values()), log_phi, env))
        return found

    def write(self, folder: Path) -> None:
        for name, content in self.files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / name).write_text(text, encoding="utf-8")

    def bound(self, folder: Path) -> list[lmppl.BoundModel]:
        self.write(folder)
        model = lmppl.compile(self.program, base_dir=folder)
        return [model(bias=bias, **self.externs) for bias in self.biases]

    def target(self, folder: Path) -> Target:
        return bind_target(self.bound(folder), None, None)


# ------------------------------------------------------------------------------------------- priors


def _warped(probs: Sequence[float], temperature: float, top_k: int | None) -> list[float]:
    p = np.asarray(probs, float) ** (1.0 / temperature)
    if top_k is not None:
        p[np.argsort(-p, kind="stable")[top_k:]] = 0.0
    return list(p / p.sum())


# The text that a string ends as, or None where it goes on.
Stop = Callable[[str], str | None]


def _nowhere(string: str) -> str | None:
    """Nothing ends a text before its budget."""
    return None


def _before(stop: str) -> Stop:
    return lambda s: s[: s.index(stop)] if stop in s else None


def _after(stop: str) -> Stop:
    return lambda s: s[: s.index(stop) + len(stop)] if stop in s else None


def _until(pattern: str) -> Stop:
    return lambda s: next(
        (s[:n] for n in range(1, len(s) + 1) if re.fullmatch(pattern, s[:n])), None
    )


def _no_prompt(env: Env) -> str:
    """Texts that continue nothing."""
    return ""


STOPS: Sequence[tuple[str, Stop]] = (
    *((f'stop=["{each}"]', _before(each)) for each in ("ba", "bb", "b")),
    ('stop_after=["ab"]', _after("ab")),
    ('until=r"[ac]*b+a"', _until("[ac]*b+a")),
)


@dataclass(frozen=True)
class Prior:
    """What texts are drawn from: how it is written, its tokens, and what follows a text."""

    written: str  # its call, without the closing bracket
    tokens: tuple[str, ...]
    eos: str | None
    next_probs: Next
    takes_prompts: bool = False
    warps: bool = True

    def texts(
        self, prompt: str, max_tokens: int, stop: Stop, warp: tuple[float, int | None]
    ) -> Iterator[tuple[Text, float]]:
        eos = None if self.eos is None else self.tokens.index(self.eos)
        stack: list[tuple[tuple[int, ...], str, float]] = [((), "", 0.0)]
        while stack:
            tokens, string, log_p = stack.pop()
            if eos is not None and tokens[-1:] == (eos,):
                yield Text(string, tokens, True, len(tokens) - 1), log_p
            elif (value := stop(string)) is not None:
                yield Text(value, tokens, True, len(tokens)), log_p
            elif len(tokens) == max_tokens:
                yield Text(string, tokens, False, len(tokens)), log_p
            else:
                for token, p in enumerate(_warped(self.next_probs(prompt, tokens), *warp)):
                    if p > 0.0:
                        more = "" if token == eos else self.tokens[token]
                        stack.append(((*tokens, token), string + more, log_p + math.log(p)))


def markov(random: Random, program: Composed, name: str) -> Prior:
    tokens = random.choice([("a", "b", "c"), ("a", "b", "<eos>"), ("a", "b", "ab", "<eos>")])
    eos = "<eos>" if "<eos>" in tokens else None
    sparse = random.random() < 0.3

    def row() -> list[float]:
        weights = [random.random() + 0.1 for _ in tokens]
        if sparse:
            weights = [w * (random.random() > 0.25) for w in weights]
        if eos is not None and random.random() < 0.3:
            weights[-1] += 3.0  # texts that end early
        weights[0] += 0.2
        total = sum(weights)
        return [w / total for w in weights]

    rows = [row() for _ in range(len(tokens) + 1)]
    program.files[f"{name}.json"] = {
        "tokens": list(tokens),
        "initial": rows[-1],
        "transition": rows[:-1],
        "eos": eos,
    }
    return Prior(f'markov("{name}.json"', tokens, eos, lambda prompt, t: rows[t[-1] if t else -1])


def hmm(random: Random, program: Composed, name: str) -> Prior:
    tokens = random.choice([("a", "b", "c"), ("a", "b", "<eos>")])
    eos = "<eos>" if "<eos>" in tokens else None

    def dirichlet(size: int) -> np.ndarray:
        weights = np.array([random.random() + 0.05 for _ in range(size)])
        return weights / weights.sum()

    states = random.choice([1, 2, 3])
    initial = dirichlet(states)
    moves = np.array([dirichlet(states) for _ in range(states)])
    emits = np.array([dirichlet(len(tokens)) for _ in range(states)])
    program.files[f"{name}.json"] = {
        "tokens": list(tokens),
        "initial": initial.tolist(),
        "transition": moves.tolist(),
        "emission": emits.tolist(),
        "eos": eos,
    }

    def next_probs(prompt: str, given: tuple[int, ...]) -> list[float]:
        belief = initial
        for token in given:
            belief = (belief * emits[:, token]) @ moves
        belief = belief / belief.sum()
        return list(belief @ emits)

    return Prior(f'hmm("{name}.json"', tokens, eos, next_probs, warps=False)


def ngram(random: Random, program: Composed, name: str) -> Prior:
    """Interpolated Witten–Bell, by the formula of the guide."""
    order = random.choice([2, 3])
    lines = ["".join(random.choice("aab") for _ in range(random.randint(1, 4))) for _ in range(6)]
    lines.append("ab")
    program.files[f"{name}.txt"] = "\n".join(lines) + "\n"
    tokens = ("a", "b", "<eos>")
    counts: dict[tuple[int, ...], dict[int, int]] = {}
    for line in lines:
        padded = [-1] * (order - 1) + [tokens.index(c) for c in line] + [2]
        for place in range(order - 1, len(padded)):
            for length in range(order):
                following = counts.setdefault(tuple(padded[place - length : place]), {})
                following[padded[place]] = following.get(padded[place], 0) + 1

    def probs(context: tuple[int, ...]) -> np.ndarray:
        below = probs(context[1:]) if context else np.full(3, 1 / 3)
        seen = counts.get(context)
        if seen is None:
            return below
        own = np.array([seen.get(t, 0) for t in range(3)], float)
        return (own + len(seen) * below) / (own.sum() + len(seen))

    def next_probs(prompt: str, given: tuple[int, ...]) -> list[float]:
        padded = (-1,) * (order - 1) + tuple(tokens.index(c) for c in prompt) + given
        return list(probs(padded[len(padded) - order + 1 :]))

    written = f'ngram("{name}.txt", order={order}'
    return Prior(written, tokens, "<eos>", next_probs, takes_prompts=True)


def tree(random: Random, program: Composed, name: str) -> Prior:
    """A host's language model that remembers all of a text."""
    tokens = random.choice([("a", "b", "c"), ("a", "b", "<eos>")])
    eos = "<eos>" if "<eos>" in tokens else None
    seed = random.randrange(10**6)

    def row(given: tuple[int, ...]) -> list[float]:
        number = seed
        for token in given:
            number = (number * 31 + token + 1) % 2**31
        return np.random.default_rng(number).dirichlet(np.full(len(tokens), 0.8)).tolist()

    def next_log_probs(prefixes: torch.Tensor) -> torch.Tensor:
        rows = [row(tuple(prefix)) for prefix in prefixes.tolist()]
        return torch.tensor(rows, dtype=torch.float64).log()

    program.head.append(f"extern lm {name}")
    program.externs[name] = lmppl.FunctionLM(
        tokens=list(tokens), eos=eos, next_log_probs=next_log_probs
    )
    return Prior(f"{name}(", tokens, eos, lambda prompt, given: row(given))


PRIORS = (markov, markov, hmm, ngram, tree)

# ----------------------------------------------------------------------------------------- programs


def _scramble(string: str) -> float:
    number = 7
    for character in string:
        number = (number * 131 + ord(character)) % 1009
    return number / 504.0 - 1.0


PATTERNS = ("a", "b", "ab|c", "aa")
_UNITS: Mapping[str, Callable[[Text], int]] = {
    "tokens": lambda t: t.num_tokens,
    "characters": lambda t: len(t.string),
}


def _log(is_so: bool) -> float:
    return 0.0 if is_so else -math.inf


class Composer:
    """Makes the program of a seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.made = Composed()
        self.texts: list[str] = []
        self.plain: set[str] = set()  # texts that can be a prompt
        self.choices: list[str] = []
        self.values: dict[str, list[Value]] = {}

    def compose(self) -> Composed:
        pick, made = self.random, self.made
        num_texts = pick.choice([1, 1, 2, 2])
        kinds = ["text"] * num_texts + ["choice"] * pick.choice([0, 1, 1, 2])
        pick.shuffle(kinds)
        prior = pick.choice(PRIORS)(pick, made, "prior")
        most = {1: (2, 5), 2: (1, 3)}[num_texts]
        for number, kind in enumerate(kinds):
            name = f"{'t' if kind == 'text' else 'c'}{number}"
            if kind == "text":
                if pick.random() < 0.2:
                    prior = pick.choice(PRIORS)(pick, made, f"prior{number}")
                made.sites.append(self.text(name, prior, pick.randint(*most)))
                self.texts.append(name)
            else:
                made.sites.append(self.choice(name))
                self.choices.append(name)
            for _ in range(pick.choice([0, 1, 1, 2]) if kind == "text" else pick.choice([0, 0, 1])):
                found = self.potential(number)
                if found is not None:
                    made.potentials.append((number, found))
        return made

    def choice(self, name: str) -> Site:
        pick = self.random
        if pick.random() < 0.5:
            words = ["a", "b", "ab"][: pick.choice([2, 3])]
            weights = [pick.random() + 0.1 for _ in words]
            probs = [round(w / sum(weights), 3) for w in weights]
            probs[-1] = round(1.0 - sum(probs[:-1]), 3)
            self.values[name] = list(words)
            listed = [(w, math.log(p)) for w, p in zip(words, probs, strict=True)]
            written = f"categorical({json.dumps(words)}, probs={probs})"
            return Site(name, written, lambda env: listed)
        self.values[name] = [False, True]
        condition: tuple[str, Callable[[Env], bool]] | None = None
        if self.texts and pick.random() < 0.5:
            text, word = pick.choice(self.texts), pick.choice("ab")
            condition = (f'contains({text}, "{word}")', lambda env: word in env[text].string)
        elif self.choices and pick.random() < 0.5:
            other = pick.choice(self.choices)
            value = pick.choice(self.values[other])
            condition = (f"{other} == {json.dumps(value)}", lambda env: env[other] == value)
        high, low = 0.8, 0.3
        written = (
            f"bernoulli(if {condition[0]} then {high} else {low})"
            if condition
            else "bernoulli(0.6)"
        )

        def listed_given(env: Env) -> list[tuple[Value, float]]:
            p = 0.6 if condition is None else high if condition[1](env) else low
            return [(False, math.log(1 - p)), (True, math.log(p))]

        return Site(name, written, listed_given)

    def text(self, name: str, prior: Prior, max_tokens: int) -> Site:
        pick = self.random
        options = [f"max_tokens={max_tokens}"]
        stop: Stop = _nowhere
        if pick.random() < 0.35:
            written, stop = pick.choice(STOPS)
            options.append(written)
        temperature, top_k = 1.0, None
        if prior.warps and pick.random() < 0.25:
            temperature = 0.7
            options.append("temperature=0.7")
        # Counts tie, and who of the tied is among the first is no matter of the program.
        if prior.warps and not prior.takes_prompts and pick.random() < 0.2:
            top_k = 2
            options.append("top_k=2")
        prompt: Callable[[Env], str] = _no_prompt
        named = [t for t in self.texts if t in self.plain]
        named += [c for c in self.choices if isinstance(self.values[c][0], str)]
        if prior.takes_prompts and named and pick.random() < 0.7:
            other = pick.choice(named)
            options.append(f'prompt=f"a{{{other}}}"')

            def prompted(env: Env) -> str:
                found = env[other]
                return "a" + (found.string if isinstance(found, Text) else found)

            prompt = prompted
        known: dict[str, list[tuple[Value, float]]] = {}

        def listed(env: Env) -> list[tuple[Value, float]]:
            given = prompt(env)
            if given not in known:
                known[given] = list(prior.texts(given, max_tokens, stop, (temperature, top_k)))
            return known[given]

        separator = "" if prior.written.endswith("(") else ", "
        if not any("c" in token for token in prior.tokens):
            self.plain.add(name)
        written = prior.written + separator + ", ".join(options) + ")"
        return Site(name, written, listed, is_text=True)

    # ------------------------------------------------------------------------------- potentials

    def count(self) -> tuple[str, Callable[[str], int]]:
        number = self.random.randrange(len(PATTERNS))
        pattern = PATTERNS[number]
        self.made.head.append(
            f'reward n{number}(t: string): int<lower=0, upper=9> = count("{pattern}")'
        )
        return f"n{number}", lambda string: len(re.findall(pattern, string))

    def scramble(self) -> str:
        self.made.head.append("extern reward odd(t: string): real<lower=-1, upper=1.01>")
        self.made.externs["odd"] = lambda texts: [_scramble(t) for t in texts]
        return "odd"

    def potential(self, at: int) -> Potential | None:
        pick = self.random
        here = self.made.sites[at].name
        if here in self.choices:
            kinds = [self.prior_of_choice]
            if self.texts:
                kinds.append(self.by_choice)
        else:
            kinds = [
                self.counted,
                self.long,
                self.powered,
                self.odd,
                self.said,
                self.off,
                self.required,
                self.required,
                self.ended,
                self.likely,
                self.named_twice,
                self.scored_condition,
            ]
            if self.choices:
                kinds += [self.by_choice, self.when, self.about_it]
            if len(self.texts) > 1:
                kinds += [self.together, self.either, self.summed, self.both_likely]
        return pick.choice(kinds)(here)

    def counted(self, t: str) -> Potential:
        n, count = self.count()
        w = self.random.choice([0.5, -0.8, 1.5])
        if self.random.random() < 0.5:
            return Potential(f"factor bias * {n}({t})", lambda e: e["bias"] * count(e[t].string))
        return Potential(f"factor {w} * {n}({t})", lambda e: w * count(e[t].string))

    def long(self, t: str) -> Potential:
        unit = self.random.choice(list(_UNITS))
        w = self.random.choice([0.4, -0.7])
        return Potential(
            f'factor {w} * length({t}, unit="{unit}")', lambda e: w * _UNITS[unit](e[t])
        )

    def powered(self, t: str) -> Potential:
        w = self.random.choice([-0.4, 0.6, 1.5])
        return Potential(f"factor {w} * log_prob({t})", lambda e: w * e.log_prior[t])

    def odd(self, t: str) -> Potential:
        odd, beta = self.scramble(), self.random.choice([0.25, 0.6])
        return Potential(f"factor {odd}({t}) / {beta}", lambda e: _scramble(e[t].string) / beta)

    def said(self, t: str) -> Potential:
        w = self.random.choice([1.2, -2.0])
        return Potential(
            f'factor if contains({t}, "ab") then {w} else bias',
            lambda e: w if "ab" in e[t].string else e["bias"],
        )

    def off(self, t: str) -> Potential:
        return Potential(
            f"factor -0.6 * abs(length({t}) - 2)", lambda e: -0.6 * abs(e[t].num_tokens - 2)
        )

    def required(self, t: str) -> Potential:
        word = self.random.choice(["a", "b", "ab", "aa"])
        return self.random.choice(
            [
                Potential(f'require contains({t}, "{word}")', lambda e: _log(word in e[t].string)),
                Potential(f'require never({t}, "{word}")', lambda e: _log(word not in e[t].string)),
                Potential(
                    f'require not ends_with({t}, "{word}")',
                    lambda e: _log(not e[t].string.endswith(word)),
                ),
                Potential(
                    f'require starts_with({t}, ["a", "c"]) or {t} == ""',
                    lambda e: _log(e[t].string[:1] in ("a", "c", "")),
                ),
                Potential(
                    f'require matches({t}, r"(a|b|c)?a*.*") and length({t}) >= 1',
                    lambda e: _log(e[t].num_tokens >= 1),
                ),
            ]
        )

    def ended(self, t: str) -> Potential:
        return Potential(
            f"require finished({t}) or length({t}) >= 2",
            lambda e: _log(e[t].finished or e[t].num_tokens >= 2),
        )

    def likely(self, t: str) -> Potential:
        c = self.random.choice([-4.05, -3.03, -2.51])
        return Potential(f"require log_prob({t}) > {c}", lambda e: _log(e.log_prior[t] > c))

    def scored_condition(self, t: str) -> Potential:
        odd = self.scramble()
        return Potential(
            f"require {odd}({t}) > -0.6", lambda e: _log(_scramble(e[t].string) > -0.6)
        )

    def named_twice(self, t: str) -> Potential:
        n, count = self.count()
        name = f"x{len(self.made.potentials)}_{t}"
        return Potential(
            f"let {name} = 0.3 * {n}({t})\n    factor {name} + {name} - bias",
            lambda e: 0.6 * count(e[t].string) - e["bias"],
        )

    def prior_of_choice(self, c: str) -> Potential:
        return Potential(f"factor -0.5 * log_prob({c})", lambda e: -0.5 * e.log_prior[c])

    def by_choice(self, _: str) -> Potential:
        c, t = self.random.choice(self.choices), self.random.choice(self.texts)
        value = self.random.choice(self.values[c])
        n, count = self.count()
        return Potential(
            f"factor (if {c} == {json.dumps(value)} then 1.2 else -0.7) * {n}({t})",
            lambda e: (1.2 if e[c] == value else -0.7) * count(e[t].string),
        )

    def when(self, t: str) -> Potential:
        c = self.random.choice(self.choices)
        value = self.random.choice(self.values[c])
        word = self.random.choice("ab")
        return Potential(
            f'require contains({t}, "{word}") when {c} == {json.dumps(value)}',
            lambda e: _log(e[c] != value or word in e[t].string),
        )

    def about_it(self, t: str) -> Potential:
        named = [c for c in self.choices if isinstance(self.values[c][0], str)]
        if not named:
            return self.when(t)
        c = self.random.choice(named)
        return Potential(
            f"require {c} in ["
            + ", ".join(json.dumps(v) for v in self.values[c][1:])
            + f'] or contains({t}, "a")',
            lambda e: _log(e[c] in self.values[c][1:] or "a" in e[t].string),
        )

    def two(self) -> tuple[str, str]:
        first, second = self.texts[-2:]
        return first, second

    def together(self, _: str) -> Potential:
        (n, one), (m, other) = self.count(), self.count()
        t, u = self.two()
        return Potential(
            f"factor 0.7 * {n}({t}) * {m}({u})",
            lambda e: 0.7 * one(e[t].string) * other(e[u].string),
        )

    def either(self, _: str) -> Potential:
        t, u = self.two()
        return Potential(
            f'require contains({t}, "a") or contains({u}, "b")',
            lambda e: _log("a" in e[t].string or "b" in e[u].string),
        )

    def summed(self, _: str) -> Potential:
        n, count = self.count()
        t, u = self.two()
        return Potential(
            f"require {n}({t}) + {n}({u}) >= 1",
            lambda e: _log(count(e[t].string) + count(e[u].string) >= 1),
        )

    def both_likely(self, _: str) -> Potential:
        t, u = self.two()
        return Potential(
            f"factor 0.4 * (log_prob({t}) + log_prob({u}))",
            lambda e: 0.4 * (e.log_prior[t] + e.log_prior[u]),
        )


def composed(seed: int) -> Composed:
    return Composer(seed).compose()


# ------------------------------------------------------------------------------------------- judges


@dataclass
class Solved:
    """The executions of every binding as arrays: what each weighs, and numbers to judge by."""

    program: Composed
    numbers: list[dict[tuple[Value, ...], int]]
    log_joint: list[np.ndarray]
    values: list[np.ndarray]

    @classmethod
    def of(cls, program: Composed) -> Solved:
        numbers, joints, values = [], [], []
        for bias in program.biases:
            found = [each for each in program.executions(bias) if each[1] > -math.inf]
            numbers.append({key: n for n, (key, *_) in enumerate(found)})
            joints.append(np.array([log_p + log_phi for _, log_p, log_phi, _ in found]))
            values.append(_directions(program, found))
        return cls(program, numbers, joints, values)

    @property
    def log_z(self) -> list[float]:
        return [float(np.logaddexp.reduce(joint)) for joint in self.log_joint]

    def posterior(self, group: int) -> np.ndarray:
        found: np.ndarray = np.exp(self.log_joint[group] - self.log_z[group])
        return found

    def rows(self, traces: Traces) -> np.ndarray:
        """The number of every execution in the list of its binding.

        Raises:
            KeyError: an execution that the program does not have.
        """
        columns: list[list[Value]] = []
        for site in self.program.sites:
            value = traces.values[site.name]
            if site.is_text:
                tokens, lengths = value.tokens.tolist(), value.lengths.tolist()
                columns.append([tuple(t[:n]) for t, n in zip(tokens, lengths, strict=True)])
            else:
                columns.append(value.listed())
        groups = traces.group.tolist()
        keys = zip(*columns, strict=True)
        return np.array([self.numbers[g][key] for g, key in zip(groups, keys, strict=True)])


def _directions(program: Composed, found: list[Any]) -> np.ndarray:
    columns: list[list[float]] = [[log_p for _, log_p, _, _ in found]]
    columns.append([0.0 if phi == -math.inf else phi for _, _, phi, _ in found])
    for number, site in enumerate(program.sites):
        own = [key[number] for key, *_ in found]
        if not site.is_text:
            columns += [[float(v == value) for v in own] for value in sorted(set(own))[1:]]
            continue
        columns.append([float(len(tokens)) for tokens in own])
        for place, token in itertools.product(range(max(map(len, own))), range(4)):
            columns.append([float(tokens[place : place + 1] == (token,)) for tokens in own])
    # What no one thinks of: halves of all executions.
    generator = np.random.default_rng(0)
    columns += list(generator.integers(0, 2, (4, len(found))).astype(float))
    return np.array(columns).T
