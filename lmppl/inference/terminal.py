"""A progress line on a terminal."""

from __future__ import annotations

import sys
import time

from lmppl.progress import ProgressEvent


class TerminalProgress:
    """Rewrites one line of standard error, at most ten times a second, and only on long work."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.last = self.began
        self.shown = False

    def __call__(self, event: ProgressEvent) -> None:
        now = time.perf_counter()
        finished = event.total is not None and event.done >= event.total
        if now - self.began < 0.5 or (now - self.last < 0.1 and not finished):
            return
        self.last, self.shown = now, True
        total = "" if event.total is None else f"/{event.total}"
        line = f"{event.stage}: {event.done}{total} {event.message}".rstrip()
        sys.stderr.write(f"\r\x1b[2K{line}" + ("\n" if finished else ""))
        sys.stderr.flush()
