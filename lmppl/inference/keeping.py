"""The best guide of a fit so far, and whether the fit has left it for good."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Steps whose mean ELBO is compared: few, because a fit can be lost within five.
_WINDOW = 3
# A fit has diverged where a tenth of all steps in a row (but no more than 20) lie this many
# standard errors of a step and this many nats below the best window. Some fits dip and come back.
_ERRORS, _NATS = 10.0, 2.0
# The same at the end of a fit, for the mean of the window: it is too late to come back.
_ERRORS_AT_END, _NATS_AT_END = 5.0, 0.5
# How many times their length at the start weights may have before they are no guide any more.
_GROWTH = 1e4


@dataclass(frozen=True, slots=True)
class Best:
    """The parameters after `step` steps, and the mean ELBO of the last few with its error."""

    step: int
    elbo: float
    error: float
    tensors: tuple[Tensor, ...]

    @classmethod
    def start(cls, parameters: Sequence[Tensor]) -> Best:
        """The parameters before any step, of which no ELBO is known.

        They are kept as they are: nobody writes to them.
        """
        return cls(0, float("-inf"), 0.0, tuple(parameters))

    def after(
        self, parameters: Sequence[Tensor], elbo: Sequence[Tensor], error: Sequence[Tensor]
    ) -> Best:
        """The better one of this and what has just been measured.

        The histories have the ELBO and its error before every step, and `parameters` are those
        after the last.
        """
        step = len(elbo)
        if step == 1:
            # The first ELBO is that of the start.
            return Best(0, float(elbo[0].mean()), float(error[0].mean()), self.tensors)
        if step % _WINDOW:
            return self
        mean = float(torch.stack(list(elbo[-_WINDOW:])).mean())
        if mean < self.elbo:
            return self
        return Best(step, mean, float(error[-1].mean()), tuple(parameters))

    def is_left_by(self, elbo: Sequence[Tensor], num_steps: int) -> bool:
        """Whether the last steps of a fit of `num_steps` are far worse, each of them."""
        patience = min(20, max(_WINDOW, num_steps // 10))
        if len(elbo) <= patience:
            return False
        lowest = self.elbo - max(_NATS, _ERRORS * self.error)
        return all(float(value.mean()) < lowest for value in elbo[-patience:])

    def is_better_than_end(self, elbo: Sequence[Tensor]) -> bool:
        """Whether a fit that ends here ends worse than it once was."""
        if len(elbo) <= _WINDOW:
            return False
        mean = float(torch.stack(list(elbo[-_WINDOW:])).mean())
        noise = _ERRORS_AT_END * self.error / math.sqrt(_WINDOW)
        return mean < self.elbo - max(_NATS_AT_END, noise)


def is_sound(parameters: Sequence[Tensor], length: float) -> bool:
    """Whether parameters that began with this length are numbers of a sensible size still."""
    return length_of(parameters) <= _GROWTH * (1.0 + length)


@torch.no_grad()
def length_of(parameters: Sequence[Tensor]) -> float:
    """The Euclidean length of all parameters together."""
    return float(torch.nn.utils.get_total_norm([p.detach() for p in parameters], foreach=None))
