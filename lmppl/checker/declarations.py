"""The top of a file: constants, rewards, externs and imports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lmppl.checker.analysis import Annotations
from lmppl.checker.expressions import ExpressionChecker
from lmppl.checker.files import FileReader, Place
from lmppl.checker.imports import Importer, Module
from lmppl.checker.operands import unknown
from lmppl.checker.reordering import warn_of_reordering
from lmppl.checker.report import Report
from lmppl.checker.scope import Scope, Symbol
from lmppl.checker.scores import ScoreChecker
from lmppl.checker.types import TypeChecker
from lmppl.ir import expr as ir
from lmppl.ir.model import Extern, Reward
from lmppl.ir.types import UNKNOWN
from lmppl.syntax import ast


class FileChecker:
    """Checks the declarations of one file, and of the files that it imports."""

    def __init__(
        self,
        program: ast.Program,
        place: Place,
        report: Report,
        annotations: Annotations,
        opened: Sequence[str] = (),
        modules: dict[str, Module | None] | None = None,
    ) -> None:
        self.program = program
        self.report = report
        self.annotations = annotations
        self.scope = Scope()
        self.reader = FileReader(place, report)
        self.expressions = ExpressionChecker(self.scope, report, self.reader, annotations)
        self.names = self.expressions.names
        self.types = TypeChecker(self.expressions.check, report)
        self._scores = ScoreChecker(self.expressions, self.types, self.reader)
        self.rewards: Mapping[str, Reward] = self._scores.rewards
        self.externs: Mapping[str, Extern] = self._scores.externs
        self._modules = {} if modules is None else modules
        self._importer = Importer(
            program.path, self.reader, self._check_file, tuple(opened), self._modules
        )

    def check_declarations(self) -> None:
        """Declares everything at the top of the file, in order; problems go to the report."""
        for item in self.program.items:
            if isinstance(item, (ast.Let, ast.Reward, ast.Extern)):
                self.scope.later[item.name] = item.name_span
        for item in self.program.items:
            match item:
                case ast.Import():
                    self.names.declare(item.name, self._importer.symbol(item, self._scores))
                case ast.Let():
                    self._check_constant(item)
                case ast.Reward():
                    self._scores.reward(item)
                case ast.Extern():
                    self._scores.extern(item)
        self.scope.later.clear()

    def _check_constant(self, node: ast.Let) -> None:
        value = self.expressions.check(node.value)
        symbol = Symbol(node.name, "constant", node.name_span)
        if value.type != UNKNOWN and not isinstance(value, ir.Constant):
            self.report.error(
                "LMP114",
                node.value.span,
                f"`{node.name}` stands outside the model, and this is not a constant",
                help="what depends on a choice or a reward is a `let` inside the model",
            )
            value = unknown(node.value.span)
        if value.type == UNKNOWN:
            symbol.kind = "unknown"
        elif node.type is not None:
            type = self.types.check(node.type)
            if not self.types.require(value, type, f"`{node.name}`", node.type.span):
                symbol.kind = "unknown"
        if isinstance(value, ir.Constant):
            symbol.value = value
        symbol.type = value.type
        self.names.declare(node.name, symbol)

    def _check_file(self, program: ast.Program, place: Place, opened: tuple[str, ...]) -> Module:
        warn_of_reordering(program, self.report)
        module = FileChecker(program, place, self.report, self.annotations, opened, self._modules)
        module.check_declarations()
        return module
