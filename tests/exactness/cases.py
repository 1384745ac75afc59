"""Small posteriors solved by brute force in plain Python, which knows nothing of the engine.

A case is a program and, written a second time and independently, the list of its executions with
their prior and factor in plain Python.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import lmppl
from lmppl.density import Target

Prefix = tuple[int, ...]


@dataclass(frozen=True)
class Execution:
    """One way the program can run: discrete choices, token ids, text, and its two logs."""

    choices: tuple[object, ...]
    tokens: Prefix
    text: str
    finished: bool
    log_prior: float
    log_phi: float

    @property
    def key(self) -> tuple[object, ...]:
        return (*self.choices, self.tokens)


@dataclass
class Case:
    """A program, the host objects it is bound to, and all of its executions."""

    name: str
    program: str
    executions: Callable[[Case], list[Execution]]
    tokens: tuple[str, ...] = ()
    eos: str | None = None
    max_tokens: int = 0
    next_probs: Callable[[Prefix], list[float]] = lambda prefix: []
    rewards: dict[str, object] = field(default_factory=dict)
    choice_names: tuple[str, ...] = ()
    uses_prior: bool = True
    _table: list[Execution] | None = None

    @property
    def table(self) -> list[Execution]:
        if self._table is None:
            self._table = [e for e in self.executions(self) if e.log_prior > -math.inf]
        return self._table

    @property
    def log_z(self) -> float:
        return float(np.logaddexp.reduce([e.log_prior + e.log_phi for e in self.table]))

    def posterior(self) -> np.ndarray:
        joint = np.array([e.log_prior + e.log_phi for e in self.table])
        return np.exp(joint - self.log_z)

    def language_model(self) -> lmppl.FunctionLM:
        eos_id = None if self.eos is None else self.tokens.index(self.eos)

        def next_log_probs(prefixes: torch.Tensor) -> torch.Tensor:
            rows = []
            for prefix in prefixes.tolist():
                if eos_id is not None and eos_id in prefix:
                    rows.append([float(i == eos_id) for i in range(len(self.tokens))])
                else:
                    rows.append(self.next_probs(tuple(prefix)))
            return torch.tensor(rows, dtype=torch.float64).log()

        return lmppl.FunctionLM(
            tokens=list(self.tokens), eos=self.eos, next_log_probs=next_log_probs
        )

    def bound(self) -> lmppl.BoundModel:
        model = lmppl.compile(self.program, base_dir=Path(__file__).parent)
        host: dict[str, object] = dict(self.rewards)
        if self.uses_prior:
            host["prior"] = self.language_model()
        return model(**host)

    def target(self) -> Target:
        return self.bound().target()


def texts_of(case: Case) -> Iterator[tuple[Prefix, str, bool, float]]:
    """All texts of the prior: token ids (an end token included), text, finished, log prior."""
    eos = None if case.eos is None else case.tokens.index(case.eos)
    stack: list[tuple[Prefix, float]] = [((), 0.0)]
    while stack:
        prefix, log_prior = stack.pop()
        ended = eos is not None and prefix[-1:] == (eos,)
        if ended or len(prefix) == case.max_tokens:
            body = prefix[:-1] if ended else prefix
            yield prefix, "".join(case.tokens[t] for t in body), ended, log_prior
            continue
        for token, p in enumerate(case.next_probs(prefix)):
            if p > 0:
                stack.append(((*prefix, token), log_prior + math.log(p)))


def random_markov(size: int, seed: int) -> Callable[[Prefix], list[float]]:
    """A Markov chain with random rows."""
    rng = np.random.default_rng(seed)
    rows = rng.dirichlet(np.full(size, 0.8), size=size + 1)
    return lambda prefix: rows[prefix[-1] if prefix else size].tolist()


def random_tree(size: int, seed: int) -> Callable[[Prefix], list[float]]:
    """A prior that remembers the whole prefix: a fresh random row for each."""

    def rows(prefix: Prefix) -> list[float]:
        number = seed
        for token in prefix:
            number = number * 31 + token + 1
        return np.random.default_rng(number).dirichlet(np.full(size, 0.7)).tolist()

    return rows


def _plain(phi: Callable[[str, bool], float]) -> Callable[[Case], list[Execution]]:
    """The executions of a program of one text whose factor is `phi(text, finished)`."""
    return lambda case: [
        Execution((), tokens, text, finished, log_prior, phi(text, finished))
        for tokens, text, finished, log_prior in texts_of(case)
    ]


def _inside(condition: bool) -> float:
    return 0.0 if condition else -math.inf


# A soft reward, every text of the same length.
TILT = Case(
    name="tilt",
    tokens=("a", "b", "c"),
    max_tokens=5,
    next_probs=random_markov(3, 1),
    program="""
        extern lm prior
        reward count_a(t: string): int<lower=0, upper=5> = count("a")
        model tilt(beta: real<lower=0> = 0.7) {
            text ~ prior(max_tokens=5)
            factor tone: count_a(text) / beta
            return text
        }
    """,
    executions=_plain(lambda text, finished: text.count("a") / 0.7),
)


def _scrambled(text: str) -> float:
    """A reward in [-1, 1] that no prefix tells anything about."""
    number = 7
    for character in text:
        number = (number * 131 + ord(character)) % 1009
    return number / 504.0 - 1.0


# Texts of any length: those that end early and those that are cut off are both complete values.
ENDS = Case(
    name="ends",
    tokens=("x", "y", "<eos>"),
    eos="<eos>",
    max_tokens=6,
    next_probs=random_tree(3, 2),
    rewards={"scramble": lambda texts: [_scrambled(text) for text in texts]},
    program="""
        extern lm prior
        extern reward scramble(t: string): real<lower=-1, upper=1.01>
        model ends() {
            text ~ prior(max_tokens=6)
            factor odd: scramble(text) / 0.5
            factor long: 0.3 * length(text)
            return text
        }
    """,
    executions=_plain(lambda text, finished: _scrambled(text) / 0.5 + 0.3 * len(text)),
)


# Constraints of several kinds, which a greedy mask gets wrong.
HARD = Case(
    name="hard",
    tokens=("a", "b", "ab", "c", "<eos>"),
    eos="<eos>",
    max_tokens=5,
    next_probs=random_markov(5, 3),
    program="""
        extern lm prior
        model hard() {
            text ~ prior(max_tokens=5)
            require clean: never(text, words=["bb", "ca"])
            require shape: matches(text, r"a.*[bc]")
            require brief: length(text, unit="characters") <= 6
            require closed: finished(text) or length(text) == 5
            factor soft: 0.5 * length(text, unit="characters")
            return text
        }
    """,
    executions=_plain(
        lambda text, finished: (
            _inside(
                "bb" not in text
                and "ca" not in text
                and text[:1] == "a"
                and len(text) > 1
                and text[-1:] in ("b", "c")
                and len(text) <= 6
            )
            + 0.5 * len(text)
        )
    ),
)


def _mixed(case: Case) -> list[Execution]:
    found = []
    for topic, p_topic in (("a", 0.2), ("b", 0.5), ("c", 0.3)):
        for mood in (False, True):
            p_mood = 0.9 if topic == "b" else 0.4
            log_choices = math.log(p_topic) + math.log(p_mood if mood else 1.0 - p_mood)
            for tokens, text, finished, log_prior in texts_of(case):
                log_phi = text.count(topic) * (1.0 if mood else -0.5)
                if mood:
                    log_phi += _inside(topic in text)
                found.append(
                    Execution(
                        (topic, mood), tokens, text, finished, log_choices + log_prior, log_phi
                    )
                )
    return found


# Discrete choices before the text, the second depending on the first; a conditional requirement.
MIXED = Case(
    name="mixed",
    tokens=("a", "b", "c"),
    max_tokens=4,
    next_probs=random_markov(3, 4),
    choice_names=("topic", "mood"),
    rewards={"times": lambda texts, topics: list(map(str.count, texts, topics))},
    program="""
        extern lm prior
        extern reward times(t: string, c: string): int<lower=0, upper=4>
        model mixed() {
            topic ~ categorical(["a", "b", "c"], probs=[0.2, 0.5, 0.3])
            mood ~ bernoulli(if topic == "b" then 0.9 else 0.4)
            text ~ prior(max_tokens=4)
            let gain = if mood then 1.0 else -0.5
            factor fit: times(text, topic) * gain
            require has_a: contains(text, "a") when mood and topic == "a"
            require has_b: contains(text, "b") when mood and topic == "b"
            require has_c: contains(text, "c") when mood and topic == "c"
            return topic, mood, text
        }
    """,
    executions=_mixed,
)


def _stopped(case: Case) -> list[Execution]:
    """Texts end where ".b" is first completed, which is not part of them, or "bb", which is, or
    where they are an "a", letters and two points."""
    found = []
    for tokens in itertools.product(range(4), repeat=case.max_tokens):
        log_prior, text, length = 0.0, "", 0
        finished = False
        for position, token in enumerate(tokens):
            log_prior += math.log(case.next_probs(tokens[:position])[token])
            text, length = text + case.tokens[token], position + 1
            # Of every beginning of the text, letter by letter, what ends it.
            for end in range(1, len(text) + 1):
                whole = text[:end]
                if whole.endswith(".b"):
                    text, finished = whole[:-2], True
                    break
                if whole.endswith("bb") or re.fullmatch(r"a[ab]*\.\.", whole):
                    text, finished = whole, True
                    break
            if finished:
                break
        key = tokens[:length]
        phi = 0.4 * text.count("a") + _inside(finished or len(text) > 3)
        found.append(Execution((), key, text, finished, log_prior, phi))
    return list({e.key: e for e in found}.values())


# What ends texts may be inside a token or span two.
STOP = Case(
    name="stop",
    tokens=("a", ".", "b", ".ba"),
    max_tokens=5,
    next_probs=random_markov(4, 6),
    program=r"""
        extern lm prior
        reward count_a(t: string): int<lower=0, upper=10> = count("a")
        model stop() {
            text ~ prior(
                max_tokens=5, stop=[".b"], stop_after="bb", until=r"a[ab]*\.\."
            )
            factor tone: 0.4 * count_a(text)
            require ended: finished(text) or length(text, unit="characters") > 3
            return text
        }
    """,
    executions=_stopped,
)


def _warped(prefix: Prefix) -> list[float]:
    p = np.array(random_markov(4, 8)(prefix)) ** (1 / 0.7)
    p[np.argsort(-p)[3:]] = 0.0  # top_k = 3
    order = np.argsort(-p)
    before = np.cumsum(p[order]) - p[order]
    p[order[before >= 0.9 * p.sum()]] = 0.0  # top_p = 0.9
    return (p / p.sum()).tolist()


# Temperature, top-k and top-p are part of the prior.
WARP = Case(
    name="warp",
    tokens=("a", "b", "c", "d"),
    max_tokens=4,
    next_probs=_warped,
    program="""
        extern lm prior
        reward count_a(t: string): int<lower=0, upper=4> = count("[ab]")
        model warp() {
            text ~ prior(max_tokens=4, temperature=0.7, top_k=3, top_p=0.9)
            factor tone: count_a(text)
            require start: not starts_with(text, "d")
            return text
        }
    """,
    executions=_plain(
        lambda text, finished: text.count("a") + text.count("b") + _inside(not text.startswith("d"))
    ),
)


class _UnwarpedPrior(Case):
    """The host's language model is the prior before the warp."""

    def language_model(self) -> lmppl.FunctionLM:
        plain = Case(self.name, "", self.executions, self.tokens, next_probs=random_markov(4, 8))
        return plain.language_model()


