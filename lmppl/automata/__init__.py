"""Constraints on the text of one LM site, read as automata.

`predicates` says what a constraint means; `language` decides questions about constraints without
any model, by way of `regex`, `nfa` and `dfa`; `compiling` turns constraints into tables over a
vocabulary, by way of `utf8`, `machine`, `tables` and `steps`, and `site` and `tokens` look them up
for the rows of a batch. Only these three need torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmppl.automata.compiling import compile_constraint
    from lmppl.automata.site import SiteAutomaton

__all__ = ["SiteAutomaton", "compile_constraint"]


def __getattr__(name: str) -> object:
    # The checker reads constraints without loading torch.
    if name in __all__:
        from lmppl.automata import compiling

        return getattr(compiling, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
