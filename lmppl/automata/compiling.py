"""From constraints to the automata of one LM site: groups, tables and budgets."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lmppl.automata.dfa import (
    EVERYTHING,
    STATE_BUDGET,
    Dfa,
    TooManyStates,
    Work,
    minimise,
    product,
)
from lmppl.automata.ends import EndRule, conjuncts, split
from lmppl.automata.language import predicate_dfa
from lmppl.automata.machine import byte_machine
from lmppl.automata.predicates import Predicate, True_
from lmppl.automata.site import SiteAutomaton
from lmppl.automata.steps import Steps, ended_rows, levels_of
from lmppl.automata.stopping import NO_STOPPING, Stopping
from lmppl.automata.tables import (
    MOST_WORK,
    TableTooLarge,
    TokenTable,
    joint_table,
    successors,
    token_table,
    token_tree,
)
from lmppl.automata.tokens import TABLE_BUDGET, TokenAutomaton


class Vocabulary(Protocol):
    """What is needed of a language model's vocabulary; see `lmppl.lm`."""

    @property
    def size(self) -> int: ...
    @property
    def token_bytes(self) -> tuple[bytes, ...]: ...
    @property
    def eos_ids(self) -> frozenset[int]: ...
    @property
    def digest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class _Site:
    """What automata are built for."""

    vocab: Vocabulary
    stopping: Stopping
    strip_leading_space: bool
    max_tokens: int
    table_budget: int
    state_budget: int
    # What may be spent on joining tables, for all constraints of the site together.
    work: Work = field(default_factory=lambda: Work(2 * MOST_WORK), compare=False)

    def textual_table(self, predicate: Predicate, required: bool) -> TokenTable:
        """The table of one textual part; not required, no state counts as dead.

        Outputs are 0 and 1 where required, else 1 and 2.
        """
        dfa = predicate_dfa(predicate, self.state_budget)
        if not required:
            dfa = Dfa(dfa.alphabet, dfa.rows, tuple(output + 1 for output in dfa.outputs))
        return self.table_of(dfa)

    def table_of(self, dfa: Dfa) -> TokenTable:
        """The table of an automaton on characters, in which output 0 is hopeless."""
        key = (
            dfa.digest(),
            self.vocab.digest,
            self.stopping,
            self.strip_leading_space,
            self.table_budget,
        )
        found = _tables.get(key)
        if found is None:
            machine = byte_machine(dfa, self.stopping, self.strip_leading_space)
            found = _tables[key] = token_table(
                machine, [self.vocab.token_bytes[i] for i in self.other_tokens], self.table_budget
            )
            while len(_tables) > _TABLES_CACHED:
                _tables.popitem(last=False)
        _tables.move_to_end(key)
        return found

    @property
    def other_tokens(self) -> list[int]:
        """The tokens that are not end tokens."""
        return [i for i in range(self.vocab.size) if i not in self.vocab.eos_ids]

    def automaton(self, group: Sequence[Predicate]) -> tuple[Steps, EndRule]:
        """One automaton for a group of constraints.

        Raises:
            TooManyStates, TableTooLarge: it does not fit the budgets.
        """
        parts = split(group)
        tables = [self.textual_table(part, required=True) for part in parts.required]
        tables += [self.textual_table(part, required=False) for part in parts.consulted]
        if not tables:
            # Something has to know when a text has ended.
            tables = [self.textual_table(True_(), required=False)]
        if len(tables) == 1:
            table, truths = tables[0], tables[0].outputs[:, None]
        else:
            table, truths = joint_table(tables, self.table_budget, self.work)
        shift = np.array([0] * len(parts.required) + [1] * len(parts.consulted), dtype=np.int32)
        truths = truths[:-1, : len(shift)] - shift
        found, inverse = np.unique(truths, axis=0, return_inverse=True)
        outputs, rule = parts.rule(
            [tuple(bool(value) for value in row) for row in found], self.max_tokens
        )
        outputs_of = np.array(outputs)[inverse.reshape(-1)]
        return self.with_ends(table, outputs_of, len(rule.accepts)), rule

    def with_ends(self, table: TokenTable, outputs: NDArray[np.integer], num_outputs: int) -> Steps:
        """The table with the states after an end token, and the end tokens' column."""
        num_states = len(outputs)
        num_classes, num_rows = table.step.shape[1], num_states + num_outputs + 1
        dtype = np.int16 if num_rows < 2**15 else np.int32
        has_eos = bool(self.vocab.eos_ids)
        step = np.full((num_rows, num_classes + has_eos), -1, dtype=dtype)
        step[:num_states, :num_classes] = table.step[:-1]
        step[num_states:-1] = np.arange(num_states, num_states + num_outputs)[:, None]
        token_class = np.full(self.vocab.size, num_classes, dtype=np.int64)
        token_class[self.other_tokens] = table.token_class
        stopped = table.stopped[:-1]
        if has_eos:
            # A text that has ended stays as it is, whatever is fed.
            step[:num_states, num_classes] = np.where(
                stopped, np.arange(num_states), num_states + outputs
            )
        targets, bounds = successors(step, num_rows - 1)
        return Steps(
            "table", step, token_class, *ended_rows(outputs, stopped, num_outputs), targets, bounds
        )

    def alone(self, constraint: Predicate) -> tuple[Steps, EndRule]:
        """The automaton of one constraint: a table, or rows on demand where that is too large.

        Raises:
            TooManyStates: neither fits its budget.
        """
        try:
            return self.automaton([constraint])
        except TableTooLarge:
            return self.on_demand(constraint)

    def on_demand(self, constraint: Predicate) -> tuple[Steps, EndRule]:
        """An automaton for a constraint that has no table; states are those of a byte machine.

        Raises:
            TooManyStates: it does not fit the budget.
        """
        parts = split([constraint])
        textual = [*parts.required, *parts.consulted]
        dfas = [predicate_dfa(part, self.state_budget) for part in textual] or [EVERYTHING]
        bits = list(itertools.product((False, True), repeat=len(textual)))
        outputs, rule = parts.rule(bits, self.max_tokens)
        output_of = dict(zip(bits, outputs, strict=True))

        def output(found: tuple[int, ...]) -> int:
            return output_of[tuple(map(bool, found[: len(textual)]))]

        both = product(dfas, output, self.state_budget)
        machine = byte_machine(minimise(both), self.stopping, self.strip_leading_space)
        num_outputs = len(rule.accepts)
        # An end token adds nothing to the text, whatever bytes a tokenizer has for it.
        token_bytes = [
            b"" if i in self.vocab.eos_ids else token
            for i, token in enumerate(self.vocab.token_bytes)
        ]
        after = np.where(np.arange(num_outputs) > 0, 0.0, math.inf)
        steps = Steps(
            "on demand",
            np.zeros((machine.num_states + num_outputs + 1, 0), dtype=np.int32),
            np.zeros(0, dtype=np.int64),
            *ended_rows(machine.outputs, machine.stopped, num_outputs),
            np.zeros(0, dtype=np.int64),
            np.zeros(0, dtype=np.int64),
            bytes_to_end=np.concatenate([machine.bytes_to_end(), after, [math.inf]]),
            longest_token=max(map(len, token_bytes), default=0),
            machine=machine,
            tree=token_tree(token_bytes, machine.byte_class),
        )
        return steps, rule


