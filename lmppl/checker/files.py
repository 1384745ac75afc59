"""The files that a program names: where they are, what they hold, and models by path or id."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping

from lmppl.checker.operands import unknown
from lmppl.checker.report import Report, did_you_mean
from lmppl.checker.typing_rules import literal, type_of_value
from lmppl.errors import Span
from lmppl.files import MOST_PROGRAM_BYTES, NotPlain, Outside, ProgramFiles, Unreadable
from lmppl.ir import expr as ir
from lmppl.ir.types import UNKNOWN
from lmppl.jsons import read_json
from lmppl.records import dataclass

_FORMATS = ("lines", "json", "text")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file is: its folder on disk, and that folder as seen from the main file."""

    files: ProgramFiles
    relative: str = ""

    def on_disk(self, path: str) -> str:
        return os.path.join(self.files.base, path)

    def of(self, real: str) -> Place:
        """The place of another file, from its real path."""
        directory = os.path.dirname(real)
        relative = os.path.relpath(directory, self.files.roots[0])
        return Place(self.files.at(directory), "" if relative == os.curdir else relative)

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

    def where(self, path: str, span: Span) -> str | None:
        """The real path of a file beside this one; None, and reported, where it may not be read."""
        try:
            return self.place.files.where(path)
        except Unreadable as problem:
            self._report_unreadable(path, span, problem)
            return None

    def read_text(self, path: str, span: Span, *, is_program: bool = False) -> str | None:
        """The text of a file beside this one; None, and reported, when it cannot be read."""
        try:
            content = self.place.files.read(path, MOST_PROGRAM_BYTES if is_program else None)
            text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        except Unreadable as problem:
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

    def _report_unreadable(self, path: str, span: Span, problem: Unreadable) -> None:
        message = f"`{path}` {problem.reason}"
        if isinstance(problem, Outside):
            self.report.error("LMP135", span, message, notes=[problem.note], help=problem.help)
        elif isinstance(problem, NotPlain):
            self.report.error("LMP136", span, message)
        else:
            neighbours = self.place.files.list(os.path.dirname(path) or os.curdir)
            self.report.error(
                "LMP119",
                span,
                message,
                notes=["paths are relative to the file that they are written in"],
                help=did_you_mean(os.path.basename(path), neighbours),
            )

    def constant(self, given: Mapping[str, ir.Expr], span: Span) -> ir.Expr:
        """The constant that a call of `file` at `span` with these arguments reads."""
        words: dict[str, str] = {}
        for name, value in given.items():
            if value.type == UNKNOWN:
                return unknown(span)
            if not isinstance(value, ir.Constant) or not isinstance(value.value, str):
                self.report.error(
                    "LMP114", value.span, f"the `{name}` of `file` is a constant string"
                )
                return unknown(span)
            words[name] = value.value
        path, path_span = words["path"], given["path"].span
        format = words.get("format", "json" if path.endswith(".json") else "text")
        if format not in _FORMATS:
            self.report.error(
                "LMP115",
                given["format"].span,
                f"`file` cannot read the format {literal(format)}",
                help=did_you_mean(format, _FORMATS) or f"the formats are {', '.join(_FORMATS)}",
            )
            return unknown(span)
        text = self.read_text(path, path_span)
        return unknown(span) if text is None else self._parsed(text, format, path, path_span, span)

    def _parsed(self, text: str, format: str, path: str, path_span: Span, span: Span) -> ir.Expr:
        value: object = text
        if format == "lines":
            # A blank line would be the empty word, which every text contains.
            value = tuple(line.strip() for line in text.split("\n") if line.strip())
        elif format == "json":
            try:
                value = _tuples(read_json(text))
            except ValueError as problem:
                self.report.error("LMP119", path_span, f"`{path}` is not JSON", label=str(problem))
                return unknown(span)
        if not _is_finite(value):
            self.report.error("LMP119", path_span, f"`{path}` holds a number that is not finite")
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


def _is_finite(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_is_finite(each) for each in value)
    return not isinstance(value, float) or math.isfinite(value)


def _tuples(value: object) -> object:
    if isinstance(value, list):
        return tuple(_tuples(each) for each in value)
    return value
