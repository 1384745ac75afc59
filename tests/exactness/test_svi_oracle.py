"""svi judged by the project's oracle, which knows nothing of lmppl: exact KL by enumeration."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lmppl

_LETTERS = "abcdefgh"
_PROGRAM = """
    extern lm prior
    extern reward score(t: string): real<lower=-100, upper=100>
    model oracle() {{
        text ~ prior(max_tokens={length})
        factor phi: score(text)
        return text
    }}
"""


@pytest.fixture(scope="module")
def oracle(shared: Path) -> tuple[dict[str, Any], Any]:
    """Cases and checks of the oracle."""
    sys.path.insert(0, str(shared / "oracle"))
    try:
        import checks
        from oracle import Case
    finally:
        sys.path.remove(str(shared / "oracle"))
    with open(shared / "oracle" / "cases.json", encoding="utf-8") as file:
        specs = json.load(file)["cases"]
    return {spec["name"]: Case(spec) for spec in specs}, checks


def _bound(case: Any) -> lmppl.BoundModel:
    tokens = list(_LETTERS[: case.V])
    if case.eos is not None:
        tokens[case.eos] = "<eos>"

    def next_log_probs(prefixes: torch.Tensor) -> np.ndarray:
        return np.array([case.next_logprobs(tuple(prefix)) for prefix in prefixes.tolist()])

    def score(texts: list[str]) -> list[float]:
        found = []
        for text in texts:
            ids = [_LETTERS.index(letter) for letter in text]
            if len(ids) < case.T:
                ids.append(case.eos)
            found.append(case.log_phi(ids))
        return found

    prior = lmppl.FunctionLM(
        tokens=tokens,
        eos=None if case.eos is None else "<eos>",
        next_log_probs=next_log_probs,
    )
    model = lmppl.compile(_PROGRAM.format(length=case.T))
    return model(prior=prior, score=score)


def _next_log_probs(case: Any, guide: Any) -> Any:
    """The guide's next-token log probabilities, from its log probs of all sequences."""
    sequences, _, _ = case.enumerate()
    probs = np.exp(guide.log_prob({"text": torch.from_numpy(sequences)}))
    mass: dict[tuple[int, ...], float] = {}
    for sequence, p in zip(sequences.tolist(), probs, strict=True):
        for length in range(1, case.T + 1):
            prefix = tuple(sequence[:length])
            mass[prefix] = mass.get(prefix, 0.0) + p
    mass[()] = 1.0

    def log_probs(prefix: tuple[int, ...]) -> np.ndarray:
        before = mass[tuple(prefix)]
        after = [mass.get((*prefix, token), 0.0) for token in range(case.V)]
        with np.errstate(divide="ignore"):
            return np.log(np.array(after)) - np.log(before)

    return log_probs


@pytest.mark.parametrize("name", ["c06_eos_truncate", "c09_gauss_marginal"])
def test_the_fitted_guide_passes_the_oracle(oracle: tuple[dict[str, Any], Any], name: str) -> None:
    cases, checks = oracle
    case = cases[name]
    post = lmppl.infer(
        _bound(case),
        method="svi",
        num_steps=200,
        num_particles=100,
        table_lr=0.1,
        num_samples=200,
        seed=0,
    )
    assert post.log_evidence is not None
    found = checks.check_svi(case, _next_log_probs(case, post.guide))
    assert found["ok"], found
    assert found["elbo"] <= case.exact["log_Z"]
    # The ELBO that is reported is an estimate of the exact one of the same guide.
    error = 5 * post.log_evidence.standard_error + 1e-6
    assert abs(post.log_evidence.value - found["elbo"]) < error


def test_the_oracle_rejects_a_guide_that_was_not_fitted(
    oracle: tuple[dict[str, Any], Any],
) -> None:
    cases, checks = oracle
    case = cases["c06_eos_truncate"]
    post = lmppl.infer(_bound(case), method="svi", num_steps=0, num_samples=10, seed=0)
    found = checks.check_svi(case, _next_log_probs(case, post.guide))
    assert not found["ok"]
    assert found["KL_q_post"] == pytest.approx(case.exact["KL_prior_post"], abs=1e-6)
