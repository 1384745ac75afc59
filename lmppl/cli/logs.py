"""What `--verbose` shows: the package's own log, on standard error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lmppl.cli.outcome import UsageError
from lmppl.cli.streams import say

VARIABLE = "LMPPL_LOG"
_LEVELS = ("warning", "info", "debug")


@contextmanager
def logging_to_stderr(verbose: int) -> Iterator[None]:
    """Shows the log while the block runs: what was done for 1, every step for 2.

    Where nothing is asked for, the environment's LMPPL_LOG (info or debug) counts.

    Raises: UsageError for another value of LMPPL_LOG.
    """
    level = _LEVELS[min(verbose, 2)]
    if not verbose and os.environ.get(VARIABLE):
        level = os.environ[VARIABLE].strip().lower()
        if level not in _LEVELS:
            raise UsageError(f"{VARIABLE} is one of {', '.join(_LEVELS)}, not {level!r}")
    if level == "warning":
        yield
        return
    import logging

    class ToStandardError(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            # Not a stream that was bound before: a progress line may stand in its place.
            say(self.format(record))

    logger = logging.getLogger("lmppl")
    handler = ToStandardError()
    handler.setFormatter(logging.Formatter("%(relativeCreated)7.0f ms %(name)s: %(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
