"""Several sources as one uncertain reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import numpy as np

from lmppl.automata.reach import Reach
from lmppl.ir.types import UNBOUNDED, Interval
from lmppl.rewards.scorer import Noted, Ranged, Source, Tokens
from lmppl.rewards.texts import fingerprint
from lmppl.rewards.uncertain import UncertainScores


@dataclass(frozen=True, slots=True, eq=False)
class EnsembleSource:
    """The members' scores side by side, `[batch, members]`, in the order they are written."""

    members: tuple[Source, ...]

    @property
    def digest(self) -> str:
        return fingerprint("ensemble", *(member.digest for member in self.members))

    @property
    def cost(self) -> Literal["cheap", "model"]:
        return "model" if any(member.cost == "model" for member in self.members) else "cheap"

    @property
    def notes(self) -> tuple[str, ...]:
        """What the members say, each thing once."""
        noted = (member.notes for member in self.members if isinstance(member, Noted))
        return tuple(dict.fromkeys(note for notes in noted for note in notes))

    def range(self, reach: Reach | None) -> Interval:
        """From the least to the largest that a member can say."""
        found = [
            member.range(reach) if isinstance(member, Ranged) else UNBOUNDED
            for member in self.members
        ]
        return reduce(Interval.union, found)

    def scores(self, columns: Sequence[Sequence[Any]], tokens: Tokens | None) -> UncertainScores:
        """The scores of all members for the same batch."""
        scores = [member.scores(columns, tokens) for member in self.members]
        return UncertainScores(members=np.stack([np.asarray(each) for each in scores], axis=1))
