"""The criteria of the coverage suite: what they accept, and wrong intervals that they reject."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import lmppl
from lmppl.posterior import Estimate, verdict_of
from tests.exactness.coverage.brute_force import Case
from tests.exactness.coverage.cases import CASES, MIXED, RARE, SOFT
from tests.exactness.coverage.counting import (
    Count,
    Run,
    Runner,
    Setting,
    counts_of,
    judged,
    p_value,
    pooled,
    read_runs,
    too_many,
)
from tests.exactness.coverage.tables import PAGE, tables, write

FALSE_ALARM = 1e-4
SHORTENED = Setting(MIXED, "importance", {"num_samples": 300})


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(tmp_path_factory.mktemp("coverage"))


@pytest.fixture(scope="module")
def posteriors(runner: Runner) -> list[lmppl.Posterior]:
    model = runner.model(MIXED)
    return [lmppl.infer(model, method="importance", num_samples=300, seed=s) for s in range(40)]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_brute_force_and_enumeration_agree(case: Case, runner: Runner) -> None:
    run = runner.run(Setting(case, "exact"), 0)
    assert run.evidence is not None
    assert not run.evidence.missed
    assert not any(each.missed or each.undecided for each in (*run.verdicts, *run.intervals))


def tampered(setting: Setting, post: lmppl.Posterior, by: Callable[[Estimate], Estimate]) -> Run:
    """The run of a result whose intervals were changed."""
    assert post.log_evidence is not None
    expectations = [
        replace(
            each,
            estimate=(new := by(each.estimate)),
            verdict=verdict_of(new, each.operator, each.bound),
        )
        for each in post.expectations
    ]
    changed = post.replace(expectations=expectations, log_evidence=by(post.log_evidence))
    return judged(setting, 0, changed.replace(warnings=()))


def shrunk(factor: float) -> Callable[[Estimate], Estimate]:
    def shrink(estimate: Estimate) -> Estimate:
        lower = estimate.value - factor * (estimate.value - estimate.lower)
        upper = estimate.value + factor * (estimate.upper - estimate.value)
        return replace(estimate, lower=lower, upper=upper)

    return shrink


def moved(estimate: Estimate) -> Estimate:
    by = 0.75 * (estimate.upper - estimate.lower)
    return replace(estimate, lower=estimate.lower + by, upper=estimate.upper + by)


@pytest.mark.parametrize(
    "by", [shrunk(0.0), shrunk(0.25), moved], ids=["no width", "a quarter", "moved"]
)
def test_intervals_that_are_changed_for_the_worse_are_rejected(
    posteriors: list[lmppl.Posterior], by: Callable[[Estimate], Estimate]
) -> None:
    runs = [tampered(SHORTENED, post, by) for post in posteriors]
    assert too_many(counts_of(SHORTENED, runs), FALSE_ALARM)


def student_counts(factor: float, num_runs: int) -> Count:
    """Student's intervals of the mean of 50 normal numbers, times a factor, as a count."""
    rng = np.random.default_rng(0)
    x = rng.normal(0.0, 1.0, (num_runs, 50))
    spread = stats.t.isf(0.005, 49) * x.std(axis=1, ddof=1) / math.sqrt(50)
    missed = int((abs(x.mean(axis=1)) > factor * spread).sum())
    return Count("students", "verdicts on mean", 0.01, num_runs, missed, 0, 0, 0, 1.0)


def test_honest_intervals_are_accepted_and_half_of_them_are_not() -> None:
    assert too_many([student_counts(1.0, 5000)], FALSE_ALARM) == []
    assert too_many([student_counts(0.5, 60)], FALSE_ALARM) != []


def test_a_warning_excuses_an_interval_but_no_verdict(runner: Runner) -> None:
    setting = Setting(RARE, "exact")
    right = replace(runner.run(setting, 0), warnings=())
    assert right.evidence is not None
    missed = replace(right, evidence=replace(right.evidence, missed=True))
    wrong = replace(right, verdicts=tuple(replace(v, missed=True) for v in right.verdicts))
    for run, excused in ((missed, True), (wrong, False)):
        loud = replace(run, warnings=("beware",))
        assert too_many(counts_of(setting, [run] * 10), FALSE_ALARM)
        assert bool(too_many(counts_of(setting, [loud] * 10), FALSE_ALARM)) is not excused


def test_the_p_value_is_the_upper_tail_of_the_binomial() -> None:
    assert p_value(0, 10, 0.1) == 1.0
    assert p_value(10, 10, 0.1) == pytest.approx(1e-10)
    assert p_value(1, 2, 0.1) == pytest.approx(0.19)


def test_runs_survive_a_file_whose_last_line_was_cut(runner: Runner, tmp_path: Path) -> None:
    setting = Setting(SOFT, "importance", {"num_samples": 100})
    kept = [runner.run(setting, seed) for seed in range(3)]
    path = tmp_path / "runs.jsonl"
    path.write_text("".join(f"{run.to_json()}\n" for run in kept) + '{"setting": "so')
    assert list(read_runs(path)) == kept
    assert "importance(num_samples=100) | 3 |" in tables({setting.name: (setting, kept)})


def test_a_small_excess_in_every_setting_is_seen_in_the_pool(runner: Runner) -> None:
    honest = runner.run(Setting(RARE, "exact"), 0)
    runs_of = {}
    for number in range(30):
        setting = Setting(RARE, "smc", {"num_particles": number + 2})
        wrong = tuple(replace(verdict, missed=True) for verdict in honest.verdicts)
        runs = [replace(honest, seed=seed, verdicts=wrong) for seed in range(2)]
        runs_of[setting.name] = (setting, runs + [replace(honest, seed=s) for s in range(2, 20)])
    alone = [count for setting, runs in runs_of.values() for count in counts_of(setting, runs)]
    assert too_many(alone, FALSE_ALARM) == []
    assert too_many(pooled(runs_of), FALSE_ALARM) != []


def test_tables_go_between_their_marks_in_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    write(page, "a table with a backslash \\1\n")
    once = page.read_text(encoding="utf-8")
    assert "-->\n\na table with a backslash \\1\n\n<!--" in once
    write(page, "another\n")
    assert page.read_text(encoding="utf-8") == once.replace(
        "a table with a backslash \\1", "another"
    )
