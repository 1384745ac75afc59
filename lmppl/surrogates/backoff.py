"""An n-gram model with sparse tables as a language model with finitely many states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lmppl.finite.automaton import WeightedAutomaton
from lmppl.finite.prior import Pull
from lmppl.records import brief
from lmppl.surrogates.counts import ContextCounts, Ints
from lmppl.surrogates.pulling import BackoffPull
from lmppl.surrogates.smoothing import Smoothed


@dataclass(frozen=True, slots=True)
class BackoffLM:
    """An interpolated n-gram model; its state is the longest context that it knows.

    Tables grow with what was counted and never with the square of the vocabulary: they are float64
    and int64, and S states, V tokens and A counted pairs take about 40 S + 16 V + 80 A bytes.

    `parent`, `rest` `[S]`, `root`, `root_after` `[V]` and, of the counted pairs, `token`, `own`,
    `whole`, `shorter`, `after`, `after_shorter` `[A]` are as in `Smoothed`. `level` `[S]` is how
    many tokens a context has, `source` `[A]` whose a pair is, `first` `[S + 1]` which pairs are of
    a state, and `key` `[A]` is source × V + token, in order.

    `child_key` `[S − 1]` are the contexts as parent × (V + 1) + oldest token, in order, and `child`
    their numbers.

    `family` `[S]` numbers states that agree where every token leads; `strays` are the pairs of a
    family and a token that lead elsewhere than from the empty context: those of family f are
    `stray_token`, `stray_after` at `stray_first[f]:stray_first[f + 1]`; `stray_key` is family × V +
    token.

    A belief is the number of a state.
    """

    level: Tensor
    parent: Tensor
    rest: Tensor
    root: Tensor
    root_after: Tensor
    first: Tensor
    source: Tensor
    token: Tensor
    own: Tensor
    whole: Tensor
    shorter: Tensor
    after: Tensor
    after_shorter: Tensor
    key: Tensor
    child_key: Tensor
    child: Tensor
    family: Tensor
    stray_first: Tensor
    stray_token: Tensor
    stray_after: Tensor
    stray_key: Tensor

    __repr__ = brief

    @classmethod
    def of(cls, counts: ContextCounts, smooth: Smoothed) -> BackoffLM:
        """The model of smoothed counts."""
        vocab, source = counts.vocab_size, counts.sources()
        family, first, token, after = _families(counts, smooth)
        owner = np.repeat(np.arange(len(first) - 1), np.diff(first))
        contexts = counts.parent[1:] * (vocab + 1) + counts.oldest[1:]
        order = np.argsort(contexts, kind="stable")
        tables = {
            "level": counts.levels(),
            "parent": counts.parent,
            "first": counts.first,
            "source": source,
            "token": counts.token,
            "key": source * vocab + counts.token,
            "child_key": contexts[order],
            "child": order + 1,
            "family": family,
            "stray_first": first,
            "stray_token": token,
            "stray_after": after,
            "stray_key": owner * vocab + token,
        }
        tables |= {name: getattr(smooth, name) for name in smooth.__slots__}
        return cls(**{name: torch.from_numpy(each.copy()) for name, each in tables.items()})

    @property
    def num_states(self) -> int:
        return self.parent.shape[0]

    @property
    def vocab_size(self) -> int:
        return self.root.shape[0]

    @property
    def device(self) -> torch.device:
        return self.root.device

    def to(self, device: torch.device | str) -> BackoffLM:
        """The same model with its tables on another device."""
        return BackoffLM(**{name: getattr(self, name).to(device) for name in self.__slots__})

    def begin(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """`[n]`: the states before the first token."""
        states = [self.state_after((self.vocab_size, *prompt)) for prompt in prompts]
        return torch.tensor(states, dtype=torch.long, device=self.device)

    def state_after(self, tokens: Sequence[int]) -> int:
        """The longest context that some tokens end in; V stands for the beginning of a text.

        By looking contexts up and not by going from one to the next: a prompt may hold what no
        text does.
        """
        state = 0
        for older in reversed(tokens):
            wanted = torch.tensor([state * (self.vocab_size + 1) + older], device=self.device)
            place, known = _found(self.child_key, wanted)
            if not bool(known):
                break
            state = int(self.child[place])
        return state

    def advance(self, beliefs: Tensor, tokens: Tensor) -> Tensor:
        """`[n]`: the states after one more token each."""
        place, strays = _found(self.stray_key, self.family[beliefs] * self.vocab_size + tokens)
        usual = self.root_after[tokens]
        if not self.stray_after.shape[0]:
            return usual
        return torch.where(strays, self.stray_after[place], usual)

    def log_prob_of(self, beliefs: Tensor, tokens: Tensor) -> Tensor:
        """float64 `[n]`: the log probability of one token each."""
        probs = self.root[tokens]
        # From the shortest context that a state ends in to the state itself.
        chain = [beliefs]
        for _ in range(1, int(self.level.max())):
            chain.append(self.parent[chain[-1]])
        for context in reversed(chain):
            place, own = _found(self.key, context * self.vocab_size + tokens)
            added = torch.where(own, self.own[place], 0.0)
            probs = torch.where(context > 0, added + self.rest[context] * probs, probs)
        return probs.log()

    def log_probs(self, beliefs: Tensor) -> Tensor:
        """float64 `[n, V]`: the log probability of every token next; all finite."""
        distinct, inverse = torch.unique(beliefs, return_inverse=True)
        probs = self.root.expand(distinct.shape[0], -1).clone()
        chain = [distinct]
        for _ in range(1, int(self.level.max())):
            chain.append(self.parent[chain[-1]])
        for contexts in reversed(chain):
            rows = (contexts > 0).nonzero().squeeze(-1)
            probs[rows] *= self.rest[contexts[rows], None]
            of, pairs = _spans(self.first, contexts[rows])
            probs[rows[of], self.token[pairs]] += self.own[pairs]
        return probs.log()[inverse]

    def log_expected(self, beliefs: Tensor, log_value: Tensor, states: Tensor) -> Tensor:
        """`[n]`: the values of the rows' states."""
        found = log_value[beliefs, states.clamp_min(0)]
        return found.masked_fill(states < 0, -math.inf)

    def log_ahead(
        self,
        beliefs: Tensor,
        automaton: WeightedAutomaton,
        states: Tensor,
        log_next: Tensor,
    ) -> Tensor:
        """`[n, V]`: what is to be expected after each token, in the type of `log_next`.

        A row of the table for every state of the automaton, and then the few tokens that lead
        elsewhere after what the row's text ends in.
        """
        distinct, inverse = torch.unique(states, return_inverse=True)
        where, weights = automaton.moves(distinct)
        found = log_next[self.root_after, where.clamp_min(0)].masked_fill(where < 0, -math.inf)
        result = found.index_select(0, inverse)
        of, strays = _spans(self.stray_first, self.family[beliefs])
        token, at = self.stray_token[strays], where[inverse[of], self.stray_token[strays]]
        other = log_next[self.stray_after[strays], at.clamp_min(0)]
        result[of, token] = other.masked_fill(at < 0, -math.inf)
        return (
            result
            if weights is None
            else result + weights.to(result.dtype).index_select(0, inverse)
        )

    def powered(self, exponent: float) -> BackoffLM:
        """Every text with its probability to this power, not normalised: for `pull` and what it
        gives, and no distribution any more.

        A counted pair has its own probability, and any other token `rest` times what it has in the
        shorter context; so have their powers.

        Raises:
            ValueError: the power is not above 0: no text would be too unlikely to count most.
        """
        if exponent <= 0.0:
            raise ValueError("a surrogate has no sum of negative powers")
        rest, shorter = self.rest**exponent, self.shorter**exponent
        whole = self.whole**exponent
        return replace(
            self,
            root=self.root**exponent,
            rest=rest,
            whole=whole,
            shorter=shorter,
            own=(whole - rest[self.source] * shorter)
            .clamp_min(0.0)
            .masked_fill(self.source == 0, 0.0),
        )

    def pull(self, automaton: WeightedAutomaton) -> Pull:
        """One step of the backward pass, in time (counted pairs) × (states of the automaton)."""
        return BackoffPull(self, automaton)


