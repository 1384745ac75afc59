"""The referee itself against brute force in plain Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lmppl
from lmppl.density import Automata, Traces
from lmppl.sequences.drawing import Warp
from tests.exactness.cases import CASES, Case
from tests.exactness.statistics import rows_of


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_enumeration_finds_every_execution_with_its_probability(case: Case) -> None:
    post = lmppl.infer(case.bound(), method="exact")
    assert post.log_evidence is not None
    assert post.log_evidence.kind == "exact"
    assert post.log_evidence.value == pytest.approx(case.log_z, abs=1e-9)
    tokens, lengths = post.tokens("text"), post.lengths("text")
    found = {}
    for row in range(len(post)):
        choices = tuple(post.data.sites[name][row] for name in case.choice_names)
        plain = tuple(c.item() if isinstance(c, np.generic) else c for c in choices)
        found[(*plain, tuple(tokens[row, : lengths[row]].tolist()))] = row
    expected = {e.key: p for e, p in zip(case.table, case.posterior(), strict=True) if p > 0}
    assert set(found) == set(expected)
    for key, probability in expected.items():
        assert np.exp(post.log_weights[found[key]]) == pytest.approx(probability, rel=1e-9)
    texts = {e.key: e.text for e in case.table}
    assert all(post["text"][row] == texts[key] for key, row in found.items())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_expectations_of_an_enumerated_posterior_have_no_error(case: Case) -> None:
    post = lmppl.infer(case.bound(), method="exact")
    truth = sum(p * len(e.text) for e, p in zip(case.table, case.posterior(), strict=True))
    estimate = post.expectation('length(text, unit="characters")')
    assert estimate.value == pytest.approx(truth, rel=1e-9)
    assert estimate.standard_error == 0.0


def test_exact_draws_are_draws_of_the_posterior() -> None:
    from lmppl.inference.exact import Exact
    from lmppl.inference.exact.engine import ExactEngine
    from lmppl.rng import Stream
    from tests.exactness.statistics import p_value_of_draws

    case = CASES[0]
    target = case.target()
    engine = ExactEngine(Exact(num_samples=20_000), target, Stream.from_seed(3))
    state = engine.init()
    while not engine.is_done(state):
        state, _ = engine.step(state)
    draws = engine.result(state, complete=True)[0]
    assert p_value_of_draws(case, rows_of(case, target, draws.traces)) > 1e-6


def test_too_large_a_support_is_refused_not_attempted() -> None:
    with pytest.raises(lmppl.InferenceError, match="LMP416"):
        lmppl.infer(CASES[0].bound(), method="exact", max_sequences=100)


@pytest.mark.parametrize("claim", ["contains(first, 'c')", "shift < 0"])
def test_a_support_that_is_empty_before_a_text_is_an_error_that_names_the_constraint(
    claim: str, tmp_path: Path
) -> None:
    (tmp_path / "corpus.txt").write_text("ab\nba\n")
    claim = claim.replace("'", '"')
    source = f"""
        reward num_c(t: string): int<lower=0> = count("c")
        model m(shift: real = 1.0) {{
            first ~ ngram("corpus.txt", max_tokens=2)
            require no: {"num_c(first) > 0" if "first" in claim else claim}
            second ~ ngram("corpus.txt", prompt=first, max_tokens=2)
            return first, second
        }}
    """
    with pytest.raises(lmppl.InferenceError, match="LMP901"):
        lmppl.infer(lmppl.compile(source, base_dir=tmp_path), method="exact")


def evidence_is_right(case: Case) -> bool:
    post = lmppl.infer(case.bound(), method="exact")
    assert post.log_evidence is not None
    return abs(post.log_evidence.value - case.log_z) < 1e-9


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def test_enumeration_that_forgets_the_warp_of_the_prior_is_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert evidence_is_right(named("warp"))
    monkeypatch.setattr(Warp, "__call__", lambda self, logits: logits)
    assert not evidence_is_right(named("warp"))


def test_enumeration_that_prunes_as_if_no_token_remained_is_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert evidence_is_right(named("hard"))

    true_mask = Automata.mask
    monkeypatch.setattr(Automata, "mask", lambda self, states, left: true_mask(self, states, 1))
    assert not evidence_is_right(named("hard"))


def test_enumeration_that_counts_factors_twice_is_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert evidence_is_right(named("tilt"))
    monkeypatch.setattr(
        Traces,
        "log_density",
        lambda self: self.total_log_prior() + 2.0 * self.total_log_potential(),
    )
    assert not evidence_is_right(named("tilt"))
