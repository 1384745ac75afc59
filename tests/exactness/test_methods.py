"""Every method that is listed, over every case, through `lmppl.infer`; and wrong ones, which must
not pass.

A method is enrolled by being listed in `METHODS`; how it is judged, it says (`Settings.referee`).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import lmppl
from lmppl.inference import METHODS, Settings, methods
from tests.exactness.cases import CASES, ENDS, MIXED, TILT, Case
from tests.exactness.referees import (
    ALPHA,
    Refused,
    Verdict,
    judge,
    p_value_of_claimed_errors,
)
from tests.exactness.wrong_methods import WRONG

# A method that refuses nearly everything is right, and of no use.
FEWEST_CASES = 4
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


@cache
def verdict(method: type[Settings], case: str) -> Verdict | str:
    """What the referee says, or the codes of the refusal."""
    try:
        return judge(method, next(each for each in CASES if each.name == case))
    except Refused as refused:
        return str(refused)


@every_method
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_listed_method_finds_the_posterior_or_says_that_it_cannot(
    method: type[Settings], case: Case
) -> None:
    found = verdict(method, case.name)
    if isinstance(found, str):
        # Said beforehand, by the plan, and not found out on the way.
        plan = lmppl.explain(case.bound(), method=method.name)
        assert {refusal.code for refusal in plan.refusals} == set(found.split(", "))
    else:
        assert found.p_value > ALPHA


@every_method
def test_a_listed_method_does_most_cases(method: type[Settings]) -> None:
    found = [verdict(method, case.name) for case in CASES]
    assert sum(isinstance(each, Verdict) for each in found) >= FEWEST_CASES


@every_method
def test_the_errors_that_a_method_claims_are_no_smaller_than_they_are(
    method: type[Settings],
) -> None:
    found = [verdict(method, case.name) for case in CASES]
    squares = [x for each in found if isinstance(each, Verdict) for x in each.squares]
    assert p_value_of_claimed_errors(squares) > ALPHA


@pytest.mark.parametrize("wrong", WRONG, ids=lambda method: method.name)
def test_a_wrong_method_that_is_only_listed_is_rejected(
    wrong: type[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods, "METHODS", (*METHODS, wrong))
    found: list[Verdict] = []
    for case in (ENDS, MIXED, TILT):
        try:
            found.append(judge(wrong, case))
        except (Refused, KeyError):
            continue
        if found[-1].p_value <= ALPHA:
            return
    squares = [x for each in found for x in each.squares]
    assert p_value_of_claimed_errors(squares) < ALPHA


def test_claimed_errors_are_rejected_where_they_are_a_third_too_small() -> None:
    """The referee of errors, by hand: 120 deviations of known size."""
    deviations = np.random.default_rng(0).normal(size=120)
    assert p_value_of_claimed_errors((deviations**2).tolist()) > ALPHA
    assert p_value_of_claimed_errors((2.0 * deviations**2).tolist()) < ALPHA
    assert p_value_of_claimed_errors(()) == 1.0
