"""Sums of exponentials that lose nothing: products of matrices whose entries are logs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lmppl.records import brief

# A sum above this has lost nothing that matters to underflow: what was lost are terms below
# 1e-308, of which even 1e8 are less than 1e-20 of it.
_SAFE = 1e-280

# Entries of the largest array that is made for sums that are not safe.
_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class LogMatrix:
    """A matrix of logs `[…, n, k]` that is ready to be multiplied from the left.

    `scaled` are the entries themselves, each row divided by its largest, the log of which is in
    `row_max` `[…, n, 1]` (0 for rows of zeros).
    """

    logs: Tensor
    scaled: Tensor
    row_max: Tensor

    __repr__ = brief

    @classmethod
    def of(cls, logs: Tensor) -> LogMatrix:
        row_max = _finite(logs.amax(-1, keepdim=True))
        return cls(logs, (logs - row_max).exp(), row_max)

    def times(self, other: Tensor) -> Tensor:
        """`[…, n, m]`: log Σ_k exp(this[…, n, k] + other[…, k, m]); −∞ where all terms are.

        By a product of scaled matrices, and once more, slowly, for the sums of which so little is
        left after scaling that terms may have been lost.
        """
        column_max = _finite(other.amax(-2, keepdim=True))
        scaled = (other - column_max).exp()
        sums = self.scaled @ scaled
        result = sums.log() + self.row_max + column_max
        doubtful = sums < _SAFE
        if bool(doubtful.any()):
            possible = _support(self.logs) @ _support(other) > 0
            doubtful &= possible
            if bool(doubtful.any()):
                self._again(other, doubtful, result)
        return result

    def _again(self, other: Tensor, doubtful: Tensor, result: Tensor) -> None:
        places = doubtful.nonzero()
        size = max(1, _CHUNK // max(1, self.logs.shape[-1]))
        left = self.logs.expand(*result.shape[:-2], *self.logs.shape[-2:])
        right = other.expand(*result.shape[:-2], *other.shape[-2:]).transpose(-1, -2)
        for chunk in torch.split(places, size):
            *batch, row, column = chunk.unbind(-1)
            terms = left[(*batch, row)] + right[(*batch, column)]
            result[(*batch, row, column)] = torch.logsumexp(terms, -1)


def log_matmul(left: Tensor, right: Tensor) -> Tensor:
    """`[…, n, m]`: log Σ_k exp(left[…, n, k] + right[…, k, m])."""
    return LogMatrix.of(left).times(right)


def log_sum_groups(logs: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """`[n, num_groups]`: log of the sum of exp(logs `[n, k]`) over the columns of each group.

    `group` is `[k]`; a group without columns has −∞.
    """
    index = group.expand(logs.shape[0], -1)
    start = logs.new_full((logs.shape[0], num_groups), -math.inf)
    top = _finite(start.scatter_reduce(1, index, logs, "amax"))
    sums = torch.zeros_like(start).scatter_add(1, index, (logs - top.gather(1, index)).exp())
    return sums.log() + top


def _support(logs: Tensor) -> Tensor:
    return (logs > -math.inf).to(torch.float32)


def _finite(values: Tensor) -> Tensor:
    return values.masked_fill(values == -math.inf, 0.0)
