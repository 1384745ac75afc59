"""The Target: a bound program as the engines see it.

    log density(draw) = Σ log p(site | parents) + Σ log potentials

Sites are stages in program order, and each potential is applied at the earliest stage at which
its inputs exist. A batch of rows may belong to several bindings of the parameters at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from lmppl.automata import SiteAutomaton
from lmppl.automata.ends import conjuncts
from lmppl.automata.predicates import Predicate
from lmppl.density.reach import BoundRanges
from lmppl.density.stages.choice import ChoiceStage, normalise_weights
from lmppl.density.stages.run import TextRun
from lmppl.density.stages.text import TextStage
from lmppl.density.steering.automaton import Automata
from lmppl.density.traces import TextBatch, Traces
from lmppl.errors import Diagnostic, InferenceError
from lmppl.evaluation.constraints import asks_of_text, required_predicate
from lmppl.evaluation.joint import Cell, joint_ranges
from lmppl.evaluation.ranges import expr_range, range_of
from lmppl.evaluation.values import Environment, TextColumn, evaluate
from lmppl.ir.expr import Array, Call, Constant, Expr
from lmppl.ir.model import Model, Potential
from lmppl.ir.types import Interval
from lmppl.lm.protocol import Chat, LanguageModel, Prompt
from lmppl.rewards import Scorer
from lmppl.rewards.scorer import REMEMBERED

_MAX_MACHINES = 64

# One for each key of a site at most, with and without a leading space; sites share this.
_MACHINES_KEPT = 4 * _MAX_MACHINES


# Why a requirement is judged on finished texts only.
_ASKS_FOR_MORE = "it asks for more than an automaton over one text knows"
_TOO_LARGE = "its automaton is too large"
_TOO_MANY = "earlier choices ask for too many automata"


@dataclass(frozen=True, slots=True)
class PartialText:
    """Unfinished texts standing in for the value of a site, to be scored by a lookahead."""

    name: str
    strings: Sequence[str]
    num_tokens: Tensor
    finished: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Target:
    """A model with its data, language models, rewards and functions.

    `bindings` are the parameter values of each group of rows. Sites and potentials mean the same
    under every method; nothing here knows how draws are found.
    """

    model: Model
    bindings: tuple[Mapping[str, object], ...]
    stages: tuple[ChoiceStage | TextStage, ...]
    scorers: Mapping[str, Scorer]
    functions: Mapping[str, Callable[..., object]]
    device: torch.device
    digests: Mapping[str, str] = field(default_factory=dict)
    # Bindings that were left out, by their place among all, because no text can meet what they ask.
    impossible: Mapping[int, InferenceError] = field(default_factory=dict)
    # By binding, a sentence for each value of a choice with which no text can meet what is asked.
    ruled_out: Mapping[int, Sequence[str]] = field(default_factory=dict)
    # The automata of sites: by what a row's automaton depends on, and by constraints.
    _machines: dict[tuple[object, ...], SiteAutomaton | None] = field(
        default_factory=dict, compare=False, repr=False
    )
    _compiled: dict[tuple[object, ...], SiteAutomaton] = field(
        default_factory=dict, compare=False, repr=False
    )
    # Requirements that no automaton of a stage follows, and why.
    _at_end: dict[int, dict[str, str]] = field(default_factory=dict, compare=False, repr=False)
    # What host functions returned, by function and arguments.
    _called: dict[tuple[object, ...], object] = field(
        default_factory=dict, compare=False, repr=False
    )

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
            # What is remembered by the number of a binding is not that of another.
            _machines={},
            _compiled={},
            _at_end={},
        )

    def potentials_at(self, stage: int) -> tuple[Potential, ...]:
        """The potentials whose inputs exist once stage `stage` is drawn (−1: before any)."""
        return tuple(p for p in self.model.potentials if p.stage == stage)

    def language_models(self) -> tuple[LanguageModel, ...]:
        return tuple(stage.lm for stage in self.stages if isinstance(stage, TextStage))

    def start(self, group: Tensor) -> Traces:
        """Executions that have drawn nothing yet, one per entry of `group` (LongTensor)."""
        return self.apply_potentials(Traces(group=group.to(self.device)), -1)

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

    def environment(self, traces: Traces, partial: PartialText | None = None) -> Environment:
        """What expressions are evaluated against: a column per parameter and drawn site."""
        values: dict[str, object] = {}
        columns: dict[str, object] = {}
        if self.num_groups == 1:
            values.update(self.bindings[0])
        else:
            groups = traces.group.tolist()
            for name in self.bindings[0]:
                first = self.bindings[0][name]
                if all(_same(b[name], first) for b in self.bindings):
                    values[name] = first
                else:
                    columns[name] = _column([self.bindings[g][name] for g in groups])
        for stage in self.stages:
            if isinstance(stage, ChoiceStage) and stage.name in traces.choices:
                picked = traces.choices[stage.name].tolist()
                columns[stage.name] = _column([stage.support[i] for i in picked])
        for name, text in traces.texts.items():
            columns[name] = _text_column(text)
        if partial is not None:
            columns[partial.name] = TextColumn(
                strings=partial.strings,
                num_tokens=partial.num_tokens.cpu().numpy(),
                finished=partial.finished.cpu().numpy(),
                token_ids=partial.tokens,
            )
        # The oldest results of host functions are forgotten first, as scores are.
        for call in list(islice(self._called, max(len(self._called) - REMEMBERED, 0))):
            del self._called[call]
        return Environment(
            num_rows=traces.num_rows,
            values=values,
            columns=columns,  # type: ignore[arg-type]
            scorers=self.scorers,
            functions=self.functions,
            lets={let.name: let.expr for let in self.model.lets},
            sources={self.model.path: self.model.source},
            called=self._called,
        )

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
            {self.model.path: self.model.source},
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
            {self.model.path: self.model.source},
        )

    def lookahead(
        self, stage: int, traces: Traces, run: TextRun, rows: Tensor
    ) -> tuple[Tensor, str | None]:
        """Σ of the factors of `stage` on the unfinished texts of `rows`, `[rows]` float64.

        This is a guess of the final score (a twist), not a part of the target: a value that is
        not finite, or that cannot be computed on an unfinished text, counts as nothing known (NaN).
        In the latter case the second result says why.
        """
        text_stage = self.stages[stage]
        assert isinstance(text_stage, TextStage)
        everyone = rows.shape[0] == traces.num_rows
        partial = PartialText(
            text_stage.name,
            text_stage.growing_strings(run, rows),
            run.positions[rows],
            run.finished[rows],
            run.tokens if everyone else run.tokens[rows],
        )
        environment = self.environment(traces if everyone else traces.select(rows), partial)
        total = torch.zeros(rows.shape[0], dtype=torch.float64, device=self.device)
        for potential in self.potentials_at(stage):
            if potential.kind != "factor":
                continue
            try:
                value = _rows(evaluate(potential.expr, environment), rows.shape[0])
            except InferenceError as error:
                reason = error.diagnostics[0].message
                return torch.full_like(total, math.nan), reason
            total = total + torch.from_numpy(np.array(value, dtype=np.float64)).to(self.device)
        return torch.where(torch.isfinite(total), total, math.nan), None

    def has_lookahead(self, stage: int) -> bool:
        """Whether a factor of this text site can be scored on unfinished texts."""
        return isinstance(self.stages[stage], TextStage) and any(
            p.kind == "factor" for p in self.potentials_at(stage)
        )

    # ------------------------------------------------------------------ sites

    def choice_log_probs(self, stage: int, traces: Traces) -> Tensor:
        """log p(value | parents) of a discrete site, `[rows, values]` float64."""
        site = self.model.sites[stage]
        choice = self.stages[stage]
        assert isinstance(choice, ChoiceStage)
        environment = self.environment(traces)
        num_rows = traces.num_rows
        if site.distribution.kind == "bernoulli":
            argument = site.distribution.argument("p")
            assert argument is not None
            p = np.asarray(_rows(evaluate(argument, environment), num_rows), dtype=np.float64)
            weights = np.stack([1.0 - p, p], -1)
        else:
            argument = site.distribution.argument("probs")
            if argument is None:
                weights = np.full((num_rows, choice.size), 1.0 / choice.size)
            else:
                weights = _matrix(argument, environment)
        log_probs = None
        if weights.shape[-1] == choice.size and np.allclose(weights.sum(-1), 1.0, atol=1e-6):
            log_probs = normalise_weights(torch.from_numpy(np.array(weights)))
        if log_probs is None:
            raise InferenceError(
                [
                    Diagnostic(
                        "LMP925",
                        "error",
                        f"the probabilities of {site.name} are not {choice.size} non-negative"
                        f" numbers that sum to 1: {weights[0].tolist()}",
                        span=site.span,
                        help="give one probability per value; divide weights by their sum",
                    )
                ],
                {self.model.path: self.model.source},
            )
        return log_probs.to(self.device)

    def prompts(self, stage: int, traces: Traces) -> list[Prompt]:
        """The prompt of every row at a text site."""
        argument = self.model.sites[stage].distribution.argument("prompt")
        num_rows = traces.num_rows
        if argument is None:
            return [""] * num_rows
        environment = self.environment(traces)
        if isinstance(argument, Call) and argument.function == "chat":
            user, system = argument.argument("user"), argument.argument("system")
            assert user is not None
            users = _strings(evaluate(user, environment), num_rows)
            if system is None:
                return [Chat(text) for text in users]
            systems = _strings(evaluate(system, environment), num_rows)
            return [Chat(u, s) for u, s in zip(users, systems, strict=True)]
        return list(_strings(evaluate(argument, environment), num_rows))

    def automata(self, stage: int, traces: Traces, prompts: Sequence[Prompt]) -> Automata:
        """The automata of a text site for these rows, given their parameters and choices."""
        text_stage = self.stages[stage]
        assert isinstance(text_stage, TextStage)
        watched = self.watched(stage)
        if not watched and not text_stage.stop:
            return Automata((None,))
        return self._automata_of(stage, traces, prompts, watched)

    def stop_automata(self, stage: int, traces: Traces, prompts: Sequence[Prompt]) -> Automata:
        """The automata that know the stop strings of a text site and none of its constraints."""
        text_stage = self.stages[stage]
        assert isinstance(text_stage, TextStage)
        if not text_stage.stop:
            return Automata((None,))
        return self._automata_of(stage, traces, prompts, [])

    def _automata_of(
        self,
        stage: int,
        traces: Traces,
        prompts: Sequence[Prompt],
        watched: Sequence[Potential],
    ) -> Automata:
        first: dict[tuple[object, ...], int] = {}
        keys = self._binding_keys(stage, traces, watched, prompts)
        for row, key in enumerate(keys):
            first.setdefault(key, row)
        machines = tuple(
            self._machine_for(stage, watched, key, traces, row, prompts[row] == "")
            for key, row in first.items()
        )
        if len(machines) == 1:
            return Automata(machines)
        numbers = {key: number for number, key in enumerate(first)}
        return Automata(machines, torch.tensor([numbers[key] for key in keys], device=self.device))

    def _machine_for(
        self,
        stage: int,
        watched: Sequence[Potential],
        key: tuple[object, ...],
        traces: Traces,
        row: int,
        no_prompt: bool,
    ) -> SiteAutomaton | None:
        """The automaton of a row, which depends on its key alone; moves ask for it every time."""
        whole = (stage, tuple(potential.label for potential in watched), key)
        if whole not in self._machines:
            one = traces.select(torch.tensor([row], device=traces.group.device))
            self._machines[whole] = self._machine(stage, watched, one, no_prompt)
            while len(self._machines) > _MACHINES_KEPT:
                del self._machines[next(iter(self._machines))]
        return self._machines[whole]

    def watched(self, stage: int) -> list[Potential]:
        """The requirements of a text site that its automata enforce while drawing.

        Those that would take too many automata are left to the finished text, which is sound all
        the same. That must not depend on the rows of a batch: a chain compares the mask's mass
        before a move with the mass after it.
        """
        watched = [p for p in self.potentials_at(stage) if p.kind == "require"]
        if self.num_groups > _MAX_MACHINES:
            return []
        sizes = {s.name: s.size for s in self.stages[:stage] if isinstance(s, ChoiceStage)}
        every = self.earlier_choices(stage, watched)
        if self.num_groups * math.prod(sizes[name] for name in every) <= _MAX_MACHINES:
            return watched
        return [p for p in watched if not self.earlier_choices(stage, [p])]

    def _binding_keys(
        self,
        stage: int,
        traces: Traces,
        watched: Sequence[Potential],
        prompts: Sequence[Prompt],
    ) -> list[tuple[object, ...]]:
        """What the automaton of each row depends on; equal keys share one."""
        earlier = self.earlier_choices(stage, watched)
        columns = [traces.group.tolist()]
        columns += [traces.choices[name].tolist() for name in earlier]
        text_stage = self.stages[stage]
        assert isinstance(text_stage, TextStage)
        if text_stage.lm.vocab.strips_leading_space:
            columns.append([prompt == "" for prompt in prompts])
        return list(zip(*columns, strict=True))

    def earlier_choices(self, stage: int, watched: Sequence[Potential]) -> list[str]:
        """The discrete sites before a text that requirements on it look at."""
        names: set[str] = set()
        for potential in watched:
            names |= self.model.sites_of(potential.expr)
            if potential.when is not None:
                names |= self.model.sites_of(potential.when)
        return [
            s.name for s in self.stages[:stage] if isinstance(s, ChoiceStage) and s.name in names
        ]

    def _machine(
        self, stage: int, watched: Sequence[Potential], row: Traces, no_prompt: bool
    ) -> SiteAutomaton | None:
        text_stage = self.stages[stage]
        assert isinstance(text_stage, TextStage)
        required = self.required(stage, watched, row)
        if not required and not text_stage.stop:
            return None
        parts = [predicate for _, predicate in required]
        strip = no_prompt and text_stage.lm.vocab.strips_leading_space
        # Rows that differ in what no constraint looks at share one automaton.
        shared = (stage, tuple(parts), strip)
        if shared not in self._compiled:
            self._compiled[shared] = text_stage.automaton(parts, strip, self.device)
            while len(self._compiled) > _MACHINES_KEPT:
                del self._compiled[next(iter(self._compiled))]
        machine = self._compiled[shared]
        for potential, predicate in required:
            if not set(conjuncts([predicate])).isdisjoint(machine.left_out):
                self._leave_to_end(stage, potential, _TOO_LARGE)
        return machine

    def required(
        self, stage: int, watched: Sequence[Potential], row: Traces
    ) -> list[tuple[Potential, Predicate]]:
        """What the requirements ask of the text of one row, where automata can follow it."""
        name = self.stages[stage].name
        values = dict(self.bindings[int(row.group[0])])
        for choice in self.stages[:stage]:
            if isinstance(choice, ChoiceStage) and choice.name in row.choices:
                values[choice.name] = choice.support[int(row.choices[choice.name][0])]
        found: list[tuple[Potential, Predicate]] = []
        for potential in watched:
            if potential.when is not None and not asks_of_text(self.model, potential, name):
                if not all(name in row.choices for name in self.model.sites_of(potential.when)):
                    continue
                applies = _rows(evaluate(potential.when, self.environment(row)), 1)
                if not bool(np.asarray(applies)[0]):
                    continue
            predicate = required_predicate(self.model, potential, name, values)
            if predicate is None:
                self._leave_to_end(stage, potential, _ASKS_FOR_MORE)
                continue
            found.append((potential, predicate))
        return found

    def _leave_to_end(self, stage: int, potential: Potential, reason: str) -> None:
        self._at_end.setdefault(stage, {})[potential.label] = reason

    def constraints(self) -> dict[str, dict[str, object]]:
        """How the requirements of each text site were followed while its texts were drawn.

        `kinds` of automata are "table" or "on demand" (see `SiteAutomaton.kind`); `num_states` and
        `num_bytes` add up those that are remembered. `exact`: no token was allowed after which a
        requirement could not be met any more. `at_end` has the requirements that are judged on
        finished texts only, with the reason; `over_budget` those of them that automata could follow
        if they were smaller or fewer.
        """
        found: dict[str, dict[str, object]] = {}
        for number, stage in enumerate(self.stages):
            required = [p for p in self.potentials_at(number) if p.kind == "require"]
            if not required or not isinstance(stage, TextStage):
                continue
            machines = [machine for key, machine in self._compiled.items() if key[0] == number]
            watched = self.watched(number)
            at_end = {p.label: _TOO_MANY for p in required if p not in watched}
            at_end.update(self._at_end.get(number, {}))
            found[stage.name] = {
                "kinds": sorted({machine.kind for machine in machines}),
                "num_automata": len(machines),
                "num_states": sum(machine.num_states for machine in machines),
                "num_bytes": sum(machine.num_bytes for machine in machines),
                "exact": not at_end and all(machine.is_exact for machine in machines),
                "at_end": at_end,
                "over_budget": [label for label, why in at_end.items() if why != _ASKS_FOR_MORE],
            }
        return found

    def depends_on(self, later: int, earlier: int) -> bool:
        """Whether the distribution or the automaton of site `later` looks at site `earlier`."""
        name = self.model.sites[earlier].name
        parts = list(self.model.sites[later].distribution.arguments.values())
        for potential in self.potentials_at(later):
            parts.append(potential.expr)
            if potential.when is not None:
                parts.append(potential.when)
        return any(name in self.model.sites_of(part) for part in parts)

    def log_prior_at(self, stage: int, traces: Traces) -> Tensor:
        """log p(site | parents) of the value that each row already has, `[rows]` float64."""
        current = self.stages[stage]
        if isinstance(current, ChoiceStage):
            log_probs = self.choice_log_probs(stage, traces)
            return log_probs.gather(1, traces.choices[current.name].unsqueeze(-1)).squeeze(-1)
        return current.rescore(self.prompts(stage, traces), traces.texts[current.name])

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


def _same(a: object, b: object) -> bool:
    return type(a) is type(b) and a == b


def _column(values: list[object]) -> object:
    """A column as the evaluator wants it: numbers and booleans in an array, else a list."""
    if all(isinstance(v, bool) for v in values):
        return np.array(values, dtype=bool)
    if all(isinstance(v, int) for v in values):
        return np.array(values, dtype=np.int64)
    if all(isinstance(v, (int, float)) for v in values):
        return np.array(values, dtype=np.float64)
    return values


def _text_column(text: TextBatch) -> TextColumn:
    return TextColumn(
        strings=text.strings,
        num_tokens=text.num_tokens.cpu().numpy(),
        finished=text.finished.cpu().numpy(),
        token_ids=text.tokens,
    )


def _rows(value: object, num_rows: int) -> np.ndarray:
    """A numeric result with one entry per row."""
    return np.broadcast_to(np.asarray(value), (num_rows,))


def _strings(value: object, num_rows: int) -> list[str]:
    return [value] * num_rows if isinstance(value, str) else list(value)  # type: ignore[call-overload]


def _listed(value: object, num_rows: int) -> object:
    """Strings as a list, numbers as an array, one entry per row."""
    if isinstance(value, TextColumn):
        return list(value.strings)
    if isinstance(value, str):
        return [value] * num_rows
    if isinstance(value, (list, tuple)):
        return list(value)
    return np.array(_rows(value, num_rows))


def _matrix(expr: Expr, environment: Environment) -> np.ndarray:
    """The rows of an array expression, `[rows, values]`."""
    num_rows = environment.num_rows
    if isinstance(expr, Array):
        columns = [
            np.asarray(_rows(evaluate(e, environment), num_rows), dtype=np.float64)
            for e in expr.elements
        ]
        return np.stack(columns, -1)
    value = expr.value if isinstance(expr, Constant) else evaluate(expr, environment)
    array = np.asarray(value, dtype=np.float64)
    return np.broadcast_to(array, (num_rows, array.shape[-1]))
