"""What stands on the right of `~`."""

from __future__ import annotations

import math

from lmppl.builtins import DISTRIBUTIONS, EXTERN_LM, PLANNED, kinds, named
from lmppl.checker.arguments import formals_of
from lmppl.checker.declarations import FileChecker
from lmppl.checker.models import check_model_name
from lmppl.checker.report import did_you_mean
from lmppl.checker.scope import KIND_IN_WORDS
from lmppl.checker.typing_rules import literal
from lmppl.errors import Label, Span
from lmppl.ir import expr as ir
from lmppl.ir.model import Distribution
from lmppl.ir.types import CHAT
from lmppl.records import replace
from lmppl.syntax import ast

_DISTRIBUTIONS = {each.name: each for each in DISTRIBUTIONS}
_HELP_FOR_TEXTS = {
    "max_tokens": "say how long a text can get: `max_tokens=40`",
    "prompt": 'give it a prompt: `prompt="…"`, or `prompt=""` to start from nothing',
}


class DistributionChecker:
    """Checks distributions against a file's declarations; problems go to the report."""

    def __init__(self, file: FileChecker) -> None:
        self.report = file.report
        self.scope = file.scope
        self.reader = file.reader
        self.names = file.names
        self.expressions = file.expressions

    def check(self, node: ast.Expr) -> Distribution | None:
        """The distribution on the right of `~`; None when it was reported."""
        if not isinstance(node, ast.Call):
            self._refuse(node)
            return None
        function = node.function
        extern: str | None = None
        builtin: kinds.Distribution | None = None
        name = self.report.text(function.span)
        if isinstance(function, ast.Attribute):
            symbol = self.names.member(function)
            if symbol is None:
                self.names.use_all(node)
                return None
            if symbol.kind == "language model":
                builtin, extern = EXTERN_LM, symbol.name
        elif isinstance(function, ast.Name):
            declared = self.scope.find(function.name)
            if declared is not None and declared.kind == "unknown":
                self.names.use_all(node)
                return None
            if declared is not None and declared.kind == "language model":
                declared.used = True
                builtin, extern = EXTERN_LM, declared.name
            else:
                builtin = _DISTRIBUTIONS.get(function.name)
            if builtin is None and function.name in PLANNED:
                what = f"`{function.name}`"
                self.names.refuse(function.span, what)
                self.names.use_all(node)
                return None
        if builtin is None:
            self._refuse(node)
            return None
        bound, _ = self.expressions.arguments.bind(
            name, formals_of(builtin), node.arguments, function.span, _HELP_FOR_TEXTS
        )
        arguments, _ = self.expressions.arguments.check(builtin, name, bound)
        # Arguments that were reported are absent; the choice exists all the same.
        return self._finished(builtin, extern, arguments, node.span)

    def _refuse(self, node: ast.Expr) -> None:
        name = called_name(node)
        if name is None:
            self.report.error(
                "LMP112",
                node.span,
                "what stands after `~` is a distribution",
                help="for a value that is not drawn, write `let x = …`",
            )
            self.names.use_all(node)
            return
        assert isinstance(node, ast.Call)
        declared = self.scope.use(name)
        known = named("predicate", "function", "risk", "source", "statistic")
        if declared is not None or name in known:
            what = "a built-in function" if declared is None else KIND_IN_WORDS[declared.kind]
            self.report.error(
                "LMP112",
                node.function.span,
                f"`{name}` is {what}, not a distribution",
                help="for a value that is not drawn, write `let x = …`",
            )
        else:
            candidates = [*_DISTRIBUTIONS, *self.scope.names("language model")]
            self.report.error(
                "LMP101",
                node.function.span,
                f"no distribution is called `{name}`",
                help=did_you_mean(name, candidates)
                or "the distributions are " + ", ".join(f"`{each}`" for each in candidates),
            )
        self.expressions.calls.check_anyway(node)

    def _finished(
        self,
        builtin: kinds.Distribution,
        extern: str | None,
        arguments: dict[str, ir.Expr],
        span: Span,
    ) -> Distribution:
        """The distribution, with what cannot be seen from one argument alone."""
        for argument in builtin.accepting("values"):
            if argument.name in arguments:
                probs = next(builtin.accepting("numbers"), None)
                given = None if probs is None else arguments.get(probs.name)
                self._check_values(arguments[argument.name], given)
        for argument in builtin.accepting("path"):
            value = arguments.get(argument.name)
            if isinstance(value, ir.Constant):
                self.reader.read_text(str(value.value), value.span)
        for argument in builtin.accepting("model"):
            model = arguments.get(argument.name)
            if not isinstance(model, ir.Constant):
                continue
            check_model_name(
                str(model.value),
                model.span,
                self.reader.place,
                self.report,
                is_pinned="revision" in arguments,
                may_be_builtin=True,
            )
        prompt = arguments.get("prompt")
        if prompt is not None and prompt.type.kind == CHAT.kind:
            # A prompt is rendered by the language model, so a let of one is no value of its own.
            arguments["prompt"] = self.scope.resolve(prompt)
        for name in ("stop", "stop_after"):
            if name in arguments:
                self._check_stop(arguments[name])
        return Distribution(builtin.name, arguments, span, builtin.is_text, extern)

    def _check_stop(self, written: ir.Expr) -> None:
        stop = self.scope.resolve(written)
        if isinstance(stop, ir.Constant):
            values = (stop.value,) if isinstance(stop.value, str) else stop.value
            if isinstance(values, tuple) and "" in values:
                self.report.error(
                    "LMP106",
                    written.span,
                    "a stop string cannot be empty: no text would have a token",
                )

    def _check_values(self, values: ir.Expr, probs: ir.Expr | None) -> None:
        """The values of a choice, and their probabilities where they are written."""
        values = replace(self.scope.resolve(values), span=values.span)
        if probs is not None:
            probs = replace(self.scope.resolve(probs), span=probs.span)
        count = _length(values)
        if isinstance(values, ir.Constant) and isinstance(values.value, tuple):
            if not values.value:
                self.report.error("LMP225", values.span, "there is nothing to choose from")
                return
            doubled = _first_doubled(values.value)
            if doubled is not None:
                self.report.error(
                    "LMP225",
                    values.span,
                    f"{literal(doubled)} stands here twice",
                    help="name each value once, and add up its probabilities",
                )
                return
        if probs is None:
            return
        if count is not None and (size := _length(probs)) is not None and size != count:
            self.report.error(
                "LMP225",
                probs.span,
                f"{size} probabilities for {count} values",
                labels=[Label(values.span, f"{count} values")],
            )
            return
        if not isinstance(probs, ir.Constant) or not isinstance(probs.value, tuple):
            return
        numbers = [float(each) for each in probs.value]
        if any(each < 0.0 for each in numbers):
            self.report.error("LMP225", probs.span, "a probability is at least 0")
            return
        if not math.isclose(sum(numbers), 1.0, abs_tol=1e-6):
            self.report.error(
                "LMP225",
                probs.span,
                f"these probabilities add up to {sum(numbers):g}, not to 1",
            )
            return
        return


def called_name(node: ast.Expr) -> str | None:
    """The name that a call calls; None for anything else."""
    if isinstance(node, ast.Call) and isinstance(node.function, ast.Name):
        return node.function.name
    return None


def _length(expr: ir.Expr) -> int | None:
    if isinstance(expr, ir.Constant) and isinstance(expr.value, tuple):
        return len(expr.value)
    return len(expr.elements) if isinstance(expr, ir.Array) else None


def _first_doubled(values: tuple[object, ...]) -> object | None:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
