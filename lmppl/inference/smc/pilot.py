"""A small run before the texts of a site are drawn, to see how far a surrogate can be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lmppl.density import Target, TextStage, Traces
from lmppl.density.stages.run import TextRun
from lmppl.density.steering.correcting import Moves
from lmppl.density.steering.expecting import Expectations
from lmppl.density.steering.power import power as power_of_texts
from lmppl.density.steering.steered import Steered
from lmppl.density.steering.surrogate import SurrogateLookahead
from lmppl.inference.smc.growing import Growth, growth_of
from lmppl.records import brief
from lmppl.rng import Stream
from lmppl.sequences.resampling import systematic_resample
from lmppl.sequences.weights import effective_sample_size, log_mean_exp

# The powers of ψ that are tried, and those of the rounds of a pilot while it tries them.
POWERS = (0.7, 0.85, 1.0)
_OF_ROUND = (0.7, 0.85)
# Where nothing but a power weighs, the first round goes without ψ: is that not as good?
_OF_ROUND_OF_POWERS = (0.0, 0.85)

# Texts of one binding in a pilot: a share of those of the run itself, within bounds.
_SHARE, _FEWEST, _MOST = 0.25, 16, 64


def pilot_size(num_particles: int) -> int:
    """How many texts of a binding a pilot draws for a run of so many; 0: it does not pay."""
    size = min(int(_SHARE * num_particles), _MOST)
    return size if size >= _FEWEST else 0


@dataclass(frozen=True, slots=True)
class Pilot:
    """Texts in the making that try ψ, and what they have shown so far.

    Rows are `[bindings, size]` flat. `moves` has what was seen of each outlook, over all rounds;
    `spread` `[outlooks, powers, steps]` is, for the steps of this round, the log of the share of
    the effective sample size that one more step leaves under each power. `num_tokens` were drawn.
    """

    number: int
    stage: TextStage
    traces: Traces
    expected: Expectations
    steering: SurrogateLookahead
    run: TextRun
    log_weight: Tensor
    moves: tuple[Moves | None, ...]
    spread: Tensor
    round: int = 0
    step: int = 0
    log_evidence: Tensor | float = 0.0
    late: tuple[float, ...] = ()

    __repr__ = brief

    @classmethod
    def begin(cls, target: Target, number: int, traces: Traces, expected: Expectations) -> Pilot:
        """Before the first token; `traces` has as many rows for each binding, in order."""
        stage = target.stages[number].text
        assert stage is not None
        pilot = cls(
            number,
            stage,
            traces,
            expected,
            *_begun(target, number, stage, traces, expected, _power_of(expected, 0)),
            torch.zeros(target.num_groups, traces.num_rows // target.num_groups).double(),
            tuple(
                None if each is None else Moves.none(each.automaton, each.exponent)
                for each in expected.each
            ),
            torch.zeros(len(expected.each), len(POWERS), stage.max_tokens, dtype=torch.float64),
        )
        return replace(pilot, log_weight=pilot.log_weight.to(target.device))

    @property
    def is_done(self) -> bool:
        return self.round == len(_OF_ROUND)

    @property
    def num_done(self) -> int:
        """How many steps were done, those left out because all texts had ended included."""
        return self.round * self.stage.max_tokens + self.step

    @property
    def num_steps(self) -> int:
        """The most steps of all rounds together."""
        return len(_OF_ROUND) * self.stage.max_tokens

    def stepped(self, target: Target, stream: Stream) -> tuple[Pilot, int]:
        """After one more token of every open text, and how many tokens these were."""
        run = self.stage.extend(self.run)
        seen = replace(self, run=run)._seen()
        counters = torch.arange(self.log_weight.shape[1], device=target.device)
        drawing = stream.child("round", self.round)
        uniforms = drawing.uniforms(counters, self.step).repeat(target.num_groups)
        run, step = self.stage.step(run, uniforms)
        log_weight = self.log_weight.view(-1).index_add(0, step.rows, step.log_weight)
        if run.num_open:
            alive = log_weight[run.open] > -math.inf
            run = run if bool(alive.all()) else run.close(alive)
        log_weight = log_weight.view_as(self.log_weight)
        new = replace(seen, run=run, log_weight=log_weight, step=self.step + 1)
        if run.num_open == 0:
            new = new._next_round(target)
        else:
            new = new._resampled(drawing)
        return new, step.rows.shape[0]

    def _seen(self) -> Pilot:
        """With what the language model and the surrogate say of the next token of open texts."""
        run = self.run
        assert run.prefixes is not None
        probs = self.stage.warp(run.prefixes.row_logits()).float().softmax(-1)
        place = next(n for n, part in enumerate(run.steered.parts) if part is self.steering)
        weight = self.log_weight.view(-1)[run.open]
        moves, spread = list(self.moves), self.spread.clone()
        mask, log_factors = _beside(run.steered, place).log_next(run)
        possible = probs if mask is None else probs * mask
        if log_factors is not None:
            possible = possible * log_factors.exp().to(possible.dtype)
        for number, outlook, at, own, beliefs in self.steering.numbered(
            run.steered.states[place][run.open]
        ):
            alive = own >= 0
            rows = at[alive] if at is not None else alive.nonzero().squeeze(-1)
            own, beliefs = own[alive], beliefs[alive]
            if not rows.numel():
                continue
            known = moves[number]
            assert known is not None
            moves[number] = known.seen(outlook, own, beliefs, probs[rows])
            remaining = run.max_tokens - self.step
            for column, power in enumerate(POWERS):
                tried = replace(outlook, power=power)
                log_mass = tried.ahead(beliefs, own, remaining).exp_().mul_(possible[rows])
                log_mass = log_mass.sum(-1).double().log()
                # What the texts so far would weigh under that power, which is what they are now.
                now = tried.log_expected(beliefs, own, remaining)
                before = weight[rows] + now - outlook.log_expected(beliefs, own, remaining)
                after = before + log_mass
                kept = (
                    2 * after.logsumexp(0) - before.logsumexp(0) - (after + log_mass).logsumexp(0)
                )
                spread[number, column, self.step] = float(kept.nan_to_num(0.0, neginf=0.0))
        return replace(self, moves=tuple(moves), spread=spread)

    def _resampled(self, stream: Stream) -> Pilot:
        low = effective_sample_size(self.log_weight) < 0.5 * self.log_weight.shape[1]
        low &= (self.log_weight > -math.inf).any(-1)
        if not bool(low.any()):
            return self
        groups, size = self.log_weight.shape
        here = low.nonzero().squeeze(-1)
        point = stream.child("resample").uniforms(torch.zeros_like(here), self.step)
        ancestors = torch.arange(size, device=here.device).repeat(groups, 1)
        ancestors[here] = systematic_resample(self.log_weight[here], point)
        first = torch.arange(groups, device=here.device).unsqueeze(-1) * size
        log_weight = self.log_weight.masked_fill(low.unsqueeze(-1), 0.0)
        gain = torch.where(low, log_mean_exp(self.log_weight), 0.0)
        return replace(
            self,
            run=self.run.select((ancestors + first).view(-1)),
            log_weight=log_weight,
            log_evidence=self.log_evidence + gain,
        )

    def _next_round(self, target: Target) -> Pilot:
        """With what was seen taken into account; texts begin anew where a round is left."""
        late = tuple(map(self._late, range(len(self.expected.each))))
        late = tuple(map(max, late, self.late)) if self.late else late
        expected = self.expected.corrected(
            [None if moves is None else moves.correction() for moves in self.moves]
        )
        done = replace(self, expected=expected, round=self.round + 1, step=0, late=late)
        if done.is_done:
            return done
        steering, run = _begun(
            target, self.number, self.stage, self.traces, expected, _power_of(expected, done.round)
        )
        return replace(
            done,
            steering=steering,
            run=run,
            log_weight=torch.zeros_like(self.log_weight),
            log_evidence=0.0,
            spread=torch.zeros_like(self.spread),
        )

    def _late(self, number: int) -> float:
        """Of the texts of one outlook, now that they are complete, if a power alone weighs them."""
        expected, run = self.expected.each[number], self.run
        rows = (self.expected.which == number).nonzero().squeeze(-1)
        if expected is None or not rows.numel():
            return -math.inf
        size = self.log_weight.shape[1]
        before = torch.zeros_like(self.log_weight[:, 0]) + self.log_evidence
        log_weight = run.unsteered(self.log_weight.view(-1)) + before.repeat_interleave(size)
        log_weight = log_weight + (expected.exponent - 1.0) * run.log_prior
        early = run.finished & (run.positions < run.max_tokens)
        return float(log_mean_exp(log_weight.masked_fill(early, -math.inf)[rows]))

    def powers(self) -> list[float | None]:
        """For each outlook, the power under which weights stay most alike; None: no text tried."""
        total = self.spread.sum(-1)
        best = total.argmax(-1).tolist()
        tried = (total < 0).any(-1).tolist()
        return [POWERS[b] if t else None for b, t in zip(best, tried, strict=True)]

    def growth(self) -> Growth | None:
        """When there should be more particles, by the power that is best for each outlook."""
        best = self.spread.sum(-1).argmax(-1)
        of_best = self.spread[torch.arange(len(best)), best]
        tried = (of_best < 0).any(-1)
        return growth_of(of_best[tried].mean(0)) if bool(tried.any()) else None


def _begun(
    target: Target,
    number: int,
    stage: TextStage,
    traces: Traces,
    expected: Expectations,
    exponent: float,
) -> tuple[SurrogateLookahead, TextRun]:
    rows = target.rows(number, traces)
    steering = expected.steering([exponent] * len(expected.each))
    powers = power_of_texts(target, number, stage, traces)
    if exponent:
        powers = powers.without(expected.labels)
    return steering, stage.start(rows, *target.steering(rows), powers, steering)


def _power_of(expected: Expectations, number: int) -> float:
    """The power of ψ in a round."""
    of_powers = all(asked.is_power or asked.is_empty for _, asked, _ in expected.asked)
    return (_OF_ROUND_OF_POWERS if of_powers else _OF_ROUND)[number]


def _beside(steered: Steered, place: int) -> Steered:
    """The same without one of its parts."""

    def others(each: tuple[Any, ...]) -> tuple[Any, ...]:
        return each[:place] + each[place + 1 :]

    return replace(
        steered,
        parts=others(steered.parts),
        states=others(steered.states),
        log_values=others(steered.log_values),
    )
