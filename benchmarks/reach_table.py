"""What the runs of `reach.py` have shown: two tables in docs/performance.md, and a plot.

    python benchmarks/reach_table.py [--runs FILE]

Tables stand between `<!-- runs: NAME -->` and `<!-- end of runs -->`; the plot is docs/reach.svg.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reach import COUNTS, RUNS, row_names, truths

DOCS = Path(__file__).parents[1] / "docs"
_TABLE = re.compile(r"(<!-- runs: (\w+) -->\n).*?(<!-- end of runs -->)", re.DOTALL)

# What a run and the mean of a row are to be within, in nats.
RUN, MEAN = 0.3, 0.1

Run = dict[str, Any]


class Row:
    """The runs of a requirement: `ahead` and `masks`, with their errors in nats."""

    def __init__(self, group: str, name: str, truth: tuple[float, float]) -> None:
        self.group, self.name = group, name
        self.truth, self.truth_error = truth
        self.runs: dict[str, list[Run]] = {"ahead": [], "masks": []}

    def errors(self, how: str = "ahead") -> list[float]:
        return [each["log_evidence"] - self.truth for each in self.runs[how]]

    @property
    def mean(self) -> float:
        """The error of the mean of all evidences, in logs."""
        errors = self.errors()
        return math.log(statistics.fmean(math.exp(error) for error in errors))

    def of(self, name: str) -> list[float]:
        return [each[name] for each in self.runs["ahead"]]


def rows_of(known: dict[str, Any], runs: dict[str, Run]) -> list[Row]:
    """Every requirement that was run and whose truth is known."""
    truth = truths(known, runs)
    rows = []
    for group, name in row_names(known):
        if (group, name) not in truth:
            continue
        row = Row(group, name, truth[group, name])
        for how, found in row.runs.items():
            start = f"{group}: {name}: {how}: "
            found += [run for key, run in runs.items() if key.startswith(start)]
        if row.runs["ahead"]:
            rows.append(row)
    return rows


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def by_group(rows: Sequence[Row]) -> str:
    """A line for each kind of requirement."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
    lines = []
    for group, of in groups.items():
        errors = [abs(error) for row in of for error in row.errors()]
        masks = [abs(error) for row in of for error in row.errors("masks")]
        # The truth has an error of its own, which the mean of a row cannot undercut.
        near = sum(abs(row.mean) <= MEAN + 2.0 * row.truth_error for row in of)
        ess, texts = ([value for row in of for value in row.of(key)] for key in ("ess", "texts"))
        lines.append(
            (
                group,
                f"{len(of)}",
                f"{len(errors)}",
                f"{sum(error <= RUN for error in errors)}",
                f"{near}",
                f"{statistics.median(errors):.2f} ({max(errors):.2f})",
                f"{statistics.median(ess):.0f} ({min(ess):.0f})",
                f"{statistics.median(texts):.0f} ({min(texts):.0f})",
                f"{statistics.median(v for row in of for v in row.of('seconds')):.1f}",
                f"{statistics.median(masks):.2f} ({max(masks):.2f})" if masks else "–",
            )
        )
    head = (
        "requirement",
        "rows",
        "runs",
        f"runs within {RUN}",
        f"rows whose mean is within {MEAN}",
        "error: median (most)",
        "ess (least)",
        "texts (least)",
        "CPU s",
        "masks: error",
    )
    return markdown(head, lines)


def by_row(rows: Sequence[Row]) -> str:
    """A line for each requirement."""
    lines = [
        (
            f"{row.group}: {row.name.strip()}",
            f"{row.truth:.2f} ± {row.truth_error:.2f}",
            " ".join(f"{error:+.2f}" for error in row.errors()),
            f"{row.mean:+.2f}",
            f"{min(row.of('ess')):.0f}",
            f"{min(row.of('texts')):.0f}",
            " ".join(f"{error:+.1f}" for error in row.errors("masks")) or "–",
        )
        for row in rows
    ]
    head = ("requirement", "truth", "errors by seed", "of their mean", "ess", "texts", "masks")
    return markdown(head, lines)


WIDTH, HEIGHT, MARGIN = 720, 360, 48
MOST = 4.0


def plot(rows: Sequence[Row]) -> str:
    """Every run: the error of its log evidence over the log mass of what it was asked for."""
    lowest = math.floor(min(row.truth for row in rows))
    highest = math.ceil(max(row.truth for row in rows))

    def x(truth: float) -> float:
        share = (truth - lowest) / (highest - lowest)
        return round(MARGIN + share * (WIDTH - 2 * MARGIN), 1)

    def y(error: float) -> float:
        share = (max(-MOST, min(MOST, error)) + MOST) / (2 * MOST)
        return round(HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN), 1)

    def text(at: tuple[float, float], words: str, anchor: str = "middle") -> str:
        return f'<text x="{at[0]}" y="{at[1]}" text-anchor="{anchor}">{words}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<rect x="{MARGIN}" y="{y(RUN)}" width="{WIDTH - 2 * MARGIN}"'
        f' height="{round(y(-RUN) - y(RUN), 1)}" fill="#dfe8df"/>',
    ]
    for error in range(-int(MOST), int(MOST) + 1, 2):
        parts.append(text((MARGIN - 8, y(error) + 4), f"{error:+d}" if error else "0", "end"))
        parts.append(
            f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y(error)}" y2="{y(error)}"'
            ' stroke="#cccccc"/>'
        )
    for truth in range(lowest, highest + 1, 2):
        parts.append(text((x(truth), HEIGHT - MARGIN + 18), str(truth)))
    parts.append(text((WIDTH / 2, HEIGHT - 8), "log of the mass of what is asked for"))
    parts.append(
        text(
            (MARGIN, MARGIN - 28),
            "error of the log evidence of every run, nats (what is further off is at the rim):"
            " looking ahead ●, masks alone ×",
            "start",
        )
    )
    for row in rows:
        for error in row.errors("masks"):
            at = x(row.truth), y(error)
            parts.append(
                f'<path d="M{at[0] - 3} {at[1] - 3}l6 6m0 -6l-6 6" stroke="#b03a2e" fill="none"/>'
            )
        for error in row.errors():
            parts.append(
                f'<circle cx="{x(row.truth)}" cy="{y(error)}" r="3" fill="#1f618d"'
                ' fill-opacity="0.7"/>'
            )
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=RUNS)
    rows = rows_of(json.loads(COUNTS.read_text()), json.loads(parser.parse_args().runs.read_text()))
    tables = {"groups": by_group(rows), "rows": by_row(rows)}
    page = DOCS / "performance.md"
    page.write_text(_TABLE.sub(lambda m: m[1] + tables[m[2]] + m[3], page.read_text()))
    (DOCS / "reach.svg").write_text(plot(rows))
    print(tables["groups"])


if __name__ == "__main__":
    main()
