"""Rejection sampling: independent exact draws, at a cost of one over the acceptance rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lmppl.errors import Diagnostic, InferenceError
from lmppl.inference.bounds import weight_bound
from lmppl.inference.loop import Draws, Info
from lmppl.inference.proposing import propose
from lmppl.inference.settings import Rejection
from lmppl.inference.zero_mass import zero_mass
from lmppl.posterior import Estimate
from lmppl.posterior.intervals import proportion_interval
from lmppl.rng import Stream
from lmppl.target import Target, Traces, concatenate

# Rounding in the interval arithmetic of the bound and in the evaluation of the factors.
_SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class State:
    """Per binding: the accepted executions, the number of the attempt that gave each, and the
    log probability of acceptance of every attempt, in batches."""

    accepted: tuple[Traces, ...]
    attempts: tuple[tuple[int, ...], ...]
    log_ratios: tuple[tuple[Tensor, ...], ...]
    num_attempts: int


class RejectionEngine:
    """Draws x ~ π0 and keeps it with probability Πφ(x) / exp(B), B an upper bound of Σ log φ.

    What is kept are independent draws of the posterior, and the acceptance rate times exp(B) is
    the evidence. That rate is estimated by the mean probability of acceptance over all attempts, of
    which the share of acceptances is a noisier reading.
    """

    def __init__(self, settings: Rejection, target: Target, stream: Stream) -> None:
        self.settings, self.target, self.stream = settings, target, stream
        self.log_bound = torch.tensor(
            [self._log_bound(group) for group in range(target.num_groups)], dtype=torch.float64
        ).to(target.device)

    def _log_bound(self, group: int) -> float:
        bound = weight_bound(self.target, group)
        if bound.unbounded is None:
            return bound.log_bound
        raise InferenceError(
            [
                Diagnostic(
                    "LMP410",
                    "error",
                    f"rejection needs an upper bound of factor {bound.unbounded.label}, which has"
                    " none",
                    span=bound.unbounded.span,
                    help="declare the reward's range, as in"
                    " `reward r(t: string): real<lower=-1, upper=1>`",
                )
            ],
            {self.target.model.path: self.target.model.source},
        )

    def init(self) -> State:
        nothing = self.target.start(torch.zeros(0, dtype=torch.long))
        groups = self.target.num_groups
        return State((nothing,) * groups, ((),) * groups, ((),) * groups, 0)

    def is_done(self, state: State) -> bool:
        wanted = self.settings.num_samples
        return state.num_attempts >= self.settings.max_attempts or all(
            len(numbers) >= wanted for numbers in state.attempts
        )

    def step(self, state: State) -> tuple[State, Info]:
        settings, target = self.settings, self.target
        size = min(settings.batch_size, settings.max_attempts - state.num_attempts)
        wanting = [
            g for g, numbers in enumerate(state.attempts) if len(numbers) < settings.num_samples
        ]
        groups = torch.tensor(wanting).repeat_interleave(size)
        numbers = torch.arange(state.num_attempts, state.num_attempts + size).repeat(len(wanting))
        # A binding draws what it would draw alone.
        proposals = propose(target, groups, numbers, self.stream, masked=False)
        log_ratio = self._log_ratio(proposals.traces, proposals.log_weight)
        kept = self._accept(log_ratio, numbers[proposals.rows.cpu()])
        every = torch.full((groups.shape[0],), -math.inf, dtype=torch.float64)
        every[proposals.rows.cpu()] = log_ratio.cpu()
        traces = proposals.traces.select(kept)
        attempt = numbers[proposals.rows[kept].cpu()]
        accepted, attempts = list(state.accepted), list(state.attempts)
        log_ratios = list(state.log_ratios)
        for position, group in enumerate(wanting):
            log_ratios[group] += (every[position * size : (position + 1) * size],)
            at = (traces.group == group).nonzero().squeeze(-1)
            at = at[: settings.num_samples - len(attempts[group])]
            if at.shape[0]:
                found = traces.select(at)
                old = accepted[group]
                accepted[group] = concatenate([old, found]) if old.num_rows else found
                attempts[group] = attempts[group] + tuple(attempt[at.cpu()].tolist())
        new = State(tuple(accepted), tuple(attempts), tuple(log_ratios), state.num_attempts + size)
        done = min(len(numbers) for numbers in new.attempts)
        message = f"{new.num_attempts} attempts"
        return new, Info("draws", done, settings.num_samples, message, proposals.num_tokens)

    def _log_ratio(self, traces: Traces, log_weight: Tensor) -> Tensor:
        """The log probability of acceptance of the executions, `[rows]`."""
        log_ratio = log_weight - self.log_bound[traces.group]
        above = log_ratio > _SLACK * (1.0 + self.log_bound[traces.group].abs())
        if bool(above.any()):
            row = int(above.nonzero()[0])
            raise InferenceError(
                [
                    Diagnostic(
                        "LMP904",
                        "error",
                        f"a draw has log weight {float(log_weight[row]):.6g}, above the bound"
                        f" {float(self.log_bound[traces.group[row]]):.6g} that rejection rests on",
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
        return [self._of_group(state, group, complete) for group in range(self.target.num_groups)]

    def _nothing_accepted(self, group: int, attempts: int, upper: float) -> InferenceError:
        """LMP905; LMP901 where the constraints are what ruled the draws out."""
        what = (
            f"none of {attempts} attempts was accepted (acceptance below {upper:.2g} with 95%"
            " confidence)"
        )
        lost = zero_mass(self.target, what)
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
                        f" exp(factors - {float(self.log_bound[group]):.4g}): the bound comes from"
                        " the declared ranges of the rewards, and no draw came near it",
                    ),
                    help="declare tighter ranges, raise max_attempts, or use smc",
                )
            ],
            {self.target.model.path: self.target.model.source},
        )

    def _of_group(self, state: State, group: int, complete: bool) -> Draws:
        traces, numbers = state.accepted[group], state.attempts[group]
        wanted, found = self.settings.num_samples, len(numbers)
        enough = found >= wanted
        attempts = numbers[-1] + 1 if enough else state.num_attempts
        if found == 0 and attempts:
            _, upper = proportion_interval(0, attempts)
            raise self._nothing_accepted(group, attempts, upper)
        lower, upper = proportion_interval(found, attempts) if attempts else (0.0, 1.0)
        log_bound = float(self.log_bound[group])
        evidence = None
        if found:
            every = torch.cat(state.log_ratios[group]).clamp(max=0.0) + log_bound
            evidence = Estimate.from_units(every.numpy(), log_bound=log_bound, kind="consistent")
        warnings = []
        if not enough and complete:
            warnings.append(
                f"only {found} of {wanted} draws were accepted in max_attempts="
                f"{self.settings.max_attempts} attempts; they are exact draws all the same."
                " Raise max_attempts, or use smc"
            )
        return Draws(
            traces,
            torch.zeros(found, dtype=torch.float64),
            evidence,
            diagnostics={
                "num_attempts": attempts,
                "acceptance_rate": found / attempts if attempts else math.nan,
                "acceptance_interval": (lower, upper),
                "log_bound": log_bound,
            },
            warnings=warnings,
            complete=complete and enough,
        )
