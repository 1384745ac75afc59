"""Weighted automata made of constraints and of one another."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmppl.automata import SiteAutomaton
from lmppl.automata.tokens import TokenAutomaton
from lmppl.finite.automaton import WeightedAutomaton

# Entries of the table of an automaton, states × token classes.
TABLE_ENTRIES = 1 << 24

# States are found level by level, those that one more token reaches: a level costs the same however
# few states are new in it, and there may be as many levels as states.
_MOST_LEVELS = 1 << 12


class AutomatonTooLarge(ValueError):
    """An automaton that needs more entries of a table than there is room for."""


def weighted_constraints(site: SiteAutomaton) -> WeightedAutomaton:
    """Weight 1 for the texts that satisfy the constraints of a site, 0 for all others.

    States are as those of the site's parts where there is one part, else of their product.
    What the site leaves out (`left_out`) is not followed here either.

    Raises:
        AutomatonTooLarge: a part has no table (its rows are made on demand), or the product of
            the parts is too large.
    """
    parts = [_of_part(part) for part in site.parts]
    return product(parts)


def no_constraints(
    vocab_size: int, eos_ids: Sequence[int], device: torch.device | str = "cpu"
) -> WeightedAutomaton:
    """Weight 1 for every text, which an end token ends: states 0 (open) and 1 (ended)."""
    token_class = torch.zeros(vocab_size, dtype=torch.long, device=device)
    token_class[list(eos_ids)] = 1
    step = torch.tensor([[0, 1], [1, 1]], device=device)
    ended = torch.tensor([False, True], device=device)
    final = torch.zeros(1, 2, dtype=torch.float64, device=device)
    return WeightedAutomaton(step, None, token_class, None, ended, final)


def _of_part(part: TokenAutomaton) -> WeightedAutomaton:
    steps, rule = part.steps, part.rule
    if steps.kind != "table":
        raise AutomatonTooLarge("the automaton of a constraint has no table over the vocabulary")
    ended, outputs = steps.ended[:-1], steps.outputs[:-1]
    counts = np.arange(part.max_tokens + 1)
    # An end token was drawn and is none of the text's tokens.
    own = np.where(
        (ended & ~steps.stopped[:-1])[None, :], (counts[:, None] - 1).clip(0), counts[:, None]
    )
    accepted = rule.accepts[outputs[None, :], ended.astype(int)[None, :], own]
    if not rule.counts_tokens:
        accepted = accepted[:1]
    final = torch.where(torch.from_numpy(accepted), 0.0, -math.inf).double()
    device = part.device
    return WeightedAutomaton(
        part.step[:-1].long(),
        None,
        part.token_class.long(),
        None,
        part.ended[:-1],
        final.to(device),
    )


def product(
    parts: Sequence[WeightedAutomaton], *, most_entries: int = TABLE_ENTRIES
) -> WeightedAutomaton:
    """The automaton whose weights are the products of those of `parts`.

    All are over the same vocabulary. A text has ended where one of them says so; those that know
    of no end (no end tokens, no stop strings) leave it to the others. Only tuples of states that
    tokens reach are made, and then those that weigh alike are merged.

    Raises:
        AutomatonTooLarge: more than `most_entries` states × token classes, or a state that no text
            of fewer than 4,096 tokens reaches.
    """
    first, *rest = parts
    found = merged(first)
    for part in rest:
        found = merged(_pair(found, merged(part), most_entries))
    return found


def _pair(a: WeightedAutomaton, b: WeightedAutomaton, most_entries: int) -> WeightedAutomaton:
    classes, token_class = torch.unique(
        a.token_class * b.num_classes + b.token_class, return_inverse=True
    )
    of_a, of_b = classes // b.num_classes, classes % b.num_classes
    number = torch.full((a.num_states * b.num_states,), -1, dtype=torch.long, device=a.device)
    number[0] = 0
    states = [number.new_zeros(1)]
    steps: list[Tensor] = []
    weights: list[Tensor] = []
    count = 1
    weighs = a.log_weight is not None or b.log_weight is not None
    while len(states[-1]):
        if len(steps) == _MOST_LEVELS:
            raise AutomatonTooLarge(f"states that only texts of {_MOST_LEVELS:,} tokens reach")
        at_a, at_b = states[-1] // b.num_states, states[-1] % b.num_states
        to_a, to_b = a.step[at_a][:, of_a], b.step[at_b][:, of_b]
        dead = (to_a < 0) | (to_b < 0)
        codes = torch.where(dead, -1, to_a * b.num_states + to_b)
        fresh = torch.unique(codes[codes >= 0])
        fresh = fresh[number[fresh] < 0]
        number[fresh] = torch.arange(count, count + len(fresh), device=a.device)
        count += len(fresh)
        if count * len(classes) > most_entries:
            raise AutomatonTooLarge(f"more than {most_entries:,} entries: states × kinds of tokens")
        steps.append(torch.where(dead, -1, number[codes.clamp_min(0)]))
        if weighs:
            own = torch.zeros(codes.shape, dtype=torch.float64, device=a.device)
            for weight, at, of in ((a.log_weight, at_a, of_a), (b.log_weight, at_b, of_b)):
                own = own if weight is None else own + weight[at][:, of]
            weights.append(own)
        states.append(fresh)
    every = torch.cat(states)
    at_a, at_b = every // b.num_states, every % b.num_states
    tokens = [each for each in (a.log_token, b.log_token) if each is not None]
    return WeightedAutomaton(
        torch.cat(steps),
        torch.cat(weights) if weighs else None,
        token_class,
        sum(tokens[1:], tokens[0]) if tokens else None,
        a.ended[at_a] | b.ended[at_b],
        a.log_final[:, at_a] + b.log_final[:, at_b],
    )


def merged(automaton: WeightedAutomaton) -> WeightedAutomaton:
    """The same weights with fewer states and classes.

    Moves to states from which every text weighs nothing are cut off; states that weigh alike from
    there on are merged (Moore 1956, with weights as part of what is told apart); so are tokens
    that then act alike.
    """
    step = automaton.step.cpu().numpy().copy()
    ended = automaton.ended.cpu().numpy()
    final = automaton.log_final.cpu().numpy()
    log_weight = automaton.log_weight
    weight = np.zeros(step.shape) if log_weight is None else log_weight.cpu().numpy().copy()
    step[np.isneginf(weight)] = -1
    step[ended] = -1
    alive: NDArray[np.bool_] = np.asarray((final > -math.inf).any(axis=0))
    while True:
        more = alive | ((step >= 0) & alive[step]).any(axis=1)
        if np.array_equal(more, alive):
            break
        alive = more
    # The first state stays, whatever it is worth.
    step[(step >= 0) & ~alive[step]] = -1
    weight[step < 0] = 0.0
    label = _numbered(np.concatenate([ended[None].astype(float), final]).T)
    while True:
        moved = np.where(step < 0, -1, label[step])
        new = _numbered(np.concatenate([label[:, None], moved, weight], axis=1))
        if new.max() == label.max():
            break
        label = new
    # Blocks are numbered by their first state, so that the first stays first.
    _, representative = np.unique(label, return_index=True)
    representative.sort()
    number = np.empty(len(representative), dtype=np.int64)
    number[label[representative]] = np.arange(len(representative))
    step = np.where(step < 0, -1, number[label[step]])[representative]
    weight = weight[representative]
    reached = _reached(step)
    renumber = np.cumsum(reached) - 1
    kept = np.flatnonzero(reached)
    step = np.where(step < 0, -1, renumber[step])[kept]
    weight, representative = weight[kept], representative[kept]
    columns = _numbered(np.concatenate([step, weight]).T)
    _, column = np.unique(columns, return_index=True)
    device = automaton.device
    token_class = torch.from_numpy(columns)[automaton.token_class.cpu()]
    weights = torch.from_numpy(weight[:, column])
    return WeightedAutomaton(
        torch.from_numpy(step[:, column]).to(device),
        weights.to(device) if bool((weights != 0).any()) else None,
        token_class.to(device),
        automaton.log_token,
        torch.from_numpy(ended[representative]).to(device),
        torch.from_numpy(final[:, representative]).to(device),
    )


def _numbered(rows: NDArray[np.generic]) -> NDArray[np.int64]:
    """`[n]`: numbers 0, 1, … of the distinct rows of `[n, k]`, by exact comparison."""
    plain = np.ascontiguousarray(rows, dtype=np.float64) + 0.0
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in plain])


def _reached(step: NDArray[np.int64]) -> NDArray[np.bool_]:
    reached = np.zeros(len(step), dtype=bool)
    reached[0] = True
    frontier = np.zeros(1, dtype=np.int64)
    while len(frontier):
        targets = np.unique(step[frontier])
        frontier = targets[(targets >= 0) & ~reached[targets]]
        reached[frontier] = True
    return reached
