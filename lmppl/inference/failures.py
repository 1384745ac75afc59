"""Bindings that have no result, beside others that have one."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lmppl.density import Target
from lmppl.errors import InferenceError
from lmppl.inference.loop import Draws
from lmppl.inference.zero_mass import PROBES, zero_mass

# To say what kills the mass of a binding takes draws of its prior.
_MOST_PROBED = 8


class NoMass(Exception):
    """A binding has lost all its mass; the message says how."""


def by_binding(target: Target, of_group: Callable[[int], Draws]) -> list[Draws]:
    """The draws of every binding; for one that raises, draws that hold the error.

    Raises:
        InferenceError: no binding has draws; the error of the first.
    """
    found: list[Draws] = []
    num_probed = 0
    for group in range(target.num_groups):
        try:
            found.append(of_group(group))
            continue
        except NoMass as lost:
            error = zero_mass(target, str(lost), group, PROBES if num_probed < _MOST_PROBED else 1)
            num_probed += 1
        except InferenceError as failure:
            error = failure
        nothing = target.start(torch.zeros(0, dtype=torch.long))
        found.append(Draws(nothing, nothing.log_density(), None, failure=error))
    if all(draws.failure is not None for draws in found):
        assert found[0].failure is not None
        raise found[0].failure
    return found
