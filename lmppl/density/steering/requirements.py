"""Which requirements on a text automata follow while it is drawn, and those automata."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from lmppl.automata import SiteAutomaton
from lmppl.automata.ends import conjuncts
from lmppl.automata.predicates import Predicate
from lmppl.density.stages.protocol import Stage
from lmppl.density.stages.text import TextStage
from lmppl.density.steering.automaton import Automata, automaton_of
from lmppl.density.traces import Traces
from lmppl.evaluation.constraints import asks_of_text, required_predicate
from lmppl.evaluation.environment import Environment
from lmppl.evaluation.powers import sites_scored
from lmppl.evaluation.values import evaluate
from lmppl.ir.model import Model, Potential
from lmppl.lm.protocol import Prompt
from lmppl.records import brief

_MAX_MACHINES = 64

# One for each key of a site at most, with and without a leading space; sites share this.
_MACHINES_KEPT = 4 * _MAX_MACHINES

# Why a requirement is judged on finished texts only.
_ASKS_FOR_MORE = "it asks for more than an automaton over one text knows"
_TOO_LARGE = "its automaton is too large"
_TOO_MANY = "earlier choices ask for too many automata"


@dataclass(slots=True)
class Requirements:
    """The requirements on the texts of a program, under some bindings of its parameters.

    What is built is remembered here: moves and the steps of a fit ask for the same automata again
    and again. `environment` is what expressions see of executions.
    """

    model: Model
    bindings: tuple[Mapping[str, object], ...]
    stages: tuple[Stage, ...]
    device: torch.device
    environment: Callable[[Traces], Environment]
    # By what a row's automaton depends on, and by constraints.
    _machines: dict[tuple[object, ...], SiteAutomaton | None] = field(default_factory=dict)
    _compiled: dict[tuple[object, ...], SiteAutomaton] = field(default_factory=dict)
    # Requirements that no automaton of a stage follows, and why.
    _at_end: dict[int, dict[str, str]] = field(default_factory=dict)

    __repr__ = brief

    def automata(self, stage: int, traces: Traces, prompts: Sequence[Prompt]) -> Automata:
        """The automata of a text site for these rows, given their parameters and choices."""
        text_stage = self.stages[stage].text
        watched = self.watched(stage)
        if text_stage is None or not (watched or text_stage.stopping):
            return Automata((None,))
        return self._automata_of(stage, traces, prompts, watched)

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
        watched = [p for p in self._at(stage) if p.kind == "require"]
        if len(self.bindings) > _MAX_MACHINES:
            return []
        sizes = {s.name: len(s.support) for s in self.stages[:stage] if s.support is not None}
        every = self.earlier_choices(stage, watched)
        if len(self.bindings) * math.prod(sizes[name] for name in every) <= _MAX_MACHINES:
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
        columns += [traces.values[name].index.tolist() for name in earlier]
        if self._text(stage).lm.vocab.strips_leading_space:
            columns.append([prompt == "" for prompt in prompts])
        return list(zip(*columns, strict=True))

    def earlier_choices(self, stage: int, watched: Sequence[Potential]) -> list[str]:
        """The discrete sites before a text that requirements on it look at."""
        names: set[str] = set()
        for potential in watched:
            names |= self.model.sites_of(potential.expr)
            if potential.when is not None:
                names |= self.model.sites_of(potential.when)
        return [s.name for s in self.stages[:stage] if s.support is not None and s.name in names]

    def _machine(
        self, stage: int, watched: Sequence[Potential], row: Traces, no_prompt: bool
    ) -> SiteAutomaton | None:
        text_stage = self._text(stage)
        required = self.required(stage, watched, row)
        if not required and not text_stage.stopping:
            return None
        parts = [predicate for _, predicate in required]
        strip = no_prompt and text_stage.lm.vocab.strips_leading_space
        # Rows that differ in what no constraint looks at share one automaton.
        shared = (stage, tuple(parts), strip)
        if shared not in self._compiled:
            self._compiled[shared] = automaton_of(text_stage, parts, strip, self.device)
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
            if choice.support is not None and choice.name in row.values:
                values[choice.name] = row.values[choice.name].listed()[0]
        found: list[tuple[Potential, Predicate]] = []
        for potential in watched:
            if potential.when is not None and sites_scored(self.model, potential.when):
                # What an earlier choice cost is more than its value.
                self._leave_to_end(stage, potential, _ASKS_FOR_MORE)
                continue
            if potential.when is not None and not asks_of_text(self.model, potential, name):
                if not all(name in row.values for name in self.model.sites_of(potential.when)):
                    continue
                applies = np.asarray(evaluate(potential.when, self.environment(row)))
                if not bool(applies.reshape(-1)[0]):
                    continue
            predicate = required_predicate(self.model, potential, name, values)
            if predicate is None:
                self._leave_to_end(stage, potential, _ASKS_FOR_MORE)
                continue
            found.append((potential, predicate))
        return found

    def _leave_to_end(self, stage: int, potential: Potential, reason: str) -> None:
        self._at_end.setdefault(stage, {})[potential.label] = reason

    def followed(self) -> dict[str, dict[str, object]]:
        """How the requirements of each text site were followed while its texts were drawn.

        `kinds` of automata are "table" or "on demand" (see `SiteAutomaton.kind`); `num_states` and
        `num_bytes` add up those that are remembered. `exact`: no token was allowed after which a
        requirement could not be met any more. `at_end` has the requirements that are judged on
        finished texts only, with the reason; `over_budget` those of them that automata could follow
        if they were smaller or fewer.
        """
        found: dict[str, dict[str, object]] = {}
        for number, stage in enumerate(self.stages):
            required = [p for p in self._at(number) if p.kind == "require"]
            if not required or stage.text is None:
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

    def _text(self, stage: int) -> TextStage:
        text = self.stages[stage].text
        assert text is not None
        return text

    def _at(self, stage: int) -> list[Potential]:
        return [p for p in self.model.potentials if p.stage == stage]
