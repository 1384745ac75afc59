"""How a command ends: its exit code, and the exception for wrong usage."""

from __future__ import annotations

from enum import IntEnum

from lmppl.errors import InferenceError, LmpError


class Exit(IntEnum):
    """The exit codes of `lmppl`."""

    FINE = 0
    PROGRAM = 1  # the program has errors, or `fmt --check` found a file to format
    USAGE = 2
    INFERENCE = 3  # inference failed, was refused, or methods disagree
    INTERRUPTED = 130


class UsageError(Exception):
    """What the user asked for on the command line cannot be understood or done."""


def exit_code(error: LmpError) -> Exit:
    """The exit code of an error: where the mistake was made decides."""
    if isinstance(error, InferenceError):
        return Exit.INFERENCE
    # An unknown method or option has a place in the file, or was written on the command line; so
    # was the path of a program that cannot be read.
    asked = all(
        each.code == "LMP027" or (each.code.startswith("LMP40") and each.span is None)
        for each in error.diagnostics
    )
    return Exit.USAGE if asked else Exit.PROGRAM
