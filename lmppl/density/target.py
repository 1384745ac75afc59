"""The Target: a bound program as the engines see it.

    log density(draw) = Σ log p(site | parents) + Σ log potentials

Sites are stages in program order, and each potential is applied at the earliest stage at which
its inputs exist. A batch of rows may belong to several bindings of the parameters at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from lmppl.density.columns import column_of
from lmppl.density.reach import BoundRanges
from lmppl.density.rows import SiteRows
from lmppl.density.stages.protocol import Stage
from lmppl.density.steering.automaton import Automata
from lmppl.density.steering.requirements import Requirements
from lmppl.density.traces import Traces
from lmppl.errors import Diagnostic, InferenceError
from lmppl.evaluation.columns import Column, TextColumn
from lmppl.evaluation.environment import Environment, unscored
from lmppl.evaluation.joint import Cell, joint_ranges
from lmppl.evaluation.memory import HostMemory
from lmppl.evaluation.ranges import expr_range, range_of
from lmppl.evaluation.values import evaluate
from lmppl.ir.expr import Expr
from lmppl.ir.model import Model, Potential
from lmppl.ir.types import Interval
from lmppl.lm.protocol import LanguageModel
from lmppl.records import brief
from lmppl.rewards import Scorer
from lmppl.timing import timed


@dataclass(frozen=True)
class Target:
    """A model with its data, language models, rewards and functions.

    `bindings` are the parameter values of each group of rows. Sites and potentials mean the same
    under every method; nothing here knows how draws are found.
    """

    model: Model
    bindings: tuple[Mapping[str, object], ...]
    stages: tuple[Stage, ...]
    scorers: Mapping[str, Scorer]
    functions: Mapping[str, Callable[..., object]]
    device: torch.device
    digests: Mapping[str, str] = field(default_factory=dict)
    # Bindings that were left out, by their place among all, because no text can meet what they ask.
    impossible: Mapping[int, InferenceError] = field(default_factory=dict)
    # By binding, a sentence for each value of a choice with which no text can meet what is asked.
    ruled_out: Mapping[int, Sequence[str]] = field(default_factory=dict)
    memory: HostMemory = field(default_factory=HostMemory, compare=False, repr=False)

    __repr__ = brief

    # ------------------------------------------------------------------ structure

    @property
    def num_groups(self) -> int:
        return len(self.bindings)

    def of_groups(self, groups: Sequence[int]) -> Target:
        """The same target for some of the bindings, which are then numbered anew."""
        return replace(
            self,
            bindings=tuple(self.bindings[group] for group in groups),
            impossible={},
            ruled_out={n: self.ruled_out.get(group, ()) for n, group in enumerate(groups)},
        )

    def potentials_at(self, stage: int) -> tuple[Potential, ...]:
        """The potentials whose inputs exist once stage `stage` is drawn (−1: before any)."""
        return tuple(p for p in self.model.potentials if p.stage == stage)

    def language_models(self) -> tuple[LanguageModel, ...]:
        return tuple(lm for stage in self.stages for lm in stage.language_models)

    def with_language_models(self, change: Callable[[LanguageModel], LanguageModel]) -> Target:
        """The same target with other language models of the same vocabularies."""
        stages = tuple(stage.with_language_models(change) for stage in self.stages)
        changed = replace(self, stages=stages)
        if (known := vars(self).get("requirements")) is not None:
            # They look at vocabularies only, and compiling their automata takes long.
            vars(changed)["requirements"] = known
        return changed

    def start(self, group: Tensor) -> Traces:
        """Executions that have drawn nothing yet, one per entry of `group` (LongTensor)."""
        return self.apply_potentials(Traces(group=group.to(self.device)), -1)

    @cached_property
    def requirements(self) -> Requirements:
        """Which requirements automata follow while texts are drawn, and those automata."""
        return Requirements(self.model, self.bindings, self.stages, self.device, self.environment)

    # ------------------------------------------------------------------ ranges

    @cached_property
    def text_ranges(self) -> BoundRanges:
        """What the language models and the rewards say of numbers on texts."""
        return BoundRanges(self.stages, self.scorers)

    def number_range(self, expr: Expr, group: int) -> Interval:
        """An interval that holds every value of a number, under one binding."""
        return expr_range(expr, self.model, self.bindings[group], self.text_ranges)

    def range_of(self, expr: Expr, group: int) -> tuple[float, float]:
        """The least and largest value of any expression, under one binding."""
        return range_of(expr, self.model, self.bindings[group], self.text_ranges)

    def joint_ranges(self, expr: Expr, group: int) -> list[tuple[Cell, ...]]:
        """What an expression can be where draws are heavy, under one binding."""
        return joint_ranges(expr, self.model, self.bindings[group], self.text_ranges)

    def declared_range(self, expr: Expr, group: int) -> Interval:
        """What is known of a number from the program alone."""
        return expr_range(expr, self.model, self.bindings[group])

    # ------------------------------------------------------------------ evaluation

    def environment(
        self, traces: Traces, instead: Mapping[str, TextColumn] | None = None
    ) -> Environment:
        """What expressions are evaluated against: a column per parameter and drawn site."""
        values: dict[str, object] = {}
        columns: dict[str, Column] = {}
        if self.num_groups == 1:
            values.update(self.bindings[0])
        else:
            groups = traces.group.tolist()
            for name in self.bindings[0]:
                first = self.bindings[0][name]
                if all(_same(b[name], first) for b in self.bindings):
                    values[name] = first
                else:
                    columns[name] = column_of([self.bindings[g][name] for g in groups])
        for name, value in traces.values.items():
            columns[name] = value.column()
        columns.update(instead or {})
        return Environment(
            num_rows=traces.num_rows,
            values=values,
            columns=columns,
            scorers=self.scorers,
            functions=self.functions,
            lets={let.name: let.expr for let in self.model.lets},
            sources=self.model.sources,
            memory=self.memory,
            log_prior=partial(_log_prior, traces.log_prior),
        )

    @timed("rewards")
    def apply_potentials(self, traces: Traces, stage: int) -> Traces:
        """The traces with the potentials of `stage` evaluated by their definition."""
        potentials = self.potentials_at(stage)
        if not potentials:
            return traces
        environment = self.environment(traces)
        scored = traces.with_potentials(
            {p.label: self.log_potential(p, environment) for p in potentials}
        )
        self.require_sum(scored.log_potential)
        return scored

    def require_sum(self, log_potential: Mapping[str, Tensor]) -> None:
        """Factors that are numbers add up to a number; all have one shape.

        Raises:
            InferenceError: LMP952, they do not.
        """
        if len(log_potential) < 2:
            return
        every = torch.stack(list(log_potential.values()))
        infinite = torch.isinf(every.sum(0)) & torch.isfinite(every).all(0)
        if not bool(infinite.any()):
            return
        at = tuple(infinite.nonzero()[0].tolist())
        values = {label: float(value[at]) for label, value in log_potential.items()}
        raise InferenceError(
            [
                Diagnostic(
                    "LMP952",
                    "error",
                    "the factors of a draw add up to more than a number can hold",
                    notes=tuple(f"factor {n} = {v:g}" for n, v in values.items() if v),
                    help="divide them: a factor is a log weight, and a difference of 100 is already"
                    " certainty",
                )
            ],
            self.model.sources,
        )

    def log_potential(self, potential: Potential, environment: Environment) -> Tensor:
        """The log potential of every row, `[rows]` float64; −inf rules a row out.

        Raises:
            InferenceError: LMP921, NaN or +inf, naming the potential and the text.
        """
        num_rows = environment.num_rows
        label = potential.title
        value = _rows(evaluate(potential.expr, environment, label=label), num_rows)
        if potential.kind == "require":
            holds = np.asarray(value, dtype=bool)
            if potential.when is not None:
                applies = _rows(evaluate(potential.when, environment, label=label), num_rows)
                holds = holds | ~np.asarray(applies, dtype=bool)
            return torch.from_numpy(np.where(holds, 0.0, -math.inf)).to(self.device)
        log_value = np.asarray(value, dtype=np.float64)
        bad = np.isnan(log_value) | (log_value == math.inf)
        if bad.any():
            raise self._not_a_number(potential, log_value, int(bad.argmax()), environment)
        return torch.from_numpy(np.array(log_value)).to(self.device)

    def _not_a_number(
        self, potential: Potential, value: np.ndarray, row: int, environment: Environment
    ) -> InferenceError:
        texts = [
            f"{name} = {column.strings[row]!r}"
            for name, column in environment.columns.items()
            if isinstance(column, TextColumn)
        ]
        return InferenceError(
            [
                Diagnostic(
                    "LMP921",
                    "error",
                    f"{potential.title} is {value[row]} on a draw",
                    span=potential.span,
                    notes=tuple(texts),
                    help="a factor must be a number or −inf; look at the reward on this text",
                )
            ],
            self.model.sources,
        )

    # ------------------------------------------------------------------ sites

    def rows(self, stage: int, traces: Traces) -> SiteRows:
        """Executions at one of their sites."""
        return SiteRows(stage, self.model.sites[stage], traces, self.environment)

    def steering(self, rows: SiteRows) -> tuple[Automata, ...]:
        """What keeps draws of a site to where the requirements can still be met."""
        if self.stages[rows.number].text is None:
            return ()
        return (self.requirements.automata(rows.number, rows.traces, rows.prompts),)

    def depends_on(self, later: int, earlier: int) -> bool:
        """Whether the distribution or the automaton of site `later` looks at site `earlier`."""
        name = self.model.sites[earlier].name
        parts = list(self.model.sites[later].distribution.arguments.values())
        for potential in self.potentials_at(later):
            parts.append(potential.expr)
            if potential.when is not None:
                parts.append(potential.when)
        return any(name in self.model.sites_of(part) for part in parts)

    def outputs(self, traces: Traces) -> dict[str, object]:
        """The returned values of every row, by name in program order."""
        environment = self.environment(traces)
        return {
            output.name: _listed(evaluate(output.expr, environment), traces.num_rows)
            for output in self.model.outputs
        }

    def evaluate(self, expr: Expr, traces: Traces) -> np.ndarray:
        """The value of a numeric or boolean expression on every row, `[rows]` float64."""
        value = evaluate(expr, self.environment(traces))
        return np.asarray(_rows(value, traces.num_rows), dtype=np.float64)


def _log_prior(columns: Mapping[str, Tensor], site: str) -> np.ndarray:
    """What the value of a site cost, `[rows]`.

    A value without any probability has no weight, whatever factors say of it: it counts as 0
    there, because a power below 1 of it would be no number.
    """
    if site not in columns:
        return unscored(site)
    log_prior = columns[site].double()
    return log_prior.masked_fill(log_prior == -math.inf, 0.0).cpu().numpy()


def _same(a: object, b: object) -> bool:
    return type(a) is type(b) and a == b


def _rows(value: object, num_rows: int) -> np.ndarray:
    """A numeric result with one entry per row."""
    return np.broadcast_to(np.asarray(value), (num_rows,))


def _listed(value: object, num_rows: int) -> object:
    """Strings as a list, numbers as an array, one entry per row."""
    if isinstance(value, TextColumn):
        return list(value.strings)
    if isinstance(value, str):
        return [value] * num_rows
    if isinstance(value, (list, tuple)):
        return list(value)
    return np.array(_rows(value, num_rows))
