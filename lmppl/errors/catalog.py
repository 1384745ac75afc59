"""What each code means, at more length than a diagnostic has room for: `lmppl explain LMP007`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Explanation:
    """The title of a code and a paragraph about it, with a wrong and a right example."""

    title: str
    text: str


EXPLANATIONS: dict[str, Explanation] = {}
