"""From the parser's tree to the frozen classes of `ast`: one function per rule of the grammar."""

from __future__ import annotations

from lmppl.syntax.building.builder import Builder, literal_diagnostics
from lmppl.syntax.building.expressions import EXPRESSIONS
from lmppl.syntax.building.items import ITEMS
from lmppl.syntax.building.statements import STATEMENTS
from lmppl.syntax.scanner import Scan

__all__ = ["builder", "literal_diagnostics"]

_RULES = {**ITEMS, **STATEMENTS, **EXPRESSIONS}


def builder(scan: Scan, reserved: frozenset[str]) -> Builder:
    """What builds the program of these tokens."""
    return Builder(scan, reserved, _RULES)