def _found(keys: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Where `wanted` stand among sorted `keys`, and whether they do."""
    if not keys.shape[0]:
        return torch.zeros_like(wanted), torch.zeros_like(wanted, dtype=torch.bool)
    place = torch.searchsorted(keys, wanted).clamp_max(keys.shape[0] - 1)
    return place, keys[place] == wanted


def _spans(first: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of `numbers` `[n]` and the places `first[number] … first[number + 1]` of each."""
    begin = first[numbers]
    sizes = first[numbers + 1] - begin
    of = torch.repeat_interleave(torch.arange(len(numbers), device=numbers.device), sizes)
    offset = torch.arange(of.shape[0], device=of.device) - (sizes.cumsum(0) - sizes)[of]
    return of, begin[of] + offset


def _families(counts: ContextCounts, smooth: Smoothed) -> tuple[Ints, Ints, Ints, Ints]:
    """The family of every state; where the strays of each begin, their tokens and where they lead.

    A context leads where its parent does but for the pairs whose `after` differs: where there are
    none, it is of its parent's family.
    """
    own = (smooth.after != smooth.after_shorter).nonzero()[0]
    begins = np.searchsorted(own, counts.first)
    token, after = counts.token[own].tolist(), smooth.after[own].tolist()
    family = np.zeros(counts.num_contexts, np.int64)
    tables: list[dict[int, int]] = [{}]
    for context in range(1, counts.num_contexts):
        up = family[counts.parent[context]]
        first, last = begins[context], begins[context + 1]
        if first == last:
            family[context] = up
            continue
        family[context] = len(tables)
        tables.append(tables[up] | dict(zip(token[first:last], after[first:last], strict=True)))
    sizes = np.array([len(table) for table in tables])
    pairs = [pair for table in tables for pair in sorted(table.items())]
    flat = np.array(pairs, np.int64).reshape(-1, 2)
    return family, np.concatenate([[0], np.cumsum(sizes)]), flat[:, 0], flat[:, 1]
