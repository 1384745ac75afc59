"""Rejection sampling: independent exact draws, at a cost of one over the acceptance rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from lmppl.density import Target, Traces, concatenate
from lmppl.errors import Diagnostic, InferenceError
from lmppl.inference.batches import Batch, Hurry, numbers_of
from lmppl.inference.before import factors_before
from lmppl.inference.bounds import weight_bound
from lmppl.inference.failures import by_binding
from lmppl.inference.loop import WHOLE, Draws, Info, Shard
from lmppl.inference.proposing import advance, begin, completed, is_complete
from lmppl.inference.rejection import Rejection, to_bound
from lmppl.inference.rejection.frontier import smallest_bound
from lmppl.inference.rejection.quasi import quasi_of
from lmppl.inference.zero_mass import zero_mass
from lmppl.posterior import Estimate
from lmppl.posterior.intervals import proportion_interval
from lmppl.rng import Stream

# Rounding in the interval arithmetic of the bound and in the evaluation of the factors.
_SLACK = 1e-9
# A bound is not found by fewer attempts of positive weight, if more can be made.
_FEWEST_WEIGHTS = 30


@dataclass(frozen=True, slots=True)
class State:
    """Per binding: the accepted executions, the number of the attempt that gave each, and, in
    batches, the log probability of acceptance of every attempt and the log potentials of those that
    meet every requirement.

    `num_attempts` are complete, `batch` is at work, and more than `limit` are not made. `wanted`
    draws are enough. The random numbers of the first attempt are those of number `first`, and
    `log_bound` `[bindings]` is the upper bound of Σ log φ, or one that stands in for it. While that
    is to be found, `pilot` has the log weights of the attempts that find it, by binding, of which
    there are no more than `pilot_limit`. `num_parts` runs are side by side.
    """

    accepted: tuple[Traces, ...]
    attempts: tuple[tuple[int, ...], ...]
    log_ratios: tuple[tuple[Tensor, ...], ...]
    log_potentials: tuple[tuple[Mapping[str, Tensor], ...], ...]
    num_attempts: int
    limit: int
    wanted: int
    first: int
    log_bound: Tensor
    batch: Batch | None = None
    pilot: tuple[Tensor, ...] | None = None
    pilot_limit: int = 0
    num_parts: int = 1


@dataclass(frozen=True, slots=True)
class RejectionEngine:
    """Draws x ~ π0 and keeps it with probability Πφ(x) / exp(B), B an upper bound of Σ log φ.

    What is kept are independent draws of the posterior, and the acceptance rate times exp(B) is
    the evidence. That rate is estimated by the mean probability of acceptance over all attempts, of
    which the share of acceptances is a noisier reading.

    With an estimated bound, pilot attempts find β, and attempts after them are kept with
    probability min(1, Πφ(x)/β): see `frontier`.
    """

    settings: Rejection
    target: Target
    stream: Stream

    def _log_bound(self, group: int) -> float:
        bound = weight_bound(self.target, group)
        if bound.unbounded is None:
            return bound.log_bound
        raise InferenceError(
            [
                Diagnostic(
                    "LMP410",
                    "error",
                    f"rejection needs an upper bound of {bound.unbounded.title}, which has none",
                    span=bound.unbounded.span,
                    help=to_bound(self.target.model, bound.unbounded),
                )
            ],
            self.target.model.sources,
        )

    def init(self, shard: Shard = WHOLE) -> State:
        nothing = self.target.start(torch.zeros(0, dtype=torch.long))
        groups = self.target.num_groups
        most = self.settings.max_attempts
        none = ((),) * groups
        pilot, bound = None, [0.0] * groups
        if self.settings.upper_bound == "estimated":
            pilot = (torch.zeros(0, dtype=torch.float64),) * groups
        else:
            bound = [self._log_bound(group) for group in range(groups)]
        return State(
            accepted=(nothing,) * groups,
            attempts=none,
            log_ratios=none,
            log_potentials=none,
            num_attempts=0,
            limit=most,
            wanted=self.settings.num_samples,
            first=shard.index * most,
            log_bound=torch.tensor(bound, dtype=torch.float64).to(self.target.device),
            pilot=pilot,
            pilot_limit=most,
        )

    def merge(self, states: Sequence[State]) -> State:
        groups = range(self.target.num_groups)
        attempts: list[tuple[int, ...]] = []
        for group in groups:
            # Attempts are counted on from part to part, each up to that of its last draw.
            numbers, before = [], 0
            for state in states:
                numbers += [before + number for number in state.attempts[group]]
                before += _num_used(state, group)
            attempts.append(tuple(numbers))
        kept = [[s.accepted[g] for s in states if s.accepted[g].num_rows] for g in groups]
        return replace(
            states[0],
            accepted=tuple(concatenate(kept[g] or [states[0].accepted[g]]) for g in groups),
            attempts=tuple(attempts),
            log_ratios=tuple(sum((s.log_ratios[g] for s in states), ()) for g in groups),
            log_potentials=tuple(sum((s.log_potentials[g] for s in states), ()) for g in groups),
            num_attempts=sum(state.num_attempts for state in states),
            limit=sum(state.limit for state in states),
            wanted=sum(state.wanted for state in states),
            num_parts=len(states),
        )

    def is_done(self, state: State) -> bool:
        return state.batch is None and (
            state.num_attempts >= state.limit or not self._wanting(state)
        )

    def _wanting(self, state: State) -> tuple[int, ...]:
        """The bindings that have not enough draws yet, or not enough attempts to judge them by."""
        if state.num_attempts < self._fewest_attempts:
            return tuple(range(len(state.attempts)))
        return tuple(g for g, numbers in enumerate(state.attempts) if len(numbers) < state.wanted)

    @property
    def _fewest_attempts(self) -> int:
        """How many attempts are made although there are draws enough."""
        return self.settings.num_pilot if self.settings.upper_bound == "estimated" else 0

    def step(self, state: State) -> tuple[State, Info]:
        """One token, or choice, more of every attempt of a batch."""
        if state.pilot is not None:
            return self._step_of_pilot(state, state.pilot)
        target, batch = self.target, state.batch
        if batch is None:
            size = min(self.settings.batch_size, state.limit - state.num_attempts)
            groups = self._wanting(state)
            rows, numbers = numbers_of(groups, state.first + state.num_attempts, size)
            batch = Batch(begin(target, rows, numbers), groups, size)
        unfinished = batch.unfinished
        if not is_complete(target, unfinished):
            unfinished = advance(target, unfinished, self.stream, masked=False)
        num_tokens = unfinished.num_tokens - batch.unfinished.num_tokens
        batch = replace(batch, unfinished=unfinished)
        is_whole = is_complete(target, unfinished)
        new = self._judged(state, batch) if is_whole else replace(state, batch=batch)
        done = min(len(numbers) for numbers in new.attempts)
        message = f"{new.num_attempts} attempts"
        return new, Info("draws", done, state.wanted, message, num_tokens)

    def _step_of_pilot(self, state: State, pilot: tuple[Tensor, ...]) -> tuple[State, Info]:
        """One token, or choice, more of the attempts that find the bound.

        They are the same in all parts of a run, which so have one bound.
        """
        target, batch = self.target, state.batch
        made, wanted = pilot[0].shape[0], min(self.settings.num_pilot, state.pilot_limit)
        stream = self.stream.child("pilot")
        if batch is None:
            groups = tuple(range(target.num_groups))
            size = self._pilot_size(state, made)
            batch = Batch(begin(target, *numbers_of(groups, made, size)), groups, size)
        unfinished = batch.unfinished
        if not is_complete(target, unfinished):
            unfinished = advance(target, unfinished, stream, masked=False)
        num_tokens = unfinished.num_tokens - batch.unfinished.num_tokens
        new = replace(state, batch=replace(batch, unfinished=unfinished))
        if is_complete(target, unfinished):
            found = completed(unfinished)
            every = torch.full((found.num_rows,), -math.inf, dtype=torch.float64)
            every[found.rows.cpu()] = found.log_weight.cpu()
            pilot = tuple(map(torch.cat, zip(pilot, every.view(len(pilot), -1), strict=True)))
            new = self._after_pilot(replace(state, batch=None, pilot=pilot), pilot)
        return new, Info("pilot attempts", made, max(wanted, made), num_tokens=num_tokens)

    def _pilot_size(self, state: State, made: int) -> int:
        """How many attempts of the pilot are made next."""
        wanted = min(self.settings.num_pilot, state.pilot_limit)
        most = wanted if made < wanted else state.pilot_limit
        return min(self.settings.batch_size, most - made)

    def _after_pilot(self, state: State, pilot: tuple[Tensor, ...]) -> State:
        """The state with its bounds, once there are attempts enough; few of them may weigh."""
        made = pilot[0].shape[0]
        fewest = min(int((log_weight > -math.inf).sum()) for log_weight in pilot)
        most = state.pilot_limit
        if made < min(self.settings.num_pilot, most) or (fewest < _FEWEST_WEIGHTS and made < most):
            return state
        bounds = [
            smallest_bound(log_weight.numpy(), self.settings.tolerance)
            if bool((log_weight > -math.inf).any())
            else 0.0
            for log_weight in pilot
        ]
        known = [weight_bound(self.target, group).log_bound for group in range(len(pilot))]
        log_bound = torch.tensor([*map(min, bounds, known)], dtype=torch.float64)
        return replace(state, log_bound=log_bound.to(self.target.device), pilot=None)

    def _judged(self, state: State, batch: Batch) -> State:
        """The state with the attempts of a complete batch, kept or not."""
        proposals, counters = completed(batch.unfinished), batch.unfinished.counters
        at = proposals.rows
        log_ratio = self._log_ratio(proposals.traces, proposals.log_weight, state.log_bound)
        kept = self._accept(log_ratio, counters[at])
        every = torch.full((proposals.num_rows,), -math.inf, dtype=torch.float64)
        every[at.cpu()] = log_ratio.cpu()
        traces = proposals.traces.select(kept)
        attempt = state.num_attempts + at[kept].cpu() % batch.size
        accepted, attempts = list(state.accepted), list(state.attempts)
        log_ratios, log_potentials = list(state.log_ratios), list(state.log_potentials)
        made = proposals.traces
        for position, group in enumerate(batch.groups):
            log_ratios[group] += (every[position * batch.size : (position + 1) * batch.size],)
            whole = made.group == group
            log_potentials[group] += ({n: x[whole] for n, x in made.log_potential.items()},)
            here = (traces.group == group).nonzero().squeeze(-1)
            here = here[: state.wanted - len(attempts[group])]
            if here.shape[0]:
                found = traces.select(here)
                old = accepted[group]
                accepted[group] = concatenate([old, found]) if old.num_rows else found
                attempts[group] = attempts[group] + tuple(attempt[here.cpu()].tolist())
        return replace(
            state,
            accepted=tuple(accepted),
            attempts=tuple(attempts),
            log_ratios=tuple(log_ratios),
            log_potentials=tuple(log_potentials),
            num_attempts=state.num_attempts + batch.size,
            batch=None,
        )

    def hurry(self, state: State, *, spent: float, left: float) -> State:
        """Fewer attempts, as many as can be finished; not before half of the budget is spent.

        Those that find the bound leave as much as they take: it is then found by fewer, and the
        draws after it are as independent of them as ever.
        """
        if state.pilot is not None:
            made = state.pilot[0].shape[0]
            in_pilot = Hurry(self.target, self.stream.child("pilot"), spent, left / 2)
            batch, limit = in_pilot.shortened(
                state.batch,
                made,
                state.pilot_limit,
                size=self._pilot_size(state, made),
                num_groups=self.target.num_groups,
            )
            new = replace(state, batch=batch, pilot_limit=limit)
            return self._after_pilot(new, state.pilot) if batch is None and made >= limit else new
        batch, limit = Hurry(self.target, self.stream, spent, left).shortened(
            state.batch,
            state.num_attempts,
            state.limit,
            size=min(self.settings.batch_size, state.limit - state.num_attempts),
            num_groups=len(self._wanting(state)),
        )
        return replace(state, batch=batch, limit=limit)

    def recover(self, state: State) -> State:
        batch = state.batch
        return state if batch is None else replace(state, batch=batch.recovered(self.target))

    def _log_ratio(self, traces: Traces, log_weight: Tensor, log_bound: Tensor) -> Tensor:
        """The log probability of acceptance of the executions, `[rows]`."""
        bound = log_bound[traces.group]
        log_ratio = log_weight - bound
        above = log_ratio > _SLACK * (1.0 + bound.abs())
        if self.settings.upper_bound == "proven" and bool(above.any()):
            row = int(above.nonzero()[0])
            raise InferenceError(
                [
                    Diagnostic(
                        "LMP904",
                        "error",
                        f"a draw has log weight {float(log_weight[row]):.6g}, above the bound"
                        f" {float(bound[row]):.6g} that rejection rests on",
                        help="a reward returned more than its declared upper bound: correct the"
                        " declaration, or use smc",
                    )
                ]
            )
        return log_ratio

    def _accept(self, log_ratio: Tensor, counters: Tensor) -> Tensor:
        """Positions of the executions to keep, in order."""
        uniforms = self.stream.child("accept").uniforms(counters.to(self.target.device))
        return (uniforms.log() < log_ratio).nonzero().squeeze(-1)

    def result(self, state: State, *, complete: bool) -> list[Draws]:
        if not complete and not any(state.attempts):
            nothing = self.target.start(torch.zeros(0, dtype=torch.long))
            tried = f"none of {state.num_attempts:,} complete attempts was accepted"
            lacking = (tried, "allow more time, or use smc")
            empty = Draws(nothing, nothing.log_density(), None, complete=False, lacking=lacking)
            return [empty] * self.target.num_groups
        return by_binding(self.target, partial(self._of_group, state, complete))

    def _before(self, batches: Sequence[Mapping[str, Tensor]], group: int) -> dict[str, object]:
        """What the factors were on all attempts, which are draws of the prior."""
        filled = [batch for batch in batches if batch]
        if not filled:
            return {}
        columns = {name: torch.cat([batch[name] for batch in filled]) for name in filled[0]}
        alike = torch.zeros_like(next(iter(columns.values())))
        return dict(factors_before(self.target, group, columns, alike))

    def _nothing_accepted(
        self, group: int, attempts: int, upper: float, log_bound: float
    ) -> InferenceError:
        """LMP905; LMP901 where the constraints are what ruled the draws out."""
        what = (
            f"none of {attempts} attempts was accepted (acceptance below {upper:.2g} with 95%"
            " confidence)"
        )
        lost = zero_mass(self.target, what, group)
        if lost.diagnostics[0].span is not None:
            return lost
        return InferenceError(
            [
                Diagnostic(
                    "LMP905",
                    "error",
                    what,
                    notes=(
                        "a draw is kept with probability"
                        f" exp(factors - {log_bound:.4g}): the bound comes from"
                        " the declared ranges of the rewards, and no draw came near it",
                    ),
                    help="declare tighter ranges, raise max_attempts, or use smc",
                )
            ],
            self.target.model.sources,
        )

    def _of_group(self, state: State, complete: bool, group: int) -> Draws:
        traces, numbers = state.accepted[group], state.attempts[group]
        wanted, found = state.wanted, len(numbers)
        enough = found >= wanted
        attempts = _num_used(state, group)
        log_bound = float(state.log_bound[group])
        if found == 0 and attempts:
            _, upper = proportion_interval(0, attempts)
            raise self._nothing_accepted(group, attempts, upper, log_bound)
        lower, upper = proportion_interval(found, attempts) if attempts else (0.0, 1.0)
        evidence = None
        ratios = torch.cat(state.log_ratios[group]) if found else torch.zeros(0)
        quasi = None
        if found and self.settings.upper_bound == "estimated":
            is_alone = state.num_parts == 1
            stops = enough and attempts > self._fewest_attempts
            used = max(attempts, self._fewest_attempts) if is_alone else ratios.shape[0]
            quasi = quasi_of(self.target, group, ratios[:used].numpy(), log_bound)
            evidence = quasi.evidence(stops=stops, alone=is_alone)
        elif found:
            every = ratios.clamp(max=0.0) + log_bound
            evidence = Estimate.from_units(every.numpy(), log_bound=log_bound, kind="consistent")
        warnings = [] if quasi is None else list(quasi.warnings)
        if not enough and complete:
            warnings.append(
                f"only {found} of {wanted} draws were accepted in max_attempts="
                f"{state.limit} attempts"
                + ("; they are exact draws all the same" if quasi is None else "")
                + ". Raise max_attempts, or use smc"
            )
        return Draws(
            traces,
            torch.zeros(found, dtype=torch.float64),
            evidence,
            unseen=None if quasi is None else quasi.unseen,
            diagnostics={
                "num_attempts": attempts,
                "acceptance_rate": found / attempts if attempts else math.nan,
                "acceptance_interval": (lower, upper),
                "log_bound": log_bound,
                "factors_before": self._before(state.log_potentials[group], group),
                **({} if quasi is None else quasi.diagnostics),
            },
            warnings=warnings,
            complete=complete and enough,
        )


def _num_used(state: State, group: int) -> int:
    """How many attempts of a binding were made until it had enough draws; all, if it has not."""
    numbers = state.attempts[group]
    return numbers[-1] + 1 if len(numbers) >= state.wanted else state.num_attempts
