"""Whether a regular expression spells a string: says it letter by letter, and not by a wildcard."""

from __future__ import annotations

import re._constants as sre
from collections.abc import Iterable, Iterator
from typing import Any

from lmppl.automata.regex import NotRegular, characters, combine_flags, parsed

# One character and its other cases: "k" is also "K" and the sign for kelvin.
_NARROW = 3


def spelled_in(pattern: str, strings: Iterable[str], ignore_case: bool = False) -> Iterator[str]:
    """Those of the strings that a pattern spells, in whole and somewhere within.

    A class of more than a few characters (`.`, `[a-z]`, `\\W`) spells nothing, so that a pattern is
    not taken to mean all that it happens to match.

    >>> list(spelled_in(r"[a-z]*(</s>|<\\|end\\|>)?", ["<s>", "</s>", "<|end|>"]))
    ['</s>', '<|end|>']
    """
    try:
        tree = parsed(pattern, ignore_case)
    except NotRegular:
        return
    letters = {
        chr(code) for first, last in _letters(tree, tree.state.flags) for code in range(first, last)
    }
    for string in strings:
        if letters.issuperset(string) and len(string) in _through(
            tree, tree.state.flags, frozenset({0}), string
        ):
            yield string


def _letters(items: Any, flags: int) -> Iterator[tuple[int, int]]:
    """The characters of narrow classes as half-open ranges."""
    for op, argument in items:
        if (narrow := _narrow(op, argument, flags)) is not None:
            yield from ((first, last + 1) for first, last in narrow)
        for body, inner in _bodies(op, argument, flags):
            yield from _letters(body, inner)


def _through(items: Any, flags: int, reached: frozenset[int], string: str) -> frozenset[int]:
    """How many characters of the string may have been read behind the items.

    `reached` is that before them: 0 is always among them, since the string may begin anywhere, and
    its length stays once it is there.
    """
    for op, argument in items:
        if op in _SINGLE:
            narrow = _narrow(op, argument, flags)
            on = (n for n in reached if n < len(string) and _within(string[n], narrow))
            whole = reached & {len(string)}
            reached = frozenset({0, *whole, *(n + 1 for n in on)})
            continue
        bodies = list(_bodies(op, argument, flags))
        if op in _REPEATS:
            low, high, _ = argument
            found = set(reached) if low == 0 else set()
            current = reached
            for _ in range(min(int(high), len(string) + 1)):
                (body, inner) = bodies[0]
                current = _through(body, inner, current, string)
                if current <= found:
                    break
                found |= current
            reached = frozenset(found)
        elif bodies:
            reached = frozenset().union(
                *(_through(body, inner, reached, string) for body, inner in bodies)
            )
    return reached


_SINGLE = {sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN}
_REPEATS = {sre.MAX_REPEAT, sre.MIN_REPEAT}


def _narrow(op: Any, argument: Any, flags: int) -> tuple[tuple[int, int], ...] | None:
    """The characters of a class of few of them; None for a wide one, or no class."""
    if op not in _SINGLE or op in (sre.ANY, sre.NOT_LITERAL):
        return None
    found = characters(op, argument, flags)
    return found if sum(last - first + 1 for first, last in found) <= _NARROW else None


def _within(character: str, narrow: tuple[tuple[int, int], ...] | None) -> bool:
    return narrow is not None and any(first <= ord(character) <= last for first, last in narrow)


def _bodies(op: Any, argument: Any, flags: int) -> Iterator[tuple[Any, int]]:
    """The parts of an item that has parts, with the flags that hold in them."""
    if op is sre.BRANCH:
        yield from ((branch, flags) for branch in argument[1])
    elif op is sre.SUBPATTERN:
        _, added, removed, body = argument
        yield body, combine_flags(flags, added, removed)
    elif op in _REPEATS:
        yield argument[2], flags
