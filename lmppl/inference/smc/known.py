"""What is known of weights before texts are drawn: where the prior looks ahead by itself.

Then ψ is just what is expected of the rest of a text, so that every token leaves of the weight what
was there, and whole texts weigh what was expected of the empty one, times what no automaton
followed. So what no draw showed weighs no more than that: the largest weight is known without the
ranges of the factors, and where nothing is left out, all weigh the same and the draws are
independent draws of the posterior.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lmppl.density import Target, Traces
from lmppl.density.steering.expecting import Expectations
from lmppl.density.steering.following import Followed, log_range
from lmppl.density.steering.protocol import Steering
from lmppl.inference.smc.ahead import Ahead

# Nats by which weights may differ from what is known of them: rounding, far below any error.
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Known:
    """The most that the texts of a site add to the weights by what steers them.

    `log_most` `[bindings]` are nats; `labels` are the factors that are in it. `log_evidence`
    `[bindings]` is the weight of every text where all of them weigh the same, which then is the
    evidence; NaN where they do not.
    """

    log_most: Tensor
    labels: frozenset[str]
    log_evidence: Tensor


def known(
    target: Target,
    number: int,
    traces: Traces,
    ahead: Ahead,
    others: Iterable[Steering],
) -> Known | None:
    """What is known of the weights of texts at site `number`; None: nothing is.

    `others` is what steers them beside `ahead`. Masks leave out what weighs nothing, what only
    scores texts in the making decides which are kept and not how they are drawn, and a power of
    the prior is part of what is expected.
    """
    expected = ahead.expected
    if expected is None or expected.is_empty:
        return None
    if not all(part.is_within(expected.labels) for part in others):
        return None
    each = [(one, _followed(expected, k)) for k, one in enumerate(expected.each)]
    if any(one is not None and (not one.is_prior or asked.in_part) for one, asked in each):
        return None
    labels = frozenset[str]().union(*(asked.labels for _, asked in each))
    row = torch.zeros(traces.num_rows, dtype=torch.float64, device=traces.group.device)
    for k, (one, asked) in enumerate(each):
        at = (expected.which == k).nonzero().squeeze(-1)
        if not at.numel():
            continue
        start = row[at] if one is None else one.log_starts(expected.beliefs[at])
        left = log_range(target, labels - asked.labels - asked.kept, expected.asked[k][0])
        constant = asked.constant + (asked.weight.form.constant if asked.labels else 0.0)
        row = row.index_copy(0, at, start + constant + left)
    by_binding = row.view(target.num_groups, -1)
    most = by_binding.amax(-1)
    if not _sees_all(target, number, traces):
        unseen = [log_range(target, labels, group) for group in range(target.num_groups)]
        most = torch.maximum(most, most.new_tensor(unseen))
    # What nothing looks ahead to is not in what is expected, but where nothing is asked.
    blind = any(
        one is None and not expected.asked[k][1].is_empty for k, (one, _) in enumerate(each)
    )
    whole = not blind and _is_whole(target, number, [asked for _, asked in each])
    first = by_binding[:, 0] + traces.total_log_potential().view_as(by_binding)[:, 0]
    return Known(most, labels, first if whole else torch.full_like(most, math.nan))


def _followed(expected: Expectations, number: int) -> Followed:
    """What of what is asked is in what is expected: without the factors where these are not."""
    one, asked = expected.each[number], expected.asked[number][1]
    if one is None:
        # Factors that are the same for all texts are known without looking ahead.
        return Followed(kept=asked.kept, constant=asked.constant)
    return asked if one.labels == asked.labels else asked.without_factors()


def _sees_all(target: Target, number: int, traces: Traces) -> bool:
    """Whether the choices before a site have all values that they can have among the rows of every
    binding."""
    names = []
    size = 1
    for stage in target.stages[:number]:
        if stage.support is None:
            return False
        names.append(stage.name)
        size *= len(stage.support)
    if not names:
        return True
    columns = [traces.group, *(traces.values[name].index for name in names)]
    seen = torch.unique(torch.stack(columns, -1), dim=0).shape[0]
    return bool(seen == size * target.num_groups)


def _is_whole(target: Target, number: int, asked: Iterable[Followed]) -> bool:
    """Whether all that texts weigh was followed, and nothing was chosen before them."""
    every = {potential.label for potential in target.model.potentials if potential.stage >= 0}
    return number == 0 and all(every <= each.labels | each.kept for each in asked)
