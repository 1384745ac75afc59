"""One thread for all tests, and the folder of real models and data where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_configure(config: pytest.Config) -> None:
    # Two threads on two busy cores can be ten times slower than one.
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real models, data and oracle cases; the test is skipped without it."""
    given = os.environ.get("LMPPL_SHARED")
    path = Path(given) if given else Path(__file__).parents[2] / "shared"
    if not path.is_dir():
        pytest.skip("needs the shared folder: set LMPPL_SHARED or put it beside the checkout")
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
