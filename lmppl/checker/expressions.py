"""Expressions: names, types and ranges. One mistake gives one diagnostic.

An expression that was reported has the type `unknown`, which fits everywhere.
"""

from __future__ import annotations

from lmppl.checker.analysis import Annotations
from lmppl.checker.arguments import ArgumentChecker
from lmppl.checker.calls import CallChecker
from lmppl.checker.composites import check_f_string, check_index, check_list
from lmppl.checker.files import FileReader
from lmppl.checker.names import NameChecker
from lmppl.checker.operators import OperatorChecker
from lmppl.checker.report import Report
from lmppl.checker.scope import Scope
from lmppl.checker.typing_rules import type_of_value
from lmppl.ir import expr as ir
from lmppl.syntax import ast
from lmppl.syntax.trees import spine


class ExpressionChecker:
    """Gives expressions their types; each kind of expression has a room of its own."""

    def __init__(
        self, scope: Scope, report: Report, reader: FileReader, annotations: Annotations
    ) -> None:
        self.report = report
        self.annotations = annotations
        self.names = NameChecker(scope, report, annotations)
        self.arguments = ArgumentChecker(self.check, scope, report)
        self.calls = CallChecker(self.check, self.names, self.arguments, reader)
        self._operators = OperatorChecker(scope, report)

    def check(self, node: ast.Expr) -> ir.Expr:
        """The typed expression."""
        found = self._typed(node)
        self.annotations.types[node.span] = found.type
        return found

    def _typed(self, node: ast.Expr) -> ir.Expr:
        match node:
            case ast.Int() | ast.Real() | ast.Bool() | ast.String():
                found = type_of_value(node.value)
                assert found is not None
                return ir.Constant(found, node.span, node.value)
            case ast.FString():
                return check_f_string(self.report, self.names, node)
            case ast.Name():
                return self.names.value(node.name, node.span)
            case ast.Attribute():
                return self.names.attribute(node)
            case ast.List():
                return check_list(self.report, node, [self.check(each) for each in node.items])
            case ast.Call():
                return self.calls.check(node)
            case ast.Index():
                return check_index(
                    self.report, node, self.check(node.value), self.check(node.index)
                )
            case ast.Unary():
                return self._operators.unary(node, self.check(node.operand))
            case ast.Binary():
                first, operators = spine(node)
                left = self.check(first)
                for each in operators:
                    left = self._operators.binary(each, left, self.check(each.right))
                    self.annotations.types[each.span] = left.type
                return left
            case ast.Compare():
                left, right = self.check(node.left), self.check(node.right)
                return self._operators.compare(node, left, right)
            case ast.Logical():
                operands = [self.check(operand) for operand in node.operands]
                return self._operators.logical(node, operands)
            case ast.Conditional():
                parts = (
                    self.check(each) for each in (node.condition, node.positive, node.negative)
                )
                return self._operators.conditional(node, *parts)
