"""What is known of a program, whether or not it checks."""

from __future__ import annotations

from dataclasses import dataclass, field

from lmppl.checker.scope import Symbol
from lmppl.errors import Span
from lmppl.ir.types import Type


@dataclass(slots=True)
class Annotations:
    """What stands where: the symbol of every name where it is declared or used, and the type of
    every expression."""

    symbols: dict[Span, Symbol] = field(default_factory=dict)
    types: dict[Span, Type] = field(default_factory=dict)