# Tables of single constraints, shared between sites and runs.
_tables: OrderedDict[object, TokenTable] = OrderedDict()
_TABLES_CACHED = 32


def compile_constraint(
    predicates: Sequence[Predicate],
    vocab: Vocabulary,
    stopping: Stopping = NO_STOPPING,
    max_tokens: int = 1,
    strip_leading_space: bool = False,
    *,
    device: torch.device | str = "cpu",
    table_budget: int = TABLE_BUDGET,
    state_budget: int = STATE_BUDGET,
) -> SiteAutomaton:
    """The automaton of an LM site that has to satisfy all predicates.

    `stopping` is what ends the site's texts; the automaton also says when it has come, so it is
    useful without predicates.  `strip_leading_space` is for SentencePiece-style vocabularies where
    nothing comes before the text.  Tables take at most `table_budget` bytes each.
    A predicate that needs more than `state_budget` states is left out.

    Raises:
        NotRegular: a pattern that no finite automaton decides.
        ValueError: an empty stop string, or one that contains U+FFFD.
    """
    if max_tokens < 0:
        raise ValueError("max_tokens must not be negative")
    constraints = conjuncts(predicates)
    site = _Site(
        vocab,
        stopping,
        strip_leading_space,
        max_tokens,
        table_budget,
        state_budget,
    )

    key = (
        tuple(constraints),
        site.stopping,
        vocab.digest,
        strip_leading_space,
        max_tokens,
        table_budget,
        state_budget,
    )
    found = _sites.get(key)
    if found is None:
        found = _sites[key] = _build(constraints, site)
        while len(_sites) > _SITES_CACHED:
            _sites.popitem(last=False)
    _sites.move_to_end(key)
    return found.to(device)


