"""The posteriors whose intervals are counted: easy ones, and each kind that intervals got wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from tests.exactness.coverage.brute_force import Case, Outcome, Prior, Statistic, iid_prior


def count(pattern: str) -> Callable[[Outcome], float]:
    """How often a pattern occurs in the text, without overlaps."""
    compiled = re.compile(pattern)
    return lambda outcome: float(sum(1 for _ in compiled.finditer(outcome.text)))


def holds(condition: Callable[[Outcome], bool]) -> Callable[[Outcome], float]:
    return lambda outcome: float(condition(outcome))


def starts(words: str) -> Statistic:
    return Statistic(
        f'starts_with(t, "{words}")', "probability", holds(lambda o: o.text.startswith(words))
    )


def has(words: str) -> Statistic:
    return Statistic(f'contains(t, "{words}")', "probability", holds(lambda o: words in o.text))


def _inside(condition: bool) -> float:
    return 0.0 if condition else -math.inf


_CHAIN = Prior(
    ("a", "b", "c"), (3.0, 2.0, 1.0), ((1.0, 4.0, 2.0), (3.0, 1.0, 2.0), (2.0, 2.0, 1.0))
)
_ENDING = Prior(
    ("a", "b", "c", "."),
    (4.0, 3.0, 2.0, 0.5),
    ((3.0, 3.0, 2.0, 1.0), (2.0, 1.0, 3.0, 2.0), (3.0, 1.0, 1.0, 1.0), (1.0, 1.0, 1.0, 1.0)),
    eos=".",
)
_FAIR = iid_prior("abcd", (0.25, 0.25, 0.25, 0.25))
_COIN = iid_prior("ab", (0.5, 0.5))
_RARE = iid_prior("abcd", (0.333, 0.333, 0.332, 0.002))
_STEADY = Prior(("a", "b"), (1.0, 1.0), ((3.0, 2.0), (2.0, 3.0)))

SOFT = Case(
    "soft",
    "a factor that changes little",
    _CHAIN,
    6,
    """
reward n(t: string): int<lower=0, upper=6> = count("a")
model soft() {
    t ~ markov("prior.json", max_tokens=6)
    factor f: 0.5 * n(t)
    {claims}
    return t
}
""",
    lambda o: 0.5 * o.text.count("a"),
    (
        Statistic("n(t)", "mean", count("a")),
        starts("a"),
        Statistic("n(t)", "std", count("a")),
        Statistic("n(t)", "quantile", count("a"), 0.77),
    ),
)

HARD = Case(
    "hard",
    "requirements that automata decide",
    _ENDING,
    6,
    """
reward n(t: string): int<lower=0, upper=6> = count("a")
model hard() {
    t ~ markov("prior.json", max_tokens=6)
    require clean: never(t, words=["bb", "ca"])
    require shape: matches(t, "a.*[bc]")
    factor f: 0.4 * n(t)
    {claims}
    return t
}
""",
    lambda o: (
        0.4 * o.text.count("a")
        + _inside(
            "bb" not in o.text
            and "ca" not in o.text
            and re.fullmatch("a.*[bc]", o.text) is not None
        )
    ),
    (
        Statistic("n(t)", "mean", count("a")),
        has("ac"),
        Statistic("finished(t)", "probability", holds(lambda o: o.finished)),
        Statistic("n(t)", "std", count("a")),
    ),
)

LATE = Case(
    "late",
    "a requirement on two rewards, judged at the end",
    _CHAIN,
    6,
    """
reward n(t: string): int<lower=0, upper=6> = count("c")
reward m(t: string): int<lower=0, upper=6> = count("a")
model late() {
    t ~ markov("prior.json", max_tokens=6)
    require r: n(t) > m(t)
    {claims}
    return t
}
""",
    lambda o: _inside(o.text.count("c") > o.text.count("a")),
    (starts("c"), Statistic("n(t)", "mean", count("c")), has("cccc")),
)

RARE = Case(
    "rare",
    "no factor; something that one text in a hundred has",
    _RARE,
    5,
    """
reward bad(t: string): int<lower=0, upper=5> = count("d")
model rare() {
    t ~ markov("prior.json", max_tokens=5)
    {claims}
    return t
}
""",
    lambda o: 0.0,
    (
        Statistic("bad(t)", "mean", count("d")),
        has("d"),
        Statistic("bad(t)", "std", count("d")),
        Statistic("bad(t)", "quantile", count("d"), 0.995),
    ),
)

RARE_TILTED = Case(
    "rare, tilted",
    "the same with a factor on another letter, so that weights differ",
    _RARE,
    5,
    """
reward bad(t: string): int<lower=0, upper=5> = count("d")
reward n(t: string): int<lower=0, upper=5> = count("a")
model rare() {
    t ~ markov("prior.json", max_tokens=5)
    factor f: 0.6 * n(t)
    {claims}
    return t
}
""",
    lambda o: 0.6 * o.text.count("a"),
    (
        Statistic("bad(t)", "mean", count("d")),
        has("d"),
        Statistic("bad(t)", "std", count("d")),
    ),
)

SPIKE = Case(
    "spike",
    "most of the mass on one text in 256, which look-ahead cannot see coming",
    _FAIR,
    7,
    """
