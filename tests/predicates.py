"""Random predicates for the tests of automata: each says what its leaves look like."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from lmppl.automata.predicates import And, Asked, Compared, Comparison, Not, OneOf, Or, Predicate
from lmppl.builtins.length import LENGTH
from lmppl.builtins.predicates.contains import CONTAINS
from lmppl.builtins.predicates.ends_with import ENDS_WITH
from lmppl.builtins.predicates.finished import FINISHED
from lmppl.builtins.predicates.matches import MATCHES
from lmppl.builtins.predicates.never import NEVER
from lmppl.builtins.predicates.starts_with import STARTS_WITH
from lmppl.builtins.sources.count import COUNT

COMPARISONS: tuple[Comparison, ...] = ("<=", "<", ">=", ">", "==", "!=")


def contains(words: Sequence[str], ignore_case: bool = False, whole_words: bool = False) -> Asked:
    return CONTAINS.asked(words=words, ignore_case=ignore_case, whole_words=whole_words)


def never(words: Sequence[str], ignore_case: bool = False, whole_words: bool = False) -> Asked:
    return NEVER.asked(words=words, ignore_case=ignore_case, whole_words=whole_words)


def matches(pattern: str, ignore_case: bool = False) -> Asked:
    return MATCHES.asked(pattern=pattern, ignore_case=ignore_case)


def starts_with(words: Sequence[str], ignore_case: bool = False) -> Asked:
    return STARTS_WITH.asked(words=words, ignore_case=ignore_case)


def ends_with(words: Sequence[str], ignore_case: bool = False) -> Asked:
    return ENDS_WITH.asked(words=words, ignore_case=ignore_case)


def finished() -> Asked:
    return FINISHED.asked()


def counted(pattern: str, op: Comparison, bound: float, ignore_case: bool = False) -> Compared:
    assert COUNT.countable is not None
    arguments = COUNT.complete({"pattern": pattern, "ignore_case": ignore_case})
    return COUNT.countable.compared(arguments, op, bound)


def length(unit: str, op: Comparison, bound: float) -> Compared:
    return LENGTH.compared(op, bound, unit=unit)


def predicates(
    *,
    alphabet: str,
    patterns: Sequence[str],
    units: Sequence[str],
    bounds: Sequence[float],
    others: Sequence[Predicate],
) -> st.SearchStrategy[Predicate]:
    """Up to four leaves joined by and, or and not; words are of at most two letters.

    Lists of words and of parts may be empty, and so may words.
    """
    words = st.lists(st.text(alphabet, max_size=2), max_size=3).map(tuple)
    leaf = st.one_of(
        st.builds(matches, st.sampled_from(patterns), st.booleans()),
        st.builds(contains, words, st.booleans(), st.booleans()),
        st.builds(never, words, st.booleans(), st.booleans()),
        st.builds(starts_with, words, st.booleans()),
        st.builds(ends_with, words, st.booleans()),
        st.builds(OneOf, words),
        st.builds(
            counted,
            st.sampled_from(["a", "aB|a", "(?:a|aB)+?", r"\b\w"]),
            st.sampled_from(COMPARISONS),
            st.sampled_from([0, 1, 2.5]),
            st.booleans(),
        ),
        st.builds(
            length, st.sampled_from(units), st.sampled_from(COMPARISONS), st.sampled_from(bounds)
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
