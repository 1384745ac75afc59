"""One fence around every run: the process's switches as in a fresh interpreter, put back after.

torch, numpy and Pyro keep switches that change numbers behind everybody's back: whether gradients
are recorded, autocast, the default dtype and device. A run must not depend on how its caller left
them, nor leave them otherwise, whatever ends it. What only Pyro shares is in `lowering.isolation`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

P = ParamSpec("P")
T = TypeVar("T")

_AUTOCASTING = ("cpu", "cuda", "mps", "xpu")

# The default dtype belongs to the process and not to a thread: the first run that enters sets it,
# the last that leaves puts it back.
_lock = threading.Lock()
_inside: set[int] = set()
_dtype_outside = torch.float32


def fenced(function: Callable[P, T]) -> Callable[P, T]:
    """The function, run with fresh switches."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return within(lambda: function(*args, **kwargs))

    return run


def within(call: Callable[[], T]) -> T:
    """What `call` returns, run with fresh switches: gradients are recorded, nothing is cast, new
    tensors are float32 on the CPU, and numpy warns as it does by default.

    Afterwards all is as it was, also where Ctrl-C came in the middle of torch's own handling of
    a switch, or in the middle of this one.
    """
    switches = _Switches()
    again = False
    try:
        switches.refresh()
        return call()
    finally:
        # An interrupt may come while switches are put back, which can be done twice.
        while True:
            try:
                switches.restore()
                break
            except KeyboardInterrupt:
                again = True
        if again:
            raise KeyboardInterrupt


def reset() -> None:
    """Fresh switches of this thread in the middle of a run, after something was interrupted."""
    torch.set_grad_enabled(True)
    for device in _AUTOCASTING:
        if torch.is_autocast_enabled(device):
            torch.set_autocast_enabled(device, False)


class _Switches:
    """The switches as they were when this was made."""

    def __init__(self) -> None:
        self._grad = torch.is_grad_enabled()
        self._cast = {d: torch.is_autocast_enabled(d) for d in _AUTOCASTING}
        self._errors: dict[str, Any] = dict(np.geterr())
        self._inference: Any = None
        self._device: Any = None
        self._counted = False

    def refresh(self) -> None:
        if torch.is_inference_mode_enabled():
            self._inference = torch.inference_mode(False)
            self._inference.__enter__()
        reset()
        np.seterr(divide="warn", over="warn", under="ignore", invalid="warn")
        if torch.get_default_device().type != "cpu":
            # A mode that sees every call of torch: only where it is needed.
            self._device = torch.device("cpu")
            self._device.__enter__()
        self._count_in()

    def _count_in(self) -> None:
        global _dtype_outside
        with _lock:
            if not _inside:
                _dtype_outside = torch.get_default_dtype()
            self._counted = True
            _inside.add(id(self))
            if torch.get_default_dtype() is not torch.float32:
                torch.set_default_dtype(torch.float32)

    def restore(self) -> None:
        with _lock:
            _inside.discard(id(self))
            # Whoever was interrupted before it was counted knows only the dtype of an earlier run.
            if self._counted and not _inside and _dtype_outside is not torch.float32:
                torch.set_default_dtype(_dtype_outside)
        if self._device is not None:
            device, self._device = self._device, None
            device.__exit__(None, None, None)
        if self._inference is not None:
            inference, self._inference = self._inference, None
            inference.__exit__(None, None, None)
        np.seterr(**self._errors)
        for device, enabled in self._cast.items():
            torch.set_autocast_enabled(device, enabled)
        torch.set_grad_enabled(self._grad)
