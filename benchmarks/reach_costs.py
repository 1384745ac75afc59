"""What steering takes of plain sampling: word lists, patterns, powers, looking ahead.

Runs of 256 particles with something that steers and runs of the same prior with nothing, in turns
with the same seeds, in CPU seconds: of the whole run, and of its tokens alone, without what is done
before the first one (tables, and the pilot where one is drawn).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reach import MAX_TOKENS, PARTICLES, early, program

import lmppl
from lmppl.lm.loading import load_language_model
from lmppl.progress import ProgressEvent

COSTS = "costs"


def rare_words(number: int) -> list[str]:
    """The last words of the language model's vocabulary, which are its rarest ones."""
    tokens = load_language_model("builtin:stories").vocab.token_bytes
    found = [each[1:].decode() for each in tokens if each[1:].isalpha() and each[:1] == b" "]
    return [word for word in found if len(word) >= 4][-number:]


def listed(asked: str) -> str:
    flags = "whole_words=true, ignore_case=true"
    return f"    require {asked}(text, {json.dumps(rare_words(400))}, {flags})"


def pattern(regex: str) -> str:
    return f'    require matches(text, r"(?s){regex}")'


def once(*found: str) -> tuple[str, str]:
    """Exactly one match of each, as lines and head of a program."""
    head = [f'reward n{i}(t: string): int<lower=0> = count("{w}")\n' for i, w in enumerate(found)]
    return "\n".join(f"    require n{i}(text) == 1" for i in range(len(found))), "".join(head)


@dataclass(frozen=True, slots=True)
class Steered:
    """What steers, the most that it may cost over plain sampling, and what that is compared with.

    `rival` makes the lines of the other program: by default nothing is asked there.
    """

    lines: Callable[[], str]
    most: float
    head: str = ""
    rival: Callable[[], str] = str
    rival_lookahead: str = "auto"

    @classmethod
    def ahead(cls, lines: Callable[[], str]) -> Steered:
        """Looking ahead to a requirement, against its masks alone."""
        return cls(lines, 1.2, rival=lines, rival_lookahead="none")


_ONCE, _EACH = once("happy"), once("happy", "friend", "play")

ROWS: dict[str, Steered] = {
    "never one of 400 words": Steered(lambda: listed("never"), 1.15),
    "contains one of 400 words": Steered(lambda: listed("contains"), 1.15),
    "the third word from the end is *the*": Steered(
        lambda: pattern(r"(.*\s)?the\s+\S+\s+\S+"), 1.15
    ),
    "the tenth character from the end is *a*": Steered(lambda: pattern(".*a.{9}"), 1.15),
    "an even number of commas": Steered(lambda: pattern("[^,]*(,[^,]*,[^,]*)*"), 1.15),
    "*happy* exactly once": Steered(lambda: _ONCE[0], 1.15, _ONCE[1]),
    "*happy*, *friend* and *play* once each": Steered(lambda: _EACH[0], 1.15, _EACH[1]),
    "a phrase, then anything": Steered(lambda: pattern(".*(was|is|are) (a|the) [a-z]+ .*"), 1.15),
    "power, alpha = 4": Steered(lambda: "    factor sharp: 3 * log_prob(text)", 1.4),
    "looking ahead to *pirate*, over masks": Steered.ahead(
        lambda: '    require contains(text, "pirate")'
    ),
    "looking ahead to *dragon* within 60, over masks": Steered.ahead(lambda: early("dragon")),
}


def timed(model: lmppl.BoundModel, seed: int, lookahead: str) -> tuple[float, float]:
    """CPU seconds of a run, and of its tokens alone."""
    marks = [time.process_time()]

    def seen(event: ProgressEvent) -> None:
        if event.stage.startswith("looking ahead"):
            marks.append(time.process_time())

    how: dict[str, Any] = {"num_particles": PARTICLES, "lookahead": lookahead, "progress": seen}
    lmppl.infer(model, method="smc", seed=seed, **how)
    ended = time.process_time()
    return round(ended - marks[0], 3), round(ended - marks[-1], 3)


def make_costs(pairs: int, out: Path) -> None:
    """All pairs that `out` does not have yet; it is written after each.

    The first pair of a row warms both up and is not kept.
    """
    runs = json.loads(out.read_text()) if out.exists() else {}
    for name, row in ROWS.items():
        wanted = [pair for pair in range(1, pairs + 1) if f"{COSTS}: {name}: {pair}" not in runs]
        if not wanted:
            continue
        ours = lmppl.compile(program(row.lines(), row.head))()
        rival = lmppl.compile(program(row.rival(), row.head if row.rival() else ""))()
        asked = ((ours, "auto"), (rival, row.rival_lookahead))
        for pair in (0, *wanted):
            found = {}
            # The order changes, so that neither always runs on the warmer machine.
            for which in (0, 1) if pair % 2 else (1, 0):
                found[which] = timed(asked[which][0], pair, asked[which][1])
            if pair:
                runs[f"{COSTS}: {name}: {pair}"] = {
                    "run": found[0][0],
                    "tokens_alone": found[0][1],
                    "rival": found[1][1],
                    "most": row.most,
                }
                out.write_text(json.dumps(runs, indent=1) + "\n")
        ratios = [runs[f"{COSTS}: {name}: {pair}"] for pair in wanted]
        print(name, MAX_TOKENS, [round(r["tokens_alone"] / r["rival"], 2) for r in ratios],
              flush=True)  # fmt: skip
