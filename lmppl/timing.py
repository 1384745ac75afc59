"""Where the time of a run goes: what functions do are parts with names, and a clock adds them up.

Nothing is measured until a clock ticks, and then only in its thread:

    with Clock().ticking() as clock:
        lmppl.infer(model, method="smc")
    clock.seconds                      # {"forward": 1.2, "mask": 0.1, …}
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class Clock:
    """Seconds by part; a part that runs inside another is not counted twice."""

    now: Callable[[], float] = time.process_time
    seconds: dict[str, float] = field(default_factory=dict)
    _inner: list[float] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts what runs in the block as this part."""
        self._inner.append(0.0)
        began = self.now()
        try:
            yield
        finally:
            spent = self.now() - began
            own = spent - self._inner.pop()
            self.seconds[name] = self.seconds.get(name, 0.0) + own
            if self._inner:
                self._inner[-1] += spent

    @contextmanager
    def ticking(self) -> Iterator[Clock]:
        """Counts every part that runs in the block."""
        token = _ticking.set(self)
        try:
            yield self
        finally:
            _ticking.reset(token)


_ticking: ContextVar[Clock | None] = ContextVar("clock", default=None)


def timed(part: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Names what a function does for a clock that ticks; without one it costs next to nothing."""

    def named(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            clock = _ticking.get()
            if clock is None:
                return function(*args, **kwargs)
            with clock.part(part):
                return function(*args, **kwargs)

        return call

    return named


def timer(device: torch.device) -> Callable[[], float]:
    """Seconds of CPU time; for other devices of the wall, when all work given to them is done."""
    if device.type == "cpu":
        return time.process_time
    import torch

    def now() -> float:
        torch.accelerator.synchronize(device)
        return time.perf_counter()

    return now
