"""How a command ends: its exit code, and the exception for wrong usage."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of `lmppl`."""

    FINE = 0
    PROGRAM = 1  # the program has errors, or `fmt --check` found a file to format
    USAGE = 2
    INFERENCE = 3  # inference failed, was refused, or methods disagree
    INTERRUPTED = 130


class UsageError(Exception):
    """What the user asked for on the command line cannot be understood or done."""
