"""What a run's caller has set in torch, numpy or Pyro changes no number, and stays as it was."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.poutine import runtime

import lmppl
from lmppl import fence
from lmppl.lm.huggingface import HuggingFaceLM
from tests.laws.tiny_models import tiny_lm

_PROGRAM = """
    extern lm prior
    reward vowels(t: string): int<lower=0, upper=20> = count("[aeiou]")
    model m() {
        mood ~ bernoulli(0.5)
        text ~ prior(prompt="Once upon", max_tokens=4)
        factor tone: 0.15 * vowels(text) * (if mood then 1.0 else 0.5)
        expect some: mean(vowels(text)) >= 0
        return mood, text
    }
"""

_RUNS: dict[str, dict[str, Any]] = {
    "importance": {"num_samples": 12},
    "rejection": {"num_samples": 4},
    "smc": {"num_particles": 12},
    "mcmc": {"num_chains": 2, "num_samples": 4, "warmup_steps": 2},
    "svi": {"num_steps": 3, "num_particles": 6, "num_samples": 8, "lr": 1e-2},
    "exact": {},
}


@pytest.fixture(scope="module")
def tiny() -> HuggingFaceLM:
    return tiny_lm("llama")


def _bound(lm: HuggingFaceLM, method: str) -> lmppl.BoundModel:
    return _small() if method == "exact" else lmppl.compile(_PROGRAM)(prior=lm)


# Made here, where nothing is switched.
_ROWS = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64).log()


def _small() -> lmppl.BoundModel:
    prior = lmppl.FunctionLM(
        tokens=["a", "e", "x"], eos=None, next_log_probs=lambda p: _ROWS.expand(len(p), -1)
    )
    return lmppl.compile(_PROGRAM.replace('prompt="Once upon", ', ""))(prior=prior)


def _numbers(lm: HuggingFaceLM, method: str) -> list[Any]:
    """Everything that a run says, and what its posterior says when it is asked afterwards."""
    post = lmppl.infer(_bound(lm, method), method=method, seed=3, **_RUNS[method])
    found: list[Any] = [
        post["mood"].tolist(),
        post["text"],
        post.log_weights.tolist(),
        post.log_prior.tolist(),
        post.log_density.tolist(),
        str(post.log_evidence),
        [str(each.estimate) for each in post.expectations],
        str(post.expectation("vowels(text)")),
    ]
    if method == "svi":
        draws = post.guide.sample(5, seed=1)
        found += [draws["text"], draws.log_prob.tolist(), post.guide.log_prob(draws).tolist()]
        found += [post.sample(5, seed=2)["text"], np.asarray(post.info["elbo"]).tolist()]
    return found


@contextlib.contextmanager
def _default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def _default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def _validation_off() -> Iterator[None]:
    pyro.enable_validation(False)
    try:
        yield
    finally:
        pyro.enable_validation(True)


_AMBIENT: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default dtype": _default_dtype,
    "default device": _default_device,
    "a device in force": lambda: torch.device("meta"),
    "numpy that raises": lambda: np.errstate(all="raise"),
}

_HANDLERS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "scale": lambda: poutine.scale(scale=0.25),
    "mask": lambda: poutine.mask(mask=False),
    "block": lambda: poutine.block(),
    "condition": lambda: poutine.condition(data={"mood": torch.tensor(1)}),
    "plate": lambda: pyro.plate("rows", 7, dim=-1),
    "seed": lambda: poutine.seed(rng_seed=9),
    "validation off": _validation_off,
}


def _switches() -> tuple[Any, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.get_default_device(),
        np.geterr(),
        len(runtime._PYRO_STACK),
        list(runtime._DIM_ALLOCATOR._stack),
        torch._C._len_torch_function_stack(),
        pyro.settings.get("validate_infer"),
    )


@pytest.fixture(scope="module")
def plain(tiny: HuggingFaceLM) -> dict[str, list[Any]]:
    return {method: _numbers(tiny, method) for method in _RUNS}


@pytest.mark.parametrize("ambient", _AMBIENT)
@pytest.mark.parametrize("method", _RUNS)
def test_what_the_caller_has_switched_changes_no_bit(
    tiny: HuggingFaceLM, plain: dict[str, list[Any]], method: str, ambient: str
) -> None:
    with _AMBIENT[ambient]():
        before = _switches()
        found = _numbers(tiny, method)
        assert _switches() == before
    assert found == plain[method]


@pytest.mark.parametrize("handler", _HANDLERS)
def test_handlers_of_pyro_around_a_run_change_no_bit(
    tiny: HuggingFaceLM, plain: dict[str, list[Any]], handler: str
) -> None:
    with _HANDLERS[handler]():
        before = _switches()
        found = _numbers(tiny, "svi")
        assert _switches() == before
    assert found == plain["svi"]


def test_a_trace_around_a_run_sees_nothing_of_it(tiny: HuggingFaceLM) -> None:
    with poutine.trace() as outside:
        _numbers(tiny, "svi")
        pyro.sample("mine", dist.Normal(0.0, 1.0))
    assert list(outside.trace.nodes) == ["mine"]


def test_an_optimiser_of_pyro_goes_on_after_a_run_between_its_steps(tiny: HuggingFaceLM) -> None:
    pyro.clear_param_store()
    parameter = pyro.param("mine", torch.tensor(2.0))
    _numbers(tiny, "svi")
    assert pyro.get_param_store().get_param("mine") is parameter
    pyro.clear_param_store()


def test_no_method_touches_the_global_random_state(tiny: HuggingFaceLM) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    for method in _RUNS:
        _numbers(tiny, method)
        assert torch.equal(torch.get_rng_state(), state), method


def test_runs_in_threads_are_those_of_one_after_the_other(
    tiny: HuggingFaceLM, plain: dict[str, list[Any]]
) -> None:
    methods = ["svi", "svi", "smc", "svi", "importance", "svi", "mcmc", "svi"]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda method: _numbers(tiny, method), methods))
    for method, numbers in zip(methods, found, strict=True):
        assert numbers == plain[method]


def test_random_numbers_of_another_thread_are_never_rewound(tiny: HuggingFaceLM) -> None:
    torch.manual_seed(11)
    expected = [float(torch.rand(())) for _ in range(3000)]
    torch.manual_seed(11)
    done = threading.Event()

    def fit() -> None:
        _numbers(tiny, "svi")
        done.set()

    fitting = threading.Thread(target=fit)
    fitting.start()
    drawn = []
    while not done.is_set() and len(drawn) < 3000:
        drawn.append(float(torch.rand(())))
    fitting.join()
    assert drawn == expected[: len(drawn)]


def test_a_default_dtype_of_one_thread_does_not_reach_the_runs_of_another(
    tiny: HuggingFaceLM, plain: dict[str, list[Any]]
) -> None:
    with _default_dtype(), ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: _numbers(tiny, "importance"), range(6)))
        assert torch.get_default_dtype() is torch.float64
    assert all(numbers == plain["importance"] for numbers in found)


def test_an_interrupt_on_the_way_in_brings_back_no_dtype_of_an_earlier_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with _default_dtype():
        fence.within(lambda: None)
    monkeypatch.setattr(fence, "reset", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fence.within(lambda: None)
    found = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    assert found is torch.float32


@pytest.mark.skipif(os.name != "posix", reason="sends signals by a POSIX timer")
# An interrupt may strike inside a callback of the garbage collector or a destructor, where Python
# can only print it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("method", ["svi", "smc"])
def test_an_interrupt_at_any_moment_leaves_every_switch_as_it_was(method: str) -> None:
    bound = _small()
    options = {**_RUNS[method], "num_steps": 400} if method == "svi" else {"num_particles": 2000}
    lmppl.infer(bound, method=method, seed=0, **_RUNS[method])

    def handler(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, handler)
    before, parameters = _switches(), vars(pyro.get_param_store())["_params"]
    random = np.random.default_rng(1)
    try:
        for _ in range(60):
            # The alarm may come while it is being taken back, too.
            with contextlib.suppress(KeyboardInterrupt, lmppl.InferenceError):
                try:
                    signal.setitimer(signal.ITIMER_REAL, float(random.uniform(1e-4, 0.05)))
                    lmppl.infer(bound, method=method, seed=0, **options)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0.0)
            assert _switches() == before
            assert vars(pyro.get_param_store())["_params"] is parameters
    finally:
        signal.signal(signal.SIGALRM, previous)
    with ThreadPoolExecutor(1) as pool:
        # No lock is left behind.
        pool.submit(lmppl.infer, bound, method=method, seed=0, **_RUNS[method]).result(60)
