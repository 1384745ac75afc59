"""`count(pattern)`: the number of matches of a regular expression."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from lmppl.builtins.arguments import IGNORE_CASE
from lmppl.builtins.kinds import Arguments, Countable, Source
from lmppl.builtins.signature import Argument
from lmppl.ir.types import INT, Interval
from lmppl.records import replace

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from lmppl.automata.dfa import Dfa
    from lmppl.automata.predicates import Reads
    from lmppl.automata.running import Running
    from lmppl.builtins.loading import Place
    from lmppl.rewards.texts import CountSource


def load(place: Place, pattern: str, ignore_case: bool) -> CountSource:
    from lmppl.rewards.texts import CountSource

    return CountSource(pattern, ignore_case)


def score_range(arguments: Arguments) -> Interval:
    return Interval(0.0, math.inf)


def count(text: str, pattern: str, ignore_case: bool) -> int:
    """The number of matches of the pattern that do not overlap, as `re.findall` finds them."""
    return len(re.findall(pattern, text, re.IGNORECASE if ignore_case else 0))


def reads(pattern: str, ignore_case: bool) -> Reads:
    return "text"


def automaton(admits: tuple[int, ...], budget: int, pattern: str, ignore_case: bool) -> Dfa:
    from lmppl.automata.counting import count_dfa

    return count_dfa(pattern, ignore_case, admits, budget)


def running(budget: int, pattern: str, ignore_case: bool) -> Running:
    from lmppl.automata.counting import running_count

    return running_count(pattern, ignore_case, budget)


def require(pattern: str, ignore_case: bool) -> None:
    """Raises: NotRegular, TooManyStates where no automaton counts the matches of the pattern."""
    from lmppl.automata.counting import require_countable

    require_countable(pattern, ignore_case)


def instances(random: Random, folder: Path) -> dict[str, object]:
    pattern = random.choice(["a", "aB|a", "(?:a|aB)+?", r"\b\w", "!"])
    return {"pattern": pattern, "ignore_case": random.random() < 0.5}


COUNT = Source(
    name="count",
    arguments=(
        Argument("pattern", "regex", "a regular expression", known="file"),
        replace(IGNORE_CASE, known="file"),
    ),
    result=INT,
    doc="The number of non-overlapping matches of a regular expression.",
    example='reward exclamations(t: string): int<lower=0> = count("!")',
    load=load,
    score_range=score_range,
    countable=Countable(
        name="count",
        count=count,
        reads=reads,
        automaton=automaton,
        running=running,
        require=require,
    ),
    instances=instances,
)
