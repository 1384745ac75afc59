"""`ngram(path, order)`: a text of an n-gram model that is estimated from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lmppl.builtins.arguments import DRAWING, NO_PROMPT
from lmppl.builtins.kinds import TextDistribution
from lmppl.builtins.signature import Argument
from lmppl.ir.types import Interval

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from lmppl.builtins.loading import Place
    from lmppl.lm.protocol import LanguageModel


def load(place: Place, path: str, order: int, **drawing: Any) -> LanguageModel:
    from lmppl.lm.ngram import load_ngram

    return load_ngram(
        path,
        order=order,
        base_dir=place.base_dir,
        files=place.files,
        device=place.one_device,
    )


def instances(random: Random, folder: Path) -> dict[str, object]:
    lines = ["".join(random.choices("ab ", k=random.randint(1, 5))) + "a" for _ in range(4)]
    (folder / "corpus.txt").write_text("\n".join(lines), encoding="utf-8")
    return {
        "path": "corpus.txt",
        "order": random.randint(1, 3),
        "max_tokens": random.randint(1, 3),
    }


NGRAM = TextDistribution(
    name="ngram",
    arguments=(
        Argument("path", "path", "a text file to estimate from", known="bind"),
        Argument(
            "order",
            "int",
            "how many tokens a window holds",
            required=False,
            default=3,
            known="bind",
            # Windows beyond the longest line of a corpus say nothing more.
            range=Interval(1.0, 100.0),
            named_only=True,
        ),
        NO_PROMPT,
        *DRAWING,
    ),
    doc="A text of an n-gram model that is estimated from a file.",
    example='text ~ ngram("corpus.txt", order=3, max_tokens=20)',
    load=load,
    states="known",
    instances=instances,
)
