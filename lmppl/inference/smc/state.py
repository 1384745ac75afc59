"""What a run of sequential Monte Carlo has come to, and such runs side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmppl.density import Run, Traces, concatenate
from lmppl.inference.smc import plain
from lmppl.inference.smc.ahead import Ahead, Told
from lmppl.inference.smc.growing import Growth
from lmppl.inference.smc.plain import PlainDraws
from lmppl.inference.smc.rejuvenating import Trail
from lmppl.inference.smc.watching import Watch


@dataclass(frozen=True, slots=True)
class State:
    """Populations of particles, one per binding and run; rows are `[populations, particles]` flat.

    `log_weight` `[populations, particles]` is since the last resampling, whose factors
    `log_evidence` `[populations]` holds; `compared` is what it was where particles are compared.
    `eve` `[rows]` is each particle's ancestor at the start, numbered over all populations.
    `resampled` has, for every resampling, the log weights before it; `given_up` and
    `given_up_prior` `[populations]` are the logs of what the particles lighter than every one that
    was kept were worth, with their lookahead score and without it.
    `unlooked` `[populations]` counts the first particles of which no living descendant was kept at
    some resampling: those that died by themselves have looked as far as there was anything to see.
    `log_most` `[populations]` is the most that may have gone into the log of any weight: the ranges
    of the factors that have come in, what the mask of the first token took from all alike, what a
    proposal can add, what is known of looking ahead. `followed` are the factors of which that is
    known without their ranges, `is_known` whether it is of the texts that are drawn now, and
    `log_constant` `[populations]` what all weigh where all weigh the same (NaN: they do not).
    `own_steps` `[populations]` counts the steps of each, without those in which it waited for the
    texts of others.
    `is_bounded` says that nothing has steered any text but masks, mixtures with the prior, scores
    of texts in the making, and what the prior itself expects.
    `blind` says why unfinished texts could not be scored, where that happened.
    `ahead` is how the texts of the site that is drawn are looked ahead to, `told` what there is to
    say of that for the sites that are done.
    `counters` `[rows]` name the random numbers of the particles, and `first_run` those of the first
    run of a binding: a binding draws what it would draw alone.
    `growth` says when there are to be more particles, for the rest of the text only; populations
    have as many as `log_weight` says.
    `watch` is what every text has gained on its way, kept where something is to be compared with
    that; `aheads` are how texts were looked ahead to that are followed by `scouts`, which are runs
    of their own (see `scouting`); `plain` are draws of the prior that bound the evidence.
    `trail` is how the texts in the making came to be, where they are moved; they are to make
    `moves_left` moves before they go on. `proposed` and `accepted` `[populations]` count them.
    """

    traces: Traces
    stage: int
    run: Run | None
    log_weight: Tensor
    compared: Tensor
    log_evidence: Tensor
    counters: Tensor
    eve: Tensor
    given_up: Tensor
    given_up_prior: Tensor
    unlooked: Tensor
    log_most: Tensor
    log_constant: Tensor
    num_resamplings: Tensor
    proposed: Tensor
    accepted: Tensor
    num_steps: int
    own_steps: Tensor
    ess: tuple[Tensor, ...]
    num_ancestors: tuple[Tensor, ...] = ()
    resampled: tuple[Tensor, ...] = ()
    blind: str | None = None
    is_bounded: bool = True
    is_known: bool = False
    followed: frozenset[str] = frozenset()
    first_run: int = 0
    ahead: Ahead | None = None
    told: tuple[Told, ...] = ()
    growth: Growth | None = None
    trail: Trail | None = None
    moves_left: int = 0
    watch: Watch | None = None
    aheads: tuple[Ahead, ...] = ()
    scouts: State | None = None
    plain: PlainDraws | None = None


def weighed(state: State, gain: Tensor, seen: Tensor | None = None) -> State:
    """With what every row `[rows]` has gained; `seen` is what is watched of it, where that is
    something else."""
    # A dead particle stays dead whatever the gain: −inf + inf must not become NaN.
    log_weight = state.log_weight.view(-1)
    new = torch.where(log_weight == -math.inf, log_weight, log_weight + gain)
    watch = state.watch and state.watch.with_gain(gain if seen is None else seen)
    return replace(state, log_weight=new.view_as(state.log_weight), watch=watch)


def selected(state: State, indices: Tensor) -> State:
    """The rows `indices` `[rows]`, with repeats, in the place of those that there were."""
    return replace(
        state,
        traces=state.traces.select(indices),
        run=None if state.run is None else state.run.select(indices),
        trail=None if state.trail is None else state.trail.select(indices),
        watch=None if state.watch is None else state.watch.select(indices),
        ahead=None if state.ahead is None else state.ahead.select(indices),
        eve=state.eve[indices],
    )


def living(log_weight: Tensor, num_groups: int) -> Tensor | None:
    """For each row of `log_weight` `[rows]` itself, or a living one where it is dead, `[rows]`.

    One of the same binding, of which there are `num_groups`, where that has one. None: all live.
    """
    alive = log_weight > -math.inf
    if bool(alive.all()):
        return None
    by_binding = alive.view(num_groups, -1)
    first = by_binding.long().argmax(-1)
    first += torch.arange(first.shape[0], device=first.device) * by_binding.shape[1]
    # A binding that is dead as a whole borrows from another.
    first = torch.where(by_binding.any(-1), first, alive.nonzero()[0])
    found = first.repeat_interleave(by_binding.shape[1])
    return torch.where(alive, torch.arange(alive.shape[0], device=alive.device), found)


def without_dead(state: State, num_groups: int) -> State:
    """Dead particles hold unfinished values that must not be scored: they take the place of a
    living one, keeping weight zero."""
    source = living(state.log_weight.view(-1), num_groups)
    if source is None:
        return state
    return replace(selected(state, source), log_weight=state.log_weight, eve=state.eve)


def is_open(state: State, num_groups: int) -> Tensor:
    """Of which bindings some text is open or all are complete, `[populations]`.

    The others wait for the texts of other bindings, as they would not alone.
    """
    populations, device = state.log_weight.shape[0], state.log_weight.device
    if num_groups == 1 or state.run is None:
        return torch.ones(populations, dtype=torch.bool, device=device)
    found = torch.zeros(num_groups, dtype=torch.bool, device=device)
    found[state.run.open // (state.run.num_rows // num_groups)] = True
    return found.repeat_interleave(populations // num_groups)


def side_by_side(states: Sequence[State], num_groups: int) -> State:
    """The runs of all states that are done, for every binding those of one after those of another.

    Raises:
        ValueError: runs are not done, or their populations are not of one size.
    """
    first = states[0]
    sizes = {(state.log_weight.shape[1], state.stage, state.run is None) for state in states}
    if len(sizes) > 1 or first.run is not None:
        raise ValueError("the parts have not come to the same end")
    num_particles = first.log_weight.shape[1]
    populations = _order([state.log_weight.shape[0] for state in states], num_groups)
    rows = (populations.unsqueeze(-1) * num_particles + torch.arange(num_particles)).view(-1)
    device = first.log_weight.device

    def each(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(tensors))[populations.to(device)]

    def steps(
        histories: Sequence[tuple[Tensor, ...]], last: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        # Runs that were done sooner stay as they were in the end.
        length = max(map(len, histories))
        padded = [
            (*history, *(end,) * (length - len(history)))
            for history, end in zip(histories, last, strict=True)
        ]
        return tuple(each(_wide(tensors)) for tensors in zip(*padded, strict=True))

    def history(name: str) -> tuple[Tensor, ...]:
        found = [getattr(state, name) for state in states]
        return steps(found, [tensors[-1] for tensors in found]) if all(found) else ()

    return replace(
        first,
        traces=concatenate([state.traces for state in states]).select(rows.to(device)),
        log_weight=each([state.log_weight for state in states]),
        compared=each([state.compared for state in states]),
        log_evidence=each([state.log_evidence for state in states]),
        counters=torch.cat([state.counters for state in states])[rows.to(device)],
        eve=torch.cat([state.eve for state in states])[rows.to(device)],
        given_up=each([state.given_up for state in states]),
        given_up_prior=each([state.given_up_prior for state in states]),
        unlooked=each([state.unlooked for state in states]),
        log_most=each([state.log_most for state in states]),
        log_constant=each([state.log_constant for state in states]),
        num_resamplings=each([state.num_resamplings for state in states]),
        proposed=each([state.proposed for state in states]),
        accepted=each([state.accepted for state in states]),
        num_steps=max(state.num_steps for state in states),
        own_steps=each([state.own_steps for state in states]),
        ess=history("ess"),
        num_ancestors=history("num_ancestors"),
        resampled=steps(
            [state.resampled for state in states], [state.log_weight for state in states]
        ),
        blind=next((state.blind for state in states if state.blind is not None), None),
        is_bounded=all(state.is_bounded for state in states),
        followed=frozenset.intersection(*(state.followed for state in states)),
        watch=_watches([state.watch for state in states], rows.to(device)),
        scouts=None
        if any(state.scouts is None for state in states)
        else side_by_side([state.scouts for state in states if state.scouts], num_groups),
        plain=plain.side_by_side([state.plain for state in states]),
        first_run=min(state.first_run for state in states),
    )


def _wide(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Weights of populations of one size: dead particles fill up the smaller ones."""
    sizes = [tensor.shape[1] if tensor.dim() > 1 else 0 for tensor in tensors]
    if len(set(sizes)) == 1:
        return tensors
    most = max(sizes)
    return [
        torch.nn.functional.pad(tensor, (0, most - size), value=-math.inf)
        for tensor, size in zip(tensors, sizes, strict=True)
    ]


def _watches(watches: Sequence[Watch | None], rows: Tensor) -> Watch | None:
    """What the texts of all states have gained, in the order of `rows`."""
    known = [watch for watch in watches if watch is not None]
    if len(known) < len(watches):
        return None
    gained = torch.cat([watch.gained for watch in known])[rows]
    since = max(watch.since for watch in known)
    return Watch(gained.unbind(-1)[since:], gained.shape[1], since)


def _order(sizes: Sequence[int], num_groups: int) -> Tensor:
    """Where, among parts of these sizes one after another, each binding has its populations."""
    parts = torch.split(torch.arange(sum(sizes)), list(sizes))
    return torch.cat([part.view(num_groups, -1) for part in parts], dim=-1).view(-1)
