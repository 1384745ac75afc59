"""Kinds of moves of a text, how often each is made, and what each has brought so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmppl.density import Traces
from lmppl.inference.mcmc import MCMC
from lmppl.inference.moves import Move

# In this order one uniform number picks among them; the last has what the others leave.
KINDS = ("block", "infill", "particles", "suffix")
# Where shares are found in warm-up: a few particle moves are enough to see what they cost.
_FIRST_SHARES = (0.3, 0.3, 0.1, 0.3)
# Of all tokens that are computed, this share goes to every kind, whatever it brings.
_LEAST = 0.05


@dataclass(frozen=True, slots=True)
class Mix:
    """`shares` of the moves by kind, and sums over the moves that were made.

    `tried` and `accepted` count moves, `computed` the tokens that they took, and `jumped` adds up
    the squared distances that they went, in log prior and in log potentials (nats²). All are by
    kind, `[kinds]` float64.
    """

    shares: tuple[float, ...]
    tried: Tensor
    accepted: Tensor
    computed: Tensor
    jumped: Tensor

    @classmethod
    def begin(cls, settings: MCMC) -> Mix:
        """The shares that the settings say, or those that warm-up begins with."""
        none = torch.zeros(len(KINDS), dtype=torch.float64)
        if settings.adapt:
            return cls(_FIRST_SHARES, none, none, none, none)
        asked = (
            settings.block_probability,
            settings.infill_probability,
            settings.particle_probability,
        )
        rest = max(0.0, 1.0 - sum(asked))
        total = sum(asked) + rest
        return cls((*(each / total for each in asked), rest / total), none, none, none, none)

    def picked(self, pick: float, *, try_all: bool = False) -> int:
        """The kind that a uniform number picks; before that, each once, if all are to be tried."""
        untried = (self.tried == 0).tolist()
        if try_all and True in untried:
            return untried.index(True)
        for kind, share in enumerate(self.shares[:-1]):
            if pick < share:
                return kind
            pick -= share
        return len(KINDS) - 1

    def recorded(self, kind: int, old: Traces, move: Move) -> Mix:
        """The sums with one more move of every chain, from `old`."""
        gone = (move.traces.total_log_prior() - old.total_log_prior()) ** 2
        gone += (move.traces.total_log_potential() - old.total_log_potential()) ** 2

        def plus(column: Tensor, value: float) -> Tensor:
            added = column.clone()
            added[kind] += value
            return added

        return replace(
            self,
            tried=plus(self.tried, float(old.num_rows)),
            accepted=plus(self.accepted, float(move.accepted.sum())),
            computed=plus(self.computed, float(move.num_computed)),
            jumped=plus(self.jumped, float(gone.sum())),
        )

    def adapted(self) -> Mix:
        """Shares that give each kind tokens in proportion to the squared distance that one brings
        (Pasarica and Gelman 2010, "Adaptively scaling the Metropolis algorithm using expected
        squared jumped distance"), once each was tried."""
        if bool((self.tried == 0).any()):
            return self
        # Half a token and half a nat² of every kind: none is given up for what chance did.
        worth = (self.jumped + 0.5) / (self.computed + 0.5)
        tokens = _LEAST + (1.0 - len(KINDS) * _LEAST) * worth / worth.sum()
        moves = tokens / ((self.computed + 0.5) / self.tried)
        return replace(self, shares=tuple((moves / moves.sum()).tolist()))

    def report(self) -> dict[str, dict[str, float]]:
        """What is told of the mix, by kind that was tried: its share, how often it was accepted
        and how many tokens a move of a chain took."""
        tried = [kind for kind in range(len(KINDS)) if float(self.tried[kind])]
        return {
            KINDS[kind]: {
                "share": self.shares[kind],
                "acceptance": float(self.accepted[kind] / self.tried[kind]),
                "tokens": float(self.computed[kind] / self.tried[kind]),
            }
            for kind in tried
        }


def together(mixes: Sequence[Mix]) -> Mix:
    """Parts of a run side by side: sums of all, and the mean of their shares."""
    first = mixes[0]
    shares = zip(*(mix.shares for mix in mixes), strict=True)
    return replace(
        first,
        shares=tuple(sum(each) / len(mixes) for each in shares),
        tried=torch.stack([mix.tried for mix in mixes]).sum(0),
        accepted=torch.stack([mix.accepted for mix in mixes]).sum(0),
        computed=torch.stack([mix.computed for mix in mixes]).sum(0),
        jumped=torch.stack([mix.jumped for mix in mixes]).sum(0),
    )
