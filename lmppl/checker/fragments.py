"""Single expressions against a checked model, as in `post.expectation("sentiment(text)")`."""

from __future__ import annotations

import dataclasses
import math

from lmppl.builtins import every
from lmppl.builtins.kinds import Statistic
from lmppl.builtins.statistics import MEAN
from lmppl.checker.analysis import Annotations
from lmppl.checker.arguments import formals_of
from lmppl.checker.declarations import FileChecker
from lmppl.checker.files import Place
from lmppl.checker.operands import report_uncertain
from lmppl.checker.report import Report
from lmppl.checker.scope import KIND_OF_EXTERN, Symbol
from lmppl.checker.typing_rules import in_words
from lmppl.errors import LmpError, Span
from lmppl.files import Folder
from lmppl.ir.expr import Constant, Expr
from lmppl.ir.model import Model
from lmppl.ir.types import REAL
from lmppl.records import dataclass, replace
from lmppl.syntax import ast
from lmppl.syntax.parser import parse
from lmppl.syntax.trees import spine

_STATISTICS = every(Statistic)
_BEFORE = "let expression = "


def check_expression(model: Model, text: str) -> Expr:
    """The typed expression that a text says about the draws of a model: a number or a condition.

    Parameters, choices, `let`s, rewards and externs of the model can be named. An outermost
    `mean(…)` or `probability(…)` of the posterior is taken off, because what is wanted is the
    value on each draw.

    Raises:
        LmpError: everything that is wrong with the expression; spans point into `text`.
    """
    node = _parse(text)
    report = Report(None, text)
    checker = _checker(model, report)
    inner = _without_statistic(node, checker)
    expr = checker.expressions.check(inner)
    report.raise_errors()
    if expr.type.kind == "uncertain":
        report_uncertain(report, expr, "an expectation")
    elif expr.type.is_array or expr.type.kind not in ("int", "real", "bool"):
        report.error(
            "LMP105",
            expr.span,
            f"an expectation takes a number or a condition, and this is {in_words(expr.type)}",
        )
    report.raise_errors()
    return expr


@dataclass(frozen=True, slots=True)
class Query:
    """A statistic of the posterior, and of what: the text of an expression on a draw."""

    statistic: str
    inner: str
    q: float | None = None


@dataclass(frozen=True, slots=True)
class Language:
    """What expressions mean for the draws of a model."""

    model: Model

    def __call__(self, text: str) -> Expr:
        """The typed expression that a text says, as `check_expression` gives it."""
        return check_expression(self.model, text)

    def asked(self, text: str) -> tuple[str, str, float | None]:
        """The statistic that a text asks for, the expression that it is of, and its level."""
        query = check_query(self.model, text)
        return query.statistic, query.inner, query.q


def check_query(model: Model, text: str) -> Query:
    """What a text asks of a posterior: `std(e)`, `quantile(e, 0.9)`, `probability(c)`, or a mean.

    An outermost statistic is read as in `expect`; anything else is an expression whose mean is
    wanted. The expression itself is checked when it is evaluated.

    Raises:
        LmpError: the text is no expression, or the statistic's arguments are wrong.
    """
    node = _parse(text)
    if not isinstance(node, ast.Call) or not isinstance(node.function, ast.Name):
        return Query(MEAN.name, text)
    name = node.function.name
    report = Report(None, text)
    checker = _checker(model, report)
    # `std(h)` of an uncertain reward is a risk rule, and a name of the program is its own.
    taken = checker.scope.find(name) is not None
    if name not in _STATISTICS or taken or _is_risk_rule(node, checker):
        return Query(MEAN.name, text)
    builtin = _STATISTICS[name]
    bound, good = checker.expressions.arguments.bind(
        name, formals_of(builtin), node.arguments, node.function.span
    )
    report.raise_errors()
    assert good
    values = {each: argument.value for each, argument in bound.items()}
    inner = values[builtin.arguments[0].name].span
    level: float | None = None
    if "q" in values:
        checked = checker.expressions.check(values["q"])
        report.raise_errors()
        value = checked.value if isinstance(checked, Constant) else None
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1:
            level = float(value)
        else:
            report.error(
                "LMP105", values["q"].span, "a quantile needs a level: a number between 0 and 1"
            )
    report.raise_errors()
    return Query(name, text[inner.start : inner.end], level)