reward hit(t: string): int<lower=0, upper=1> = count("abca.{3}")
model spike() {
    t ~ markov("prior.json", max_tokens=7)
    factor f: 8 * hit(t)
    {claims}
    return t
}
""",
    lambda o: 8.0 * len(re.findall("abca.{3}", o.text)),
    (starts("abca"), Statistic("hit(t)", "mean", count("abca.{3}")), starts("b")),
)

GARDEN = Case(
    "garden path",
    "beginnings that look good and turn bad at the last token, and the other way round",
    _FAIR,
    7,
    """
reward lure(t: string): int<lower=0, upper=1> = count("^aa")
reward trap(t: string): int<lower=0, upper=1> = count("^aa.{4}[abc]$")
reward late(t: string): int<lower=0, upper=1> = count("^[bcd].{5}a$")
model garden() {
    t ~ markov("prior.json", max_tokens=7)
    factor f: 7 * lure(t) - 9 * trap(t) + 5 * late(t)
    {claims}
    return t
}
""",
    lambda o: (
        7.0 * o.text.startswith("aa")
        - 9.0 * (o.text.startswith("aa") and o.text[-1] != "d")
        + 5.0 * (o.text[0] != "a" and o.text[-1] == "a")
    ),
    (starts("a"), Statistic("late(t)", "mean", count("^[bcd].{5}a$")), starts("b")),
)

TWO_MODES = Case(
    "two modes",
    "mostly a or mostly b, equally likely",
    _COIN,
    10,
    """
reward n(t: string): int<lower=0, upper=10> = count("a")
model two_modes() {
    t ~ markov("prior.json", max_tokens=10)
    factor f: 2 * abs(2 * n(t) - 10)
    {claims}
    return t
}
""",
    lambda o: 2.0 * abs(2.0 * o.text.count("a") - 10.0),
    (starts("a"), Statistic("n(t)", "mean", count("a")), Statistic("n(t)", "std", count("a"))),
)

TWO_MODES_MILD = Case(
    "two modes, mild",
    "the same with a valley that chains cross now and then",
    _COIN,
    8,
    """
reward n(t: string): int<lower=0, upper=8> = count("a")
model two_modes() {
    t ~ markov("prior.json", max_tokens=8)
    factor f: 0.6 * abs(2 * n(t) - 8)
    {claims}
    return t
}
""",
    lambda o: 0.6 * abs(2.0 * o.text.count("a") - 8.0),
    (starts("a"), Statistic("n(t)", "mean", count("a")), Statistic("n(t)", "std", count("a"))),
)

HEAVY = Case(
    "heavy tail",
    "independent log weights of standard deviation 2.5",
    _COIN,
    12,
    """
reward n(t: string): int<lower=0, upper=12> = count("a")
model heavy() {
    t ~ markov("prior.json", max_tokens=12)
    factor f: 1.4434 * n(t)
    {claims}
    return t
}
""",
    lambda o: 1.4434 * o.text.count("a"),
    (
        Statistic("n(t)", "mean", count("a")),
        starts("b"),
        Statistic("n(t)", "std", count("a")),
        Statistic("n(t)", "quantile", count("a"), 0.1),
    ),
)

COLD = Case(
    "cold",
    "temperature 0.5 and a factor of 2 for each rare token",
    Prior(("a", "b", "c"), (5.0, 3.0, 1.0), ((6.0, 3.0, 1.0), (4.0, 4.0, 1.0), (2.0, 2.0, 3.0))),
    8,
    """
reward n(t: string): int<lower=0, upper=8> = count("c")
model cold() {
    t ~ markov("prior.json", max_tokens=8, temperature=0.5)
    factor f: 2 * n(t)
    {claims}
    return t
}
""",
    lambda o: 2.0 * o.text.count("c"),
    (Statistic("n(t)", "mean", count("c")), starts("c"), Statistic("n(t)", "std", count("c"))),
    temperature=0.5,
)

ENDINGS = Case(
    "eos",
    "texts of any length, a reward without a declared upper bound",
    _ENDING,
    7,
    """
reward n(t: string): int<lower=0> = count("[ab]")
model eos() {
    t ~ markov("prior.json", max_tokens=7)
    factor f: 0.5 * n(t)
    {claims}
    return t
}
""",
    lambda o: 0.5 * len(re.findall("[ab]", o.text)),
    (
        Statistic("n(t)", "mean", count("[ab]")),
        Statistic("finished(t)", "probability", holds(lambda o: o.finished)),
        Statistic("n(t)", "std", count("[ab]")),
        Statistic("n(t)", "quantile", count("[ab]"), 0.2),
    ),
)

FAR_APART = Case(
    "far apart",
    "nearly all mass on two beginnings that no single move connects",
    _FAIR,
    7,
    """
