"""Weighted automata made of automata that say something of every text: labels and counts."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lmppl.automata.steps import Steps
from lmppl.finite.automaton import WeightedAutomaton


def labelled(steps: Steps, label: Callable[[np.ndarray], np.ndarray]) -> WeightedAutomaton:
    """The log weight of a text is the `label` of what an automaton says of it, 0, 1, …

    `steps` are of `compile_labels`, whose outputs are from 1 up.
    """
    final = label(steps.outputs[:-1] - 1).astype(np.float64)
    return _automaton(steps, None, torch.from_numpy(final)[None])


def counted(steps: Steps, modulus: int, coefficient: float) -> WeightedAutomaton:
    """The log weight of a text is a count times `coefficient`, added up as the text goes on.

    `steps` are of the count modulo `modulus` (see `Running.cyclic`), which no token changes by half
    of that. −∞ as a coefficient weighs the texts that count nothing.
    """
    count = torch.from_numpy(steps.outputs[:-1].astype(np.int64)) - 1
    where = torch.from_numpy(steps.step[:-1].astype(np.int64))
    change = torch.remainder(count[where.clamp_min(0)] - count[:, None], modulus)
    change = torch.where(change > modulus // 2, change - modulus, change).double()
    begun = float(count[0] if count[0] <= modulus // 2 else count[0] - modulus)
    # 0 · ∞ is nothing: what does not change the count does not weigh.
    weight = torch.where(change == 0, 0.0, coefficient * change)
    final = torch.full((1, len(count)), coefficient * begun if begun else 0.0).double()
    return _automaton(steps, weight, final)


def by_tokens(
    steps: Steps, max_tokens: int, label: Callable[[np.ndarray], np.ndarray]
) -> WeightedAutomaton:
    """The log weight of a text is the `label` of how many tokens it has, end tokens not counted.

    `steps` are of any automaton; only where texts end is looked at.
    """
    drawn = np.arange(max_tokens + 1)[:, None]
    by_end_token = (steps.ended & ~steps.stopped)[None, :-1]
    own = np.where(by_end_token, (drawn - 1).clip(0), drawn)
    return _automaton(steps, None, torch.from_numpy(label(own).astype(np.float64)))


def per_token(coefficient: float, vocab_size: int, end_tokens: frozenset[int]) -> WeightedAutomaton:
    """The log weight of a text is `coefficient` for each token that is no end token."""
    scores = torch.full((vocab_size,), coefficient, dtype=torch.float64)
    scores[list(end_tokens)] = 0.0
    return WeightedAutomaton(
        torch.zeros(1, 1, dtype=torch.long),
        None,
        torch.zeros(vocab_size, dtype=torch.long),
        scores,
        torch.zeros(1, dtype=torch.bool),
        torch.zeros(1, 1, dtype=torch.float64),
    )


def truth(weighted: WeightedAutomaton, radix: float) -> WeightedAutomaton:
    """The log weight of a text is `radix` where `weighted` gives it weight 1, else 0.

    `weighted` is of constraints (see `weighted_constraints`): what cannot satisfy them any more
    goes on in a state of its own, in which nothing is said of an end.
    """
    sink = weighted.num_states
    step = torch.cat([weighted.step, weighted.step.new_full((1, weighted.num_classes), sink)])
    final = torch.where(weighted.log_final > -math.inf, radix, 0.0)
    return WeightedAutomaton(
        step.masked_fill(step < 0, sink),
        None,
        weighted.token_class,
        None,
        torch.cat([weighted.ended, weighted.ended.new_zeros(1)]),
        torch.cat([final, final.new_zeros(len(final), 1)], 1),
    )


def relabelled(coded: WeightedAutomaton, values: Tensor) -> WeightedAutomaton:
    """The log weight of a text is the entry of `values` of which `coded` has the number.

    Raises:
        ValueError: an entry that a text may have is NaN or +∞.
    """
    final = values[coded.log_final.round().long()]
    used = torch.ones_like(final, dtype=torch.bool)
    if len(final) > 1:
        # Texts that were cut have all their tokens, those that ended at least one.
        used[:-1] = coded.ended
        used[0] = False
    if bool((torch.isnan(final) | (final == math.inf))[used].any()):
        raise ValueError("it has no finite value on some texts")
    final = torch.where(torch.isnan(final), -math.inf, final)
    return WeightedAutomaton(coded.step, None, coded.token_class, None, coded.ended, final.double())


def _automaton(steps: Steps, weight: Tensor | None, final: Tensor) -> WeightedAutomaton:
    return WeightedAutomaton(
        torch.from_numpy(steps.step[:-1].astype(np.int64)),
        weight,
        torch.from_numpy(steps.token_class.astype(np.int64)),
        None,
        torch.from_numpy(steps.ended[:-1]),
        final,
    )
