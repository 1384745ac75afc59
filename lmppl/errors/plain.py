"""Text from outside made harmless for a terminal: programs, models and files may hold anything."""

from __future__ import annotations

import unicodedata

# Marks, embeddings, overrides and isolates: they make a line read in another order than it has
# (Boucher and Anderson 2021, "Trojan Source", arXiv:2111.00169).
BIDIRECTIONAL = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


def harmless(text: str, *, keep: str = "\n\t") -> str:
    """The text with control characters, half characters and bidirectional controls spelled out.

    An escape sequence is then read and not obeyed. What was valid JSON stays the same JSON.

    >>> harmless("a" + chr(27) + "[2Jb")
    'a\\u001b[2Jb'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character if character in keep or not acts(character) else _spelled(character)
        for character in text
    )


def acts(character: str) -> bool:
    """Whether a character does something to a terminal or to the order of a line."""
    return unicodedata.category(character) in ("Cc", "Cs") or character in BIDIRECTIONAL


def _spelled(character: str) -> str:
    return f"\\u{ord(character):04x}"
