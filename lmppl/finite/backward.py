"""The pass from the end of a text to its beginning: what may be expected of what is to come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmppl.finite.automaton import WeightedAutomaton
from lmppl.finite.prior import FiniteStateLM
from lmppl.records import brief

# What the tables of one pass may take in memory, in bytes.
TABLES_BUDGET = 1 << 30


class TablesTooLarge(ValueError):
    """The tables of a backward pass would not fit their budget; `num_bytes` is what they take."""

    def __init__(self, num_bytes: int, budget: int) -> None:
        self.num_bytes = num_bytes
        super().__init__(
            f"the tables of values would take {num_bytes / 2**20:,.0f} MiB, and there are"
            f" {budget / 2**20:,.0f} MiB for them"
        )


@dataclass(frozen=True, slots=True)
class BackwardTables:
    """What is to be expected of a text from each place on, under a prior and an automaton.

    `log_value[r]` `[S, A]` is, for a text that is in state s of the prior and a of the automaton
    and has r tokens to go, the log of the expected weight of all that is still to come (moves,
    tokens and the end; not what came before):

        value[0][s, a] = log_final(a, cut)
        value[r][s, a] = log_final(a, ended)                             where a has ended
                       = log Σ_v p(v | s) w(a, v) E exp(value[r−1][s', δ(a, v)])   elsewhere

    −∞: it will weigh nothing. That is the optimal twist where the prior is exact, and a twist
    all the same where it is not.
    """

    prior: FiniteStateLM
    automaton: WeightedAutomaton
    log_value: Tensor

    __repr__ = brief

    @property
    def max_tokens(self) -> int:
        return self.log_value.shape[0] - 1

    def log_evidence(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """`[n]` float64: the log of the expected weight of a whole text after each prompt."""
        beliefs = self.prior.begin(prompts)
        return self.prior.log_expected(
            beliefs, self.log_value[-1], self.automaton.start(len(prompts))
        )

    def log_ahead(self, beliefs: Tensor, states: Tensor, remaining: int) -> Tensor:
        """`[n, V]`: what is to be expected after each next token, its own weight included.

        `remaining` ≥ 1 tokens are to go, the next one included; `states` `[n]` are the
        automaton's, none of them dead or ended.
        """
        return self.prior.log_ahead(beliefs, self.automaton, states, self.log_value[remaining - 1])


def backward(
    prior: FiniteStateLM,
    automaton: WeightedAutomaton,
    max_tokens: int,
    *,
    budget: int = TABLES_BUDGET,
    keep: torch.dtype = torch.float64,
    correction: Tensor | None = None,
) -> BackwardTables:
    """The tables for texts of at most `max_tokens` tokens.

    With a `correction` `[A, C]` tokens are e^correction times as likely by their class and the
    state of the automaton, and then as likely together as they should be.

    Computed in float64, in time (states of the prior) × (vocabulary) × (states of the automaton)
    for each token at most. `keep` is the type in which the tables are kept: float32 does for a
    guide, and takes half the memory.

    Raises:
        TablesTooLarge: they would take more than `budget` bytes.
        ValueError: the automaton was made for another number of tokens or another vocabulary.
    """
    if automaton.max_tokens not in (None, max_tokens):
        raise ValueError(f"the automaton is for {automaton.max_tokens} tokens, not {max_tokens}")
    if automaton.vocab_size != prior.vocab_size:
        raise ValueError(
            f"an automaton over {automaton.vocab_size} tokens, a prior over {prior.vocab_size}"
        )
    shape = (max_tokens + 1, prior.num_states, automaton.num_states)
    num_bytes = torch.Size(shape).numel() * torch.finfo(keep).bits // 8
    if num_bytes > budget:
        raise TablesTooLarge(num_bytes, budget)
    log_value = torch.empty(shape, dtype=keep, device=prior.device)
    for remaining, current in enumerate(_levels(prior, automaton, max_tokens, correction)):
        log_value[remaining] = current
    return BackwardTables(prior, automaton, log_value)


def log_count(prior: FiniteStateLM, automaton: WeightedAutomaton, max_tokens: int) -> float:
    """The log of how many texts have a positive weight and a positive prior, at most.

    Exact where the automaton's weights are 0 and 1 and the states of the prior are known.
    """
    counting = prior.support()
    *_, last = _levels(counting, automaton, max_tokens)
    return float(counting.log_expected(counting.begin([()]), last, automaton.start(1)))


def corrected(
    automaton: WeightedAutomaton, correction: Tensor
) -> tuple[WeightedAutomaton, WeightedAutomaton]:
    """An automaton whose moves weigh the `correction` as well, and one in which these are all that
    weighs and nothing moves: what tokens come to together with their corrections."""
    weight = automaton.log_weight
    states = torch.arange(automaton.num_states, device=automaton.device)
    return (
        replace(automaton, log_weight=correction if weight is None else weight + correction),
        replace(
            automaton,
            step=states.unsqueeze(-1).expand_as(automaton.step).contiguous(),
            log_weight=correction,
            log_token=None,
        ),
    )


def _levels(
    prior: FiniteStateLM,
    automaton: WeightedAutomaton,
    max_tokens: int,
    correction: Tensor | None = None,
) -> Iterator[Tensor]:
    log_total: Tensor | float = 0.0
    if correction is not None:
        automaton, alone = corrected(automaton, correction)
        shape = prior.num_states, automaton.num_states
        log_total = prior.pull(alone)(torch.zeros(shape, dtype=torch.float64, device=prior.device))
    pull = prior.pull(automaton)
    current = automaton.final(max_tokens).expand(prior.num_states, -1).clone()
    yield current
    ended = automaton.ended
    for remaining in range(1, max_tokens + 1):
        current = pull(current) - log_total
        current[:, ended] = automaton.final(max_tokens - remaining)[ended]
        yield current
