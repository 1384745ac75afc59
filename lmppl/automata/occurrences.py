"""Automata that look for words anywhere in a text, in time proportional to the words.

Aho and Corasick (1975): a tree of the words, in which every node knows the longest suffix of what
was read that begins a word. The subset construction finds the same states, but takes time
quadratic in a word that repeats itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lmppl.automata.alphabet import Charset, partition
from lmppl.automata.dfa import Dfa, TooManyStates

# Entries of the table of an automaton before it is minimised.
_MOST_ENTRIES = 10_000_000


def occurrences(
    words: Sequence[str], letters: Mapping[str, Charset], *, at_end: bool, budget: int
) -> Dfa | None:
    """The automaton of the texts in which (with `at_end`: at whose end) one of the words occurs.

    `letters` says what each character of the words stands for. It is not minimised. None for an
    empty word, and where characters stand for sets that overlap without being equal.

    Raises:
        TooManyStates: the words have more than `budget` beginnings.
    """
    sets = list(dict.fromkeys(letters.values()))
    alphabet, members = partition(sets)
    number = {chars: index for index, chars in enumerate(sets)}
    if "" in words or len({cls for each in members for cls in each}) < sum(map(len, members)):
        return None
    children: list[dict[int, int]] = [{}]
    ends = [False]
    for word in words:
        node = 0
        for char in word:
            letter = number[letters[char]]
            following = children[node].get(letter)
            if following is None:
                if len(children) >= budget:
                    raise TooManyStates(budget)
                following = children[node][letter] = len(children)
                children.append({})
                ends.append(False)
            node = following
        ends[node] = True
    if len(children) * alphabet.num_classes > _MOST_ENTRIES:
        raise TooManyStates(budget)
    rows: list[list[int]] = [[0] * alphabet.num_classes for _ in children]
    order, suffix = [0], [0] * len(children)
    for node in order:
        # The suffix is shorter, so its row and whether a word ends with it are known.
        row = rows[node]
        if node:
            row[:] = rows[suffix[node]]
            ends[node] = ends[node] or ends[suffix[node]]
        for letter, child in children[node].items():
            suffix[child] = row[members[letter][0]] if node else 0
            for cls in members[letter]:
                row[cls] = child
            order.append(child)
    if not at_end:
        for node, found in enumerate(ends):
            if found:
                rows[node] = [node] * alphabet.num_classes
    return Dfa(alphabet, tuple(map(tuple, rows)), tuple(map(int, ends)))
