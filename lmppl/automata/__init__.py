"""Constraints on the text of one LM site, read as automata.

`predicates` says what a constraint means; `language` decides questions about constraints without
any model, by way of `regex`, `nfa` and `dfa`; `site` (the only module that needs torch) turns
constraints into tables over a vocabulary, by way of `utf8`, `machine` and `tables`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmppl.automata.site import SiteAutomaton, compile_constraint

__all__ = ["SiteAutomaton", "compile_constraint"]


def __getattr__(name: str) -> object:
    # The checker reads constraints without loading torch.
    if name in __all__:
        from lmppl.automata import site

        return getattr(site, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
