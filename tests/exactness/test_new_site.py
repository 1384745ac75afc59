"""A kind of site that lmppl does not have, written in one class: every engine takes it as it is.

A Poisson count cannot be listed, so it is neither enumerated nor drawn from its full conditional.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy import stats
from torch import Tensor

import lmppl
from lmppl.density import ChoiceStage, SiteRows, SiteValue, Stage, Target, TextStage
from lmppl.density.stages.at_once import DrawnAtOnce
from lmppl.inference.exact import Exact
from lmppl.inference.exact.engine import ExactEngine
from lmppl.inference.importance import Importance
from lmppl.inference.importance.engine import ImportanceEngine
from lmppl.inference.mcmc import MCMC
from lmppl.inference.mcmc.engine import MCMCEngine
from lmppl.inference.rejection import Rejection
from lmppl.inference.rejection.engine import RejectionEngine
from lmppl.inference.smc import SMC
from lmppl.inference.smc.engine import SMCEngine
from lmppl.lowering import PyroModel
from lmppl.lowering.isolation import isolated
from lmppl.lowering.objective import log_prob_of_rows
from lmppl.lowering.sites import Batch
from lmppl.rng import Stream

# False alarms of the statistical tests here, each with a fixed seed.
ALPHA = 1e-5
RATE, TILT = 1.5, 0.3

PROGRAM = """
model counting() {
    n ~ categorical([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    seen ~ bernoulli(0.1 + 0.05 * n)
    require seen
    factor 0.3 * n - 3
    return n
}
"""


@dataclass(frozen=True, slots=True)
class Counts:
    """The values of a Poisson site, `number` `[rows]` int64."""

    number: Tensor

    def select(self, indices: Tensor) -> Counts:
        return Counts(self.number[indices])

    def merge(self, other: Counts, take: Tensor) -> Counts:
        return Counts(torch.where(take, other.number, self.number))

    def concatenate(self, others: Sequence[Counts]) -> Counts:
        return Counts(torch.cat([self.number, *(other.number for other in others)]))

    def differs(self, other: Counts) -> Tensor:
        return self.number != other.number

    def log_mass(self) -> Tensor:
        return torch.zeros_like(self.number, dtype=torch.float64)

    def light(self) -> Counts:
        return self

    def token_ids(self) -> None:
        return None

    def kept(self) -> Mapping[str, np.ndarray]:
        return {}

    def column(self) -> np.ndarray:
        return self.number.numpy()

    def listed(self) -> list[object]:
        return list(self.number.tolist())


@dataclass(frozen=True, slots=True)
class PoissonStage(DrawnAtOnce):
    """n ~ Poisson(rate)."""

    name: str
    rate: float

    support: ClassVar[None] = None
    lowered: ClassVar[str] = f"{__name__}:LoweredPoisson"

    def draw(self, rows: SiteRows, uniforms: Tensor) -> tuple[Counts, Tensor]:
        drawn = Counts(torch.from_numpy(stats.poisson.ppf(uniforms.numpy(), self.rate)).long())
        return drawn, self.log_prob(rows, drawn)

    def log_prob(self, rows: SiteRows, value: Counts) -> Tensor:
        return torch.from_numpy(stats.poisson.logpmf(value.number.numpy(), self.rate))

    def given(self, values: Sequence[Any]) -> Counts:
        return Counts(torch.tensor([int(value) for value in values]))

    def described(self) -> dict[str, Any]:
        return {"kind": "poisson", "rate": self.rate}


class LoweredPoisson:
    """The same inside Pyro."""

    event_dim = 0

    def __init__(self, stage: PoissonStage) -> None:
        self.stage = stage

    def prior(self, rows: SiteRows, batch: Batch) -> dist.TorchDistribution:
        rate = torch.full(batch.index.shape, self.stage.rate, dtype=torch.float64)
        return dist.Poisson(rate, validate_args=False)

    def read(self, rows: SiteRows, value: Tensor) -> Counts:
        return Counts(value.long())


def counting() -> Target:
    """The program with a Poisson count in place of its first choice."""
    target = lmppl.compile(PROGRAM)().target()
    return replace(target, stages=(PoissonStage("n", RATE), *target.stages[1:]))


NUMBERS = np.arange(60)
JOINT = (
    stats.poisson.logpmf(NUMBERS, RATE)
    + np.log(np.minimum(0.1 + 0.05 * NUMBERS, 1.0))
    + TILT * NUMBERS
    - 3.0
)
LOG_Z = float(np.logaddexp.reduce(JOINT))
POSTERIOR = np.exp(JOINT - LOG_Z)
MEAN = float(POSTERIOR @ NUMBERS)


def p_value_of(numbers: np.ndarray) -> float:
    """Pearson's test of independent draws against the posterior, the rare counts together."""
    edges = np.arange(7)
    seen = np.array([*(np.sum(numbers == n) for n in edges), np.sum(numbers > edges[-1])])
    expected = np.array([*POSTERIOR[:7], POSTERIOR[7:].sum()]) * len(numbers)
    return float(stats.chisquare(seen, expected).pvalue)


def run(engine: Any) -> Any:
    state = engine.init()
    while not engine.is_done(state):
        state, _ = engine.step(state)
    return engine.result(state, complete=True)[0]


def p_value_of_runs(values: np.ndarray, truth: float) -> float:
    """Of the mean of independent runs, by Student's test."""
    return float(stats.ttest_1samp(values, truth).pvalue)


@pytest.mark.parametrize("method", ["importance", "smc"])
def test_weighted_runs_estimate_the_evidence_and_means(method: str) -> None:
    target, ratios, moments = counting(), [], []
    for seed in range(60):
        stream = Stream.from_seed(seed)
        engine: Any = ImportanceEngine(Importance(num_samples=100), target, stream)
        if method == "smc":
            engine = SMCEngine(SMC(num_particles=100, ess_threshold=0.9), target, stream)
        draws = run(engine)
        z = math.exp(draws.log_evidence.value - LOG_Z)
        weights = torch.softmax(draws.log_weight, 0).numpy()
        ratios.append(z)
        # What is unbiased is the evidence times the mean.
        moments.append(z * float(weights @ draws.traces.values["n"].number.numpy()))
    assert p_value_of_runs(np.array(ratios), 1.0) > ALPHA
    assert p_value_of_runs(np.array(moments), MEAN) > ALPHA


def test_chains_that_redraw_counts_reach_the_posterior() -> None:
    settings = MCMC(num_chains=3000, num_samples=1, warmup_steps=60, start="prior")
    draws = run(MCMCEngine(settings, counting(), Stream.from_seed(1)))
    assert p_value_of(draws.traces.values["n"].number.numpy()) > ALPHA


def test_chains_that_take_every_count_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    true_redraw = PoissonStage.redraw

    def redraw(stage: PoissonStage, *asked: Any) -> Any:
        found = true_redraw(stage, *asked)
        return replace(found, log_ratio=found.log_ratio + math.inf)

    monkeypatch.setattr(PoissonStage, "redraw", redraw)
    settings = MCMC(num_chains=3000, num_samples=1, warmup_steps=60, start="prior")
    draws = run(MCMCEngine(settings, counting(), Stream.from_seed(1)))
    assert p_value_of(draws.traces.values["n"].number.numpy()) < ALPHA


def test_rejection_draws_from_the_posterior() -> None:
    engine = RejectionEngine(Rejection(num_samples=1500), counting(), Stream.from_seed(2))
    assert p_value_of(run(engine).traces.values["n"].number.numpy()) > ALPHA


def test_what_cannot_be_listed_is_refused_by_enumeration() -> None:
    with pytest.raises(lmppl.InferenceError, match="the values of n cannot be listed"):
        run(ExactEngine(Exact(), counting(), Stream.from_seed(3)))


def test_the_lowered_program_has_the_density_of_the_target() -> None:
    target = counting()
    numbers, seen = torch.arange(6), torch.tensor([True, False] * 3)
    values = {"n": numbers.double(), "seen": seen.long()}
    program = poutine.condition(PyroModel(target), data=values)
    found = isolated(lambda: log_prob_of_rows(poutine.trace(program).get_trace(6)))
    expected = torch.from_numpy(JOINT[:6].copy()).masked_fill(~seen, -math.inf)
    assert torch.allclose(found, expected)


def test_the_kinds_of_site_keep_the_protocol() -> None:
    wanted = {name for name in vars(Stage) if not name.startswith("_")}
    for kind in (ChoiceStage, TextStage, PoissonStage):
        assert not {name for name in wanted if not hasattr(kind, name)} - {"name", "support"}
    asked = {name for name in vars(SiteValue) if not name.startswith("_")}
    assert all(hasattr(Counts, name) for name in asked)


def test_nobody_asks_whether_a_site_is_of_a_kind() -> None:
    """The kind of a site is asked, never tested: outside their own room nothing names the kinds."""
    stages = Path(lmppl.__file__).parent / "density" / "stages"
    found = []
    for path in Path(lmppl.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or getattr(node.func, "id", "") != "isinstance":
                continue
            if "Stage" in ast.unparse(node.args[1]) and stages not in path.parents:
                found.append(f"{path.name}:{node.lineno}")
    assert found == []
