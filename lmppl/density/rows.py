"""Executions at one of their sites: all that the distribution of the site may look at."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lmppl.builtins import builtin
from lmppl.builtins.kinds import PromptMaker
from lmppl.density.traces import Traces
from lmppl.errors import Diagnostic, InferenceError
from lmppl.evaluation.environment import Environment
from lmppl.evaluation.values import evaluate
from lmppl.ir.expr import Array, Call, Constant, Expr
from lmppl.ir.model import Site
from lmppl.lm.protocol import Prompt


class SiteRows:
    """The executions `traces` at site `number`, with the arguments of its distribution."""

    def __init__(
        self,
        number: int,
        site: Site,
        traces: Traces,
        environment: Callable[[Traces], Environment],
    ) -> None:
        self.number, self.site, self.traces = number, site, traces
        self._environment = environment

    def __repr__(self) -> str:
        return f"<{self.num_rows} executions at {self.site.name}>"

    def select(self, indices: Tensor) -> SiteRows:
        """The rows `indices`, in that order, with repeats."""
        traces = self.traces.select(indices)
        return SiteRows(self.number, self.site, traces, self._environment)

    @property
    def num_rows(self) -> int:
        return self.traces.num_rows

    @property
    def device(self) -> torch.device:
        return self.traces.group.device

    @cached_property
    def environment(self) -> Environment:
        """What the arguments are evaluated against."""
        return self._environment(self.traces)

    def argument(self, name: str) -> Expr | None:
        """An argument of the distribution, None where it was not written."""
        return self.site.distribution.argument(name)

    def numbers(self, expr: Expr) -> np.ndarray:
        """The value of a number, `[rows]` float64."""
        value = np.asarray(evaluate(expr, self.environment), dtype=np.float64)
        return np.broadcast_to(value, (self.num_rows,))

    def matrix(self, expr: Expr) -> np.ndarray:
        """The value of an array of numbers, `[rows, elements]` float64."""
        if isinstance(expr, Array):
            return np.stack([self.numbers(element) for element in expr.elements], -1)
        value = expr.value if isinstance(expr, Constant) else evaluate(expr, self.environment)
        array = np.asarray(value, dtype=np.float64)
        return np.broadcast_to(array, (self.num_rows, array.shape[-1]))

    def strings(self, expr: Expr) -> list[str]:
        """The value of a string, one for each row."""
        value = evaluate(expr, self.environment)
        return [value] * self.num_rows if isinstance(value, str) else list(value)  # type: ignore[arg-type]

    @cached_property
    def prompts(self) -> list[Prompt]:
        """What each row is to continue: the argument `prompt`, or nothing."""
        argument = self.argument("prompt")
        if argument is None:
            return [""] * self.num_rows
        maker = builtin(argument.function) if isinstance(argument, Call) else None
        if isinstance(argument, Call) and isinstance(maker, PromptMaker):
            names = [name for name, _ in argument.arguments]
            columns = [self.strings(expr) for _, expr in argument.arguments]
            rows = zip(*columns, strict=True)
            return [maker.make(**dict(zip(names, row, strict=True))) for row in rows]
        return list(self.strings(argument))

    def failure(self, code: str, message: str, help: str) -> InferenceError:
        """An error that shows the site."""
        return InferenceError(
            [Diagnostic(code, "error", message, span=self.site.span, help=help)],
            self.environment.sources,
        )
