"""What goes to the terminal: messages, diagnostics in colour, and a progress bar."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from typing import TextIO

from lmppl.progress import ProgressEvent

_HEAD = re.compile(r"^(error|warning)(\[LMP\d+\])?(?=:)", re.MULTILINE)
_COLOURS = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m"}
_RESET = "\x1b[0m"


def say(message: str) -> None:
    """A message to standard error."""
    print(message, file=sys.stderr)


def show(text: str) -> None:
    """A result to standard output; a terminal that cannot write a character gets a `?`."""
    stream = sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, errors="replace").decode(encoding))


def say_diagnostics(text: str) -> None:
    """Rendered diagnostics to standard error, their heads in colour on a terminal."""
    if has_colour(sys.stderr):
        text = _HEAD.sub(lambda m: f"{_COLOURS[m[1]]}{m[0]}{_RESET}", text)
    print(text, file=sys.stderr)


def has_colour(stream: TextIO) -> bool:
    """Whether a stream is a terminal that wants colour (no-color.org)."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and stream.isatty()


def width_of(stream: TextIO) -> int:
    """The width to lay tables out in: the terminal's, or 96 where there is none."""
    if not stream.isatty():
        return 96
    return max(40, min(shutil.get_terminal_size().columns, 120))


class ProgressBar:
    """One line of standard error that is rewritten, at most ten times a second.

    It appears only on work that takes longer than half a second, and is wiped when it ends, so
    that what was printed reads as if it had never been there.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.began = self.drawn = time.monotonic()
        self.visible = False

    def __call__(self, event: ProgressEvent) -> None:
        now = time.monotonic()
        if now - self.began < 0.5 or now - self.drawn < 0.1:
            return
        self.drawn = now
        width = max(20, shutil.get_terminal_size().columns - 1)
        line = progress_line(event, now - self.began)[:width]
        self.stream.write(f"\r\x1b[2K{line}")
        self.stream.flush()
        self.visible = True

    def close(self) -> None:
        """Wipes the line."""
        if self.visible:
            self.stream.write("\r\x1b[2K")
            self.stream.flush()
            self.visible = False


def progress_line(event: ProgressEvent, seconds: float) -> str:
    """One line about how far a stage has come."""
    message = f"  {event.message}" if event.message else ""
    if not event.total:
        return f"{event.stage} {event.done}  {seconds:.0f} s{message}"
    share = min(1.0, max(0.0, event.done / event.total))
    filled = int(20 * share)
    bar = "█" * filled + "·" * (20 - filled)
    return f"{event.stage} {bar} {event.done}/{event.total}  {seconds:.0f} s{message}"
