"""The command `lmppl`: results go to standard output, everything else to standard error."""

from lmppl.cli.entry import main

__all__ = ["main"]