def _parse(text: str) -> ast.Expr:
    """The one expression of a text."""
    try:
        program = parse(_BEFORE + text, None)
    except LmpError as error:
        raise LmpError(
            [
                replace(
                    each,
                    span=None if each.span is None else _shift(each.span, text),
                    labels=tuple(
                        replace(label, span=_shift(label.span, text)) for label in each.labels
                    ),
                )
                for each in error.diagnostics
            ],
            {None: text},
        ) from None
    if len(program.items) != 1 or not isinstance(program.items[0], ast.Let):
        report = Report(None, text)
        report.error("LMP105", Span.of(text, 0, len(text)), "this is not one expression")
        report.raise_errors()
    item = program.items[0]
    assert isinstance(item, ast.Let)
    return _relocate(item.value, text)


def _shift(span: Span, text: str) -> Span:
    start = min(max(span.start - len(_BEFORE), 0), len(text))
    end = min(max(span.end - len(_BEFORE), start), len(text))
    return Span.of(text, start, end)


def _relocate(node: ast.Expr, text: str) -> ast.Expr:
    """The same tree with spans into `text`."""
    moved = _moved(node, text)
    assert isinstance(moved, type(node))
    return moved


def _moved(value: object, text: str) -> object:
    if isinstance(value, Span):
        return _shift(value, text)
    if isinstance(value, tuple):
        return tuple(_moved(each, text) for each in value)
    if isinstance(value, ast.Binary):
        first, operators = spine(value)
        moved = _relocate(first, text)
        for each in operators:
            right, spans = _relocate(each.right, text), (each.operator_span, each.span)
            moved = ast.Binary(each.operator, moved, right, *(_shift(s, text) for s in spans))
        return moved
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {
            field.name: _moved(getattr(value, field.name), text)
            for field in dataclasses.fields(value)
        }
        return dataclasses.replace(value, **changes)
    return value


def _checker(model: Model, report: Report) -> FileChecker:
    """A checker whose scope holds the names of the model."""
    program = ast.Program(None, "", (), (), model.span)
    checker = FileChecker(
        program, Place(Folder.of(model.base_dir, model.allow)), report, Annotations()
    )
    for parameter in model.parameters:
        checker.scope.add(
            parameter.name, Symbol(parameter.name, "parameter", parameter.span, parameter.type)
        )
    for site in model.sites:
        values = site.distribution.argument("values")
        known = None if values is None else model.resolve(values)
        support = known.value if isinstance(known, Constant) else None
        budget = site.distribution.argument("max_tokens")
        checker.scope.add(
            site.name,
            Symbol(
                site.name,
                "site",
                site.span,
                site.type,
                is_text=site.is_text,
                most_tokens=math.inf if budget is None else budget.type.range.upper,
                values=support if isinstance(support, tuple) else None,
            ),
        )
    for let in model.lets:
        symbol = Symbol(let.name, "let", let.span, let.expr.type, expr=let.expr)
        symbol.sites = checker.scope.sites_of(let.expr)
        checker.scope.add(let.name, symbol)
    for name, reward in model.rewards.items():
        symbol = Symbol(
            name,
            "reward",
            reward.span,
            reward.type,
            reward=reward,
            parameters=reward.parameters,
        )
        _add_qualified(checker, name, symbol)
    for name, extern in model.externs.items():
        symbol = Symbol(
            name,
            KIND_OF_EXTERN[extern.kind],
            extern.span,
            extern.type or REAL,
            extern=extern,
            parameters=extern.parameters,
        )
        _add_qualified(checker, name, symbol)
    return checker


def _add_qualified(checker: FileChecker, name: str, symbol: Symbol) -> None:
    owner, _, member = name.rpartition(".")
    if not owner:
        checker.scope.add(name, symbol)
        return
    imported = checker.scope.find(owner)
    if imported is None:
        imported = Symbol(owner, "import", symbol.span, module={})
        checker.scope.add(owner, imported)
    imported.module = {**imported.module, member: symbol}


def _without_statistic(node: ast.Expr, checker: FileChecker) -> ast.Expr:
    if not isinstance(node, ast.Call) or not isinstance(node.function, ast.Name):
        return node
    statistic = _STATISTICS.get(node.function.name)
    if statistic is None or not statistic.is_expectation or len(node.arguments) != 1:
        return node
    if _is_risk_rule(node, checker):
        return node
    return node.arguments[0].value


def _is_risk_rule(node: ast.Call, checker: FileChecker) -> bool:
    """Whether the first argument is uncertain, so that a statistic's name means a risk rule."""
    if not node.arguments:
        return False
    inner = node.arguments[0].value
    silent = Report(None, checker.report.sources.get(None, ""))
    probe = FileChecker(checker.program, checker.reader.place, silent, Annotations())
    probe.scope.symbols = checker.scope.symbols
    return probe.expressions.check(inner).type.kind == "uncertain"
