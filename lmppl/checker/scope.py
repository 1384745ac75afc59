"""What each name stands for, and whether it was used."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Literal

from lmppl.errors import Span
from lmppl.ir.expr import Constant, Expr, Reference, resolved, walk, walk_through
from lmppl.ir.model import Extern, Parameter, Reward
from lmppl.ir.types import Type
from lmppl.records import dataclass

SymbolKind = Literal[
    "constant",
    "parameter",
    "site",
    "let",
    "reward",
    "function",
    "language model",
    "import",
    "unknown",
]
# What the word after `extern` declares.
KIND_OF_EXTERN: Mapping[str, SymbolKind] = {
    "reward": "reward",
    "function": "function",
    "lm": "language model",
}

KIND_IN_WORDS: Mapping[SymbolKind, str] = {
    "constant": "a constant",
    "parameter": "a parameter",
    "site": "a choice",
    "let": "a value",
    "reward": "a reward",
    "function": "a function of the host program",
    "language model": "a language model of the host program",
    "import": "an imported file",
    "unknown": "a name",
}

# Names that are shown of many.
_FEW = 6


@dataclass(slots=True, repr=False)
class Symbol:
    """One declared name.

    `name` is what the checked model calls it, with the import's name before it if it comes from
    one. A constant has its `value`, a `let` its expression and the choices behind it, a site the
    values it can take where those are known, a text the largest number of tokens it can have.
    """

    name: str
    kind: SymbolKind
    span: Span
    type: Type | None = None
    value: Constant | None = None
    expr: Expr | None = None
    sites: frozenset[str] = frozenset()
    is_text: bool = False
    most_tokens: float = math.inf
    values: tuple[object, ...] | None = None
    reward: Reward | None = None
    extern: Extern | None = None
    parameters: tuple[Parameter, ...] = ()
    module: Mapping[str, Symbol] = field(default_factory=dict)
    used: bool = False

    @property
    def is_callable(self) -> bool:
        return self.kind in ("reward", "function")

    def __repr__(self) -> str:
        type = "" if self.type is None else f": {self.type}"
        unused = "" if self.used else ", not used"
        place = f"{self.span.line}:{self.span.column}"
        return f"<Symbol {self.name}{type}, {KIND_IN_WORDS[self.kind]} at {place}{unused}>"


class Scope:
    """The names of a file and, inside a model, those of the model. Nothing shadows anything."""

    def __init__(self, symbols: Mapping[str, Symbol] | None = None) -> None:
        self.symbols: dict[str, Symbol] = dict(symbols or {})
        # Choices and lets of the model by name that stand further down, with their spans.
        self.later: dict[str, Span] = {}

    def __repr__(self) -> str:
        first = ", ".join([*self.symbols][:_FEW]) + (", …" if len(self.symbols) > _FEW else "")
        return f"<Scope of {len(self.symbols)} names: {first}>"

    def __iter__(self) -> Iterator[Symbol]:
        return iter(self.symbols.values())

    def find(self, name: str) -> Symbol | None:
        """The symbol of that name, without counting as a use."""
        return self.symbols.get(name)

    def use(self, name: str) -> Symbol | None:
        """The symbol of that name, which counts as used."""
        symbol = self.symbols.get(name)
        if symbol is not None:
            symbol.used = True
        return symbol

    def add(self, name: str, symbol: Symbol) -> None:
        """Declares a name; the caller has seen that it is free."""
        self.symbols[name] = symbol
        self.later.pop(name, None)

    def names(self, *kinds: SymbolKind) -> list[str]:
        """The names of these kinds."""
        return [name for name, symbol in self.symbols.items() if symbol.kind in kinds]

    def nodes(self, expr: Expr) -> Iterator[Expr]:
        """Every node that an expression depends on, through the lets of the model, each once."""
        return walk_through((expr,), self._value_of)

    def sites_of(self, expr: Expr) -> frozenset[str]:
        """The choices that an expression depends on, through the lets of the model."""
        found: set[str] = set()
        # A chain of lets is not gone through again for each of them: their symbols know.
        for node in walk(expr):
            if isinstance(node, Reference) and node.role == "site":
                found.add(node.name)
            elif isinstance(node, Reference) and node.role == "let":
                found |= self.symbols[node.name].sites
        return frozenset(found)

    def resolve(self, expr: Expr) -> Expr:
        """The expression that a chain of `let a = b` stands for."""
        return resolved(expr, self._value_of)

    def _value_of(self, name: str) -> Expr | None:
        symbol = self.symbols.get(name)
        return None if symbol is None else symbol.expr

    def text_site(self, expr: Expr) -> Symbol | None:
        """The site whose text an expression is; None for any other expression."""
        found = self.resolve(expr)
        if not isinstance(found, Reference) or found.role != "site":
            return None
        symbol = self.symbols.get(found.name)
        return symbol if symbol is not None and symbol.is_text else None

    def is_site(self, expr: Expr) -> bool:
        """Whether an expression is the value of a site itself."""
        found = self.resolve(expr)
        return isinstance(found, Reference) and found.role == "site"

    def is_text_site(self, expr: Expr) -> bool:
        """Whether an expression is the text of a site itself."""
        return self.text_site(expr) is not None
