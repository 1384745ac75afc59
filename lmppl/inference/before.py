"""What factors were before they were used: their means under the prior, where draws of it exist."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lmppl.density import Target
from lmppl.evaluation.ranges import range_of
from lmppl.posterior import Posterior

# More draws than this tell no more.
_MOST_DRAWS = 20_000


def factors_before(
    target: Target, group: int, log_potential: Mapping[str, Tensor], log_weight: Tensor
) -> dict[str, dict[str, Any]]:
    """The mean of every factor under the prior restricted to the requirements, by label.

    `log_potential` `[draws]` each and `log_weight` `[draws]` are of draws of one binding that stand
    for that prior. A factor that rules draws out is left out: it is a requirement, too.
    """
    if log_weight.shape[0] == 0:
        return {}
    weights = log_weight[:_MOST_DRAWS].cpu().numpy()
    values: dict[str, NDArray[np.float64]] = {}
    ranges = {}
    for potential in target.model.potentials:
        column = log_potential[potential.label][:_MOST_DRAWS].cpu().numpy()
        if potential.kind == "factor" and np.isfinite(column).all() and weights.max() > -math.inf:
            values[potential.label] = column
            model = target.model
            ranges[potential.label] = range_of(potential.expr, model, target.bindings[group])
    if not values:
        return {}
    draws = Posterior(
        sites={"draw": np.arange(weights.size)},
        log_weights=weights,
        log_potentials=values,
        ranges=ranges,
    )
    return {label: draws.factor_mean(label).to_dict() for label in values}
