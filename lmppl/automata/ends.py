"""What constraints say about the end of a text: which texts may end, how, after how many tokens.

Constraints are split into textual parts, which automata follow, and the rest (`finished`, lengths
in tokens), which a small table decides at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmppl.automata.predicates import (
    And,
    False_,
    Not,
    Or,
    Predicate,
    True_,
    reads_only_text,
)
from lmppl.records import brief


@dataclass(frozen=True, slots=True)
class EndRule:
    """When a text may end: `accepts[output, finished, num_tokens]`, finished as 0 or 1.

    An output says which textual parts hold; `num_tokens` runs from 0 to `max_tokens`.  Output 0
    never accepts.
    """

    accepts: NDArray[np.bool_]

    __repr__ = brief

    @property
    def counts_tokens(self) -> bool:
        """Whether it matters how many tokens the text has."""
        return bool((self.accepts != self.accepts[:, :, :1]).any())


@dataclass(frozen=True, slots=True)
class Split:
    """A conjunction: `required` textual parts, and `mixed` constraints over `consulted` ones.

    A text is lost as soon as a required part is; what is only consulted may fail.
    """

    required: tuple[Predicate, ...]
    consulted: tuple[Predicate, ...]
    mixed: tuple[Predicate, ...]

    def rule(self, found: Sequence[tuple[bool, ...]], max_tokens: int) -> tuple[list[int], EndRule]:
        """The output of each combination of truth values (required, then consulted), and the rule.

        Combinations that accept at the same ends have the same output.
        """
        never = np.zeros((2, max_tokens + 1), dtype=bool)
        tables = [never]
        numbers = {never.tobytes(): 0}
        outputs = []
        whole = And(self.mixed)
        for values in found:
            table = never
            if all(values[: len(self.required)]):
                known = dict(zip(self.consulted, values[len(self.required) :], strict=True))
                table = np.array(
                    [
                        [_truth(whole, known, tokens, finished) for tokens in range(max_tokens + 1)]
                        for finished in (False, True)
                    ]
                )
            number = numbers.setdefault(table.tobytes(), len(tables))
            if number == len(tables):
                tables.append(table)
            outputs.append(number)
        return outputs, EndRule(np.stack(tables))


def conjuncts(predicates: Sequence[Predicate]) -> list[Predicate]:
    """The predicates that all have to hold, without repeats and without `And` at the top."""
    found: list[Predicate] = []
    for predicate in predicates:
        if isinstance(predicate, And):
            found.extend(conjuncts(predicate.parts))
        elif predicate != True_():
            found.append(predicate)
    return list(dict.fromkeys(found))


def split(constraints: Sequence[Predicate]) -> Split:
    """Textual parts and the rest."""
    mixed = tuple(part for part in constraints if not reads_only_text(part))
    return Split(
        tuple(part for part in constraints if reads_only_text(part)),
        tuple(dict.fromkeys(part for whole in mixed for part in _textual_parts(whole))),
        mixed,
    )


def _textual_parts(predicate: Predicate) -> list[Predicate]:
    """The largest subtrees that the text alone decides."""
    if reads_only_text(predicate):
        return [predicate]
    match predicate:
        case And(parts) | Or(parts):
            return [found for part in parts for found in _textual_parts(part)]
        case Not(part):
            return _textual_parts(part)
        case _:
            return []


def _truth(predicate: Predicate, known: dict[Predicate, bool], tokens: int, finished: bool) -> bool:
    if predicate in known:
        return known[predicate]
    match predicate:
        case And(parts):
            return all(_truth(part, known, tokens, finished) for part in parts)
        case Or(parts):
            return any(_truth(part, known, tokens, finished) for part in parts)
        case Not(part):
            return not _truth(part, known, tokens, finished)
        case True_():
            return True
        case False_():
            return False
    return predicate.holds(finished if predicate.reads == "ending" else tokens)
