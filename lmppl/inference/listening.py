"""Who listens to a run: a terminal, a log file, the caller's own function, or nobody."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lmppl.progress import PlainProgress, ProgressListener


@contextmanager
def listening(progress: ProgressListener | bool | None) -> Iterator[ProgressListener | None]:
    """The listener that was asked for, while the block runs.

    A function is called itself. True is a line on a terminal and, where there is none, an
    occasional plain one on standard error; None is the same on a terminal and in a notebook only;
    False is nobody.
    """
    if callable(progress):
        yield progress
        return
    stream = sys.stderr
    on_terminal = stream is not None and stream.isatty()
    # Somebody looks at a notebook, too, though it is no terminal.
    is_seen = on_terminal or "ipykernel" in sys.modules
    if stream is None or progress is False or (progress is None and not is_seen):
        yield None
        return
    if on_terminal and os.environ.get("TERM") != "dumb":
        from lmppl.inference.terminal import TerminalProgress

        shown: TerminalProgress | PlainProgress = TerminalProgress(stream)
    else:
        shown = PlainProgress(stream)
    try:
        yield shown
    finally:
        shown.close()
