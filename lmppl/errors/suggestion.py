"""Did you mean …?"""

from __future__ import annotations

from collections.abc import Iterable

# Names among which one is looked for, and their characters.
_MOST, _LONGEST = 200, 200


def closest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `word` was probably meant to be, or None when nothing is near."""
    names = sorted(set(candidates))
    folded = {name.lower(): name for name in names}
    if word.lower() in folded:
        return folded[word.lower()]
    if len(word) > _LONGEST:
        return None
    if len(names) > _MOST:
        # All are read for each mistake: those that begin alike are the likely ones.
        alike = [name for name in names if name[:1] == word[:1]]
        alike.sort(key=lambda name: (name[:4] != word[:4], abs(len(name) - len(word)), name))
        names = alike[:_MOST]
    names = [name for name in names if len(name) <= _LONGEST]
    # A program without mistakes never needs it.
    import difflib

    # One wrong letter of three leaves two thirds: `sms` for `smc`.
    cutoff = 0.66 if len(word) == 3 else 0.7
    near = difflib.get_close_matches(word, names, n=1, cutoff=cutoff)
    if near:
        return near[0]
    # An abbreviation, `temp` for `temperature`.
    begun = [name for name in names if len(word) >= 3 and name.startswith(word.lower())]
    return begun[0] if len(begun) == 1 else None
