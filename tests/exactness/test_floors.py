"""A proposal mixed with the prior, of which a share is the floor: right, collapsed or absurd, it
changes which texts are drawn and never what they weigh.

Every text of a case is forced through the steps that draw, as in `test_steering`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import lmppl
from lmppl.density.stages import mixing
from lmppl.density.stages.beside import Proposed
from lmppl.density.stages.mixing import Mixture
from lmppl.density.stages.run import Step
from tests.exactness.cases import ENDS, HARD, TILT, Case
from tests.exactness.test_sampling import ALPHA
from tests.exactness.test_steering import (
    EXACT,
    drawn_p_value,
    error_of_weights,
    forced,
    other_lm,
    table,
)

every_case = pytest.mark.parametrize("case", [TILT, ENDS, HARD], ids=lambda case: case.name)


def collapsed(case: Case) -> Proposed:
    """Nothing but the last token, over and over: of no text but one."""
    size = len(case.tokens)

    def next_log_probs(prefixes: Tensor) -> Tensor:
        only = torch.full((prefixes.shape[0], size), -math.inf, dtype=torch.float64)
        only[:, size - 1] = 0.0
        return only

    lm = lmppl.FunctionLM(tokens=list(case.tokens), eos=case.eos, next_log_probs=next_log_probs)
    return Proposed(lm)


def absurd(case: Case) -> Proposed:
    """A random row for every prefix, tens of nats apart."""

    def next_log_probs(prefixes: Tensor) -> Tensor:
        rows = []
        for prefix in prefixes.tolist():
            seed = hash((7, *prefix)) % 2**31
            rows.append(8.0 * np.random.default_rng(seed).normal(size=len(case.tokens)))
        return torch.tensor(np.array(rows)).log_softmax(-1)

    lm = lmppl.FunctionLM(tokens=list(case.tokens), eos=case.eos, next_log_probs=next_log_probs)
    return Proposed(lm)


KINDS = {"other": other_lm, "collapsed": collapsed, "absurd": absurd}
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_case
@every_kind
@pytest.mark.parametrize("looks_ahead", [False, True], ids=["weighed", "as a twist"])
def test_every_text_weighs_prior_over_mixture(case: Case, kind: str, looks_ahead: bool) -> None:
    proposal = replace(KINDS[kind](case), floor=0.1, looks_ahead=looks_ahead)
    assert error_of_weights(case, proposal=proposal) < EXACT
    assert error_of_weights(case, table(case, 1.0), proposal=proposal) < EXACT


@every_case
@every_kind
def test_no_weight_is_above_that_of_the_masked_prior_over_the_floor(case: Case, kind: str) -> None:
    masked_q, masked_weight, _ = forced(case)
    log_q, log_weight, _ = forced(case, proposal=replace(KINDS[kind](case), floor=0.05))
    drawn = masked_q > -math.inf
    assert (log_q[drawn] >= masked_q[drawn] + math.log(0.05) - EXACT).all()
    assert (log_weight[drawn] <= masked_weight[drawn] - math.log(0.05) + EXACT).all()


@every_case
def test_a_mixture_is_one_of_whole_texts(case: Case) -> None:
    """Not of tokens: the probabilities of a text under both components are mixed."""
    log_guide, *_ = forced(case, proposal=other_lm(case))
    log_prior, *_ = forced(case)
    log_q, *_ = forced(case, proposal=replace(other_lm(case), floor=0.3))
    mixed = np.logaddexp(math.log(0.7) + log_guide, math.log(0.3) + log_prior)
    drawn = log_prior > -math.inf
    assert np.allclose(log_q[drawn], mixed[drawn], atol=1e-9)


@every_case
def test_a_floor_of_one_is_the_prior(case: Case) -> None:
    alone = forced(case)
    mixed = forced(case, proposal=replace(absurd(case), floor=1.0))
    for one, other in zip(alone, mixed, strict=True):
        assert np.allclose(one, other, atol=1e-9)


def test_a_guide_of_numbers_that_are_none_leaves_the_prior() -> None:
    def next_log_probs(prefixes: Tensor) -> Tensor:
        return torch.full((prefixes.shape[0], len(TILT.tokens)), math.nan)

    class Broken:
        """As much of a language model as a proposal is asked for."""

        def __init__(self) -> None:
            self.lm = TILT.language_model()

        def start(self, prompts, *, max_new_tokens=None):  # type: ignore[no-untyped-def]
            return self._broken(self.lm.start(prompts, max_new_tokens=max_new_tokens))

        def extend(self, prefixes, tokens):  # type: ignore[no-untyped-def]
            return self._broken(self.lm.extend(prefixes, tokens))

        def _broken(self, prefixes):  # type: ignore[no-untyped-def]
            return replace(prefixes, logits=torch.full_like(prefixes.logits, math.nan))

    mixed = forced(TILT, proposal=Proposed(Broken(), floor=0.2))  # type: ignore[arg-type]
    for one, other in zip(forced(TILT), mixed, strict=True):
        assert np.allclose(one, other, atol=1e-9)


@every_kind
@pytest.mark.parametrize("looks_ahead", [False, True], ids=["weighed", "as a twist"])
def test_draws_of_a_mixture_are_exactly_weighted(kind: str, looks_ahead: bool) -> None:
    proposal = replace(KINDS[kind](HARD), floor=0.2, looks_ahead=looks_ahead)
    assert drawn_p_value(HARD, proposal=proposal) > ALPHA


def test_a_mixture_whose_floor_counts_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(rows: Tensor, own: Tensor, mass: Tensor, ratio: object, base: Tensor, **rest: bool):  # type: ignore[no-untyped-def]
        return Step(rows, own, mass, ratio, torch.logaddexp(base, math.log(0.1) + own), **rest)  # type: ignore[arg-type]

    proposal = replace(other_lm(HARD), floor=0.1)
    monkeypatch.setattr(mixing, "Step", twice)
    assert error_of_weights(HARD, proposal=proposal) > 0.05
    assert drawn_p_value(HARD, proposal=proposal) < ALPHA


def test_odds_that_do_not_follow_the_text_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the floor is one of every token, and not of the whole text."""
    right = Mixture.of

    def still(*given: object) -> Mixture:
        found = right(*given)  # type: ignore[arg-type]
        return replace(found, log_gain=torch.zeros_like(found.log_gain))

    monkeypatch.setattr(mixing.Mixture, "of", still)
    log_q, _, _ = forced(TILT, proposal=replace(collapsed(TILT), floor=0.05))
    masked, _, _ = forced(TILT)
    assert (log_q < masked + math.log(0.05) - 1.0).any()
