"""What of a program is summed by dynamic programming: choices listed, and texts between them.

Given all choices, the texts of a program are independent where no text looks at another, nor any
potential at two but for a sum with a part for each. Then

    evidence = Σ_choices prior · Π own potentials · Π_texts (Σ_text prior · Π its potentials)

and the inner sums run over the product of a finite-state prior and a weighted automaton.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from lmppl.density import SiteRows, TextStage, Traces
from lmppl.density.target import Target
from lmppl.density.text_automaton import weighted_automaton
from lmppl.errors import InternalError
from lmppl.evaluation.facts import texts_read
from lmppl.evaluation.text_weight import NotFollowed, TextWeight, text_weight
from lmppl.evaluation.values import evaluate
from lmppl.finite.automaton import WeightedAutomaton
from lmppl.finite.backward import TABLES_BUDGET, BackwardTables, TablesTooLarge, backward, log_count
from lmppl.finite.building import AutomatonTooLarge
from lmppl.finite.models import NotFinite, finite_states
from lmppl.finite.prior import FiniteStateLM
from lmppl.inference.exact.structure import Obstacle, not_followed, require_apart
from lmppl.ir.expr import Expr
from lmppl.ir.model import Potential
from lmppl.lm.states import HasStates
from lmppl.records import brief


@dataclass(frozen=True, slots=True)
class TextSum:
    """One sum over the texts of a site: all combinations of choices that ask for it share it."""

    stage: TextStage
    prompt: tuple[int, ...]
    weight: TextWeight
    strips: bool

    __repr__ = brief


@dataclass(slots=True)
class Sums:
    """The sums that a target comes to.

    `choices` are all combinations of the values of choices, with their priors and the potentials
    that look at them alone. `needed[site][row]` is the number of the sum in `texts` that the row of
    `choices` needs. What is computed is remembered, tables as far as there is room.
    """

    choices: Traces
    texts: tuple[TextSum, ...]
    needed: Mapping[str, list[int]]
    priors: Mapping[str, FiniteStateLM]
    _automata: dict[int, WeightedAutomaton] = field(default_factory=dict)
    _tables: dict[int, BackwardTables] = field(default_factory=dict)

    __repr__ = brief

    def automaton(self, number: int) -> WeightedAutomaton:
        """The automaton of a sum."""
        if number not in self._automata:
            each = self.texts[number]
            self._automata[number] = _automaton(each.stage, each.weight, each.strips)
        return self._automata[number]

    def tables(self, number: int) -> BackwardTables:
        """The tables of a sum, as they are computed or were."""
        if number in self._tables:
            return self._tables[number]
        each = self.texts[number]
        prior = self.priors[each.stage.name]
        try:
            prior = prior.powered(1.0 + each.weight.form.power)
        except ValueError as problem:
            raise Obstacle(str(problem), "leave log_prob of this text out, or use smc") from problem
        try:
            found = backward(prior, self.automaton(number), each.stage.max_tokens)
        except TablesTooLarge as problem:
            raise Obstacle(
                f"the texts of {each.stage.name} are too many states to sum over: {problem}",
                "lower max_tokens, or ask for less at once, or use smc",
            ) from problem
        kept = sum(tables.log_value.nbytes for tables in self._tables.values())
        if kept + found.log_value.nbytes <= TABLES_BUDGET:
            self._tables[number] = found
        return found

    def log_num_executions(self) -> float:
        """The log of how many executions an enumeration would list, at most.

        Those that requirements leave open: factors of −∞ are not looked at while texts grow.
        """
        counts: dict[tuple[str, tuple[object, ...], bool], float] = {}
        total = torch.zeros(self.choices.num_rows, dtype=torch.float64)
        for site, numbers in self.needed.items():
            for row, number in enumerate(numbers):
                each = self.texts[number]
                key = (site, each.weight.required, each.strips)
                if key not in counts:
                    only = TextWeight(each.weight.required)
                    automaton = _automaton(each.stage, only, each.strips)
                    counts[key] = log_count(self.priors[site], automaton, each.stage.max_tokens)
                total[row] += counts[key]
        return float(torch.logsumexp(total, 0)) if len(total) else -math.inf


def _automaton(stage: TextStage, weight: TextWeight, strips: bool) -> WeightedAutomaton:
    try:
        return weighted_automaton(stage, weight, strips)
    except AutomatonTooLarge as problem:
        raise Obstacle(
            f"the texts of {stage.name} cannot be followed: {problem}",
            "ask for less at once, or use smc",
        ) from problem
    except ValueError as problem:
        raise Obstacle(
            f"a factor on {stage.name} cannot be summed: {problem}",
            "give it a value on every text, as `max(length(text), 1)` is never 0 in a divisor, or"
            " use smc",
        ) from problem


def sums_of(target: Target, most_combinations: int) -> Sums:
    """The sums that the target comes to.

    Raises:
        Obstacle: it comes to none.
    """
    model = target.model
    require_apart(model)
    texts = {stage.name: stage.text for stage in target.stages if stage.text is not None}
    read_by = {potential.label: texts_read(model, potential) for potential in model.potentials}
    priors = {}
    for name, stage in texts.items():
        try:
            priors[name] = finite_states(stage.lm, stage.warp)
        except NotFinite as problem:
            remedy = f"{problem.remedy}, or use smc"
            raise Obstacle(str(problem), remedy, model.site(name).span) from problem
    choices = _choices(target, most_combinations)
    numbers: dict[TextSum, int] = {}
    needed: dict[str, list[int]] = {name: [] for name in texts}
    for row in range(choices.num_rows):
        one = choices.select(torch.tensor([row]))
        for name, stage in texts.items():
            own = [p for p in model.potentials if name in read_by[p.label]]
            weight = _weight(target, name, own, one)
            (prompt,) = target.rows(target.stages.index(stage), one).prompts
            strips = prompt == "" and stage.lm.vocab.strips_leading_space
            assert isinstance(stage.lm, HasStates)
            encoded = stage.lm.encode_prompt(prompt)
            each = TextSum(stage, encoded, weight, strips)
            needed[name].append(numbers.setdefault(each, len(numbers)))
    return Sums(choices, tuple(numbers), needed, priors)


def _choices(target: Target, most: int) -> Traces:
    """Every combination of the values of choices that has a positive weight."""
    traces = target.start(torch.arange(target.num_groups))
    for number, stage in enumerate(target.stages):
        if stage.text is not None:
            continue
        rows: SiteRows = target.rows(number, traces)
        every = stage.alternatives(rows)
        if every is None:
            raise Obstacle(
                f"the values of {stage.name} cannot be listed", "use smc", rows.site.span
            )
        if traces.num_rows * every.size > most:
            raise Obstacle(f"there are more than {most:,} combinations of choices", "use smc")
        parents = torch.arange(traces.num_rows, device=traces.group.device)
        traces = traces.select(parents.repeat_interleave(every.size))
        traces = traces.with_value(stage.name, every.value, every.log_prob)
        traces = traces.select((every.log_prob > -math.inf).nonzero().squeeze(-1))
    texts = {stage.name for stage in target.stages if stage.text is not None}
    environment = target.environment(traces)
    own = [p for p in target.model.potentials if not texts_read(target.model, p) & texts]
    found = {p.label: target.log_potential(p, environment) for p in own}
    traces = traces.with_potentials(found)
    return traces.select((traces.total_log_potential() > -math.inf).nonzero().squeeze(-1))


def _weight(target: Target, site: str, potentials: list[Potential], row: Traces) -> TextWeight:
    values = dict(target.bindings[int(row.group[0])])
    for name, value in row.values.items():
        values[name] = value.listed()[0]
    environment = target.environment(row)

    def known(expr: Expr) -> object:
        found = evaluate(expr, environment)
        if not isinstance(found, np.ndarray):
            raise InternalError("a part of a sum is no number")
        return found[0]

    try:
        return text_weight(
            target.model,
            site,
            potentials,
            values,
            ranges=target.text_ranges,
            known=known,
        )
    except NotFollowed as problem:
        raise not_followed(problem) from problem
