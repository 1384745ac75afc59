"""Running a case under a method with many seeds, and counting what its intervals missed.

Three things are counted. Of the log evidence the 95 % interval of the result, and of every
statistic the 95 % interval that `Posterior.statistic` gives: a miss where the true value lies
outside. Of every statistic the verdicts of `expect` at 99 %: a wrong one where a false claim
"holds" or a true one "fails". Two of the claims lie a hair's breadth on either side of the truth,
so that a wrong verdict is an interval that misses, unless something else holds the verdict back.
Results with a warning count apart from those without.
"""

from __future__ import annotations

import contextlib
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from scipy import stats

import lmppl
from lmppl.errors import LmpError
from lmppl.finite.known import KnownStates
from lmppl.inference.smc import ahead
from lmppl.inference.smc.priors import FinitePrior
from tests.exactness.coverage.brute_force import Case

INTERVAL_CONFIDENCE = 0.95
VERDICT_CONFIDENCE = 0.99


@dataclass(frozen=True)
class Setting:
    """A case under a method with its options.

    `surrogate`: the prior is looked ahead to by a Markov chain that takes its place, whose log
    probabilities are so many nats off. `guide`: the options of an svi run whose guide proposes.
    """

    case: Case
    method: str
    options: Mapping[str, object] = field(default_factory=dict)
    every: int = 1  # runs with every n-th seed only: the slow ones
    easy: bool = False  # narrow intervals and no warnings are expected
    surrogate: float | None = None
    guide: Mapping[str, object] | None = None

    @property
    def name(self) -> str:
        return f"{self.case.name}: {self.what}"

    @property
    def what(self) -> str:
        """The method with all that is given to it."""
        options = ", ".join(f"{key}={value}" for key, value in self.options.items())
        found = f"{self.method}({options})"
        if self.surrogate is not None:
            found += f" by a surrogate {self.surrogate:g} nats off"
        return found if self.guide is None else f"{found} from a guide"

    def seed(self, number: int) -> int:
        """A seed that no other setting has: the same seed may give two settings the same draws."""
        return zlib.crc32(self.name.encode()) * 100_000_000 + number


@dataclass(frozen=True)
class Interval:
    """What a result says of one number, and whether it is true of it."""

    value: float
    lower: float
    upper: float
    missed: bool  # the truth is outside; of verdicts: one is wrong
    undecided: bool = False  # a true claim half a standard deviation away is not confirmed
    claims_no_error: bool = False  # "± 0" beside what was estimated


@dataclass(frozen=True)
class Run:
    """One result of one setting."""

    setting: str
    seed: int
    evidence: Interval | None = None
    verdicts: tuple[Interval, ...] = ()  # of every statistic, at 99 %
    intervals: tuple[Interval, ...] = ()  # of every statistic, at 95 %
    warnings: tuple[str, ...] = ()
    refused: str = ""  # the code of an error instead of a result
    crashed: str = ""  # an error that is no diagnostic

    @property
    def warned(self) -> bool:
        return bool(self.warnings)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Run:
        fields = json.loads(line)
        evidence = fields["evidence"]
        return cls(
            **{
                **fields,
                "evidence": None if evidence is None else Interval(**evidence),
                "verdicts": tuple(Interval(**each) for each in fields["verdicts"]),
                "intervals": tuple(Interval(**each) for each in fields["intervals"]),
                "warnings": tuple(fields["warnings"]),
            }
        )