reward hit(t: string): int<lower=0, upper=1> = count("^(aaaaaa|bbbbbb).")
model far() {
    t ~ markov("prior.json", max_tokens=7)
    factor f: 13.2 * hit(t)
    {claims}
    return t
}
""",
    lambda o: 13.2 * o.text.startswith(("aaaaaa", "bbbbbb")),
    (Statistic("hit(t)", "mean", count("^(aaaaaa|bbbbbb).")), starts("a")),
)

ACCEPTED = Case(
    "all accepted",
    "a factor that is 0 but for one text in a hundred, where it is −5",
    _RARE,
    5,
    """
reward bad(t: string): int<lower=0, upper=5> = count("d")
model accepted() {
    t ~ markov("prior.json", max_tokens=5)
    factor f: -5 * bad(t)
    {claims}
    return t
}
""",
    lambda o: -5.0 * o.text.count("d"),
    (has("d"), starts("a"), Statistic("bad(t)", "mean", count("d"))),
)

NEARLY_SURE = Case(
    "nearly sure",
    "probabilities near 0 and near 1 under uneven weights",
    iid_prior("abc", (0.9, 0.07, 0.03)),
    6,
    """
reward n(t: string): int<lower=0, upper=6> = count("c")
model sure() {
    t ~ markov("prior.json", max_tokens=6)
    factor f: 1.5 * n(t)
    {claims}
    return t
}
""",
    lambda o: 1.5 * o.text.count("c"),
    (
        has("a"),
        has("bb"),
        Statistic(
            'matches(t, "[bc].*c[bc]")',
            "probability",
            holds(lambda o: re.fullmatch("[bc].*c[bc]", o.text) is not None),
        ),
        Statistic("n(t)", "mean", count("c")),
    ),
)

KEYWORD = Case(
    "keyword",
    "a word that must occur somewhere, of rare letters",
    iid_prior("abc", (0.9, 0.06, 0.04)),
    9,
    """
reward n(t: string): int<lower=0, upper=9> = count("a")
model keyword() {
    t ~ markov("prior.json", max_tokens=9)
    require word: contains(t, "cb")
    {claims}
    return t
}
""",
    lambda o: _inside("cb" in o.text),
    (
        starts("cb"),
        Statistic("n(t)", "mean", count("a")),
        Statistic('ends_with(t, "cb")', "probability", holds(lambda o: o.text.endswith("cb"))),
    ),
)

MIXED = Case(
    "mixed",
    "two discrete choices before the text",
    _STEADY,
    6,
    """
reward na(t: string): int<lower=0, upper=6> = count("a")
model mixed() {
    pet ~ categorical(["cat", "dog", "eel"], probs=[0.5, 0.3, 0.2])
    wet ~ bernoulli(0.3)
    t ~ markov("prior.json", max_tokens=6)
    factor f: if pet == "dog" then 0.8 * na(t) else if wet then 1.0 else 0.2 * na(t)
    {claims}
    return pet, wet, t
}
""",
    lambda o: (
        0.8 * o.text.count("a")
        if o.choices["pet"] == "dog"
        else 1.0
        if o.choices["wet"]
        else 0.2 * o.text.count("a")
    ),
    (
        Statistic('pet == "dog"', "probability", holds(lambda o: o.choices["pet"] == "dog")),
        Statistic(
            'pet == "eel" and wet',
            "probability",
            holds(lambda o: o.choices["pet"] == "eel" and bool(o.choices["wet"])),
        ),
        Statistic("na(t)", "mean", count("a")),
    ),
    choices=tuple(
        ({"pet": pet, "wet": wet}, p * (0.3 if wet else 0.7))
        for pet, p in (("cat", 0.5), ("dog", 0.3), ("eel", 0.2))
        for wet in (False, True)
    ),
)

LINKED = Case(
    "linked",
    "a choice and a text that can only change together",
    _CHAIN,
    6,
    """
reward n(t: string): int<lower=0, upper=6> = count("a")
model linked() {
    topic ~ categorical(["a", "b", "c"], probs=[0.5, 0.3, 0.2])
    t ~ markov("prior.json", max_tokens=6)
    require about: (topic == "a" and starts_with(t, "a"))
        or (topic == "b" and starts_with(t, "b"))
        or (topic == "c" and starts_with(t, "c"))
    factor f: 0.5 * n(t)
    {claims}
    return topic, t
}
""",
    lambda o: 0.5 * o.text.count("a") + _inside(o.text.startswith(str(o.choices["topic"]))),
    (
        Statistic('topic == "b"', "probability", holds(lambda o: o.choices["topic"] == "b")),
        Statistic("n(t)", "mean", count("a")),
    ),
    choices=tuple(({"topic": topic}, p) for topic, p in (("a", 0.5), ("b", 0.3), ("c", 0.2))),
)

CASES = (
    SOFT,
    HARD,
    LATE,
    RARE,
    RARE_TILTED,
    SPIKE,
    GARDEN,
    TWO_MODES,
    TWO_MODES_MILD,
    HEAVY,
    COLD,
    ENDINGS,
    FAR_APART,
    ACCEPTED,
    NEARLY_SURE,
    KEYWORD,
    MIXED,
    LINKED,
)
