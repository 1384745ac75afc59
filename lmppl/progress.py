"""Progress of long work: what an engine reports, what listens to it, and what it means in words."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol, TextIO

from lmppl.records import dataclass


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """How far a stage of a run has come.

    `stage` names the work ("loading", "draws", the name of a text, …), `done` counts what is
    finished out of `total`, which is None where the end is not known. `message` is for people and
    may be empty. `num_tokens` counts the tokens drawn from language models since the run began.
    """

    stage: str
    done: int
    total: int | None
    message: str = ""
    num_tokens: int = 0


class ProgressListener(Protocol):
    """Called by the engine between steps; what it raises ends the run."""

    def __call__(self, event: ProgressEvent) -> None: ...


_listener: ContextVar[ProgressListener | None] = ContextVar("lmppl_progress", default=None)


@contextlib.contextmanager
def reporting_to(listener: ProgressListener | None) -> Iterator[None]:
    """What is long within a step of the block, and is nobody's step, is reported to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def listener_here() -> ProgressListener | None:
    """Whom the run that this is part of reports to; None where nobody listens."""
    return _listener.get()


class Course:
    """The pace of a run, from its events and when they came; times are in seconds."""

    def __init__(self, now: float) -> None:
        self.began = self.stage_began = self.last = now
        self.loaded: float | None = None
        self.event = ProgressEvent("starting", 0, None)

    def note(self, event: ProgressEvent, now: float) -> None:
        """Takes an event into account; the first of a stage ends what was before it."""
        if event.stage != self.event.stage:
            self.stage_began = self.last
        if self.loaded is None and event.num_tokens:
            self.loaded = self.last
        self.event, self.last = event, now

    def tokens_per_second(self) -> float | None:
        """Mean pace since the first token; None before it can be told."""
        if self.loaded is None or self.last <= self.loaded:
            return None
        return self.event.num_tokens / (self.last - self.loaded)

    def seconds_left(self, now: float) -> float | None:
        """Of this stage, at its mean pace; None before a second of it or where it has no end."""
        event, spent = self.event, self.last - self.stage_began
        if not event.total or not 0 < event.done < event.total or spent < 1.0:
            return None
        left = spent * (event.total - event.done) / event.done
        return max(0.0, left - (now - self.last))


def count_in_words(event: ProgressEvent) -> str:
    """How much of a stage is done: "12/40", "3", or nothing where nothing is counted."""
    if event.total:
        return f"{min(event.done, event.total):,}/{event.total:,}"
    return f"{event.done:,}" if event.done else ""


def duration_in_words(seconds: float) -> str:
    """A duration that people can read: "8 s", "2 min 5 s", "1 h 20 min"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def pace_in_words(course: Course) -> str:
    """Tokens a second, or nothing where it cannot be told."""
    pace = course.tokens_per_second()
    return "" if pace is None else f"{pace:,.0f} tokens/s"


def progress_line(course: Course, now: float) -> str:
    """One line about how far a run has come."""
    event = course.event
    left = course.seconds_left(now)
    parts = [
        f"{event.stage} {count_in_words(event)}".strip(),
        event.message,
        pace_in_words(course),
        duration_in_words(now - course.began),
        "" if left is None else f"about {duration_in_words(left)} left",
    ]
    return ", ".join(filter(None, parts))


class PlainProgress:
    """A plain line now and then, for where there is no terminal: short work says nothing.

    `first` seconds pass before the first line and `every` between two. A thread of its own writes
    them, so that they come while a model loads, too.
    """

    def __init__(self, stream: TextIO, first: float = 10.0, every: float = 30.0) -> None:
        self.stream, self.first, self.every = stream, first, every
        self.course = Course(time.monotonic())
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._speak, name="lmppl progress", daemon=True)
        self._thread.start()

    def __call__(self, event: ProgressEvent) -> None:
        self.course.note(event, time.monotonic())

    def close(self) -> None:
        """No line comes after this."""
        self._over.set()
        self._thread.join()

    def _speak(self) -> None:
        wait = self.first
        while not self._over.wait(wait):
            wait = self.every
            # A stream that was closed meanwhile ends nothing but these lines.
            with contextlib.suppress(OSError, ValueError):
                self.stream.write(f"lmppl: {progress_line(self.course, time.monotonic())}\n")
                self.stream.flush()
