"""Ctrl-C between the steps of a run, and not in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType


@contextmanager
def deferred_interrupts(wanted: bool) -> Iterator[Callable[[], bool]]:
    """Takes note of the first Ctrl-C while the block runs; yields whether there was one.

    A step that is broken off leaves half-written caches behind, so the first Ctrl-C waits for its
    end: the handler that was there is called, and its KeyboardInterrupt swallowed. The next one is
    that handler's. Nothing is changed outside the main thread, where no signal arrives, and where
    the process ignores Ctrl-C or has given it to the system.
    """
    seen = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    ours = wanted and callable(before) and threading.current_thread() is threading.main_thread()

    def note(number: int, frame: FrameType | None) -> None:
        assert callable(before)
        if seen.is_set():
            before(number, frame)
            return
        seen.set()
        with suppress(KeyboardInterrupt):
            before(number, frame)

    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield seen.is_set
    finally:
        # Somebody else's handler, put there in the meantime, stays.
        if ours and signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, before)
