"""A progress line on a terminal, drawn by rich."""

from __future__ import annotations

import threading
import time
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from lmppl.progress import (
    Course,
    ProgressEvent,
    count_in_words,
    duration_in_words,
    pace_in_words,
)

# Shorter work shows nothing.
_DELAY = 0.5


class TerminalProgress:
    """One line that is rewritten while the run goes on, and wiped when it ends.

    What was printed reads as if the line had never been there.
    """

    def __init__(self, stream: TextIO, delay: float = _DELAY) -> None:
        self.course = Course(time.monotonic())
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[details]}", markup=False),
            _Clock(self.course),
            console=Console(file=stream, highlight=False),
            transient=True,
            # Results go to standard output, whatever is drawn meanwhile.
            redirect_stdout=False,
        )
        self._task = self._bar.add_task("starting", total=None, details="")
        self._lock = threading.Lock()
        self._over = False
        # A timer, and not the first event: most of the waiting is before it.
        self._timer = threading.Timer(delay, self._appear)
        self._timer.daemon = True
        self._timer.start()

    def __call__(self, event: ProgressEvent) -> None:
        self.course.note(event, time.monotonic())
        details = (count_in_words(event), pace_in_words(self.course), event.message)
        self._bar.update(
            self._task,
            description=event.stage,
            completed=min(event.done, event.total) if event.total else 0,
            total=event.total,
            details="  ".join(filter(None, details)),
        )

    def close(self) -> None:
        """Wipes the line."""
        self._timer.cancel()
        with self._lock:
            self._over = True
        self._bar.stop()

    def _appear(self) -> None:
        with self._lock:
            if not self._over:
                self._bar.start()


class _Clock(ProgressColumn):
    """Seconds spent in the whole run, and what is left of this stage."""

    def __init__(self, course: Course) -> None:
        super().__init__()
        self.course = course

    def render(self, task: Task) -> Text:
        now = time.monotonic()
        text = duration_in_words(now - self.course.began)
        left = self.course.seconds_left(now)
        if left is not None:
            text += f", about {duration_in_words(left)} left"
        return Text(text, style="dim", no_wrap=True)
