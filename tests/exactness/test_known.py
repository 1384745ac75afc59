"""What a run knows of weights that it has not seen, where the prior looks ahead by itself.

Where automata follow all that is asked, every text is drawn as the posterior has it: the evidence
is that of `exact`, and draws are independent. Where something is left over, what is expected times
the most that is left bounds the weight of every text. False alarms of the one test by chance: 1e-5.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import lmppl
from lmppl.errors import InternalError
from lmppl.finite.known import KnownStates
from lmppl.inference.smc import SMC
from lmppl.inference.smc import ahead as looking_ahead
from lmppl.inference.smc.engine import SMCEngine
from lmppl.inference.smc.losses import given_up
from lmppl.inference.smc.priors import FinitePrior
from lmppl.posterior.intervals import proportion_interval
from lmppl.rng import Stream
from tests.exactness.cases import HARD, LIFTED
from tests.exactness.finite_cases import LongCase, counting, ending, heavy_tail, hidden
from tests.exactness.test_surrogate import absurd, no_prompt

COIN = {"tokens": ["a", "b"], "initial": [1, 1], "transition": [[1, 1], [1, 1]], "eos": None}
CHAIN = {
    "tokens": ["a", "b", "c", "."],
    "initial": [4, 2, 1, 0],
    "transition": [[2, 1, 1, 1], [1, 3, 1, 1], [1, 1, 1, 2], [0, 0, 0, 0]],
    "eos": ".",
}
HMM = {
    "tokens": ["a", "b", "c"],
    "initial": [2, 1],
    "transition": [[3, 1], [1, 2]],
    "emission": [[5, 2, 1], [1, 1, 4]],
    "eos": None,
}
HEADER = 'reward n(t: string): int<lower=0, upper=8> = count("a")\n'


def model(folder: Path, body: str, **given: object) -> lmppl.BoundModel:
    for name, table in (("coin", COIN), ("chain", CHAIN), ("hmm", HMM)):
        (folder / f"{name}.json").write_text(json.dumps(table))
    return lmppl.compile(HEADER + body, base_dir=folder)(**given)


def ran(bound: lmppl.BoundModel, method: str = "smc", **options: object) -> lmppl.Posterior:
    return lmppl.infer(bound, method=method, seed=1, progress=False, **options)


@pytest.mark.parametrize(
    "body",
    [
        't ~ markov("chain.json", max_tokens=5) factor f: 1.3 * n(t) require contains(t, "ab")',
        't ~ markov("chain.json", max_tokens=6, stop=["cc"]) require ends_with(t, ["a", "b"])',
        't ~ markov("chain.json", max_tokens=5, temperature=0.7) factor f: -0.4 * n(t)'
        " factor c: 0.25",
        't ~ hmm("hmm.json", max_tokens=5) factor f: 0.7 * n(t) require contains(t, "cc")',
        't ~ markov("chain.json", max_tokens=5) factor p: 1.5 * log_prob(t) factor f: 0.4 * n(t)',
    ],
)
def test_a_prior_that_looks_ahead_draws_the_posterior(body: str, tmp_path: Path) -> None:
    bound = model(tmp_path, f"model m() {{ {body} return t }}")
    exact, found = ran(bound, "exact"), ran(bound, num_particles=3000)
    assert found.log_evidence is not None and exact.log_evidence is not None
    assert found.log_evidence.is_exact and found.unseen is None and found.warnings == ()
    assert found.log_evidence.value == pytest.approx(exact.log_evidence.value, abs=1e-9)
    expected: Counter[str] = Counter()
    for text, weight in zip(exact["t"], exact.weights, strict=True):
        expected[str(text)] += 3000 * weight
    seen = Counter(map(str, found["t"]))
    assert set(seen) <= set(expected)
    often = [text for text, count in expected.items() if count >= 5.0]
    pairs = np.array([(seen[text], expected[text]) for text in often])
    rest = 3000.0 - pairs.sum(0)
    observed, mean = np.vstack([pairs, rest]).T if rest[1] > 1e-6 else pairs.T
    assert stats.chisquare(observed, mean * observed.sum() / mean.sum()).pvalue > 1e-5 / 5


@pytest.mark.parametrize("case", [counting, heavy_tail, hidden, ending])
def test_the_evidence_of_long_texts_is_exact(case: Callable[[], LongCase], tmp_path: Path) -> None:
    """Of forty tokens and a vocabulary of fifty, in a heavy tail, and where states are hidden."""
    long = case()
    found = ran(lmppl.compile(long.write(tmp_path), base_dir=tmp_path)(), num_particles=8)
    assert found.log_evidence is not None and found.log_evidence.is_exact
    assert found.log_evidence.value == pytest.approx(long.answers().log_z, abs=1e-9)


def test_claims_are_decided_as_of_independent_draws(tmp_path: Path) -> None:
    body = 't ~ markov("coin.json", max_tokens=8) factor f: 2 * n(t)'
    claims = "expect mean(n(t)) >= 6 expect probability(n(t) >= 4) >= 0.9"
    post = ran(model(tmp_path, f"model m() {{ {body} {claims} return t }}"))
    assert [each.verdict for each in post.expectations] == ["holds", "holds"]
    successes = int(np.sum([str(text).count("a") >= 4 for text in post["t"]]))
    interval = post.statistic("n(t) >= 4", "probability")
    assert (interval.lower, interval.upper) == pytest.approx(
        proportion_interval(successes, 256), abs=2e-3
    )


def largest(post: lmppl.Posterior, num_looks: float) -> float:
    """The log of the largest weight that there may be, by what is said of the unseen."""
    assert post.unseen is not None and post.log_evidence is not None
    return post.unseen.log_further + post.log_evidence.value + math.log(num_looks)


def tilted(rate: float, size: int = 8) -> float:
    """log E e^(rate · number of heads)."""
    return size * math.log(0.5 + 0.5 * math.exp(rate))


PARTIAL = """
extern reward even(t: string): real<lower=-1, upper=0.5>
model m() {
    t ~ markov("coin.json", max_tokens=8)
    factor f: 1.2 * n(t)
    factor g: even(t)
    return t
}
"""


def test_what_no_automaton_follows_bounds_the_rest(tmp_path: Path) -> None:
    bound = model(tmp_path, PARTIAL, even=lambda t: 0.5 if t.count("a") % 2 == 0 else -1.0)
    post, exact = ran(bound, lookahead="surrogate"), ran(bound, "exact")
    assert largest(post, 256) == pytest.approx(tilted(1.2) + 0.5, abs=1e-9)
    assert post.log_evidence is not None and exact.log_evidence is not None
    off = abs(post.log_evidence.value - exact.log_evidence.value)
    assert off < 5.0 * post.log_evidence.standard_error < 0.3
    assert post.log_evidence.upper - post.log_evidence.lower < 0.3
    assert post.warnings == ()


def test_light_factors_do_not_make_draws_light_that_were_drawn_by_them(tmp_path: Path) -> None:
    """Texts weigh all the same: what draws did not show is only ruled out by their number."""
    bound = model(tmp_path, PARTIAL, even=lambda t: 0.0)
    post = ran(bound)
    fewest = min(str(text).count("a") for text in post["t"])
    rare = post.statistic(f"n(t) >= {fewest}", "probability")
    # The largest weight is e^0.5 times that of the draws.
    unseen = 1.0 - proportion_interval(256, 256)[0]
    assert rare.lower <= 1.0 - unseen
    wrong = replace(post.unseen, by_factors=True)
    short = post.replace(unseen=wrong).statistic(f"n(t) >= {fewest}", "probability")
    assert short.lower > 1.0 - 0.1 * unseen


CHOICE = """
model m() {
    c ~ categorical(["x", "y", "z"])
    t ~ markov("coin.json", max_tokens=8)
    factor f: if c == "x" then n(t) else if c == "y" then 1.0 else 0.5 * n(t)
    return c, t
}
"""


def test_of_choices_that_all_were_seen_the_heaviest_is_known(tmp_path: Path) -> None:
    bound = model(tmp_path, CHOICE)
    target = bound.target()
    state = SMCEngine(SMC(), target, Stream.from_seed(1)).init()
    engine = SMCEngine(SMC(), target, Stream.from_seed(1))
    for _ in range(3):
        state, _ = engine.step(state)
    assert float(state.log_most.max()) == pytest.approx(tilted(1.0), abs=1e-9)
    # A choice that no particle has made may weigh all that the factor allows.
    few = SMCEngine(SMC(num_particles=2), target, Stream.from_seed(1))
    state = few.init()
    for _ in range(3):
        state, _ = few.step(state)
    assert float(state.log_most.max()) == 8.0


def test_weights_that_are_not_what_is_known_of_them_are_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A surrogate that is taken for the prior."""

    def surrogate(*args: object, **kwargs: object) -> FinitePrior:
        return FinitePrior(absurd(HARD), no_prompt, True, "a surrogate")

    monkeypatch.setattr(looking_ahead, "finite_prior", surrogate)
    target = HARD.target()
    engine = SMCEngine(SMC(num_particles=16), target, Stream.from_seed(0))
    state = engine.init()
    while not engine.is_done(state):
        state, _ = engine.step(state)
    if bool(torch.isnan(state.log_constant).all()):
        pytest.fail("the case leaves something to be found out at the end")
    with pytest.raises(InternalError):
        engine.result(state, complete=True)


