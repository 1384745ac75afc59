"""The counts as tables in Markdown, and their place in the documentation."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from lmppl.inference.smc.scouting import CODE
from tests.exactness.coverage.cases import CASES
from tests.exactness.coverage.counting import (
    ALL_OF,
    EVIDENCE,
    INTERVALS,
    VERDICTS,
    Count,
    Run,
    Setting,
    counts_of,
    pooled,
    too_many,
)

PAGE = Path(__file__).parents[3] / "docs" / "guides" / "coverage.md"
# What every result says whose texts a surrogate has drawn.
_STEERED = "texts were not drawn as the prior draws them"
_PLACE = re.compile(r"(<!-- coverage -->\n).*?(<!-- end of coverage -->)", re.DOTALL)

_HEAD = (
    "method",
    "runs",
    "warned",
    "evidence missed (5 %)",
    "intervals missed (5 %)",
    "verdicts wrong (1 %)",
    "the worst verdicts",
    "undecided",
    "width: evidence",
    "width: statistics",
)


def tables(
    runs_of: Mapping[str, tuple[Setting, Sequence[Run]]], *, false_alarm: float = 1e-4
) -> str:
    """All tables, one for each case, after the totals and what is out of bounds."""
    counts = {name: counts_of(setting, runs) for name, (setting, runs) in runs_of.items()}
    totals = pooled(runs_of)
    named = too_many([count for each in counts.values() for count in each] + totals, false_alarm)
    parts = [_verdict(named), _totals(totals), *_told(runs_of)]
    for case in CASES:
        mine = [name for name, (setting, _) in runs_of.items() if setting.case is case]
        if mine:
            rows = [_row(*runs_of[name], counts[name], named) for name in mine]
            head = f"### {case.name[0].upper()}{case.name[1:]}: {case.about}"
            parts.append(f"{head}\n\n{_markdown(_HEAD, rows)}")
    return "\n".join(parts)


def write(page: Path, text: str) -> None:
    """Puts the tables between their marks."""
    old = page.read_text(encoding="utf-8")
    page.write_text(_PLACE.sub(lambda m: f"{m[1]}\n{text}\n{m[2]}", old), encoding="utf-8")


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)


def _verdict(named: Sequence[Count]) -> str:
    if not named:
        return "No number was missed at significantly more than twice its rate.\n"
    lines = [
        f"- {each.setting}, {each.what}: {each.unwarned} + {each.warned} of {each.runs}"
        for each in sorted(named, key=lambda each: -each.unexcused / each.runs)
    ]
    return "Significantly above twice the nominal rate:\n\n" + "\n".join(lines) + "\n"


def _totals(totals: Sequence[Count]) -> str:
    """One row for each method and for each case."""
    kinds = (EVIDENCE, INTERVALS, VERDICTS)
    rows = []
    order = {f"{ALL_OF}{case.name}": 1 for case in CASES}
    totals = sorted(totals, key=lambda each: order.get(each.setting, 0))
    for method in dict.fromkeys(each.setting for each in totals):
        mine = {each.what: each for each in totals if each.setting == method}
        cells = [_of(mine[kind]) if kind in mine else "–" for kind in kinds]
        rows.append((method.removeprefix(ALL_OF), *cells))
    return _markdown(
        ("all of", "evidence missed (5 %)", "an interval missed (5 %)", "a verdict wrong (1 %)"),
        rows,
    )


def _told(runs_of: Mapping[str, tuple[Setting, Sequence[Run]]]) -> list[str]:
    """What is missed by runs that a surrogate steered, with and without word of a lost part."""
    rows = []
    steered = [(setting, runs) for setting, runs in runs_of.values() if setting.surrogate]
    for nats in sorted({setting.surrogate or 0.0 for setting, _ in steered}):
        runs = [run for setting, of in steered if setting.surrogate == nats for run in of]
        # Where no surrogate was worth using, weights are bounded, and nothing was looked for.
        runs = [run for run in runs if any(_STEERED in words for words in run.warnings)]
        told = [run for run in runs if any(CODE in words for words in run.warnings)]
        others = [run for run in runs if run not in told]
        cells = [f"{nats:g}", f"{len(runs)}", f"{len(told)}"]
        for some in (told, others):
            every = [interval for run in some for interval in run.intervals]
            cells.append(f"{sum(each.missed for each in every)} of {len(every)}")
        evidence = [run.evidence for run in runs if run.evidence is not None]
        cells.append(f"{sum(each.missed for each in evidence)} of {len(evidence)}")
        rows.append(cells)
    head = (
        "nats off", "runs", f"{CODE}", f"intervals missed with {CODE}", "without", "evidence missed"
    )  # fmt: skip
    return [_markdown(head, rows)] if rows else []


def _row(
    setting: Setting, runs: Sequence[Run], counts: Sequence[Count], named: Sequence[Count]
) -> tuple[str, ...]:
    by_kind = {
        kind: [count for count in counts if count.what.startswith(kind)]
        for kind in (EVIDENCE, INTERVALS, VERDICTS)
    }
    verdicts = by_kind[VERDICTS]
    failed = sum(bool(run.refused or run.crashed) for run in runs)
    worst = max(verdicts, key=lambda each: (each.unexcused, each.unwarned), default=None)
    mark = "**" if any(each in named for each in counts) else ""
    return (
        f"{mark}{setting.what}{mark}",
        f"{len(runs)}" + (f", {failed} failed" if failed else ""),
        _percent(sum(run.warned for run in runs), len(runs)),
        *(_of(*by_kind[kind]) for kind in (EVIDENCE, INTERVALS, VERDICTS)),
        _worst(worst),
        _percent(sum(c.undecided for c in verdicts), sum(c.runs for c in verdicts)),
        _width([each.relative_width for each in by_kind[EVIDENCE]]),
        _width([each.relative_width for each in verdicts]),
    )


def _worst(count: Count | None) -> str:
    if count is None or not count.unwarned + count.warned:
        return "–"
    return f"`{count.what.removeprefix(VERDICTS).strip()}` {count.unwarned} + {count.warned}"


def _of(*counts: Count) -> str:
    if not counts:
        return "–"
    unwarned, warned = sum(c.unwarned for c in counts), sum(c.warned for c in counts)
    return f"{unwarned} + {warned} of {sum(c.runs for c in counts)}"


def _percent(part: int, whole: int) -> str:
    return f"{100.0 * part / whole:.0f} %" if whole else "–"


def _width(widths: Sequence[float]) -> str:
    known = sorted(width for width in widths if not math.isnan(width))
    if not known:
        return "–"
    middle = known[len(known) // 2]
    return "∞" if math.isinf(middle) else f"{middle:.1f}"
