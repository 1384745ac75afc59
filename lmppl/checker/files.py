"""The files that a program names: where they are, what they hold, and models by path or id."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass

from lmppl.checker.expressions import unknown
from lmppl.checker.report import Report, did_you_mean
from lmppl.checker.typing_rules import type_of_value
from lmppl.errors import Span
from lmppl.ir import expr as ir

# Arguments of sources and distributions that are paths relative to the file they are written in.
PATH_ARGUMENTS = frozenset({("lexicon", "path"), ("markov", "path"), ("ngram", "path")})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file is: its directory on disk, and that directory as seen from the main file."""

    directory: str
    relative: str = ""

    def on_disk(self, path: str) -> str:
        return os.path.join(self.directory, path)

    def from_main(self, path: str) -> str:
        """A path written in this file as the main file would write it."""
        if not self.relative or os.path.isabs(path):
            return path
        return os.path.normpath(os.path.join(self.relative, path))


class FileReader:
    """Reads files beside one file of the program; problems go to the report.

    `digests` holds those of the files that were read, by path as seen from the main file.
    """

    def __init__(self, place: Place, report: Report) -> None:
        self.place = place
        self.report = report
        self.digests: dict[str, str] = {}

    def read_text(self, path: str, span: Span) -> str | None:
        """The text of a file beside this one; None, and reported, when it cannot be read."""
        try:
            with open(self.place.on_disk(path), "rb") as file:
                content = file.read()
            text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        except OSError as problem:
            self._report_unreadable(path, span, problem)
            return None
        except UnicodeDecodeError as problem:
            self.report.error(
                "LMP119",
                span,
                f"`{path}` is not UTF-8 text",
                label=f"byte {problem.start} cannot be read",
            )
            return None
        self.digests[self.place.from_main(path)] = hashlib.sha256(content).hexdigest()
        return text

    def _report_unreadable(self, path: str, span: Span, problem: OSError) -> None:
        reason = (problem.strerror or "it cannot be read").lower()
        directory = os.path.dirname(self.place.on_disk(path)) or "."
        try:
            neighbours = os.listdir(directory)
        except OSError:
            neighbours = []
        self.report.error(
            "LMP119",
            span,
            f"`{path}` cannot be read: {reason}",
            notes=["paths are relative to the file that they are written in"],
            help=did_you_mean(os.path.basename(path), neighbours),
        )

    def constant(self, text: str, format: str, path: str, path_span: Span, span: Span) -> ir.Expr:
        """The constant at `span` that a text holds in a format."""
        value: object = text
        if format == "lines":
            # A blank line would be the empty word, which every text contains.
            value = tuple(line.strip() for line in text.split("\n") if line.strip())
        elif format == "json":
            try:
                value = _tuples(json.loads(text))
            except ValueError as problem:
                self.report.error("LMP119", path_span, f"`{path}` is not JSON", label=str(problem))
                return unknown(span)
        found = type_of_value(value)
        if found is None:
            self.report.error(
                "LMP119",
                path_span,
                f"`{path}` holds something that the language has no type for",
                help="it may hold a string, a number, true or false, or an array of one of these",
            )
            return unknown(span)
        return ir.Constant(found, span, value)


def _tuples(value: object) -> object:
    if isinstance(value, list):
        return tuple(_tuples(each) for each in value)
    return value
