"""Every method gives on a GPU what it gives on the host, and rarely makes the host wait for it.

Where there is no GPU a pretended device stands for it: it refuses what a GPU refuses, and counts
where the host waited.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from device_cases import CASES, summary, surrogate

# float32 rounding of a few tokens and factors, in nats.
NATS = 2e-4


def differences(case: str, here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    found = []
    if CASES[case].same_texts and here["texts"] != there["texts"]:
        found.append("other texts")
    if here["num_steps"] != there["num_steps"]:
        found.append("another number of steps")
    # Of a fit the last digits of every gradient step add up.
    tolerance = NATS if CASES[case].same_texts else 0.5
    for mine, other in zip(here["log_evidence"], there["log_evidence"], strict=True):
        if (mine is None) != (other is None) or (mine and abs(mine - other) > tolerance):
            found.append(f"log evidence {other} for {mine}")
    return found


@pytest.mark.cuda
@pytest.mark.parametrize("case", CASES)
def test_a_gpu_gives_what_the_host_gives(case, tmp_path):
    here = summary(CASES[case].run(tmp_path))
    there = summary(CASES[case].run(tmp_path, device="cuda", dtype="float32"))
    assert not differences(case, here, there)


@pytest.mark.cuda
@pytest.mark.parametrize("case", ["smc", "smc, constraint", "importance", "mcmc"])
def test_a_gpu_gives_the_same_by_captured_steps(case, tmp_path):
    here = summary(CASES[case].run(tmp_path))
    there = summary(CASES[case].run(tmp_path, device="cuda", dtype="float32", compile="cuda-graph"))
    assert not differences(case, here, there)


@pytest.fixture(scope="module")
def pretended(tmp_path_factory):
    """What all cases give on a pretended device, from a process of its own."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU, and torch allows for one device beside the CPU")
    if not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch cannot pretend a device: it takes 2.10 or later")
    script = Path(__file__).with_name("device_cases.py")
    found = subprocess.run(
        [sys.executable, str(script), str(tmp_path_factory.mktemp("devices"))],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-3000:]
    return json.loads(found.stdout)


@pytest.mark.parametrize("case", [n for n, c in CASES.items() if c.options["method"] != "svi"])
def test_a_device_that_is_not_the_host_gives_what_the_host_gives(case, pretended):
    assert not differences(case, pretended[case]["here"], pretended[case]["there"])


@pytest.mark.cuda
def test_a_surrogate_says_on_a_gpu_what_it_says_on_the_host():
    assert surrogate("cuda") == pytest.approx(surrogate("cpu"), abs=1e-9)


def test_a_surrogate_says_elsewhere_what_it_says_on_the_host(pretended):
    assert pretended["surrogate"]["there"] == pretended["surrogate"]["here"]
    assert pretended["surrogate"]["here"] == surrogate("cpu")


def test_a_token_makes_the_host_wait_once_where_nothing_is_constrained(pretended):
    # Whether all texts have ended; what the rest of a run asks does not grow with its length.
    case = pretended["smc"]
    assert case["there"]["num_steps"] == 8
    often = {place: n for place, n in case["waits"].items() if n > 4}
    assert len(often) == 1 and "stages/run.py" in next(iter(often))
    assert sum(case["waits"].values()) <= 8 + 56
