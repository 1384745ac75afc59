"""Scouts: texts that trust a surrogate less, to look for what a run that is steered by it has lost.

The weights of texts that a surrogate has proposed cannot show what it hardly ever proposes. So a
few more are drawn by a ψ in which only the half, or a sixteenth, of what is wrong of the surrogate
goes in (see `Expected.sharpened`): they are weighted draws of the same posterior, and reach what
lies beyond the run's own ψ. Of each of
them it is known what it would have gained in the run itself, from every token on. Where that is
more than any text has gained there that the run still has, the run did not have its like when it
mattered: what such scouts weigh is missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from scipy.special import gammaincinv
from torch import Tensor

from lmppl.density import Target
from lmppl.density.steering.surrogate import SurrogateLookahead
from lmppl.inference.smc import SMC
from lmppl.inference.smc.ahead import Ahead
from lmppl.inference.smc.state import State
from lmppl.inference.smc.watching import Watch

# The degrees to which scouts sharpen what a surrogate expects, a population for each.
DEGREES = (2.0, 16.0)
# How many times as much as any text of the run a scout must gain to count as beyond its reach, as
# weights of one more draw are often a little above the largest of many.
_FACTOR = 3.0
# A share of the posterior that is worth a warning, where it is surely that much.
_WORTH_SAYING = 0.05
# What is missing, counted by Poisson's law, is more than is said with this probability, and less
# than the least with twice that: one heavy scout alone may be chance.
_TAIL = 0.025
# Texts of one population of scouts: too few find nothing.
_FEWEST = 8

CODE = "LMP933"


@dataclass(frozen=True, slots=True)
class Missing:
    """What scouts say of a run: the `share` of the posterior beyond its reach, which no population
    of them puts higher; `num_families` independent ones of `num_scouts` have found it, and
    `least` and `most` are how small and large it may be, as so many may have found it by chance."""

    share: float = 0.0
    least: float = 0.0
    most: float = 0.0
    num_families: float = 0.0
    num_scouts: int = 0

    def facts(self) -> dict[str, Any]:
        return {
            "num_scouts": self.num_scouts,
            "share_beyond": self.share,
            "least_beyond": self.least,
            "most_beyond": self.most,
            "num_families_beyond": self.num_families,
        }

    def log_missing(self, value: float) -> float:
        """The log of what may be missing where all that was found weighs exp(`value`)."""
        if self.most <= 0.0:
            return -math.inf
        return value + math.log(self.most) - math.log1p(-min(self.most, 1.0 - 1e-12))

    def warning(self) -> str | None:
        """Words where the share is worth them, and surely so."""
        if self.least <= _WORTH_SAYING:
            return None
        return (
            f"a part of the posterior was lost on the way: texts drawn as a check, which trust the"
            f" surrogate less, find about {100.0 * self.share:.0f}% of it where the run hardly ever"
            ' goes; use more particles, lookahead="prefix", or a better surrogate'
            f" (lmppl explain {CODE})"
        )


def size_of(settings: SMC) -> int:
    """How many texts of a binding each population of scouts has; 0: none are sent."""
    size = int(settings.scouts * settings.num_particles) // len(DEGREES)
    # What a move draws anew has gained something else.
    return size if size >= _FEWEST and not settings.num_moves else 0


def without_scouts(state: State) -> State:
    """A run that is not checked, as time has run out."""
    return replace(state, scouts=None, watch=None, plain=None)


def settings_of(settings: SMC) -> SMC:
    """Those of the run that scouts are drawn by, a population for each degree."""
    return replace(settings, num_particles=size_of(settings), num_runs=len(DEGREES), scouts=0.0)


def is_watched(ahead: Ahead, settings: SMC) -> bool:
    """Whether scouts are to follow a run, whose texts are looked ahead to in this way."""
    surrogate = ahead.is_used and ahead.prior is not None and not ahead.prior.is_exact
    return surrogate and size_of(settings) > 0


def following(leads: Sequence[Ahead], target: Target, state: State) -> State:
    """Scouts before a text, with what they look ahead by, where their run did."""
    lead = next((each for each in leads if each.number == state.stage), None)
    if state.ahead is not None or state.watch is None or state.run is not None:
        return state
    drawn_by, own = (None, None) if lead is None else led(lead, target, state)
    return replace(state, ahead=drawn_by, watch=state.watch.looking(own, state.traces.group))


def led(ahead: Ahead, target: Target, state: State) -> tuple[Ahead, SurrogateLookahead]:
    """How scouts look ahead to the texts of a site, and the ψ of the run that they are compared
    with; `ahead` is how the run did."""
    assert ahead.expected is not None and ahead.prior is not None
    rows = target.rows(ahead.number, state.traces)
    expected = ahead.expected.of_rows(target, rows, ahead.prior.model, ahead.prior.encode)
    powers = (*ahead.powers, 1.0)
    populations, size = state.log_weight.shape
    degree = torch.arange(populations, device=rows.traces.group.device) % len(DEGREES)
    own = replace(
        expected,
        each=tuple(
            None if one is None else one.sharpened(degree)
            for degree in DEGREES
            for one in expected.each
        ),
        asked=expected.asked * len(DEGREES),
        which=expected.which + len(powers) * degree.repeat_interleave(size),
    )
    drawn_by = replace(ahead, expected=own, powers=powers * len(DEGREES), pilot=None, growth=None)
    return drawn_by, expected.steering(powers)


def missing(state: State, scouts: State, group: int, num_groups: int, value: float) -> Missing:
    """What scouts have found beyond the reach of the runs of one binding, whose log evidence by
    themselves is `value`."""
    assert state.watch is not None and scouts.watch is not None
    since = max(state.watch.since, scouts.watch.since)
    own = _of_binding(state.watch, state.log_weight, group, num_groups)
    alive = _part(state.log_weight, group, num_groups).reshape(-1) > -math.inf
    reach = own[alive].amax(0)[since:] + math.log(_FACTOR)
    log_weight = _part(scouts.log_weight, group, num_groups)
    populations, size = log_weight.shape
    theirs = _of_binding(scouts.watch, scouts.log_weight, group, num_groups)[:, since:]
    beyond = (theirs > reach).any(-1).view(populations, size) & (log_weight > -math.inf)
    log_evidence = _part(scouts.log_evidence.unsqueeze(-1), group, num_groups)
    worth = (log_weight + log_evidence - math.log(size)).masked_fill(~beyond, -math.inf)
    eve = _part(scouts.eve.view_as(scouts.log_weight), group, num_groups)
    found = Missing(num_scouts=populations * size)
    for number in range(len(DEGREES)):
        each = slice(number, None, len(DEGREES))
        log_odds = float(worth[each].logsumexp((0, 1))) - math.log(populations // len(DEGREES))
        log_odds -= value
        if log_odds == -math.inf:
            continue
        families = _effective(worth[each], eve[each])
        most = log_odds + math.log(float(gammaincinv(families + 1.0, 1.0 - _TAIL)) / families)
        least = log_odds + math.log(float(gammaincinv(families, 2.0 * _TAIL)) / families)
        one = replace(
            found,
            share=_share(log_odds),
            least=_share(least),
            most=_share(most),
            num_families=families,
        )
        found = max(found, one, key=lambda each: each.share)
    return found


def _effective(worth: Tensor, eve: Tensor) -> float:
    """How many families of scouts `[populations, size]`, in logs, are worth as much alike."""
    rows = torch.arange(eve.shape[0], device=eve.device).unsqueeze(-1)
    _, family = torch.unique(eve + (eve.amax() + 1) * rows, return_inverse=True)
    weight = (worth - worth.amax()).exp().reshape(-1)
    total = weight.new_zeros(int(family.amax()) + 1).index_add(0, family.reshape(-1), weight)
    return float(total.sum() ** 2 / (total**2).sum())


def _of_binding(watch: Watch, log_weight: Tensor, group: int, num_groups: int) -> Tensor:
    """What texts of one binding still had to gain, `[rows, places]`."""
    return _part(watch.to_come(), group, num_groups)


def _part(values: Tensor, group: int, num_groups: int) -> Tensor:
    """Those of one binding."""
    return values.view(num_groups, -1, *values.shape[1:])[group]


def _share(log_odds: float) -> float:
    return 1.0 / (1.0 + math.exp(-min(max(log_odds, -700.0), 700.0)))
