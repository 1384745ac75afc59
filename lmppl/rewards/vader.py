"""Sentiment by VADER: the package's scores to the last digit, several times faster."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import metadata
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lmppl.rewards.scorer import Tokens
from lmppl.rewards.texts import fingerprint


@dataclass(frozen=True, slots=True)
class VaderSource:
    """The sentiment of a text by VADER (Hutto and Gilbert 2014, ICWSM).

    `compound` lies in [-1, 1]; the shares `pos`, `neg` and `neu` in [0, 1].
    """

    component: str = "compound"

    @property
    def digest(self) -> str:
        return fingerprint("vader", self.component, metadata.version("vaderSentiment"))

    @property
    def cost(self) -> Literal["cheap", "model"]:
        return "cheap"

    def scores(
        self, columns: Sequence[Sequence[Any]], tokens: Tokens | None
    ) -> NDArray[np.float64]:
        """The component's value for each text, `[batch]`."""
        polarity, component = _analyzer().polarity, self.component
        return np.array([polarity(text)[component] for text in columns[0]], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class _Window:
    """The words around one word, in the shape that the package reads them from."""

    words_and_emoticons: list[str]
    is_cap_diff: bool


class _Analyzer:
    """`SentimentIntensityAnalyzer` without the work that it repeats for every word.

    The valence of a word depends on the three words before it, the two after it, and on whether
    some but not all words of the text are in capitals. Where no word of that window can set off a
    rule, it is what the lexicon says; elsewhere the package computes it, once for each window. What
    becomes of the valences of a text is the package's business too.
    """

    def __init__(self) -> None:
        from vaderSentiment import vaderSentiment as package

        self._package = package
        self._analyzer = package.SentimentIntensityAnalyzer()
        self._emojis = frozenset("".join(key for key in self._analyzer.emojis if len(key) == 1))
        self._triggers = _triggers(package)
        self._valence = lru_cache(maxsize=1 << 16)(self._valence_in_window)

    def polarity(self, text: str) -> dict[str, float]:
        """What `polarity_scores` returns for the text."""
        if not text.isascii() and not self._emojis.isdisjoint(text):
            # Emojis become words, by rules about the spaces around them.
            scores: dict[str, float] = self._analyzer.polarity_scores(text)
            return scores
        text = text.strip()
        words = []
        for token in text.split():
            stripped = token.strip(string.punctuation)
            words.append(token if len(stripped) <= 2 else stripped)
        lowered = [word.lower() for word in words]
        is_cap_diff = 0 < sum(map(str.isupper, words)) < len(words)
        boosters, lexicon, triggers = (
            self._package.BOOSTER_DICT,
            self._analyzer.lexicon,
            self._triggers,
        )
        has_contraction = "n't" in text.lower()
        valences: list[float] = [0] * len(words)
        for i, word in enumerate(lowered):
            if word not in lexicon or word in boosters or lowered[i : i + 2] == ["kind", "of"]:
                continue
            start = max(i - 3, 0)
            is_plain = not has_contraction and triggers.isdisjoint(lowered[start : i + 3])
            if is_plain and not (is_cap_diff and words[i].isupper()):
                valences[i] = lexicon[word]
            else:
                valences[i] = self._valence(tuple(words[start : i + 3]), i - start, is_cap_diff)
        if "but" in lowered:
            valences = self._analyzer._but_check(words, valences)
        result: dict[str, float] = self._analyzer.score_valence(valences, text)
        return result

    def _valence_in_window(self, words: tuple[str, ...], at: int, is_cap_diff: bool) -> float:
        window = _Window(list(words), is_cap_diff)
        found: list[float] = self._analyzer.sentiment_valence(0, window, words[at], at, [])
        return found[0]


def _triggers(package: Any) -> frozenset[str]:
    """The words that a window has to hold before any rule of the package changes a valence.

    Negations (those with "n't" are looked for apart), boosters, and of each phrase of several words
    its longest one, without which the phrase is not there.
    """
    words = {"no", "this", "so", "least", *package.NEGATE}
    for phrase in (*package.BOOSTER_DICT, *package.SPECIAL_CASES):
        words.add(max(phrase.split(), key=len))
    return frozenset(words)


@cache
def _analyzer() -> _Analyzer:
    # Reading the lexicon takes a tenth of a second, so it happens once and only when asked for.
    return _Analyzer()
