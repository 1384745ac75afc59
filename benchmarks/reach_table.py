"""What the runs of `reach.py` have shown: four tables in docs/performance.md, and a plot.

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
from reach_costs import COSTS
from reach_finite import FINITE

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
    def truth_in_words(self) -> str:
        known = not math.isnan(self.truth_error)
        return f"{self.truth:.2f} ± " + (f"{self.truth_error:.2f}" if known else "?")

    @property
    def is_near(self) -> bool:
        """Whether the mean is right but for the error of the truth, which it cannot undercut."""
        known = 0.0 if math.isnan(self.truth_error) else self.truth_error
        return abs(self.mean) <= MEAN + 2.0 * known

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
        near = sum(row.is_near for row in of)
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
            row.truth_in_words,
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


def by_cost(runs: dict[str, Run]) -> str:
    """A line for what each kind of steering costs over its rival."""
    pairs: dict[str, list[Run]] = defaultdict(list)
    for key, run in runs.items():
        group, _, rest = key.partition(": ")
        if group == COSTS:
            pairs[rest.rpartition(": ")[0]].append(run)
    lines = []
    for name, of in pairs.items():
        tokens, whole = (
            sorted(run[which] / run["rival"] for run in of) for which in ("tokens_alone", "run")
        )
        before = statistics.median(run["run"] - run["tokens_alone"] for run in of)
        lines.append(
            (
                name,
                f"{statistics.median(tokens):.2f} ({tokens[0]:.2f}–{tokens[-1]:.2f})",
                f"{statistics.median(whole):.2f}",
                f"{before:.1f}",
                f"{of[0]['most']:g}",
            )
        )
    head = ("what steers", "its tokens", "the whole run", "CPU s before the first token", "aim")
    return markdown(head, lines)


def by_case(runs: dict[str, Run]) -> str:
    """A line for each finite case."""
    lines = []
    for key, run in runs.items():
        group, _, name = key.partition(": ")
        if group == FINITE:
            wrong = [
                f"{each['mean']:.3f} ± {each['error']:.3f} ({each['relative_variance']:.3f})"
                for each in run["wrong"].values()
            ]
            off = f"{run['off']:.0e}" if run["off"] else "0"
            lines.append((name, f"{run['log_evidence']:.4f}", off, *wrong))
    head = ("case", "log evidence", "off, the prior ahead", "wrong by 0.5 nats", "by 1 nat")
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
    runs = json.loads(parser.parse_args().runs.read_text())
    rows = rows_of(json.loads(COUNTS.read_text()), runs)
    tables = {
        "groups": by_group(rows),
        "rows": by_row(rows),
        "costs": by_cost(runs),
        "cases": by_case(runs),
    }
    page = DOCS / "performance.md"
    page.write_text(_TABLE.sub(lambda m: m[1] + tables[m[2]] + m[3], page.read_text()))
    (DOCS / "reach.svg").write_text(plot(rows))
    print(tables["groups"], tables["costs"], tables["cases"], sep="\n")


if __name__ == "__main__":
    main()
