"""What a number and the weight of a draw can be together.

The heaviest draws that are possible lie where factors are large. A number that hangs on what the
factors hang on, such as a reward that a factor has too, cannot be just anything there: were texts
of a low reward never seen, they would be light.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from lmppl.evaluation.ranges import Ranges, TextRanges
from lmppl.ir.expr import Binary, Call, Constant, Expr, Reference, RewardCall, Unary, children, walk
from lmppl.ir.model import Model
from lmppl.ir.types import Interval

# What is shared has few nodes: a reward of a text, a choice, a condition.
_MOST_NODES = 30
_MOST_SHARED = 4
_NUM_CELLS = 48


@dataclass(frozen=True, slots=True)
class Cell:
    """Draws whose number lies in `value`; the log of their weight is below the largest that any
    draw can have by `below` nats at least."""

    value: Interval
    below: float


def joint_ranges(
    expr: Expr, model: Model, values: Mapping[str, object], texts: TextRanges | None = None
) -> list[tuple[Cell, ...]]:
    """What draws can be, by what `expr` shares with the factors and requirements: for each thing
    that is shared, cells of which every draw lies in one."""
    factors = [p.expr for p in model.potentials if p.kind == "factor"]
    required = [p.expr for p in model.potentials if p.kind == "require" and p.when is None]
    plain = Ranges(model, values, texts)
    largest = math.fsum(plain.of(factor).upper for factor in factors)
    if not math.isfinite(largest):
        return []
    scoring = _candidates(model, [*factors, *required])
    asked = _candidates(model, [expr])
    shared = [key for key in asked if key in scoring][:_MOST_SHARED]
    found = []
    for key in shared:
        nodes = [*asked[key], *scoring[key]]
        cells, parts = [], list(_parts(nodes[0], plain.of(nodes[0])))
        for part in parts:
            ranges = Ranges(model, values, texts, {id(node): part for node in nodes})
            if any(ranges.of(each).upper == 0.0 for each in required):
                continue
            upper = math.fsum(ranges.of(factor).upper for factor in factors)
            cells.append(Cell(ranges.of(expr), max(0.0, largest - upper)))
        known = all(math.isfinite(end) for c in cells for end in (c.value.lower, c.value.upper))
        if known and (len(cells) < len(parts) or any(cell.below > 0.0 for cell in cells)):
            found.append(tuple(cells))
    return found


def _candidates(model: Model, exprs: Iterable[Expr]) -> dict[Hashable, list[Expr]]:
    """The parts of expressions that may be shared: all nodes of each, by what they say."""
    found: dict[Hashable, list[Expr]] = {}
    for node in model.nodes(*exprs):
        is_condition = node.type.kind == "bool" and isinstance(node, (Binary, Call, Unary))
        is_choice = isinstance(node, Reference) and node.role == "site"
        is_choice = is_choice and (node.type.is_number or node.type.kind == "bool")
        if (isinstance(node, RewardCall) and node.type.is_number) or is_condition or is_choice:
            key = _key(node, model)
            if key is not None:
                found.setdefault(key, []).append(node)
    return found


def _key(expr: Expr, model: Model) -> Hashable:
    """What an expression says, wherever it is written; None of what is large."""
    if sum(1 for _ in islice(walk(expr), _MOST_NODES + 1)) > _MOST_NODES:
        return None
    if isinstance(expr, Reference) and expr.role == "let":
        same = model.resolve(expr)
        return ("let", expr.name) if len(list(islice(walk(same), 2))) > 1 else _key(same, model)
    own = tuple(
        getattr(expr, name)
        for name in ("name", "role", "operator", "function", "reward")
        if hasattr(expr, name)
    )
    if isinstance(expr, Constant):
        own = (type(expr.value).__name__, expr.value)
    if isinstance(expr, Call):
        own = (*own, *(name for name, _ in expr.arguments))
    parts = [_key(part, model) for part in children(expr)]
    if any(part is None for part in parts) or type(expr).__name__ == "Interpolation":
        return None
    return (type(expr).__name__, own, tuple(parts))


def _parts(expr: Expr, known: Interval) -> Iterator[Interval]:
    """The range of what is shared in small parts."""
    low, high = known.lower, known.upper
    if not (math.isfinite(low) and math.isfinite(high)):
        yield known
        return
    if expr.type.kind in ("bool", "int") and high - low <= _NUM_CELLS:
        for number in range(math.floor(low), math.ceil(high) + 1):
            yield Interval(float(number), float(number))
        return
    width = (high - low) / _NUM_CELLS
    edges = [low + width * number for number in range(_NUM_CELLS)]
    for edge, next_edge in zip(edges, [*edges[1:], high], strict=True):
        yield Interval(edge, max(edge, next_edge))
