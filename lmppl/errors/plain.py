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

    An escape sequence is then read and not obeyed: `\x1b[31m` is eight characters.

    >>> harmless("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character if character in keep or not _acts(character) else _spelled(character)
        for character in text
    )


def _acts(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") or character in BIDIRECTIONAL


def _spelled(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
