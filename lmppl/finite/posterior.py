"""The posterior of one text under a finite-state prior and a weighted automaton: exact answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmppl.finite.backward import BackwardTables
from lmppl.records import brief

# A number in [0, 1) for each row of a step: the rows `[n]`, the step.
Uniforms = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, slots=True)
class Summary:
    """What is true of the texts of a posterior, exactly but for rounding.

    `tokens` `[max_tokens, V]` is the probability of each token at each place; rows sum to the
    probability that the text has so many tokens. `log_weight` is the mean log weight of a text,
    so that KL(posterior ‖ prior) is that less the log evidence. `log_prior` is the mean log of what
    the prior gives a text, and `entropy` (nats) that of the text as tokens; None where the prior's
    states are hidden.
    """

    tokens: Tensor
    log_evidence: float
    log_weight: float
    log_prior: float | None
    entropy: float | None

    __repr__ = brief

    @property
    def kl_to_prior(self) -> float:
        """KL(posterior ‖ prior) in nats."""
        return self.log_weight - self.log_evidence


@dataclass(frozen=True, slots=True)
class Drawn:
    """Independent draws of a posterior: `tokens` `[n, max_tokens]` (0 past the end), `lengths`
    `[n]` (an end token included), and the log probability of each under the posterior, `[n]`."""

    tokens: Tensor
    lengths: Tensor
    log_prob: Tensor

    __repr__ = brief


def summary(tables: BackwardTables, prompt: Sequence[int] = ()) -> Summary:
    """The summary of the texts after a prompt, whose evidence must not be zero."""
    prior, automaton = tables.prior, tables.automaton
    log_evidence = float(tables.log_evidence([prompt]))
    belief = prior.begin([prompt])
    reached = torch.zeros_like(tables.log_value[0])
    reached[:, 0] = _spread(belief, tables.log_value[-1][:, 0], log_evidence)
    mean = torch.zeros((), dtype=torch.float64)
    log_prior = torch.zeros((), dtype=torch.float64)
    is_known = True
    rows = []
    for remaining in range(tables.max_tokens, 0, -1):
        here, later = tables.log_value[remaining], tables.log_value[remaining - 1]
        step = prior.forward(automaton, reached, here, later)
        rows.append(step.tokens)
        mean = mean + step.log_weight
        if step.log_prob is None:
            is_known = False
        else:
            log_prior = log_prior + step.log_prob
        reached = step.reached
        over = automaton.ended if remaining > 1 else torch.ones_like(automaton.ended)
        final = automaton.final(tables.max_tokens - remaining + 1)[over]
        at_end = reached[:, over].sum(0)
        mean = mean + (at_end * final.masked_fill(final == -math.inf, 0.0)).sum()
        reached = reached.masked_fill(over, 0.0)
    entropy = float(log_evidence - mean - log_prior) if is_known else None
    known = float(log_prior) if is_known else None
    return Summary(torch.stack(rows), log_evidence, float(mean), known, entropy)


def _spread(belief: Tensor, log_value: Tensor, log_evidence: float) -> Tensor:
    """`[S]`: the posterior probability of each state before the first token."""
    if belief.dtype == torch.long:
        found = torch.zeros_like(log_value)
        found[belief[0]] = 1.0
        return found
    return (belief[0] + log_value - log_evidence).exp()


def draw(
    tables: BackwardTables, num_draws: int, uniforms: Uniforms, prompt: Sequence[int] = ()
) -> Drawn:
    """Independent draws of the texts after a prompt, whose evidence must not be zero.

    Token by token from p(v) · value(behind v) / value(here), which is the posterior itself.
    """
    prior, automaton, size = tables.prior, tables.automaton, tables.max_tokens
    tokens = torch.zeros(num_draws, size, dtype=torch.long, device=prior.device)
    lengths = torch.zeros(num_draws, dtype=torch.long, device=prior.device)
    log_prob = torch.zeros(num_draws, dtype=torch.float64, device=prior.device)
    open_rows = torch.arange(num_draws, device=prior.device)
    beliefs = prior.begin([prompt])[torch.zeros_like(open_rows)]
    states = automaton.start(num_draws)
    for step in range(size):
        if not len(open_rows):
            break
        ahead = tables.log_ahead(beliefs, states, size - step)
        scores = prior.log_probs(beliefs) + ahead
        scores = scores - torch.logsumexp(scores, -1, keepdim=True)
        cumulative = scores.exp().cumsum(-1)
        total = cumulative[:, -1]
        below = torch.nextafter(total, torch.zeros_like(total))
        point = torch.minimum(uniforms(open_rows, step) * total, below)
        drawn = torch.searchsorted(cumulative, point[:, None], right=True).squeeze(1)
        tokens[open_rows, step] = drawn
        log_prob[open_rows] += scores.gather(1, drawn[:, None]).squeeze(1)
        lengths[open_rows] = step + 1
        beliefs, states = prior.advance(beliefs, drawn), automaton.advance(states, drawn)
        going_on = ~automaton.ended[states]
        open_rows, beliefs, states = open_rows[going_on], beliefs[going_on], states[going_on]
    return Drawn(tokens, lengths, log_prob)
