"""What goes to the terminal: messages, and diagnostics in colour."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from typing import TextIO

from lmppl.errors.plain import harmless

_HEAD = re.compile(r"^(error|warning)(\[LMP\d+\])?(?=:)", re.MULTILINE)
_COLOURS = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m"}
_RESET = "\x1b[0m"


def open_streams() -> None:
    """Gives the process a place to write where the caller has closed one (`lmppl … >&-`).

    Otherwise the next file that is opened would take the number of the closed one, and whatever a
    library prints would land in it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        mode = os.O_RDONLY if number == 0 else os.O_WRONLY
        place = os.open(os.devnull, mode)
        if place != number:
            os.dup2(place, number, inheritable=True)
            os.close(place)
        stream = open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False)
        setattr(sys, name, stream)


def forget_output() -> None:
    """Lets what is still to be written to standard output vanish, once nobody reads it."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def say(message: str) -> None:
    """A message to standard error, in which nothing acts on the terminal.

    Where nobody reads standard error, it is lost.
    """
    _print(harmless(message))


def _print(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(text, file=sys.stderr)


def show(text: str) -> None:
    """A result to standard output; a terminal that cannot write a character gets a `?`."""
    stream = sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, errors="replace").decode(encoding))


# What stands out of a summary, and how.
_SUMMARY = (
    (r"\A[^\n]+", "bold"),
    (r"(?m)^(?:warning|failed check)(?=:)", "bold yellow"),
    (r"INCOMPLETE|\bfails(?=: )|DISAGREE", "bold red"),
    (r"\bundecided(?=: )", "yellow"),
    (r"\bholds(?=: )", "green"),
    # The prompt before a text.
    (r"(?<=  )\[[^\]\n]*\]", "dim"),
)
# Likewise of the page that explains a code.
_PAGE = (
    (r"\A[^\n]+", "bold"),
    (r"(?m)^Wrong(?=:$)", "bold red"),
    (r"(?m)^Right(?=:$)", "bold green"),
    (r"(?m)^[\w.]+(?=:\n    )", "bold"),
    (r"`[^`\n]+`", "cyan"),
)


def show_summary(text: str) -> None:
    """A summary to standard output; on a terminal prompts are dimmed and verdicts in colour."""
    _show_styled(text, _SUMMARY)


def show_page(text: str) -> None:
    """The page of a code to standard output, its headings and names in colour on a terminal."""
    _show_styled(text, _PAGE)


def _show_styled(text: str, styles: tuple[tuple[str, str], ...]) -> None:
    """The characters are the same everywhere; a terminal adds what is said of those that match."""
    stream = sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        show(text)
        return
    if not has_colour(stream):
        show(text)
        return
    from rich.console import Console
    from rich.text import Text

    styled = Text(text)
    for pattern, style in styles:
        styled.highlight_regex(pattern, style)
    console = Console(file=stream, highlight=False, soft_wrap=True)
    console.print(styled, end="", soft_wrap=True)


def say_diagnostics(text: str) -> None:
    """Rendered diagnostics to standard error, their heads in colour on a terminal."""
    text = harmless(text)
    if has_colour(sys.stderr):
        # Only these may act on the terminal: whatever was in the text has been made harmless.
        text = _HEAD.sub(lambda m: f"{_COLOURS[m[1]]}{m[0]}{_RESET}", text)
    _print(text)


def has_colour(stream: TextIO) -> bool:
    """Whether a stream is a terminal that wants colour (no-color.org)."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and stream.isatty()


def width_of(stream: TextIO) -> int:
    """The width to lay tables out in: the terminal's, or 96 where there is none."""
    if not stream.isatty():
        return 96
    import shutil

    return max(40, min(shutil.get_terminal_size().columns, 120))
