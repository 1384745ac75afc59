"""What the names in an expression stand for, and errors that say what they stood for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lmppl.errors import Diagnostic, InferenceError, InternalError
from lmppl.evaluation.columns import (
    Column,
    Rows,
    TextColumn,
    Value,
    is_numeric,
    items,
    numbers,
    plain,
    take,
    tidy,
)
from lmppl.evaluation.memory import HostMemory
from lmppl.ir.expr import Expr, Reference, walk
from lmppl.rewards.scorer import Scorer, shorten
from lmppl.rewards.uncertain import UncertainScores

Floats: TypeAlias = NDArray[np.float64]


def unscored(site: str) -> Floats:
    """Where no site has been drawn, none has a probability."""
    raise InternalError(f"what `{site}` cost is not known here")


@dataclass(frozen=True, slots=True, eq=False)
class Environment:
    """What the names in an expression stand for, for `num_rows` draws.

    `values` holds parameters (one value for all rows); `columns` holds sites, and parameters that
    differ by row: arrays `[rows]`, lists of strings, or texts. `lets` holds the expressions of the
    model's `let`s, each evaluated once for this environment. `label` names the factor in errors;
    `sources` are the texts that spans point into. `log_prior(name)` is what the value of a site
    cost, `[rows]`, in nats.
    """

    num_rows: int
    values: Mapping[str, object] = field(default_factory=dict)
    columns: Mapping[str, Column] = field(default_factory=dict)
    scorers: Mapping[str, Scorer] = field(default_factory=dict)
    functions: Mapping[str, Callable[..., object]] = field(default_factory=dict)
    lets: Mapping[str, Expr] = field(default_factory=dict)
    label: str | None = None
    sources: Mapping[str | None, str] = field(default_factory=dict)
    evaluated: dict[str, Value] = field(default_factory=dict)
    memory: HostMemory = field(default_factory=HostMemory)
    log_prior: Callable[[str], Floats] = unscored

    def take(self, rows: Rows) -> Environment:
        """The same names for some of the rows."""
        log_prior = self.log_prior
        return replace(
            self,
            num_rows=len(rows),
            log_prior=lambda name: log_prior(name)[rows],
            columns={name: take(column, rows) for name, column in self.columns.items()},
            evaluated={name: take(value, rows) for name, value in self.evaluated.items()},
        )

    def known(self, name: str) -> Value | None:
        """What a name stands for; None for a `let` that was not needed yet."""
        if name in self.evaluated:
            return self.evaluated[name]
        if name in self.columns:
            column = self.columns[name]
            return column if isinstance(column, np.ndarray | TextColumn | list) else list(column)
        return plain(self.values[name]) if name in self.values else None


def finite(expr: Expr, result: Any, operands: Sequence[Value], env: Environment) -> Value:
    """The result, unless a row of it is NaN, +∞, or a −∞ that no operand brought."""
    array = np.asarray(result)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        brought = np.zeros(array.shape, dtype=bool)
        for operand in operands:
            if is_numeric(operand):
                brought = brought | np.isneginf(numbers(operand).astype(np.float64))
        bad = ~np.isfinite(array) & ~(np.isneginf(array) & brought)
        if bad.any():
            row = first_row(bad, env)
            value = float(np.broadcast_to(array, (env.num_rows,))[row])
            what = "NaN" if value != value else ("+∞" if value > 0 else "−∞")
            raise failure(
                "LMP920",
                f"this is {what}",
                expr,
                env,
                row,
                help="bound the values that go into it, or choose with `if ... then ... else ...`",
            )
    return tidy(array)


def failure(
    code: str,
    message: str,
    expr: Expr,
    env: Environment,
    row: int | None = None,
    *,
    notes: tuple[str, ...] = (),
    help: str | None = None,
) -> InferenceError:
    """The error, with what the names in the expression stood for in the offending row."""
    shown: list[str] = []
    if row is not None:
        for node in walk(expr):
            if not isinstance(node, Reference):
                continue
            value = env.known(node.name)
            if value is not None and not isinstance(value, UncertainScores):
                line = f"{node.name} = {shorten(repr(items(value, env.num_rows)[row]))}"
                if line not in shown:
                    shown.append(line)
    diagnostic = Diagnostic(
        code, "error", named(message, env), expr.span, notes=(*notes, *shown), help=help
    )
    return InferenceError([diagnostic], env.sources)


def named(message: str, env: Environment) -> str:
    """The message with the factor that it is about."""
    return message if env.label is None else f"{env.label}: {message}"


def first_row(mask: Any, env: Environment) -> int:
    """The first row of which the mask is true."""
    return int(np.argmax(np.broadcast_to(np.asarray(mask), (env.num_rows,))))
