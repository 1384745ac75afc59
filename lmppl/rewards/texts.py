"""Rewards that are computed from the string alone: lexicons and pattern counts."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from lmppl.automata.dfa import TooManyStates
from lmppl.automata.reach import Reach
from lmppl.automata.regex import NotRegular
from lmppl.automata.searching import counter
from lmppl.automata.words import WORD, words_of
from lmppl.files import Files, Unreadable
from lmppl.ir.types import Interval
from lmppl.jsons import NotJson, read_json
from lmppl.rewards.scorer import Tokens, failure, shorten


@dataclass(frozen=True, slots=True, eq=False)
class LexiconSource:
    """The mean or the sum of the scores of a text's words that are in a lexicon.

    Words are the maximal runs of letters, digits, `_`, `'` and `-` that begin and end with a letter
    or digit. Words that are not in the lexicon count for nothing; a text without any that is
    scores 0.
    """

    words: Mapping[str, float]
    reduce: str = "sum"
    ignore_case: bool = True
    file_digest: str = ""

    @property
    def digest(self) -> str:
        return fingerprint("lexicon", self.reduce, str(self.ignore_case), self.file_digest)

    @property
    def cost(self) -> Literal["cheap", "model"]:
        return "cheap"

    def range(self, reach: Reach | None) -> Interval:
        """Every word scores between the extremes, and a text of few tokens has few words."""
        low, high = min(0.0, *self.words.values()), max(0.0, *self.words.values())
        if self.reduce != "sum":
            return Interval(low, high)
        if reach is None:
            return Interval(-math.inf if low else 0.0, math.inf if high else 0.0)
        most = reach.num_tokens * reach.sizes.most_pieces(self._num_words)
        return Interval(low * most, high * most)

    def _num_words(self, text: str) -> int:
        return len(words_of(text, self.ignore_case))

    def summands(self) -> Sequence[tuple[float, Mapping[str, object]]]:
        """The words of every score, in order: `ignore_case` and `words`."""
        found: dict[float, list[str]] = {}
        for word, score in self.words.items():
            if score and WORD.fullmatch(word):
                found.setdefault(score, []).append(word)
        return [
            (score, {"words": tuple(sorted(found[score])), "ignore_case": self.ignore_case})
            for score in sorted(found)
        ]

    def scores(
        self, columns: Sequence[Sequence[Any]], tokens: Tokens | None
    ) -> NDArray[np.float64]:
        """The reduced score of each text, `[batch]`."""
        return np.array([self._score(text) for text in columns[0]], dtype=np.float64)

    def _score(self, text: str) -> float:
        lexicon = self.words
        words = words_of(text, self.ignore_case)
        matched = [lexicon[word] for word in words if word in lexicon]
        if not matched:
            return 0.0
        total = sum(matched)
        if self.reduce == "sum":
            return total
        # The mean of equal scores may round past them, and a declared range is exact.
        return min(max(total / len(matched), min(matched)), max(matched))


def read_lexicon(
    name: str, files: Files, *, reduce: str = "sum", ignore_case: bool = True
) -> LexiconSource:
    """The lexicon in a file: JSON `{"word": score}`, or lines `word<TAB>score` or `word,score`.

    Columns after the second are ignored (VADER's own lexicon has two more), and so is a first line
    whose score is not a number. With `ignore_case` two spellings of one word must agree.

    Raises:
        InferenceError: the file cannot be read, a score is not a finite number, or a word has two
            different scores (LMP919).
    """
    path = Path(name)
    try:
        content = files.read(name)
        text = content.decode("utf-8-sig")
    except Unreadable as error:
        raise failure("LMP919", f"the lexicon {path.name} {error.reason}") from error
    except UnicodeDecodeError as error:
        raise failure("LMP919", f"the lexicon {path.name} cannot be read: {error}") from error
    rows = _json_rows(text, path) if path.suffix == ".json" else _table_rows(text, path)
    words: dict[str, float] = {}
    for place, word, score in rows:
        key = word.lower() if ignore_case else word
        if words.setdefault(key, score) != score:
            raise failure(
                "LMP919",
                f"the lexicon {path.name} gives {word!r} two scores, "
                f"{words[key]:g} and {score:g} ({place})",
                help="keep one of them" + (", or set ignore_case=false" if ignore_case else ""),
            )
    if not words:
        raise failure("LMP919", f"the lexicon {path.name} has no words")
    return LexiconSource(words, reduce, ignore_case, hashlib.sha256(content).hexdigest())


def _json_rows(text: str, path: Path) -> list[tuple[str, str, float]]:
    try:
        table = read_json(text)
    except NotJson as error:
        raise failure("LMP919", f"the lexicon {path.name} is not JSON: {error}") from error
    if not isinstance(table, dict):
        raise failure("LMP919", f"the lexicon {path.name} must be an object of words and scores")
    rows = []
    for word, score in table.items():
        if not _is_finite(score):
            raise failure(
                "LMP919",
                f"the lexicon {path.name} gives {word!r} the score {score!r}",
                help="scores are finite numbers",
            )
        rows.append(("JSON", word, float(score)))
    return rows


def _is_finite(score: object) -> bool:
    if isinstance(score, bool) or not isinstance(score, int | float):
        return False
    try:
        return math.isfinite(score)
    except OverflowError:
        return False


def _table_rows(text: str, path: Path) -> list[tuple[str, str, float]]:
    separator = "\t" if "\t" in text.partition("\n")[0] else ","
    quoting = csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE
    reader = csv.reader(text.splitlines(), delimiter=separator, quoting=cast(Any, quoting))
    rows: list[tuple[str, str, float]] = []
    for number, cells in enumerate(reader, start=1):
        if not cells or not any(cell.strip() for cell in cells):
            continue
        try:
            score = float(cells[1])
        except (IndexError, ValueError):
            if number == 1 and len(cells) > 1:
                continue  # a header
            raise failure(
                "LMP919",
                f"line {number} of the lexicon {path.name} has no score: "
                f"{shorten(separator.join(cells), 80)!r}",
                help="write `word<TAB>score` or `word,score`",
            ) from None
        if not np.isfinite(score):
            raise failure(
                "LMP919", f"line {number} of the lexicon {path.name} has the score {cells[1]}"
            )
        rows.append((f"line {number}", cells[0].strip(), score))
    return rows


@dataclass(frozen=True, slots=True)
class CountSource:
    """The number of non-overlapping matches of a regular expression, from left to right."""

    pattern: str
    ignore_case: bool = False

    def __post_init__(self) -> None:
        try:
            counter(self.pattern, self.ignore_case)
        except (NotRegular, TooManyStates) as error:
            raise failure("LMP919", str(error)) from error

    @property
    def digest(self) -> str:
        return fingerprint("count", self.pattern, str(self.ignore_case))

    @property
    def cost(self) -> Literal["cheap", "model"]:
        return "cheap"

    def range(self, reach: Reach | None) -> Interval:
        """As many matches as fit."""
        if reach is None:
            return Interval(0.0, math.inf)
        return reach.count(self.pattern, self.ignore_case)

    def scores(
        self, columns: Sequence[Sequence[Any]], tokens: Tokens | None
    ) -> NDArray[np.float64]:
        """The count for each text, `[batch]`."""
        count = counter(self.pattern, self.ignore_case).count
        return np.array([count(text) for text in columns[0]], dtype=np.float64)


def fingerprint(*parts: str) -> str:
    """SHA-256 of the parts in order, in hexadecimal."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part.encode()).to_bytes(8, "little"))
        sha.update(part.encode())
    return sha.hexdigest()
