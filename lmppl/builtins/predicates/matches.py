"""`matches(text, pattern)`: the whole text matches a regular expression."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lmppl.builtins.arguments import IGNORE_CASE, TEXT
from lmppl.builtins.kinds import Predicate
from lmppl.builtins.signature import Argument

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from lmppl.automata.regular import Language


def holds(text: str, pattern: str, ignore_case: bool) -> bool:
    """Whether the whole text matches the regular expression, as by `re.fullmatch`.

    Raises:
        re.error: the pattern is not a regular expression.
    """
    return re.fullmatch(pattern, text, re.IGNORECASE if ignore_case else 0) is not None


def automaton(pattern: str, ignore_case: bool) -> Language:
    from lmppl.automata.regular import texts_like

    return texts_like(pattern, ignore_case=ignore_case)


def instances(random: Random, folder: Path) -> dict[str, object]:
    patterns = ["", "a*", "[ab]+", "(ab|A )*", r"\w+( \w+)*", ".*b", "a{2,3}", "[^a]|aa"]
    return {"pattern": random.choice(patterns), "ignore_case": random.random() < 0.5}


MATCHES = Predicate(
    name="matches",
    arguments=(
        TEXT,
        Argument("pattern", "regex", "a regular expression for the whole text", known="bind"),
        IGNORE_CASE,
    ),
    doc="True when the whole text matches the regular expression.",
    example='require sentence: matches(text, r" ?[A-Z][^.!?]*[.!?]")',
    holds=holds,
    automaton=automaton,
    instances=instances,
)
