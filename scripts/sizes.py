"""How long the files and classes of lmppl are.

    python scripts/sizes.py            the longest, and the middle
    python scripts/sizes.py OTHER      beside those of another checkout

The aims, which tests/unit/test_sizes.py holds: half of all files have at most 140 lines, no class
has more than 350 and no file more than 500, tables excepted.
"""

from __future__ import annotations

import ast
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

MEDIAN, CLASS, FILE = 140, 350, 500
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Sizes:
    """Lines of every file, by path, and of every class, by path and name."""

    files: dict[str, int]
    classes: dict[str, int]

    @property
    def median(self) -> float:
        """Of the files that have anything in them."""
        return statistics.median(lines for lines in self.files.values() if lines)


def sizes_of(package: Path) -> Sizes:
    files: dict[str, int] = {}
    classes: dict[str, int] = {}
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(package.parent).as_posix()
        files[name] = len(text.splitlines())
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                classes[f"{name}: {node.name}"] = (node.end_lineno or first) - first + 1
    return Sizes(files, classes)


def table(found: Sizes) -> list[str]:
    lines = [
        f"{len(found.files)} files, {sum(found.files.values()):,} lines, median {found.median:g}",
        f"{len(found.classes)} classes,"
        f" {sum(lines > CLASS for lines in found.classes.values())} over {CLASS} lines;"
        f" {sum(lines > FILE for lines in found.files.values())} files over {FILE}",
    ]
    for title, each in (("files", found.files), ("classes", found.classes)):
        longest = sorted(each.items(), key=lambda item: -item[1])[:_SHOWN]
        lines += ["", f"longest {title}", *(f"{lines:6}  {name}" for name, lines in longest)]
    return lines


def main(others: list[str]) -> None:
    for root in (*map(Path, others), Path(__file__).parents[1]):
        print(f"--- {root.name}", *table(sizes_of(root / "lmppl")), "", sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