def test_what_is_given_up_counts_with_all_that_may_come(tmp_path: Path) -> None:
    """And once: what has gone into its weight already does not come again."""
    bound = model(tmp_path, 'model m() { t ~ markov("coin.json", max_tokens=3) return t }')
    state = SMCEngine(SMC(num_particles=4), bound.target(), Stream.from_seed(0)).init()
    weight = torch.tensor([[0.0, 0.0, -3.0, -9.0]], dtype=torch.float64)
    state = replace(state, log_weight=weight, compared=weight)
    ancestors = torch.tensor([[0, 0, 1, 1]])
    lost = given_up(state, ancestors, torch.tensor([True]), torch.tensor([2.5]).double())
    assert float(lost.given_up) == pytest.approx(math.log((math.exp(-3) + math.exp(-9)) / 4))
    assert float(lost.given_up_prior - lost.given_up) == pytest.approx(2.5)


def test_texts_that_a_surrogate_draws_have_not_looked_for_what_chains_may_miss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def looks(is_exact: bool) -> list[float]:
        def surrogate(*args: object, **kwargs: object) -> FinitePrior:
            return FinitePrior(absurd(LIFTED), no_prompt, is_exact, "a surrogate")

        monkeypatch.setattr(looking_ahead, "finite_prior", surrogate)
        engine = SMCEngine(SMC(num_particles=16), LIFTED.target(), Stream.from_seed(0))
        state = engine.init()
        while not engine.is_done(state):
            state, _ = engine.step(state)
        found: list[float] = engine.population(state).num_looks.tolist()
        return found

    assert looks(False) == [0.0]
    assert looks(True) != [0.0]


@pytest.mark.parametrize(("rate", "is_steered"), [(0.3, False), (2.0, True)])
def test_a_surrogate_does_not_steer_where_the_prior_comes_near_the_largest_weight(
    rate: float, is_steered: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There draws of the prior settle claims, and steered ones would not."""
    coin = KnownStates.of(torch.full((3, 2), 0.5).double().log(), torch.arange(2), 2)
    monkeypatch.setattr(
        looking_ahead,
        "finite_prior",
        lambda *args, **kwargs: FinitePrior(coin, no_prompt, False, "a surrogate"),
    )
    body = f't ~ markov("coin.json", max_tokens=4) factor f: {rate} * n(t)'
    claims = "expect mean(n(t)) >= 1.5"
    header = HEADER.replace("upper=8", "upper=4")
    folder = tmp_path / "coin.json"
    folder.write_text(json.dumps(COIN))
    program = f"{header} model m() {{ {body} {claims} return t }}"
    post = ran(lmppl.compile(program, base_dir=tmp_path)())
    assert post.unseen is not None
    assert (post.unseen.log_further == math.inf) == is_steered
    assert [each.verdict for each in post.expectations] == ["undecided" if is_steered else "holds"]
