"""What the texts of a site are looked ahead by: a surrogate, tried in a pilot, and told of."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lmppl.density import SiteRows, Target, TextStage, Traces
from lmppl.density.steering.expecting import EARLY, LIKELY, Expectations, expectations
from lmppl.density.steering.following import weights_of
from lmppl.density.steering.protocol import Steering
from lmppl.inference.loop import Info
from lmppl.inference.proposing import begin, go_to
from lmppl.inference.smc import SMC
from lmppl.inference.smc.growing import Growth
from lmppl.inference.smc.lookaheads import ALWAYS, BY_SURROGATE
from lmppl.inference.smc.pilot import Pilot, pilot_size
from lmppl.inference.smc.priors import FinitePrior, finite_prior
from lmppl.records import brief
from lmppl.rng import Stream

# The power of ψ where no pilot has tried any: a surrogate is rather too sure of itself.
_UNTRIED = 0.7


@dataclass(frozen=True, slots=True)
class Told:
    """What is told of looking ahead to the texts of a site: plain data, and the seconds it took
    before the first of them was begun."""

    site: str
    facts: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True, slots=True)
class Ahead:
    """How the texts of site `number` are looked ahead to, by a surrogate.

    `expected` is what it expects of each row, which a `pilot` corrects that has not come to its
    end yet; `powers` are those of ψ, one for each of `expected`. `growth` says when there should be
    more particles. `why_not` says why nothing is expected.
    """

    number: int
    prior: FinitePrior | None = None
    expected: Expectations | None = None
    powers: tuple[float, ...] = ()
    pilot: Pilot | None = None
    growth: Growth | None = None
    num_tokens: int = 0
    seconds: float = 0.0
    believed: tuple[float, ...] = ()
    why_not: str = ""

    __repr__ = brief

    @property
    def is_used(self) -> bool:
        """Whether some texts are steered by a surrogate."""
        return self.expected is not None and not self.expected.is_empty

    def without_pilot(self) -> Ahead:
        """Ready at once, with what is known by now."""
        return self if self.pilot is None else replace(self, pilot=None)

    def select(self, indices: Tensor) -> Ahead:
        """For the executions `indices`, with repeats."""
        expected = None if self.expected is None else self.expected.select(indices)
        return replace(self, expected=expected)

    def steering(self) -> tuple[Steering, ...]:
        """ψ for the executions that this was made for."""
        if self.expected is None or self.expected.is_empty:
            return ()
        return (self.expected.steering(self.powers),)

    def stepped(self, target: Target, stream: Stream) -> tuple[Ahead, Info]:
        """After one step of the pilot."""
        began = time.perf_counter()
        assert self.pilot is not None and self.expected is not None
        stage = target.stages[self.number]
        pilot, num_tokens = self.pilot.stepped(target, stream)
        info = Info(f"looking ahead to {stage.name}", pilot.num_done, pilot.num_steps)
        new = replace(
            self,
            pilot=pilot,
            num_tokens=self.num_tokens + num_tokens,
            seconds=self.seconds + time.perf_counter() - began,
        )
        if pilot.is_done:
            count = len(self.expected.each)
            each = pilot.expected.each[:count]
            powers = [_UNTRIED if power is None else power for power in pilot.powers()[:count]]
            expected = replace(self.expected, each=each)
            expected = expected.without_late(pilot.late[:count])
            new = replace(
                new,
                pilot=None,
                expected=expected,
                powers=tuple(powers),
                # Of one binding, which is not to depend on what others look like.
                growth=pilot.growth() if target.num_groups == 1 else None,
                believed=tuple(expected.log_start(n) for n in range(count)),
                why_not="; ".join(expected.why) if expected.is_empty else "",
            )
        return new, replace(info, num_tokens=num_tokens)

    def info(self, site: str) -> Info:
        """What a reader is told before the first step of the pilot."""
        return Info(f"looking ahead to {site}", 0, None, num_tokens=self.num_tokens)

    @property
    def labels(self) -> frozenset[str]:
        """The factors that are looked ahead to by a surrogate, for all executions alike."""
        return frozenset() if self.expected is None else self.expected.labels

    def told(self, site: str) -> Told:
        """What there is to say of it."""
        if not self.is_used or self.prior is None:
            facts: dict[str, Any] = {"surrogate": None, "why": self.why_not}
            if self.num_tokens:
                facts["pilot_tokens"] = self.num_tokens
            return Told(site, facts, self.seconds)
        facts = {
            "surrogate": self.prior.words,
            "log_belief": [round(each, 6) for each in self.believed],
            "power": list(self.powers),
            "pilot_tokens": self.num_tokens,
        }
        if self.growth is not None:
            facts["growth"] = [self.growth.step, self.growth.factor]
        return Told(site, facts, self.seconds)


def next_ahead(
    ahead: Ahead | None,
    target: Target,
    number: int,
    stage: TextStage,
    traces: Traces,
    stream: Stream,
    settings: SMC,
) -> tuple[Ahead | None, Info | None]:
    """One step of what is done before texts are begun; no information once all is done."""
    if settings.lookahead not in BY_SURROGATE:
        return None, None
    if ahead is None:
        size, make = settings.num_particles, settings.lookahead in ALWAYS
        find = partial(finite_prior, make=make, num_particles=size)
        found = looking_ahead(target, number, stage, traces, stream, size, find)
        return found, found.info(stage.name)
    return (ahead, None) if ahead.pilot is None else ahead.stepped(target, stream)


def looking_ahead(
    target: Target,
    number: int,
    stage: TextStage,
    traces: Traces,
    stream: Stream,
    num_particles: int,
    find: Callable[[TextStage, list[Any]], FinitePrior | str],
) -> Ahead:
    """How texts of a site are looked ahead to, before any of them is begun.

    `find` gives a prior for a site, or says why there is none. Bindings have pilots of their own,
    whose earlier sites are drawn as the prior draws them: what they find depends neither on other
    bindings nor on the particles, however these are shared out.
    """
    began = time.perf_counter()
    rows = target.rows(number, traces)
    if all(followed.is_empty for _, followed, _ in weights_of(target, rows)[0]):
        return Ahead(number, why_not="nothing is asked of it that an automaton follows")
    prior = find(stage, rows.prompts)
    if isinstance(prior, str):
        return Ahead(number, why_not=prior)
    size = 0 if prior.is_exact else pilot_size(num_particles)
    # What a surrogate knows of ends is mended by a pilot before it is believed.
    prior, expected = _expected(target, rows, prior, 0.0 if prior.is_exact or size else EARLY)
    if expected.is_empty:
        return Ahead(number, prior, expected, why_not="; ".join(expected.why))
    count = len(expected.each)
    powers = (1.0 if prior.is_exact else _UNTRIED,) * count
    believed = tuple(expected.log_start(n) for n in range(count))
    ahead = Ahead(number, prior, expected, powers, believed=believed)
    if size:
        if all(followed.is_power for _, followed, _ in expected.asked):
            # One state says when texts end: few are enough to see how often.
            size = -(-size // 2)
        ahead = _with_pilot(ahead, target, size, stream)
    return replace(ahead, seconds=time.perf_counter() - began)


def _expected(
    target: Target, rows: SiteRows, prior: FinitePrior, early: float
) -> tuple[FinitePrior, Expectations]:
    """What is expected, by fewer states where an automaton is too large for those of `prior`."""
    # Every draw of a prior that looks ahead by itself is one of the posterior: that always pays.
    likely = math.inf if prior.is_exact else LIKELY

    def by(each: FinitePrior) -> Expectations:
        return expectations(
            target, rows, each.model, each.encode, each.log_shares, likely, each.is_exact, early
        )

    first = by(prior)
    coarser = prior.coarser() if first.too_large else None
    second = first if coarser is None else by(coarser)
    return (prior, first) if coarser is None or second.too_large else (coarser, second)


def _with_pilot(ahead: Ahead, target: Target, size: int, stream: Stream) -> Ahead:
    """With a pilot of so many texts for each binding, where its earlier sites can be drawn."""
    assert ahead.prior is not None and ahead.expected is not None
    group = torch.arange(target.num_groups).repeat_interleave(size)
    counters = torch.arange(size).repeat(target.num_groups)
    unfinished = go_to(target, begin(target, group, counters), ahead.number, stream.child("before"))
    traces = unfinished.traces
    if traces.num_rows < group.shape[0]:
        return ahead
    rows = target.rows(ahead.number, traces)
    expected = ahead.expected.of_rows(target, rows, ahead.prior.model, ahead.prior.encode)
    pilot = Pilot.begin(target, ahead.number, traces, expected)
    return replace(ahead, pilot=pilot, num_tokens=unfinished.num_tokens)
