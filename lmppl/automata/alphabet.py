"""Sets of characters as ranges of code points, and partitions of all code points into classes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from lmppl.records import dataclass

NUM_CODE_POINTS = 0x110000

# Disjoint, ascending, non-adjacent ranges of code points, ends included.
Charset = tuple[tuple[int, int], ...]

EMPTY: Charset = ()
ALL: Charset = ((0, NUM_CODE_POINTS - 1),)


def charset(ranges: Iterable[tuple[int, int]]) -> Charset:
    """The union of the ranges, in normal form."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def complement(chars: Charset) -> Charset:
    """All code points that are not in the set."""
    result = []
    low = 0
    for first, last in chars:
        if low < first:
            result.append((low, first - 1))
        low = last + 1
    if low < NUM_CODE_POINTS:
        result.append((low, NUM_CODE_POINTS - 1))
    return tuple(result)


def union(*sets: Charset) -> Charset:
    """All code points that are in one of the sets."""
    return charset(r for chars in sets for r in chars)


def difference(chars: Charset, other: Charset) -> Charset:
    """The code points of the first set that are not in the other."""
    result: list[tuple[int, int]] = []
    for first, last in chars:
        # From the range of the other that begins last before this one.
        at = max(bisect_right(other, (first, NUM_CODE_POINTS)) - 1, 0)
        for low, high in other[at:]:
            if low > last:
                break
            if first < low:
                result.append((first, low - 1))
            first = max(first, high + 1)
        if first <= last:
            result.append((first, last))
    return tuple(result)


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition of all code points: range i begins at `starts[i]` and is of class `classes[i]`.

    Classes are numbered from 0 without gaps, in order of their first code point.
    """

    starts: tuple[int, ...]
    classes: tuple[int, ...]

    @property
    def num_classes(self) -> int:
        return max(self.classes) + 1

    def representatives(self) -> list[str]:
        """One character of each class, a readable one where there is one."""
        best: list[tuple[int, int] | None] = [None] * self.num_classes
        for index, (start, cls) in enumerate(zip(self.starts, self.classes, strict=True)):
            end = self.starts[index + 1] if index + 1 < len(self.starts) else NUM_CODE_POINTS
            candidate = min(
                (rank, max(first, start))
                for rank, (first, last) in enumerate(_READABLE)
                if max(first, start) <= min(last, end - 1)
            )
            current = best[cls]
            if current is None or candidate < current:
                best[cls] = candidate
        return [chr(found[1]) for found in best if found is not None]


# In order of preference for texts that people will read.
_READABLE = (
    (0x61, 0x7A),
    (0x41, 0x5A),
    (0x30, 0x39),
    (0x20, 0x7E),
    (0xA1, 0xD7FF),
    (0xE000, 0x10FFFF),
    (0x0A, 0x0A),
    (0x00, 0x10FFFF),
)


def partition(sets: Sequence[Charset]) -> tuple[Partition, list[list[int]]]:
    """The coarsest partition that respects every set, and the classes that make up each set."""
    events: dict[int, list[int]] = {0: []}
    for index, chars in enumerate(sets):
        for first, last in chars:
            events.setdefault(first, []).append(index)
            if last + 1 < NUM_CODE_POINTS:
                events.setdefault(last + 1, []).append(index)
    starts: list[int] = []
    classes: list[int] = []
    numbers: dict[frozenset[int], int] = {}
    inside: set[int] = set()
    for start in sorted(events):
        inside.symmetric_difference_update(events[start])
        cls = numbers.setdefault(frozenset(inside), len(numbers))
        if not classes or classes[-1] != cls:
            starts.append(start)
            classes.append(cls)
    members: list[list[int]] = [[] for _ in sets]
    for signature, cls in numbers.items():
        for index in signature:
            members[index].append(cls)
    return Partition(tuple(starts), tuple(classes)), members


def common_refinement(parts: Sequence[Partition]) -> tuple[Partition, list[tuple[int, ...]]]:
    """The coarsest partition that refines all; for each of its classes, the class in each part."""
    boundaries = sorted({start for part in parts for start in part.starts})
    positions = [0] * len(parts)
    starts: list[int] = []
    classes: list[int] = []
    numbers: dict[tuple[int, ...], int] = {}
    for start in boundaries:
        for index, part in enumerate(parts):
            position = positions[index]
            while position + 1 < len(part.starts) and part.starts[position + 1] <= start:
                position += 1
            positions[index] = position
        key = tuple(part.classes[position] for part, position in zip(parts, positions, strict=True))
        cls = numbers.setdefault(key, len(numbers))
        if not classes or classes[-1] != cls:
            starts.append(start)
            classes.append(cls)
    return Partition(tuple(starts), tuple(classes)), list(numbers)
