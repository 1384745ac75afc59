"""What ends a text before its budget, besides end tokens: strings, and a pattern that is met."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lmppl.records import dataclass

if TYPE_CHECKING:
    from lmppl.automata.dfa import Dfa


@dataclass(frozen=True, slots=True)
class Stopping:
    """What ends a text, at the first character after which any of it is there.

    `before` are strings that are cut off, `after` strings that are kept; `until` is a regular
    expression that all of the text up to there must match, and that part is the text. Where one
    character completes a string that is cut off and something that is kept, it is cut off.
    """

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    until: str | None = None

    def __bool__(self) -> bool:
        return bool(self.before or self.after or self.until is not None)

    def cut(self, text: str) -> tuple[str, bool]:
        """The text up to where it ends, and whether anything ended it.

        >>> Stopping(before=(". ",)).cut("one. two. three")
        ('one', True)
        >>> Stopping(after=(". ",)).cut("one. two. three")
        ('one. ', True)
        >>> Stopping(until="[a-z]+ ").cut("one two")
        ('one ', True)
        """
        # (end, whether it is kept, where what is kept ends): the first end, and a cut before all;
        # of several that one character completes, the longest is cut off.
        ends = [(start + len(s), False, start) for s in self.before if (start := text.find(s)) >= 0]
        for kept in self.after:
            start = text.find(kept)
            if start >= 0:
                ends.append((start + len(kept), True, start + len(kept)))
        if self.until is not None:
            whole = re.compile(self.until).fullmatch
            most = min((end for end, _, _ in ends), default=len(text))
            for end in range(1, most + 1):
                if whole(text, 0, end):
                    ends.append((end, True, end))
                    break
        if not ends:
            return text, False
        return text[: min(ends)[2]], True

    def kept(self, budget: int) -> Dfa | None:
        """The texts that end as they are (output 1), of at least a character; None for no such.

        Raises:
            NotRegular: `until` is no regular expression.
            TooManyStates: the automaton needs more than `budget` states.
        """
        from lmppl.automata.dfa import minimise, product
        from lmppl.automata.regex import regex_dfa, words_dfa

        parts = []
        if self.after:
            parts.append(words_dfa(self.after, at_end=True, budget=budget))
        if self.until is not None:
            parts.append(regex_dfa(self.until, budget=budget))
        if not parts:
            return None
        return minimise(product(parts, lambda found: int(any(found)), budget))


NO_STOPPING = Stopping()
