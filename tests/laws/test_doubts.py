"""Rewards, functions and language models that are no functions: refused or warned about."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

import lmppl
from lmppl.inference import METHODS

_PROGRAM = """
    extern lm prior
    extern reward score(t: string): real<lower=0, upper=1>
    extern function double(n: int): int<lower=0, upper=20>
    model m() {
        text ~ prior(max_tokens=3)
        factor tone: score(text) + 0.1 * double(length(text))
        return text
    }
"""

_QUICK: dict[str, dict[str, int]] = {
    "rejection": {"num_samples": 5},
    "importance": {"num_samples": 20},
    "smc": {"num_particles": 16},
    "twist": {"num_steps": 2, "num_rounds": 1, "num_particles": 16},
    "tempered": {"num_particles": 16},
    "ais": {"num_samples": 16},
    "mcmc": {"num_chains": 2, "num_samples": 4, "warmup_steps": 2},
    "svi": {"num_steps": 2, "num_particles": 8, "num_samples": 8},
    "exact": {},
}


def _lm(function: Callable[[torch.Tensor], torch.Tensor]) -> lmppl.FunctionLM:
    return lmppl.FunctionLM(tokens=["a", "b", "c"], eos=None, next_log_probs=function)


def _dropout() -> lmppl.FunctionLM:
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3))

    @torch.no_grad()
    def next_log_probs(prefixes: torch.Tensor) -> torch.Tensor:
        return layer(torch.ones(len(prefixes), 1)).log_softmax(-1)

    return _lm(next_log_probs)


def _flat() -> lmppl.FunctionLM:
    return _lm(lambda prefixes: torch.full((len(prefixes), 3), 1 / 3).log())


def _host(**changed: object) -> Mapping[str, object]:
    host = {
        "prior": _flat(),
        "score": lambda texts: [text.count("a") / 3 for text in texts],
        "double": lambda n: 2 * n,
    }
    return {**host, **changed}


_noise = random.Random(0)
_calls: list[int] = []


def _counting(n: int) -> int:
    _calls.append(n)
    return len(_calls) % 20


_WRONG: dict[str, Callable[[], dict[str, object]]] = {
    "reward": lambda: {"score": lambda texts: [_noise.random() for _ in texts]},
    "reward of one text": lambda: {"score": _noisy_text},
    "language model": lambda: {"prior": _dropout()},
    "function": lambda: {"double": _counting},
    "ranks": lambda: {"score": lambda texts: np.argsort(np.argsort(_lengths(texts))) / 100},
    "sorts": lambda: {"score": lambda texts: sorted(text.count("a") / 3 for text in texts)},
    "shares": lambda: {"score": lambda texts: (1 + _lengths(texts)) / (1 + _lengths(texts)).sum()},
    "counts the batch": lambda: {"score": lambda texts: [1 / len(texts)] * len(texts)},
    "language model of a batch": lambda: {"prior": _lm(_softmax_over_the_batch)},
    "rewards what is new": lambda: {"score": _Novelty()},
}


def _lengths(texts: list[str]) -> np.ndarray:
    """Something that tells texts of one length apart."""
    return np.array([2.0 * text.count("a") + text.count("b") for text in texts])


def _softmax_over_the_batch(prefixes: torch.Tensor) -> torch.Tensor:
    share = torch.arange(1.0, len(prefixes) + 1) / (len(prefixes) + 1)
    return torch.stack([share / 2, share / 2, 1 - share], -1).log()


class _Novelty:
    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, texts: list[str]) -> list[float]:
        scores = [float(text not in self.seen) for text in texts]
        self.seen.update(texts)
        return scores


def _noisy_text(text: str) -> float:
    return 0.5 + 0.1 * _noise.random()


@pytest.mark.parametrize("method", [method.name for method in METHODS])
@pytest.mark.parametrize("wrong", _WRONG)
def test_what_is_no_function_is_refused_by_exact_methods_and_told_by_others(
    wrong: str, method: str
) -> None:
    bound = lmppl.compile(_PROGRAM)(**_host(**_WRONG[wrong]()))
    if method in ("exact", "rejection"):
        with pytest.raises(lmppl.InferenceError, match="LMP951"):
            lmppl.infer(bound, method=method, seed=0, **_QUICK[method])
        return
    post = lmppl.infer(bound, method=method, seed=0, **_QUICK[method])
    assert any("no function of its arguments" in warning for warning in post.warnings)


@pytest.mark.parametrize("method", [method.name for method in METHODS])
def test_functions_are_not_doubted_in_the_result(method: str) -> None:
    bound = lmppl.compile(_PROGRAM)(**_host())
    post = lmppl.infer(bound, method=method, seed=0, **_QUICK[method])
    assert not any("function" in warning for warning in post.warnings)


def test_a_network_that_rounds_otherwise_in_another_batch_is_a_function() -> None:
    def score(texts: list[str]) -> list[float]:
        return [(1 + 0.004 * (len(texts) % 2)) * text.count("a") / 4 for text in texts]

    post = lmppl.infer(lmppl.compile(_PROGRAM)(**_host(score=score)), method="exact")
    assert post.warnings == ()


def test_what_is_scored_again_is_a_handful_and_is_not_counted() -> None:
    scored: list[str] = []

    def score(texts: list[str]) -> list[float]:
        scored.extend(texts)
        return [0.5] * len(texts)

    bound = lmppl.compile(_PROGRAM)(**_host(score=score))
    post = lmppl.infer(bound, method="importance", num_samples=500, seed=0)
    counted = post.manifest["rewards"]["score"]["num_scored"]
    assert counted == len(set(scored)) == 27
    assert 0 < len(scored) - counted <= 32


def test_the_first_values_stay() -> None:
    bound = lmppl.compile(_PROGRAM)(**_host(**_WRONG["reward"]()))
    post = lmppl.infer(bound, method="importance", num_samples=200, seed=0)
    by_text: dict[str, set[float]] = {}
    for text, value in zip(post["text"], post.log_potential("tone").tolist(), strict=True):
        by_text.setdefault(text, set()).add(value)
    assert all(len(values) == 1 for values in by_text.values())


# --- numbers that are too large ----------------------------------------------------------------


@pytest.mark.parametrize("method", [method.name for method in METHODS])
@pytest.mark.parametrize("sign", ["", "-"])
def test_factors_that_add_up_to_no_number_are_refused(method: str, sign: str) -> None:
    program = f"""
        extern lm prior
        model m() {{
            text ~ prior(max_tokens=1)
            factor one: {sign}1.7e308 * length(text)
            factor two: {sign}1.7e308 * length(text)
            return text
        }}
    """
    with pytest.raises(lmppl.LmpError, match="LMP952"):
        lmppl.infer(lmppl.compile(program)(prior=_flat()), method=method, seed=0, **_QUICK[method])


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 1e38},
        {"table_lr": 1e38},
        {"lr": 10**400},
        {"max_grad_norm": 10**400},
        {"num_steps": 10**400},
        {"seed": 10**5000},
    ],
    ids=["lr", "table_lr", "large lr", "norm", "steps", "seed"],
)
def test_options_larger_than_any_number_are_refused(options: Mapping[str, object]) -> None:
    bound = lmppl.compile(_PROGRAM)(**_host())
    with pytest.raises(lmppl.LmpError, match="LMP403"):
        lmppl.infer(bound, method="svi", **options)


@pytest.mark.parametrize(
    "value", [10**400, -(10**400), 10**5000], ids=["large", "negative", "beyond printing"]
)
@pytest.mark.parametrize("kind", ["int", "real"])
def test_parameters_larger_than_any_number_are_refused(
    tmp_path: Path, kind: str, value: int
) -> None:
    program = f"""
        extern lm prior
        model m(x: {kind}) {{
            text ~ prior(max_tokens=1)
            factor tone: x / 2
            return text
        }}
    """
    with pytest.raises(lmppl.LmpError, match="LMP106"):
        lmppl.compile(program)(prior=_flat(), x=value)
