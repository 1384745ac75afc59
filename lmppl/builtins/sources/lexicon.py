"""`lexicon(path)`: the weights of the words of a text, read from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmppl.builtins.kinds import Arguments, Countable, Source
from lmppl.builtins.signature import Argument
from lmppl.ir.types import REAL

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from lmppl.automata.dfa import Dfa
    from lmppl.automata.predicates import Reads
    from lmppl.automata.running import Running
    from lmppl.builtins.loading import Place
    from lmppl.rewards.texts import LexiconSource


def load(place: Place, path: str, reduce: str, ignore_case: bool) -> LexiconSource:
    from lmppl.rewards.texts import read_lexicon

    return read_lexicon(path, place.files, reduce=reduce, ignore_case=ignore_case)


def count(text: str, words: tuple[str, ...], ignore_case: bool) -> int:
    """The number of words of a text that are in the list."""
    from lmppl.automata.words import words_of

    listed = set(words)
    return sum(word in listed for word in words_of(text, ignore_case))


def reads(words: tuple[str, ...], ignore_case: bool) -> Reads:
    return "text"


def running(budget: int, words: tuple[str, ...], ignore_case: bool) -> Running:
    from lmppl.automata.words import running_words

    return running_words(words, ignore_case, budget)


def automaton(
    admits: tuple[int, ...], budget: int, words: tuple[str, ...], ignore_case: bool
) -> Dfa:
    return running(budget, words, ignore_case).capped(admits, budget)


def require(words: tuple[str, ...], ignore_case: bool) -> None:
    """Raises: ValueError, no automaton finds these words."""
    from lmppl.automata.words import require_words

    require_words(words, ignore_case)


def is_sum(arguments: Arguments) -> bool:
    return arguments["reduce"] == _SUM


_SUM = "sum"
WORDS = Countable(
    name="words of a lexicon",
    count=count,
    reads=reads,
    automaton=automaton,
    running=running,
    require=require,
)


def instances(random: Random, folder: Path) -> dict[str, object]:
    import json

    words = {word: random.choice([-1.5, -1.0, 0.5, 2.0]) for word in ("good", "bad", "a", "b")}
    (folder / "lexicon.json").write_text(json.dumps(words), encoding="utf-8")
    return {
        "path": "lexicon.json",
        "reduce": random.choice([_SUM, "mean"]),
        "ignore_case": random.random() < 0.5,
    }


LEXICON = Source(
    name="lexicon",
    arguments=(
        Argument("path", "path", "a file of words with scores", known="file"),
        Argument(
            "reduce",
            "string",
            "how the scores of the words become one; 0 when there are none",
            required=False,
            default=_SUM,
            known="file",
            choices=(_SUM, "mean"),
            named_only=True,
        ),
        Argument(
            "ignore_case",
            "bool",
            "whether upper and lower case count as the same",
            required=False,
            default=True,
            known="file",
            named_only=True,
        ),
    ),
    result=REAL,
    doc="The sum, or the mean, of the weights of the words of a text, read from a file.",
    example='reward warmth(t: string): real = lexicon("warmth.tsv")',
    load=load,
    summed=WORDS,
    is_sum=is_sum,
    instances=instances,
)
