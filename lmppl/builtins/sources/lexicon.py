"""`lexicon(path)`: the weights of the words of a text, read from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmppl.builtins.kinds import Source
from lmppl.builtins.signature import Argument
from lmppl.ir.types import REAL

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from lmppl.builtins.loading import Place
    from lmppl.rewards.texts import LexiconSource


def load(place: Place, path: str, reduce: str, ignore_case: bool) -> LexiconSource:
    from lmppl.rewards.texts import read_lexicon

    return read_lexicon(path, place.files, reduce=reduce, ignore_case=ignore_case)


def instances(random: Random, folder: Path) -> dict[str, object]:
    import json

    words = {word: random.choice([-1.5, -1.0, 0.5, 2.0]) for word in ("good", "bad", "a", "b")}
    (folder / "lexicon.json").write_text(json.dumps(words), encoding="utf-8")
    return {
        "path": "lexicon.json",
        "reduce": random.choice(["sum", "mean"]),
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
            default="sum",
            known="file",
            choices=("sum", "mean"),
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
    instances=instances,
)
