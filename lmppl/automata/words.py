"""The words of a text, as lexicons see them, counted by automata.

A word is a maximal run of letters, digits, `_`, `'`, `’` and `-`, without what stands before its
first letter or digit and after its last. So a run is one word, or none, and whether it is one of a
list is known a character later than it seems: `good` counts until `goods` is written, `good'` is
still `good`, and `good's` is not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lmppl.automata.alphabet import EMPTY, Charset, charset, difference, partition
from lmppl.automata.characters import cased_characters, category
from lmppl.automata.dfa import TooManyStates
from lmppl.automata.running import Running

WORD: re.Pattern[str] = re.compile(r"[^\W_](?:[\w'’-]*[^\W_])?")
_INNER = "_'’-"
# The only letter whose lower case depends on what stands beside it.
_SIGMAS = "σς"


def words_of(text: str, ignore_case: bool) -> list[str]:
    """The words of a text in order, in lower case where case is ignored."""
    return WORD.findall(text.lower() if ignore_case else text)


def require_words(words: Sequence[str], ignore_case: bool) -> None:
    """Raises: ValueError, no automaton finds these words."""
    if ignore_case and (found := [word for word in words if set(word) & set(_SIGMAS)]):
        raise ValueError(
            f"the word {found[0]!r} has a sigma, whose lower case depends on the letters beside"
            " it, where case is ignored"
        )


def running_words(words: Sequence[str], ignore_case: bool, budget: int) -> Running:
    """The automaton that counts the words of a text that are in the list, as they come.

    Raises:
        ValueError: as `require_words`.
        TooManyStates: more than `budget` states.
    """
    require_words(words, ignore_case)
    # Others are never found.
    trie = _Trie([word for word in words if WORD.fullmatch(word)], budget)
    letters = sorted({char for children in trie.children for char in children})
    sets, lower = _by_lower_case(letters, ignore_case)
    alnum = difference(category(r"\w"), _single("_"))
    alphabet, members = partition([*sets, alnum, charset((ord(c), ord(c)) for c in _INNER), lower])
    letter_of = {cls: c for c, own in zip(letters, members, strict=False) for cls in own}
    in_alnum, in_inner, in_lower = (set(each) for each in members[len(letters) :])
    rows: list[tuple[int, ...]] = []
    gains: list[tuple[int, ...]] = []
    for state in range(trie.num_states):
        row, gain = [], []
        for cls in range(alphabet.num_classes):
            kind = "letter" if cls in in_alnum else "inner" if cls in in_inner else "other"
            to, more = trie.step(state, letter_of.get(cls), kind)
            if cls in in_lower:
                # Several characters in lower case, of which the second ends the word.
                to, last = trie.step(to, None, "other")
                more += last
            row.append(to)
            gain.append(more)
        rows.append(tuple(row))
        gains.append(tuple(gain))
    return Running(alphabet, tuple(rows), tuple(gains), tuple(trie.counted))


def _single(char: str) -> Charset:
    return ((ord(char), ord(char)),)


def _by_lower_case(letters: Sequence[str], ignore_case: bool) -> tuple[list[Charset], Charset]:
    """For each letter the characters that become it, and those that become several."""
    if not ignore_case:
        return [_single(letter) for letter in letters], EMPTY
    found: dict[str, list[str]] = {letter: [] for letter in letters}
    several: list[str] = []
    for char in cased_characters():
        lower = char.lower()
        if lower[:1] in found:
            found[lower[0]].append(char)
        if len(lower) > 1:
            several.append(char)
    for letter in letters:
        if letter.lower() == letter:
            found[letter].append(letter)
    sets = [charset((ord(c), ord(c)) for c in found[letter]) for letter in letters]
    return sets, charset((ord(c), ord(c)) for c in several)


class _Trie:
    """Where in the words of a list the run of characters is that is being read.

    State 0 is outside of words; then come the beginnings of words, and two for what is none:
    after a word that still counts, and after anything else. `counted` says what each state would
    add if the text ended there.
    """

    def __init__(self, words: Sequence[str], budget: int) -> None:
        self.children: list[dict[str, int]] = [{}]
        self.counted = [0]
        listed = set(words)
        for word in sorted(listed):
            node = 0
            for place, char in enumerate(word, start=1):
                if char not in self.children[node]:
                    self.children[node][char] = len(self.children)
                    is_inner = char in _INNER
                    self.children.append({})
                    self.counted.append(
                        self.counted[node] if is_inner else int(word[:place] in listed)
                    )
                    if len(self.children) + 2 > budget:
                        raise TooManyStates(budget)
                node = self.children[node][char]
        self.none, self.still = len(self.children), len(self.children) + 1
        self.counted += [0, 1]

    @property
    def num_states(self) -> int:
        return len(self.counted)

    def step(self, state: int, char: str | None, kind: str) -> tuple[int, int]:
        """The next state, and what is counted by it for good."""
        if kind == "other":
            return 0, self.counted[state]
        if state == 0 and kind == "inner":
            return 0, 0
        children = self.children[state] if state < len(self.children) else {}
        if char is not None and char in children:
            return children[char], 0
        return (self.still if kind == "inner" and self.counted[state] else self.none), 0
