"""Loading without the noise of the libraries that load."""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no warnings from transformers and its friends; put back afterwards."""
    hub: Any = importlib.import_module("huggingface_hub.utils")
    hf: Any = importlib.import_module("transformers.utils.logging")
    names = ("transformers", "huggingface_hub")
    levels = [(logging.getLogger(name), logging.getLogger(name).level) for name in names]
    bar = hf.is_progress_bar_enabled()
    hub_bars_off = hub.are_progress_bars_disabled()
    try:
        for logger, _ in levels:
            logger.setLevel(logging.CRITICAL)
        hf.disable_progress_bar()
        hub.disable_progress_bars()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels:
            logger.setLevel(level)
        if bar:
            hf.enable_progress_bar()
        if not hub_bars_off:
            hub.enable_progress_bars()
