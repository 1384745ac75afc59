"""Predicates as automata: what can be decided about constraints before any model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from typing import Literal

from lmppl.automata.alphabet import NUM_CODE_POINTS
from lmppl.automata.dfa import (
    EVERYTHING,
    NOTHING,
    STATE_BUDGET,
    Dfa,
    TooManyStates,
    Work,
    complement,
    intersection,
    live_states,
    product,
    shortest_accepted,
    union,
)
from lmppl.automata.predicates import (
    And,
    Asked,
    Compared,
    False_,
    Not,
    Or,
    Predicate,
    True_,
    reads_only_text,
)

# Of so many requirements a text is tried on all the others.
_TRIED = 4

# What may be spent on finding contradictions in one text's requirements, a second or two.
COMPARING = 5_000_000

Decidable = Literal["safety", "automaton", "liveness", "end"]


@lru_cache(maxsize=256)
def predicate_dfa(predicate: Predicate, budget: int = STATE_BUDGET) -> Dfa:
    """The minimal automaton that accepts the texts of which the predicate holds.

    Raises:
        NotRegular: a pattern that no finite automaton decides (LMP301).
        TooManyStates: more than `budget` states are needed (LMP301).
        ValueError: the predicate does not depend on the text alone.
    """
    match predicate:
        case And(parts):
            return intersection([predicate_dfa(part, budget) for part in parts], budget)
        case Or(parts):
            return union([predicate_dfa(part, budget) for part in parts], budget)
        case Not(part):
            return complement(predicate_dfa(part, budget))
        case True_():
            return EVERYTHING
        case False_():
            return NOTHING
    language = predicate.language()
    if language is None:
        raise ValueError(f"{predicate} is not decided by the text alone")
    return language.dfa(budget)


def when_decidable(predicate: Predicate) -> Decidable:
    """When the truth of a predicate becomes known while a text grows, as language.md names it.

    `safety`: every prefix that can still be completed already satisfies it.  `liveness`: every
    prefix can be completed.  `automaton`: prefixes may be dead, open or accepting.  `end`: too
    large for an automaton, so only complete texts can be looked at.
    """
    if not reads_only_text(predicate):
        match predicate:
            case Asked() | Compared(op=">=" | ">"):
                return "liveness"
            case Compared(op="<=" | "<"):
                return "safety"
            case _:
                return "automaton"
    try:
        dfa = predicate_dfa(predicate)
    except TooManyStates:
        return "end"
    live = live_states(dfa)
    if all(live):
        return "safety" if all(dfa.outputs) else "liveness"
    if all(output for output, alive in zip(dfa.outputs, live, strict=True) if alive):
        return "safety"
    return "automaton"


def shortest_text(predicate: Predicate) -> str | None:
    """A shortest text that satisfies the predicate; None where there is none (LMP302).

    Parts about tokens or about how the text ended are taken to be satisfiable.
    """
    return shortest_accepted(predicate_dfa(relax(predicate)))


def lengths_of_few(dfa: Dfa, most: int) -> frozenset[int] | None:
    """The lengths in characters of all accepted texts; None where there are more than `most`."""
    live = live_states(dfa)
    widths = [0] * dfa.alphabet.num_classes
    starts = [*dfa.alphabet.starts, NUM_CODE_POINTS]
    for cls, first, end in zip(dfa.alphabet.classes, starts, starts[1:], strict=False):
        widths[cls] += end - first
    reached = {0: 1} if live[0] else {}
    lengths: set[int] = set()
    num_texts = 0
    # A path longer than there are states goes in a circle, and so there is no end of texts.
    for length in range(dfa.num_states + 1):
        ended = sum(count for state, count in reached.items() if dfa.outputs[state])
        if ended:
            lengths.add(length)
        num_texts += ended
        if not reached:
            return frozenset(lengths)
        if num_texts > most or sum(reached.values()) > most:
            return None
        moved: dict[int, int] = {}
        for state, count in reached.items():
            for cls, target in enumerate(dfa.rows[state]):
                if live[target]:
                    moved[target] = moved.get(target, 0) + count * widths[cls]
        reached = moved
    return None


def few_texts(dfa: Dfa, most: int) -> list[str] | None:
    """All accepted texts, shorter ones first; None where there are more than `most`."""
    if lengths_of_few(dfa, most) is None:
        return None
    live = live_states(dfa)
    starts = [*dfa.alphabet.starts, NUM_CODE_POINTS]
    letters: dict[int, list[str]] = {}
    for cls, first, end in zip(dfa.alphabet.classes, starts, starts[1:], strict=False):
        if end - first <= most:
            letters.setdefault(cls, []).extend(map(chr, range(first, end)))
    found: list[str] = []
    reached = [("", 0)] if live[0] else []
    while reached:
        found += [text for text, state in reached if dfa.outputs[state]]
        reached = [
            (text + letter, target)
            for text, state in reached
            for cls, target in enumerate(dfa.rows[state])
            if live[target]
            for letter in letters[cls]
        ]
    return found


def is_always_true(predicate: Predicate) -> bool:
    """Whether every text satisfies the predicate."""
    if not reads_only_text(predicate):
        return False
    return all(predicate_dfa(predicate).outputs)


def is_never_true(predicate: Predicate) -> bool:
    """Whether no text satisfies the predicate (LMP302)."""
    return not any(predicate_dfa(relax(predicate)).outputs)


def contradiction(
    predicates: Sequence[Predicate], budget: int = STATE_BUDGET, work: Work | None = None
) -> tuple[int, ...] | None:
    """Indices of a smallest set of constraints that no text satisfies together (LMP303).

    None where a text satisfies all, and where deciding would take more than `budget` states, or
    more than is left of `work`. Constraints that do not depend on the text alone are relaxed.
    """
    work = work or Work(COMPARING)
    dfas: dict[int, Dfa] = {}
    for index, predicate in enumerate(predicates):
        try:
            dfas[index] = predicate_dfa(relax(predicate), budget)
        except TooManyStates:
            continue
        if not any(dfas[index].outputs):
            return (index,)
    # Most requirements forbid something, which the empty text has nothing of, nor mostly the
    # shortest that the others allow: no product is needed where one text is accepted by all.
    asking = [dfa for dfa in dfas.values() if not dfa.outputs[0]]
    if not asking:
        return None
    for text in map(shortest_accepted, asking[:_TRIED]):
        if text is not None and all(dfa.accepts(text) for dfa in dfas.values()):
            return None
    for pair in combinations(dfas, 2):
        if all(dfas[index].outputs[0] for index in pair):
            continue
        if _disjoint([dfas[index] for index in pair], budget, work):
            return pair
    # Beyond pairs: drop from all whatever is not needed for the contradiction.
    core = list(dfas)
    if not _disjoint([dfas[index] for index in core], budget, work):
        return None
    for index in tuple(core):
        rest = [other for other in core if other != index]
        if _disjoint([dfas[other] for other in rest], budget, work):
            core = rest
    return tuple(core)


def _disjoint(dfas: Sequence[Dfa], budget: int, work: Work) -> bool:
    try:
        if len(dfas) == 2:
            both = product(dfas, lambda outputs: int(all(outputs)), budget, work)
            return not any(both.outputs)
        return not any(intersection(dfas, budget, work).outputs)
    except TooManyStates:
        return False


def relax(predicate: Predicate) -> Predicate:
    """The strongest condition on the text alone that follows from the predicate."""
    return _relax(predicate, positive=True)


def _relax(predicate: Predicate, positive: bool) -> Predicate:
    if reads_only_text(predicate):
        return predicate
    match predicate:
        case And(parts):
            return And(tuple(_relax(part, positive) for part in parts))
        case Or(parts):
            return Or(tuple(_relax(part, positive) for part in parts))
        case Not(part):
            return Not(_relax(part, not positive))
        case _:
            return True_() if positive else False_()
