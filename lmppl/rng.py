"""Randomness by name: every random number is a function of one seed, a name, a row and a step.

A counter-based generator has no state to advance, so micro-batching, dropping finished rows,
resuming a run or adding another consumer does not change anybody's numbers (Salmon et al. 2011,
"Parallel random numbers: as easy as 1, 2, 3").
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


_MULTIPLIERS = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))


def _mix(words: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014) on int64 words, which wrap."""
    # `>>` on int64 is arithmetic: the mask makes it a logical shift.
    words = (words ^ ((words >> 30) & ((1 << 34) - 1))) * _MULTIPLIERS[0]
    words = (words ^ ((words >> 27) & ((1 << 37) - 1))) * _MULTIPLIERS[1]
    return words ^ ((words >> 31) & ((1 << 33) - 1))


def _mix_int(word: int) -> int:
    """`_mix` for one Python integer."""
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return word ^ (word >> 31)


def fresh_seed() -> int:
    """A seed from the operating system, for runs that name none; recorded in the manifest."""
    return secrets.randbits(31)


# The uniform numbers of rows `[n]` at a step, float64 `[n]`.
Uniforms = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, slots=True)
class Stream:
    """A named source of random numbers; equal keys give equal numbers."""

    key: int

    @classmethod
    def from_seed(cls, seed: int) -> Stream:
        """The root stream of a run."""
        return cls(0).child("seed", seed)

    def child(self, *names: str | int) -> Stream:
        """The stream of a name below this one; different names are independent."""
        text = "/".join(f"{type(name).__name__}:{name}" for name in names)
        sha = hashlib.blake2b(f"{self.key}|{text}".encode(), digest_size=8)
        return Stream(int.from_bytes(sha.digest(), "little"))

    def uniforms(self, rows: Tensor, step: int = 0) -> Tensor:
        """float64 uniforms on [0, 1), one for every entry of `rows` (int64 counters, any shape).

        The number of a row at a step does not depend on which other rows are asked for.
        """
        # Rows and steps are mixed by different rounds: a sum of the two would collide.
        key = _mix_int((self.key + (step + 1) * _GOLDEN) & _MASK)
        words = _mix(_mix(rows * _signed(_GOLDEN) + _signed(key)) ^ _signed(self.key))
        return ((words >> 11) & ((1 << 53) - 1)).to(torch.float64) * 2.0**-53

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """A torch generator seeded by this stream, for code that must draw sequentially."""
        return torch.Generator(device=device).manual_seed(self.key >> 1)
