"""What a text weighs as a weighted automaton over the tokens of its language model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from lmppl.automata.compiling import compile_labels
from lmppl.automata.dfa import EVERYTHING, STATE_BUDGET, Dfa, TooManyStates
from lmppl.automata.predicates import Predicate
from lmppl.automata.steps import Steps
from lmppl.automata.tables import TableTooLarge
from lmppl.density.stages.text import TextStage
from lmppl.density.steering.automaton import automaton_of
from lmppl.evaluation.additive import Atom, Count, Function
from lmppl.evaluation.text_weight import TextWeight
from lmppl.finite.automaton import WeightedAutomaton
from lmppl.finite.building import AutomatonTooLarge, product, weighted_constraints
from lmppl.finite.labels import by_tokens, counted, labelled, per_token, relabelled, truth


def weighted_automaton(
    stage: TextStage, weight: TextWeight, strip_leading_space: bool = False
) -> WeightedAutomaton:
    """The automaton of what a text of this site weighs, but for the constant of its sum.

    Raises:
        AutomatonTooLarge: some part of it, or all together, would be too large.
        ValueError: a function of the sum has no finite value on some texts.
    """
    return _Builder(stage, strip_leading_space).whole(weight)


class _Builder:
    def __init__(self, stage: TextStage, strip: bool) -> None:
        self.stage, self.strip = stage, strip

    def whole(self, weight: TextWeight) -> WeightedAutomaton:
        parts = [self.constraints(weight.required)]
        for coefficient, count in weight.form.linear:
            parts.append(self.count(coefficient, count))
        for function in weight.form.functions:
            parts.append(self.function(function))
        return product(parts).to(self.stage.device)

    def constraints(self, required: tuple[Predicate, ...]) -> WeightedAutomaton:
        stage = self.stage
        site = automaton_of(stage, required, self.strip)
        if site.left_out:
            raise AutomatonTooLarge("the automaton of a requirement would be too large")
        return weighted_constraints(site)

    def count(self, coefficient: float, count: Count) -> WeightedAutomaton:
        vocab = self.stage.lm.vocab
        if count.of_tokens:
            return per_token(coefficient, vocab.size, vocab.eos_ids)
        try:
            running = count.counting.running(STATE_BUDGET, **dict(count.arguments))
        except TooManyStates as problem:
            raise AutomatonTooLarge(str(problem)) from problem
        # A token adds at most as many characters as it has bytes, but it may also complete one that
        # began before it, and decide that what was held back as a stop string is none.
        longest = max(map(len, vocab.token_bytes), default=0)
        held = max((len(stop) for stop in self.stage.stopping.before), default=0)
        most = running.most_change(longest + held + 4)
        modulus = 2 * most + 1
        return counted(self.steps(lambda: running.cyclic(modulus)), modulus, coefficient)

    def function(self, function: Function) -> WeightedAutomaton:
        radix = 1
        parts = []
        for atom in reversed(function.atoms):
            parts.append(self.atom(atom, radix))
            radix *= atom.size
        values = torch.tensor(function.values, dtype=torch.float64)
        return relabelled(product(parts[::-1]), values)

    def atom(self, atom: Atom, radix: int) -> WeightedAutomaton:
        """The log weight of a text is the value of the atom, `radix` times."""

        def label(values: np.ndarray) -> np.ndarray:
            return np.asarray(np.minimum(values, atom.most) * radix)

        if not isinstance(atom.of, Count):
            return truth(self.constraints((atom.of,)), radix)
        if atom.of.of_tokens:
            steps = self.steps(lambda: EVERYTHING)
            return by_tokens(steps, self.stage.max_tokens, label)
        counting, arguments = atom.of.counting, dict(atom.of.arguments)
        labels = tuple(range(1, atom.size + 1))
        budget = max(STATE_BUDGET, 4 * atom.size)
        return labelled(self.steps(lambda: counting.automaton(labels, budget, **arguments)), label)

    def steps(self, dfa: Callable[[], Dfa]) -> Steps:
        try:
            return compile_labels(
                dfa(),
                self.stage.lm.vocab,
                self.stage.stopping,
                self.strip,
            )
        except (TooManyStates, TableTooLarge) as problem:
            raise AutomatonTooLarge(str(problem)) from problem
