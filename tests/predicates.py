"""Random predicates for the tests of automata: each says what its leaves look like."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from lmppl.automata.predicates import (
    And,
    Comparison,
    Contains,
    Count,
    EndsWith,
    Length,
    Matches,
    Never,
    Not,
    OneOf,
    Or,
    Predicate,
    StartsWith,
    Unit,
)

COMPARISONS: tuple[Comparison, ...] = ("<=", "<", ">=", ">", "==", "!=")


def predicates(
    *,
    alphabet: str,
    patterns: Sequence[str],
    units: Sequence[Unit],
    bounds: Sequence[float],
    others: Sequence[Predicate],
) -> st.SearchStrategy[Predicate]:
    """Up to four leaves joined by and, or and not; words are of at most two letters.

    Lists of words and of parts may be empty, and so may words.
    """
    words = st.lists(st.text(alphabet, max_size=2), max_size=3).map(tuple)
    leaf = st.one_of(
        st.builds(Matches, st.sampled_from(patterns), st.booleans()),
        st.builds(Contains, words, st.booleans(), st.booleans()),
        st.builds(Never, words, st.booleans(), st.booleans()),
        st.builds(StartsWith, words, st.booleans()),
        st.builds(EndsWith, words, st.booleans()),
        st.builds(OneOf, words),
        st.builds(
            Count,
            st.sampled_from(["a", "aB|a", "(?:a|aB)+?", r"\b\w"]),
            st.sampled_from(COMPARISONS),
            st.sampled_from([0, 1, 2.5]),
            st.booleans(),
        ),
        st.builds(
            Length, st.sampled_from(units), st.sampled_from(COMPARISONS), st.sampled_from(bounds)
        ),
        st.sampled_from(others),
    )
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            inner.map(Not),
            st.lists(inner, max_size=3).map(lambda parts: And(tuple(parts))),
            st.lists(inner, max_size=3).map(lambda parts: Or(tuple(parts))),
        ),
        max_leaves=4,
    )
