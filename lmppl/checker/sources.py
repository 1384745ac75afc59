"""Where a reward comes from: the sources, what they read and the type that they give."""

from __future__ import annotations

from collections.abc import Sequence

from lmppl.builtins import PLANNED, every
from lmppl.builtins.kinds import Source
from lmppl.checker.arguments import formals_of
from lmppl.checker.expressions import ExpressionChecker
from lmppl.checker.files import FileReader
from lmppl.checker.models import check_model_name
from lmppl.checker.report import Report, did_you_mean
from lmppl.checker.typing_rules import in_words
from lmppl.ir import expr as ir
from lmppl.ir.model import Parameter, RewardSource
from lmppl.ir.types import Type
from lmppl.records import replace
from lmppl.syntax import ast

_SOURCES = every(Source)


class SourceChecker:
    """Checks the right-hand sides of the rewards of one file; problems go to the report."""

    def __init__(self, expressions: ExpressionChecker, reader: FileReader, report: Report) -> None:
        self.expressions = expressions
        self.reader = reader
        self.report = report

    def check(
        self, node: ast.Expr, parameters: Sequence[Parameter], owner: ast.Reward
    ) -> tuple[RewardSource, Type] | None:
        """The source of a reward and the type that it gives."""
        if not isinstance(node, ast.Call) or not isinstance(node.function, ast.Name):
            self.report.error(
                "LMP218",
                node.span,
                "a reward comes from a source",
                help="the sources are " + ", ".join(f"`{name}(…)`" for name in _SOURCES),
            )
            return None
        name = node.function.name
        builtin = _SOURCES.get(name)
        if builtin is None:
            if name in PLANNED:
                self.expressions.names.refuse(node.function.span, f"`{name}`")
            else:
                self.report.error(
                    "LMP101",
                    node.function.span,
                    f"there is no source of rewards called `{name}`",
                    help=did_you_mean(name, _SOURCES)
                    or "the sources are "
                    + ", ".join(f"`{each}`" for each in _SOURCES)
                    + "; host code is an `extern reward`",
                )
            self.expressions.names.use_all(node)
            return None
        if not self._check_inputs(builtin, parameters, owner):
            return None
        bound, complete = self.expressions.arguments.bind(
            name, formals_of(builtin), node.arguments, node.function.span
        )
        for argument in builtin.accepting("sources"):
            if argument.name not in bound:
                return None
            members = bound[argument.name].value
            return self._check_members(builtin, members, node, parameters, owner)
        arguments, good = self.expressions.arguments.check(builtin, name, bound)
        if not (complete and good):
            return None
        values: dict[str, object] = {}
        for key, value in arguments.items():
            assert isinstance(value, ir.Constant)
            values[key] = value.value
        for argument in builtin.accepting("path"):
            if argument.name in arguments:
                value = arguments[argument.name]
                path = str(values[argument.name])
                if self.reader.read_text(path, value.span) is None:
                    return None
                values[argument.name] = self.reader.place.from_main(path)
        for argument in builtin.accepting("model"):
            values[argument.name] = check_model_name(
                str(values[argument.name]),
                arguments[argument.name].span,
                self.reader.place,
                self.report,
                is_pinned="revision" in values,
                may_be_builtin=False,
            )
        type = replace(builtin.result, range=builtin.score_range(values))
        return RewardSource(name, values, (), node.span), type

    def _check_inputs(
        self, builtin: Source, parameters: Sequence[Parameter], owner: ast.Reward
    ) -> bool:
        """Whether the reward's parameters are what the source can read."""
        if any(each.type.kind == "unknown" for each in parameters):
            return True
        most = builtin.max_texts
        bad = next((each for each in parameters if str(each.type.kind) != "string"), None)
        if bad is not None or any(each.type.is_array for each in parameters):
            bad = bad or next(each for each in parameters if each.type.is_array)
            self.report.error(
                "LMP218",
                bad.span,
                f"`{builtin.name}` reads strings, and `{bad.name}` is {in_words(bad.type)}",
            )
            return False
        if not 1 <= len(parameters) <= most:
            count = "one string" if most == 1 else "one string or two"
            self.report.error(
                "LMP218",
                owner.name_span,
                f"`{builtin.name}` reads {count}, but `{owner.name}` has"
                f" {len(parameters)} parameters",
            )
            return False
        return True

    def _check_members(
        self,
        builtin: Source,
        node: ast.Expr,
        call: ast.Call,
        parameters: Sequence[Parameter],
        owner: ast.Reward,
    ) -> tuple[RewardSource, Type] | None:
        if not isinstance(node, ast.List) or not node.items:
            self.report.error(
                "LMP105", node.span, f"`{builtin.name}` takes an array of at least one source"
            )
            return None
        checked = [self.check(item, parameters, owner) for item in node.items]
        members = [each for each in checked if each is not None]
        if len(members) < len(checked):
            return None
        range = members[0][1].range
        for (_, type), item in zip(members, node.items, strict=True):
            if type.kind == "uncertain":
                message = f"a member of an {builtin.name} is not an {builtin.name}"
                self.report.error("LMP105", item.span, message)
                return None
            range = range.union(type.range)
        sources = tuple(source for source, _ in members)
        source = RewardSource(builtin.name, {}, sources, call.span)
        return source, replace(builtin.result, range=range)