def compile_labels(
    dfa: Dfa,
    vocab: Vocabulary,
    stopping: Stopping = NO_STOPPING,
    strip_leading_space: bool = False,
    *,
    table_budget: int = TABLE_BUDGET,
    state_budget: int = STATE_BUDGET,
) -> Steps:
    """What an automaton says of texts, followed token by token up to their end.

    `dfa` has outputs from 1 up, and `Steps.outputs` are those of the text if it ends there.

    Raises:
        TableTooLarge: the table would take more than `table_budget` bytes.
        TooManyStates: the machine on bytes would be too large.
    """
    site = _Site(vocab, stopping, strip_leading_space, 0, table_budget, state_budget)
    table = site.table_of(dfa)
    return site.with_ends(table, table.outputs[:-1], max(dfa.outputs) + 1)


# Automata of recent sites, on the CPU: MCMC and SVI ask for the same one again and again.
_sites: OrderedDict[object, SiteAutomaton] = OrderedDict()
_SITES_CACHED = 16


def _build(constraints: Sequence[Predicate], site: _Site) -> SiteAutomaton:
    left_out: tuple[Predicate, ...] = ()
    try:
        built = [site.automaton(constraints)]
    except (TooManyStates, TableTooLarge):
        built, left_out = _grouped(constraints, site)
    parts = tuple(
        TokenAutomaton(
            steps,
            rule,
            site.max_tokens,
            site.vocab.size,
            tuple(sorted(site.vocab.eos_ids)),
            levels_of(steps, rule, site.max_tokens),
            torch.device("cpu"),
        )
        for steps, rule in built
    )
    is_exact = len(parts) == 1 and parts[0].steps.kind == "table" and not left_out
    return SiteAutomaton(site.max_tokens, parts, is_exact, left_out)


def _grouped(
    constraints: Sequence[Predicate], site: _Site
) -> tuple[list[tuple[Steps, EndRule]], tuple[Predicate, ...]]:
    """Groups of constraints that fit the budget together, as few as a greedy choice finds.

    Also the constraints that have no automaton even by themselves.
    """
    groups: list[tuple[list[Predicate], tuple[Steps, EndRule]]] = []
    left_out: list[Predicate] = []
    for constraint in constraints or [True_()]:
        for position, (group, (steps, _)) in enumerate(groups):
            if steps.kind == "on demand":
                continue
            try:
                groups[position] = ([*group, constraint], site.automaton([*group, constraint]))
                break
            except (TooManyStates, TableTooLarge):
                continue
        else:
            try:
                groups.append(([constraint], site.alone(constraint)))
            except TooManyStates:
                left_out.append(constraint)
    # Something has to know when a text has ended.
    built = [steps for _, steps in groups] or [site.automaton([])]
    return built, tuple(left_out)