class Runner:
    """Runs settings with seeds; programs are written and loaded once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._loaded: dict[str, Any] = {}
        self._guides: dict[str, object] = {}

    def model(self, case: Case) -> Any:
        if case.name not in self._loaded:
            place = self.folder / case.name.replace(" ", "_").replace(",", "")
            place.mkdir()
            self._loaded[case.name] = lmppl.load(case.write(place))
        return self._loaded[case.name]

    def run(self, setting: Setting, seed: int) -> Run:
        model = self.model(setting.case)
        options = dict(setting.options)
        if setting.guide is not None:
            options["proposal"] = self.guide(setting)
        by = contextlib.nullcontext()
        if setting.surrogate is not None:
            by = looking_ahead_by(surrogate(setting.case, setting.surrogate, seed))
        try:
            with by:
                post = lmppl.infer(
                    model, method=setting.method, seed=seed, progress=False, **options
                )
        except LmpError as error:
            return Run(setting.name, seed, refused=error.diagnostics[0].code)
        except Exception as error:  # counted, so that one seed does not end the count of all
            return Run(setting.name, seed, crashed=repr(error))
        return judged(setting, seed, post)

    def guide(self, setting: Setting) -> object:
        """One that was fitted to the case once, whatever the seed of the run."""
        if setting.name not in self._guides:
            found = lmppl.infer(
                self.model(setting.case),
                method="svi",
                seed=zlib.crc32(setting.name.encode()),
                progress=False,
                **(setting.guide or {}),
            )
            self._guides[setting.name] = found.guide
        return self._guides[setting.name]


def surrogate(case: Case, nats: float, seed: int = 0) -> KnownStates:
    """The prior of a case with normal noise on every log probability, the same for a seed."""
    rows = np.array([*case.prior.transition, case.prior.initial], dtype=np.float64)
    size = rows.shape[1]
    # The row of an end token may be all zero: nothing follows it.
    rows[rows.sum(1) == 0.0] = 1.0
    rng = np.random.default_rng((zlib.crc32(case.name.encode()), seed))
    noise = nats * rng.normal(size=rows.shape)
    with np.errstate(divide="ignore"):
        log_rows = torch.from_numpy(np.log(rows) / case.temperature + noise)
    return KnownStates.of(log_rows.log_softmax(-1), torch.arange(size), size)


def looking_ahead_by(model: KnownStates) -> contextlib.AbstractContextManager[object]:
    """Runs look ahead by this model, which is not the prior."""
    found = FinitePrior(model, lambda prompt: (), False, "a surrogate")
    return mock.patch.object(ahead, "finite_prior", lambda *args, **options: found)


def judged(setting: Setting, seed: int, post: lmppl.Posterior) -> Run:
    """What a result says, held against the truth."""
    case = setting.case
    evidence = None
    if post.log_evidence is not None:
        evidence = _interval(post.log_evidence, case.log_evidence)
    verdicts = tuple(_verdicts(case, number, post) for number in range(len(case.statistics)))
    intervals = tuple(
        _interval(
            post.statistic(each.source, each.kind, q=each.q, confidence=INTERVAL_CONFIDENCE),
            truth.value,
        )
        for each, truth in zip(case.statistics, case.truths, strict=True)
    )
    return Run(setting.name, seed, evidence, verdicts, intervals, post.warnings)


def _interval(estimate: Any, truth: float) -> Interval:
    # Exact numbers are sums in another order.
    slack = 1e-9 * max(1.0, abs(truth))
    missed = not estimate.lower - slack <= truth <= estimate.upper + slack
    return Interval(
        estimate.value, estimate.lower, estimate.upper, missed, claims_no_error=_no_error(estimate)
    )


def _no_error(estimate: Any) -> bool:
    # An interval of a quantile may be a single value: numbers that are counts have few.
    return bool(estimate.kind != "exact" and estimate.standard_error == 0.0)


def _verdicts(case: Case, number: int, post: lmppl.Posterior) -> Interval:
    claims = case.claims(number)
    results = {each.label: each for each in post.expectations}
    found = [results[f"s{number}_{index}"] for index in range(len(claims))]
    pairs = list(zip(claims, found, strict=True))
    wrong = any(each.verdict == ("fails" if claim.true else "holds") for claim, each in pairs)
    undecided = any(each.verdict == "undecided" for claim, each in pairs if not claim.near)
    estimate = found[0].estimate
    return Interval(
        estimate.value, estimate.lower, estimate.upper, wrong, undecided, _no_error(estimate)
    )


EVIDENCE, VERDICTS, INTERVALS = "log evidence", "verdicts on", "interval of"
ALL_OF = "all of "

# What the counts say -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Count:
    """How often something was missed, of one number in one setting."""

    setting: str
    what: str
    nominal: float
    runs: int
    unwarned: int
    warned: int
    undecided: int
    no_error: int
    relative_width: float

    @property
    def unexcused(self) -> int:
        """The misses that nothing excuses: a warning excuses an interval but no wrong verdict,
        which could have been *undecided*."""
        return self.unwarned + (self.warned if self.what.startswith(VERDICTS) else 0)

    @property
    def p_value(self) -> float:
        """That unexcused misses are this many or more, if their rate is twice the nominal one.

        The exact upper tail of the binomial distribution; runs are independent.
        """
        return p_value(self.unexcused, self.runs, 2.0 * self.nominal)


def p_value(misses: int, runs: int, rate: float) -> float:
    """The chance of `misses` or more of `runs` at a rate: the exact binomial upper tail."""
    return float(stats.binom.sf(misses - 1, runs, rate))


def counts_of(setting: Setting, runs: Sequence[Run]) -> list[Count]:
    """One count for the log evidence, and for each statistic its interval and its verdicts."""
    evidence = [(run, run.evidence) for run in runs if run.evidence is not None]
    found = []
    if evidence:
        truth = setting.case.log_evidence
        found.append(_count(setting.name, EVIDENCE, 1.0 - INTERVAL_CONFIDENCE, evidence, truth))
    for number, statistic in enumerate(setting.case.statistics):
        truth = setting.case.truths[number].value
        for what, nominal in (
            (VERDICTS, 1.0 - VERDICT_CONFIDENCE),
            (INTERVALS, 1.0 - INTERVAL_CONFIDENCE),
        ):
            pairs = [(run, of[number]) for run in runs if (of := _intervals_of(run, what))]
            if pairs:
                name = f"{what} {statistic.written}"
                found.append(_count(setting.name, name, nominal, pairs, truth))
    return found


def _intervals_of(run: Run, what: str) -> tuple[Interval, ...]:
    return run.verdicts if what == VERDICTS else run.intervals


def _count(
    setting: str,
    what: str,
    nominal: float,
    pairs: Sequence[tuple[Run, Interval]],
    truth: float,
) -> Count:
    missed = [run for run, interval in pairs if interval.missed]
    return Count(
        setting,
        what,
        nominal,
        runs=len(pairs),
        unwarned=sum(not run.warned for run in missed),
        warned=sum(run.warned for run in missed),
        undecided=sum(interval.undecided for _, interval in pairs),
        no_error=sum(interval.claims_no_error for _, interval in pairs),
        relative_width=_relative_width([interval for _, interval in pairs], truth, nominal),
    )


def _relative_width(intervals: Sequence[Interval], truth: float, nominal: float) -> float:
    """The median width over that of an oracle, which knows the error of the estimate.

    The oracle's interval is ± z times the root mean square error over the seeds. NaN where the
    estimate has no error at all, as under enumeration.
    """
    errors = np.array([interval.value - truth for interval in intervals], dtype=np.float64)
    errors = errors[np.isfinite(errors)]
    error = float(np.sqrt(np.mean(errors**2))) if errors.size else 0.0
    if error < 1e-9:
        return math.nan
    widths = [interval.upper - interval.lower for interval in intervals]
    z = float(stats.norm.isf(0.5 * nominal))
    return float(np.median(widths)) / (2.0 * z * error)


def too_many(counts: Iterable[Count], false_alarm: float) -> list[Count]:
    """The counts whose unexcused misses are more than twice the nominal rate would explain.

    `false_alarm` is the chance that any is named though every rate is at most twice the nominal
    one (Bonferroni over the counts).
    """
    all_counts = list(counts)
    return [count for count in all_counts if count.p_value < false_alarm / len(all_counts)]


def pooled(runs_of: Mapping[str, tuple[Setting, Sequence[Run]]]) -> list[Count]:
    """Counts over all settings of a method, and over all of a case: a small excess everywhere shows
    here first.

    Of the statistics of a run one is looked at, by its seed, because those of one run depend on
    each other. Where the rates differ and none is above p, the total is still no more than
    binomial with rate p.
    """
    found: dict[tuple[str, str], list[tuple[Run, Interval]]] = {}
    for setting, runs in runs_of.values():
        for run in runs:
            looked_at = [(EVIDENCE, run.evidence)]
            for what in (VERDICTS, INTERVALS):
                if of := _intervals_of(run, what):
                    looked_at.append((what, of[run.seed % len(of)]))
            for what, interval in looked_at:
                if interval is not None:
                    for pool in (f"{ALL_OF}{setting.method}", f"{ALL_OF}{setting.case.name}"):
                        found.setdefault((pool, what), []).append((run, interval))
    return [
        _count(
            pool,
            what,
            1.0 - (VERDICT_CONFIDENCE if what == VERDICTS else INTERVAL_CONFIDENCE),
            pairs,
            math.nan,
        )
        for (pool, what), pairs in found.items()
    ]


def read_runs(path: Path) -> Iterator[Run]:
    """The runs that were kept in a file, one a line; a line that was cut short is skipped."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.endswith("}"):
            yield Run.from_json(line)
