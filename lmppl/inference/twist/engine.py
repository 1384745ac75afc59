"""Fits a head by rounds of particles that it guides itself, and draws by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from lmppl.density import Target, Traces
from lmppl.density.steering.learned import Head
from lmppl.errors import Diagnostic, InferenceError
from lmppl.inference.descent import Memory, Trained
from lmppl.inference.loop import Draws, Info
from lmppl.inference.methods import METHODS
from lmppl.inference.proposed import TWIST
from lmppl.inference.proposing import propose
from lmppl.inference.references import kind_taken
from lmppl.inference.settings import Settings
from lmppl.inference.starting import engine_of
from lmppl.inference.twist import Twist
from lmppl.inference.twist.objectives import OBJECTIVES
from lmppl.inference.twist.texts import Texts
from lmppl.inference.twists import FittedTwist, LookAhead, unembedding_of
from lmppl.lowering.guide import Contexts
from lmppl.rng import Stream
from lmppl.sequences.weights import log_mean_exp

# Gradients longer than this are cut: the first texts are few and far from what is to come.
_LONGEST = 1.0
# Settings of particles that are weighed and never resampled.
NEVER_RESAMPLED: dict[str, Any] = {"ess_threshold": 0.0}
# What a square nat of log ψ costs, so that few texts do not make a head sure of much.
_SMALL = 0.01
_POWERS = (1.0, 0.7, 0.4)
# Particles of a run that tries one of them, such runs of each, and runs of the best and of none.
_PILOT, _TRIALS, _FINALS = 32, 4, 16
# What the best must have left of the mean square by which runs without a twist miss: were both
# alike, one in six times as little would be left by chance (F with 16 and 16 degrees of freedom).
_CLEARLY = 0.6
# A head of fewer steps says too little to be tried.
_FEWEST_STEPS = 10
# A run that misses more nats of the evidence, or all of it, counts as missing these.
_LARGEST_MISS = 20.0


@dataclass(frozen=True, slots=True)
class Drawn:
    """The texts of all rounds so far at one site.

    `share` `[texts]` is how much of the posterior each stands for, of its binding: those of a round
    add up to its effective sample size. `is_draw` `[texts]`: of a proposal that is known, the prior
    or a head, and no survivor of others.
    """

    texts: Texts
    share: Tensor
    is_draw: Tensor

    def joined(self, other: Drawn) -> Drawn:
        return Drawn(
            self.texts.joined([other.texts]),
            torch.cat([self.share, other.share]),
            torch.cat([self.is_draw, other.is_draw]),
        )


@dataclass(frozen=True, slots=True)
class State:
    """How far the fit is: the `heads` by site, and what Adam remembers of what they train.

    `drawn` are the texts of the rounds so far by site, `losses` those of every step, `power` is
    that of the twist, once it is chosen, and `last` the state of the run that follows the fit.
    """

    heads: Mapping[int, Head]
    memory: Memory
    drawn: Mapping[int, Drawn]
    num_done: int = 0
    losses: tuple[float, ...] = ()
    power: float | None = None
    last: Any = None


@dataclass(frozen=True, slots=True)
class TwistEngine:
    """Learns log ψ of unfinished texts (Zhao et al. 2024, arXiv 2404.17546).

    The first round draws particles as smc does by default, and as many texts of the masked prior;
    the others draw texts by the twist as it is, weighed to the posterior and to the prior. After
    each Adam takes steps on minibatches of all texts so far. Only the head is trained, on hidden
    states that are computed once. In the end short runs choose a power
    of the twist. Whatever comes of it, the particles that follow are weighted exactly: a twist
    costs draws and no truth.
    """

    settings: Twist
    target: Target
    stream: Stream

    def init(self) -> State:
        heads = {}
        for number, stage in enumerate(self.target.stages):
            if stage.text is None:
                continue
            weight = unembedding_of(stage.text)
            seed = self.stream.child("head", number).key & (2**63 - 1)
            heads[number] = Head.fresh(
                weight,
                Contexts.before(self.target, number).size,
                self.settings.width,
                torch.Generator().manual_seed(seed),
            )
        if not heads:
            raise InferenceError(
                [Diagnostic("LMP419", "error", "the model has no text, and a twist is of texts")]
            )
        return State(heads, Trained.start(_tensors(heads)).memory, {})

    def is_done(self, state: State) -> bool:
        if state.num_done < self.settings.num_steps or state.last is None:
            return False
        return bool(self._particles(state).is_done(state.last))

    def step(self, state: State) -> tuple[State, Info]:
        settings = self.settings
        if state.num_done < settings.num_steps:
            return self._fit(state)
        if state.power is None and settings.num_steps < _FEWEST_STEPS:
            state = replace(state, power=1.0)
        if state.power is None:
            power, num_tokens = self._best_power(state)
            info = Info("trying powers", 1, 1, num_tokens=num_tokens)
            return replace(state, power=power), info
        engine = self._particles(state)
        last = engine.init() if state.last is None else state.last
        last, info = engine.step(last)
        return replace(state, last=last), info

    def _best_power(self, state: State) -> tuple[float, int]:
        """The power of the twist under which runs of particles agree most on the evidence, and how
        many tokens that took; 0, which is no twist, unless one is clearly better than none.

        The best of the powers by some runs of each is compared with none by fresh ones, so that it
        is not believed for having been lucky: a twist is to make no run worse, at the price of some
        that would have made it a little better.
        """
        size, groups = min(self.settings.num_particles, _PILOT), self.target.num_groups
        num_tokens = 0

        def tried(power: float, runs: int, *named: object) -> Tensor:
            """Estimates of the log evidence, `[bindings, runs]`."""
            nonlocal num_tokens
            engine = self._particles(replace(state, power=power), *named, size=size, runs=runs)
            found, drawn = _run(engine)
            num_tokens += drawn
            log_evidence: Tensor = engine.population(found).log_evidence
            return log_evidence.view(groups, -1)

        misses = _misses([tried(power, _TRIALS, "power", power) for power in _POWERS])
        best = _POWERS[int(misses.argmin())]
        last = _misses([tried(power, _FINALS, "final", power) for power in (best, 0.0)])
        return best if float(last[0]) < _CLEARLY * float(last[1]) else 0.0, num_tokens

    def fitted(self, state: State) -> FittedTwist:
        """The twist as it is now."""
        found = FittedTwist.of(self.target, dict(state.heads))
        return found if state.power is None else found.scaled(state.power)

    def _particles(
        self, state: State, *names: object, size: int | None = None, runs: int = 1
    ) -> Any:
        """What draws particles by the twist, or as it does by default where that says nothing."""
        settings = _taker().small_runs(runs, size or self.settings.num_particles)
        stream = self.stream.child("particles", *map(str, names))
        fitted = self.fitted(state)
        return engine_of(settings, self.target, stream, learned=fitted.on(self.target))

    def _fit(self, state: State) -> tuple[State, Info]:
        settings, done = self.settings, state.num_done
        num_tokens = 0
        if not state.drawn or done % -(-settings.num_steps // settings.num_rounds) == 0:
            drawn, num_tokens = self._round(state)
            state = replace(state, drawn=drawn)
        values = _tensors(state.heads)
        parameters = [value.detach().requires_grad_() for value in values]
        loss = self._loss(replace(state, heads=_with_tensors(state.heads, parameters)))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, _LONGEST)
        rates = {"lr": settings.lr * (1.0 - 0.9 * done / settings.num_steps)}
        trained = Trained(tuple(values), state.memory).stepped(
            [each.grad for each in parameters], [(len(parameters), rates)]
        )
        value = float(loss.detach())
        new = replace(
            state,
            heads=_with_tensors(state.heads, trained.values),
            memory=trained.memory,
            num_done=done + 1,
            losses=(*state.losses, value),
        )
        message = f"{settings.objective} {value:.3f}"
        return new, Info("fitting", done + 1, settings.num_steps, message, num_tokens)

    def _round(self, state: State) -> tuple[dict[int, Drawn], int]:
        """The texts so far and new ones, by site, and how many tokens they took."""
        ahead = replace(self.fitted(state).on(self.target), seen={})
        if not state.drawn or ahead.says_nothing:
            new, num_tokens = self._first(state)
        else:
            try:
                new, num_tokens = self._by_twist(state, ahead)
            except InferenceError:
                # All died: only those that are resampled on their way come to the end.
                new, num_tokens = self._first(state)
        known = state.drawn
        return {n: known[n].joined(each) if n in known else each for n, each in new.items()}, (
            num_tokens
        )

    def _first(self, state: State) -> tuple[dict[int, Drawn], int]:
        """Particles, which stand for the posterior, and as many draws of the masked prior."""
        target, size = self.target, self.settings.num_particles
        engine = self._particles(state, state.num_done)
        running, num_tokens = _run(engine)
        found = engine.population(running)
        log_weight = found.log_weight.reshape(-1)
        alive = (log_weight > -torch.inf).nonzero().squeeze(-1)
        particles = found.traces.select(alive)
        groups = torch.arange(target.num_groups).repeat_interleave(size)
        counters = torch.arange(size).repeat(target.num_groups)
        prior = propose(target, groups, counters, self.stream.child("prior", state.num_done))
        drawn = {}
        for number, head in state.heads.items():
            ours = Texts.of(target, number, particles, head)
            theirs = Texts.of(target, number, prior.traces, head)
            one = Drawn(ours, self._shares(particles, log_weight[alive]), ours.group < 0)
            two = Drawn(theirs, self._shares(prior.traces, prior.log_weight), theirs.group >= 0)
            drawn[number] = one.joined(two)
        # Every text is read once more, for the hidden state at each of its tokens.
        read = particles.num_tokens() + prior.traces.num_tokens()
        return drawn, num_tokens + prior.num_tokens + read

    def _by_twist(self, state: State, ahead: LookAhead) -> tuple[dict[int, Drawn], int]:
        """Draws of the twist as it is, none of which is resampled, so that what the language model
        knew of each is what was seen when it was drawn."""
        size = self.settings.num_particles
        settings: Any = replace(_taker().small_runs(1, size), **NEVER_RESAMPLED)
        stream = self.stream.child("particles", str(state.num_done))
        engine: Any = engine_of(settings, self.target, stream, learned=ahead)
        running, num_tokens = _run(engine)
        found = engine.population(running)
        log_weight = found.log_weight.reshape(-1)
        alive = (log_weight > -torch.inf).nonzero().squeeze(-1)
        traces = found.traces.select(alive)
        share, drawn = self._shares(traces, log_weight[alive]), {}
        for number, head in state.heads.items():
            seen = None if ahead.seen is None else ahead.seen.get(number)
            hidden = None if seen is None or not bool(head.outer.any()) else seen.hidden[alive]
            texts = Texts.of(self.target, number, traces, head, hidden, twisted=True)
            drawn[number] = Drawn(texts, share, torch.ones_like(share, dtype=torch.bool))
            if hidden is None:
                num_tokens += int(texts.lengths.sum())
        return drawn, num_tokens

    def _shares(self, traces: Traces, log_weight: Tensor) -> Tensor:
        """How much of the posterior each of weighted executions stands for, of its binding."""
        shares = torch.zeros_like(log_weight)
        for group in range(self.target.num_groups):
            mine = (traces.group == group).nonzero().squeeze(-1)
            if mine.numel():
                share = log_weight[mine].softmax(-1)
                shares[mine] = share / share.pow(2).sum()
        return shares

    def _loss(self, state: State) -> Tensor:
        settings, objective = self.settings, OBJECTIVES[self.settings.objective]
        total = torch.zeros((), dtype=torch.float64, device=self.target.device)
        for number, drawn in state.drawn.items():
            head, weight = state.heads[number], unembedding_of(drawn.texts.stage)
            for group in range(self.target.num_groups):
                seed = self.stream.child("batch", state.num_done, number, group).key
                generator = torch.Generator().manual_seed(seed & (2**63 - 1))
                mine = drawn.share * (drawn.texts.group == group)
                others = (drawn.is_draw & (drawn.texts.group == group)).double()
                if not bool(mine.any()) or not bool(others.any()):
                    continue
                batch = settings.batch_size
                one = torch.multinomial(mine.cpu(), batch, replacement=True, generator=generator)
                two = torch.multinomial(others.cpu(), batch, replacement=True, generator=generator)
                device = self.target.device
                ours = drawn.texts.scored(head, weight, one.to(device))
                theirs = drawn.texts.scored(head, weight, two.to(device))
                small = ours.size() + theirs.size()
                total = total + objective(ours, theirs) + _SMALL * small
        return total

    def hurry(self, state: State, *, spent: float, left: float) -> State:
        """No more steps of the fit once half of the budget is spent; then fewer particles."""
        if state.last is not None:
            last = self._particles(state).hurry(state.last, spent=spent, left=left)
            return replace(state, last=last)
        if spent < left or state.num_done >= self.settings.num_steps:
            return state
        return replace(state, num_done=self.settings.num_steps, power=1.0)

    def recover(self, state: State) -> State:
        if state.last is None:
            return state
        return replace(state, last=self._particles(state).recover(state.last))

    def result(self, state: State, *, complete: bool) -> list[Draws]:
        engine, twist = self._particles(state), self.fitted(state)
        last = engine.init() if state.last is None else state.last
        losses = torch.tensor(state.losses, dtype=torch.float64).numpy()
        return [
            replace(
                draws,
                guide=twist,
                info={**draws.info, "loss": losses},
                diagnostics={
                    **draws.diagnostics,
                    "num_steps": len(state.losses),
                    "twist_power": 1.0 if state.power is None else state.power,
                },
            )
            for draws in engine.result(last, complete=complete)
        ]


def _taker() -> type[Settings]:
    """The method that draws particles by twists."""
    return next(m for m in METHODS if any(kind_taken(each) == TWIST for each in fields(m)))


def _misses(log_evidence: Sequence[Tensor]) -> Tensor:
    """The mean square, in nats, by which runs miss the evidence, `[kinds]`, for each of several
    kinds of runs, `[bindings, runs]`.

    All estimate one number, without bias: what differs is how far each is from it. As the truth is
    not known, it is the mean over all runs of all kinds, which the best of them dominate. Runs that
    miss what others found are far below it.
    """
    pooled = log_mean_exp(torch.cat(list(log_evidence), -1)).unsqueeze(-1)
    far = [(each - pooled).clamp(min=-_LARGEST_MISS).pow(2).mean() for each in log_evidence]
    return torch.stack(far)


def _tensors(heads: Mapping[int, Head]) -> list[Tensor]:
    """All that heads train, in order."""
    return [each for head in heads.values() for each in head.trained.values()]


def _with_tensors(heads: Mapping[int, Head], tensors: Sequence[Tensor]) -> dict[int, Head]:
    """Heads that have these instead."""
    left = iter(tensors)
    return {
        number: replace(head, **{name: next(left) for name in head.trained})
        for number, head in heads.items()
    }


def _run(engine: Any) -> tuple[Any, int]:
    """The last state of an engine, and how many tokens it drew."""
    state, num_tokens = engine.init(), 0
    while not engine.is_done(state):
        state, info = engine.step(state)
        num_tokens += info.num_tokens
    return state, num_tokens