WARP = _UnwarpedPrior(**{k: v for k, v in vars(WARP).items() if not k.startswith("_")})

# Conditions that are regular and do not look it; one holds only where another does.
LIFTED = Case(
    name="lifted",
    tokens=("a", "b", "ab", "<eos>"),
    eos="<eos>",
    max_tokens=5,
    next_probs=random_markov(4, 9),
    program="""
        extern lm prior
        reward pairs(t: string): int<lower=0, upper=5> = count("aa|ab")
        model lifted(few: int = 3) {
            text ~ prior(max_tokens=5)
            require enough: 2 * pairs(text) - 1 > 1
            require bounded: pairs(text) <= few
            require other: text != "abab" and not (text in ["aaab", "abb"])
            require closed: starts_with(text, "b") when contains(text, "bb")
            factor soft: 0.5 * pairs(text)
            return text
        }
    """,
    executions=_plain(
        lambda text, finished: (
            _inside(
                2 <= len(re.findall("aa|ab", text)) <= 3
                and text not in ("abab", "aaab", "abb")
                and ("bb" not in text or text[0] == "b")
            )
            + 0.5 * len(re.findall("aa|ab", text))
        )
    ),
)

CASES = (TILT, ENDS, HARD, MIXED, STOP, WARP, LIFTED)
