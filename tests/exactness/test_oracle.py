"""Every sampler on the shared oracle's cases, by the oracle's own criteria (false alarm 1e-4)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import lmppl

# Variable length, a hard constraint, a transformer with a score no prefix tells anything about, an
# uncertain reward, a channel, two modes, a rare word.
NAMES = (
    "c01_hard_bigram",
    "c06_eos_truncate",
    "c08_transformer_hash",
    "c09_gauss_marginal",
    "c12_channel_0",
    "c13_two_modes",
    "c18t",
)


@pytest.fixture(scope="module")
def oracle(shared: Path) -> ModuleType:
    sys.path.insert(0, str(shared / "oracle"))
    import oracle

    return oracle


@pytest.fixture(scope="module")
def checks(oracle: ModuleType) -> ModuleType:
    import checks

    return checks


def case_named(oracle: ModuleType, name: str) -> Any:
    # The oracle's own loader leaves its file open, which is an error in these tests.
    specs = json.loads((Path(oracle.__file__).parent / "cases.json").read_text())["cases"]
    return next(oracle.Case(spec) for spec in specs if spec["name"] == name)


def bound(case: Any) -> lmppl.BoundModel:
    tokens = [chr(ord("a") + i) for i in range(case.V)]
    if case.eos is not None:
        tokens[case.eos] = "<eos>"

    def next_log_probs(prefixes: torch.Tensor) -> torch.Tensor:
        rows = [case.next_logprobs(tuple(row)) for row in prefixes.tolist()]
        return torch.from_numpy(np.array(rows))

    def phi(ids: np.ndarray, lengths: np.ndarray) -> list[float]:
        found = []
        for row, length in zip(ids.tolist(), lengths.tolist(), strict=True):
            ended = () if length == case.T else (case.eos,)
            found.append(case.log_phi((*row[:length], *ended)))
        return found

    lm = lmppl.FunctionLM(
        tokens=tokens,
        eos=None if case.eos is None else "<eos>",
        next_log_probs=next_log_probs,
    )
    source = f"""
        extern lm prior
        extern reward phi(t: string, inputs="tokens"): real
        model oracle_case() {{
            text ~ prior(max_tokens={case.T})
            factor score: phi(text)
            return text
        }}
    """
    return lmppl.compile(source)(prior=lm, phi=phi)


@pytest.mark.parametrize("name", NAMES)
def test_enumeration_finds_the_oracles_evidence(oracle: ModuleType, name: str) -> None:
    case = case_named(oracle, name)
    post = lmppl.infer(bound(case), method="exact")
    assert post.log_evidence is not None
    assert post.log_evidence.value == pytest.approx(case.exact["log_Z"], abs=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_smc_is_unbiased_for_the_oracles_evidence(
    oracle: ModuleType, checks: ModuleType, name: str
) -> None:
    case = case_named(oracle, name)
    post = lmppl.infer(
        bound(case), method="smc", num_particles=200, num_runs=60, lookahead="none", seed=2
    )
    found = checks.check_Z(post.diagnostics["log_evidence_runs"], case.exact["log_Z"])
    assert found["ok"], found


@pytest.mark.parametrize("name", ["c06_eos_truncate", "c08_transformer_hash", "c18t"])
def test_chains_reach_the_oracles_posterior(
    oracle: ModuleType, checks: ModuleType, name: str
) -> None:
    case = case_named(oracle, name)
    post = lmppl.infer(
        bound(case), method="mcmc", num_chains=1500, num_samples=1, warmup_steps=60, seed=3
    )
    draws = np.array(
        [
            case.pad(ids[:length])
            for ids, length in zip(post.tokens("text"), post.lengths("text"), strict=True)
        ]
    )
    found = checks.check_samples(draws, case)
    assert found["ok"], found


def test_an_infeasible_case_is_an_error_under_every_sampler(oracle: ModuleType) -> None:
    model = bound(case_named(oracle, "c05_infeasible"))
    for method in ("exact", "importance", "smc", "mcmc"):
        with pytest.raises(lmppl.InferenceError, match="LMP901"):
            lmppl.infer(model, method=method, seed=0)
