"""Imported files: each is read and checked once, however it is called."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Protocol

from lmppl.checker.files import FileReader, Place
from lmppl.checker.report import Report
from lmppl.checker.scope import Scope, Symbol
from lmppl.checker.scores import ScoreChecker
from lmppl.errors import LmpError, Span
from lmppl.ir.model import Extern, Reward
from lmppl.records import replace
from lmppl.syntax import ast
from lmppl.syntax.parser import parse

# Files that import one another in a chain; each is read inside the one before.
_DEEPEST = 50


class Module(Protocol):
    """An imported file whose declarations were checked."""

    scope: Scope
    rewards: Mapping[str, Reward]
    externs: Mapping[str, Extern]
    reader: FileReader


# What checks the declarations of an imported file, given where it is and the real paths of the
# files within which it is being imported.
CheckFile = Callable[[ast.Program, Place, tuple[str, ...]], Module]


class Importer:
    """Reads the files that one file imports; problems go to the report."""

    def __init__(
        self,
        path: str | None,
        reader: FileReader,
        check_file: CheckFile,
        opened: tuple[str, ...],
        modules: dict[str, Module | None],
    ) -> None:
        self.path = path
        self.reader = reader
        self.place = reader.place
        self.report: Report = reader.report
        self._check_file = check_file
        # Real paths of the files that are being imported, outermost first.
        self._opened = opened
        # The imported files by real path.
        self._modules = modules

    def symbol(self, node: ast.Import, scores: ScoreChecker) -> Symbol:
        """What an import gives a name to; the rewards and externs of the file are added."""
        symbol = Symbol(node.name, "import", node.name_span)
        module = self._module(node)
        if module is None:
            symbol.module = {"?": Symbol("?", "unknown", node.name_span)}
        else:
            symbol.module = {
                name: _qualified(member, node.name)
                for name, member in module.scope.symbols.items()
                if member.kind != "import"
            }
            # What the file imports in its turn has no name here.
            for name, reward in module.rewards.items():
                if "." not in name:
                    qualified = f"{node.name}.{name}"
                    scores.rewards[qualified] = replace(reward, name=qualified)
            for name, extern in module.externs.items():
                if "." not in name:
                    qualified = f"{node.name}.{name}"
                    scores.externs[qualified] = replace(extern, name=qualified)
            self.reader.digests.update(module.reader.digests)
        return symbol

    def _module(self, node: ast.Import) -> Module | None:
        path = node.file.value
        on_disk = self.reader.where(path, node.file.span)
        if on_disk is None:
            return None
        shown = path
        if self.path is not None:
            shown = os.path.normpath(os.path.join(os.path.dirname(self.path), path))
        if on_disk in self._opened:
            self.report.error(
                "LMP118",
                node.file.span,
                f"`{path}` imports itself"
                if on_disk == self._opened[-1]
                else f"`{path}` is already being imported: the imports go in a circle",
            )
            return None
        if len(self._opened) > _DEEPEST:
            self.report.error(
                "LMP118",
                node.file.span,
                f"`{path}` is imported through more than {_DEEPEST} files, one by the other",
                help="import it here and there, and not in a chain",
            )
            return None
        # Not how it is called: links give one file many names.
        key = on_disk
        if key not in self._modules:
            self._modules[key] = self._checked(path, on_disk, shown, node.file.span)
        return self._modules[key]

    def _checked(self, path: str, on_disk: str, shown: str, span: Span) -> Module | None:
        text = self.reader.read_text(path, span, is_program=True)
        if text is None:
            return None
        self.report.add_source(shown, text)
        try:
            program = parse(text, shown)
        except LmpError as error:
            self.report.diagnostics.extend(error.diagnostics)
            return None
        return self._check_file(program, self.place.of(on_disk), (*self._opened, on_disk))


def _qualified(symbol: Symbol, owner: str) -> Symbol:
    """The symbol as the importing file calls it."""
    name = f"{owner}.{symbol.name}"
    reward = None if symbol.reward is None else replace(symbol.reward, name=name)
    extern = None if symbol.extern is None else replace(symbol.extern, name=name)
    return replace(symbol, name=name, reward=reward, extern=extern)
