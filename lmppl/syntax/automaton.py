"""The LALR automaton of the grammar: its tables as plain data, and a walk through them.

Lark makes the tables from the grammar, and nothing else: reading a program takes the tables and the
few lines below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmppl.records import dataclass
from lmppl.syntax.tokens import Child, Token, Tree

END = "$END"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of the grammar: `size` parts become a tree.

    Parts at `spread` are helpers of the grammar, of which only the children count; with `unwrap`,
    a single part stands for itself.
    """

    origin: str
    name: str
    size: int
    spread: tuple[int, ...] = ()
    unwrap: bool = False


@dataclass(frozen=True, slots=True)
class Tables:
    """What to do in each state: go on to state n for a number n ≥ 0, apply rule −n − 1 otherwise.

    `pattern` matches any terminal, in the group of its name; `keywords` have theirs by the word.
    """

    states: Sequence[Mapping[str, int]]
    rules: Sequence[Rule]
    start: int
    end: int
    pattern: str
    keywords: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """The tables as plain data."""
        rules = [[r.origin, r.name, r.size, r.spread, r.unwrap] for r in self.rules]
        return {
            "states": self.states,
            "rules": rules,
            "start": self.start,
            "end": self.end,
            "pattern": self.pattern,
            "keywords": self.keywords,
        }

    @classmethod
    def of_json(cls, data: dict[str, Any]) -> Tables:
        """The tables that were written as plain data."""
        rules = [
            Rule(o, name, size, tuple(s), unwrap) for o, name, size, s, unwrap in data["rules"]
        ]
        return cls(**{**data, "rules": rules})


class Automaton:
    """A parser in the middle of a text."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._states = [tables.start]
        self._values: list[Child] = []

    def feed(self, token: Token) -> bool:
        """Takes one token; false where none of that kind can stand here, and then no other can be
        fed either."""
        tables, states, values = self._tables, self._states, self._values
        while True:
            action = tables.states[states[-1]].get(token.type)
            if action is None:
                return False
            if action >= 0:
                states.append(action)
                values.append(token)
                return True
            rule = tables.rules[-action - 1]
            parts = values[len(values) - rule.size :]
            if rule.size:
                del states[-rule.size :], values[-rule.size :]
            values.append(_tree(rule, parts))
            states.append(tables.states[states[-1]][rule.origin])
            if token.type == END and states[-1] == tables.end:
                return True

    @property
    def tree(self) -> Tree:
        """The tree of the whole text, once its end was fed."""
        (tree,) = self._values
        assert isinstance(tree, Tree)
        return tree

    def would_take(self, *kinds: str) -> bool:
        """Whether tokens of these kinds could be fed one after the other."""
        tables, states = self._tables, list(self._states)
        for kind in kinds:
            while (action := tables.states[states[-1]].get(kind)) is not None and action < 0:
                rule = tables.rules[-action - 1]
                if rule.size:
                    del states[-rule.size :]
                states.append(tables.states[states[-1]][rule.origin])
                if kind == END and states[-1] == tables.end:
                    return True
            if action is None:
                return False
            states.append(action)
        return True

    def accepts(self) -> set[str]:
        """The kinds of tokens that could be fed."""
        here = self._tables.states[self._states[-1]]
        return {kind for kind in here if kind.isupper() and self.would_take(kind)}


def _tree(rule: Rule, parts: list[Child]) -> Child:
    children = parts
    if rule.spread:
        children = []
        for number, part in enumerate(parts):
            if number not in rule.spread:
                children.append(part)
                continue
            assert isinstance(part, Tree)
            if children:
                children += part.children
            else:
                # A list of a thousand items is a helper in a helper: its items move once.
                children = part.children
    if rule.unwrap and len(children) == 1:
        return children[0]
    return Tree(rule.name, children)
