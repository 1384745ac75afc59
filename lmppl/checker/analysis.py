"""What is known of a program, whether or not it checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import TypeVar

from lmppl.checker.scope import Symbol
from lmppl.errors import Diagnostic, LmpError, Span
from lmppl.ir.model import Model
from lmppl.ir.types import Type
from lmppl.records import dataclass

_T = TypeVar("_T")


@dataclass(slots=True, repr=False)
class Annotations:
    """What stands where: the symbol of every name where it is declared or used, and the type of
    every expression."""

    symbols: dict[Span, Symbol] = field(default_factory=dict)
    types: dict[Span, Type] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Annotations of {len(self.symbols)} names and {len(self.types)} expressions>"


@dataclass(frozen=True, slots=True)
class Analysis:
    """All that is known of a program.

    `model` is what its statements came to; those in which there is an error are not in it, and it
    is None where the text has no model at all. `diagnostics` are in the order of the text, the main
    file first. `sources` are the texts of the files that spans point into. `symbols` has every name
    where it is declared and where it is used, `types` every expression that was looked at.
    """

    model: Model | None
    diagnostics: tuple[Diagnostic, ...]
    sources: Mapping[str | None, str]
    symbols: Mapping[Span, Symbol] = field(default_factory=dict)
    types: Mapping[Span, Type] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        return tuple(each for each in self.diagnostics if each.severity == "error")

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        return tuple(each for each in self.diagnostics if each.severity == "warning")

    def checked(self) -> Model:
        """The model of a program without errors.

        Raises:
            LmpError: with errors and warnings, in the order of the text.
        """
        if self.errors or self.model is None:
            raise LmpError(self.diagnostics, self.sources)
        return self.model

    def symbol_at(self, offset: int, path: str | None = None) -> Symbol | None:
        """What the name at a place of a file stands for."""
        return _innermost(self.symbols, offset, path)

    def type_at(self, offset: int, path: str | None = None) -> Type | None:
        """The type of the smallest expression around a place of a file."""
        return _innermost(self.types, offset, path)

    def uses_of(self, symbol: Symbol) -> tuple[Span, ...]:
        """Where a name is declared and used, in the order of the text."""
        found = (span for span, each in self.symbols.items() if each.span == symbol.span)
        return tuple(sorted(found, key=lambda span: (span.path or "", span.start)))

    def __repr__(self) -> str:
        of = "no model" if self.model is None else f"model {self.model.name}"
        counts = f"errors: {len(self.errors)}, warnings: {len(self.warnings)}"
        return f"<Analysis of {of}, {counts}>"


def _innermost(found: Mapping[Span, _T], offset: int, path: str | None) -> _T | None:
    around = [s for s in found if s.path == path and s.start <= offset < s.end]
    return found[min(around, key=lambda span: span.end - span.start)] if around else None
