"""Intervals and verdicts against the truth, over seeds.

`python -m tests.exactness.coverage` does the same with more settings and fresh seeds.

False alarms: all criteria together reject with probability at most `FALSE_ALARM` if every rate of
misses is at most twice the nominal one. Few runs of a setting say little, so those of a case, and
those of a method, are judged together.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.exactness.coverage.counting import (
    VERDICTS,
    Run,
    Runner,
    Setting,
    counts_of,
    pooled,
    too_many,
)
from tests.exactness.coverage.settings import QUICK

FALSE_ALARM = 1e-4
Runs = dict[str, tuple[Setting, list[Run]]]


@pytest.fixture(scope="module")
def quick_runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    runner = Runner(tmp_path_factory.mktemp("coverage"))
    return {
        setting.name: (setting, [runner.run(setting, setting.seed(n)) for n in range(num_seeds)])
        for setting, num_seeds in QUICK
    }


def test_no_number_is_missed_much_more_often_than_it_says(quick_runs: Runs) -> None:
    assert too_many(pooled(quick_runs), FALSE_ALARM) == []


def test_every_run_has_a_result(quick_runs: Runs) -> None:
    failed = [run for _, runs in quick_runs.values() for run in runs if run.crashed or run.refused]
    assert failed == []


def test_only_what_is_known_has_no_error(quick_runs: Runs) -> None:
    """± 0 is for enumeration; a quantile of counts may be one number surely."""
    for setting, runs in quick_runs.values():
        for count in counts_of(setting, runs):
            assert not count.no_error or "quantile(" in count.what, (setting.name, count.what)


def test_an_easy_posterior_gets_answers_and_no_warnings(quick_runs: Runs) -> None:
    """Intervals that hold everything and warnings that always fire say nothing.

    The limits are far above what is seen (the guide on coverage has the figures).
    """
    easy = [(setting, runs) for setting, runs in quick_runs.values() if setting.easy]
    widths: dict[str, list[float]] = {}
    for setting, runs in easy:
        counts = counts_of(setting, runs)
        assert sum(run.warned for run in runs) <= 0.4 * len(runs), setting.name
        undecided = sum(count.undecided for count in counts if count.what.startswith(VERDICTS))
        decidable = sum(count.runs for count in counts if count.what.startswith(VERDICTS))
        assert undecided <= 0.4 * decidable, setting.name
        known = [c.relative_width for c in counts if not math.isnan(c.relative_width)]
        widths.setdefault(setting.method, []).extend(known)
    assert widths
    # Few seeds know the error of an oracle badly: the middle of all numbers of a method.
    assert all(float(np.median(each)) < 5.0 for each in widths.values())
