"""Conditional sequential Monte Carlo: a text among particles that are drawn around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmppl.density import SiteRows, Target, TextBatch, TextStage, Traces
from lmppl.density.stages.run import TextRun
from lmppl.density.stages.strings import decode
from lmppl.density.steering.automaton import stop_automata
from lmppl.density.steering.protocol import Steering
from lmppl.inference.moves import Move, chains_of, rescored_later
from lmppl.rng import Stream
from lmppl.sequences.conditional import conditional_resample
from lmppl.sequences.weights import effective_sample_size, normalise

# What guides the particles besides the requirements, given the site and their executions.
Guide = Callable[[Target, int, TextStage, Traces], Steering]


@dataclass(frozen=True, slots=True)
class Particles:
    """How a text is drawn again among `num_particles`, of which it is one.

    The others are resampled where the effective sample size is below `ess_threshold` of them, by
    the `scheme` (see `sequences.conditional`). At so many `joints`, places drawn anew each time,
    the kept text may take the beginning of another particle for its own. `guides` may steer them;
    what they say of texts as far as they go is asked every `look_every` tokens.
    """

    num_particles: int = 8
    joints: int = 0
    scheme: str = "systematic"
    ess_threshold: float = 0.5
    guides: Sequence[Guide] = ()
    look_every: int = 4


def particle_move(
    target: Target, traces: Traces, site: int, how: Particles, stream: Stream
) -> Move:
    """Draws a text site given everything else by particle Gibbs (Andrieu, Doucet and Holenstein
    2010): N − 1 particles are grown beside the text, all are weighed, and one is taken.

    The text is particle 0: its tokens are forced, it is weighed like the others, and resampling is
    conditional on its survival. Particles that have ended are kept as they are and are resampled
    with the others. With `joints` the text's own ancestor is drawn again there, particle i with
    probability in proportion to

        Wᵢ p(rest of the text | xᵢ) φ(xᵢ rest) / ψ(xᵢ)

    (ancestor sampling: Lindsten, Jordan and Schön 2014, arXiv:1401.0604, section 3). A language
    model does not forget, so the rest is scored after every particle: one pass over whole texts.
    Among the last particles the text gives way to another as Metropolis and Hastings would have it
    (Liu 1996), which leaves it more often than drawing it among all.
    """
    text = target.stages[site].text
    assert text is not None
    sweep = _Sweep.begin(target, traces, site, text, how, stream)
    while sweep.run.num_open:
        sweep = sweep.resampled().stepped()
    return sweep.chosen()


@dataclass(frozen=True, slots=True)
class _Sweep:
    """One such draw in the making, for all chains; rows are `[chains, particles]` flat.

    `old` are the executions, a row for each chain, and `many` the same, a row for each particle.
    `log_weight` `[chains, particles]` is what particles weigh since they were resampled, ψ
    included. `joints` are the lengths at which the kept text may change its beginning.
    """

    target: Target
    site: int
    stage: TextStage
    how: Particles
    stream: Stream
    old: Traces
    many: Traces
    rows: SiteRows
    run: TextRun
    log_weight: Tensor
    joints: frozenset[int]
    num_drawn: int = 0
    num_computed: int = 0

    @classmethod
    def begin(
        cls,
        target: Target,
        traces: Traces,
        site: int,
        stage: TextStage,
        how: Particles,
        stream: Stream,
    ) -> _Sweep:
        device, size = traces.group.device, how.num_particles
        many = traces.select(torch.arange(traces.num_rows, device=device).repeat_interleave(size))
        rows = target.rows(site, many)
        guides = [guide(target, site, stage, many) for guide in how.guides]
        run = stage.begin(rows.prompts, *target.steering(rows), *guides, record=True)
        places = stream.child("joints").uniforms(torch.arange(how.joints)) * (stage.max_tokens - 1)
        return cls(
            target,
            site,
            stage,
            how,
            stream,
            traces,
            many,
            rows,
            run,
            torch.zeros((traces.num_rows, size), dtype=torch.float64, device=device),
            frozenset((places.long() + 1).tolist()),
        )

    @property
    def kept(self) -> TextBatch:
        """The text of every chain."""
        text: TextBatch = self.old.values[self.stage.name]
        return text

    @property
    def position(self) -> int:
        assert self.run.position is not None
        return self.run.position

    def stepped(self) -> _Sweep:
        """One token more for every open particle; that of the kept text is its own."""
        stage, run, at = self.stage, self.run, self.position
        num_chains, size = self.log_weight.shape
        forced = torch.full_like(self.log_weight, -1, dtype=torch.long)
        forced[:, 0] = self.kept.tokens[:, at]
        numbers = chains_of(self.target, self.old).unsqueeze(-1) * size
        numbers = numbers + torch.arange(size, device=numbers.device)
        uniforms = self.stream.child("tokens").uniforms(numbers.view(-1), at)
        run, step = stage.step(run, uniforms, forced=forced.view(-1))
        flat = self.log_weight.view(-1)
        flat = flat.index_add(0, step.rows, step.log_weight)
        if run.num_open:
            run = run.close(flat[run.open] > -math.inf)
        if run.steered.by_value and run.num_open:
            looked = step.rows
            if (at + 1) % self.how.look_every:
                looked = looked[run.finished[looked]]
            looked = looked[flat[looked] > -math.inf]
            if looked.numel():
                steered, gain, _ = run.steered.look(run, looked)
                run, flat = replace(run, steered=steered), flat.index_add(0, looked, gain)
        return replace(
            self,
            run=run,
            log_weight=flat.view(num_chains, size),
            num_drawn=self.num_drawn + int((step.rows % size != 0).sum()),
            num_computed=self.num_computed + step.rows.shape[0],
        )

    def resampled(self) -> _Sweep:
        """The particles of those chains resampled where few carry the weight, or a joint is."""
        if self.position == 0:
            return self
        num_chains, size = self.log_weight.shape
        ess = effective_sample_size(self.log_weight)
        is_open = torch.zeros_like(ess, dtype=torch.bool)
        is_open[self.run.open // size] = True
        low = is_open & (ess < self.how.ess_threshold * size)
        new, kept = self, torch.zeros(num_chains, dtype=torch.long, device=ess.device)
        if self.position in self.joints:
            # Of all chains: whether a population is resampled must not hang on which particle is
            # the kept one.
            low = is_open
            joined = is_open & (self.kept.lengths > self.position)
            if bool(joined.any()):
                kept, num_scored = self._ancestors(joined)
                new = replace(self, num_computed=self.num_computed + num_scored)
        if not bool(low.any()):
            return new
        here = low.nonzero().squeeze(-1)
        numbers = chains_of(self.target, self.old)[here].unsqueeze(-1) * size
        numbers = numbers + torch.arange(size, device=numbers.device)
        uniforms = self.stream.child("resample").uniforms(numbers, self.position)
        ancestors = torch.arange(size, device=ess.device).repeat(num_chains, 1)
        ancestors[here] = conditional_resample(
            self.how.scheme, self.log_weight[here], kept[here], uniforms
        )
        first = torch.arange(num_chains, device=ess.device).unsqueeze(-1) * size
        alive = self.log_weight.gather(1, ancestors) > -math.inf
        return replace(
            new,
            run=self.run.select((ancestors + first).view(-1)),
            log_weight=self.log_weight.masked_fill(low.unsqueeze(-1) & alive, 0.0),
        )

    def _ancestors(self, joined: Tensor) -> tuple[Tensor, int]:
        """Of which particle the kept text goes on, `[chains]`, drawn for those `joined`.

        Also how many tokens were scored.
        """
        num_chains, size = self.log_weight.shape
        run, stage, at = self.run, self.stage, self.position
        candidate = torch.zeros_like(joined.repeat_interleave(size))
        candidate[run.open] = True
        candidate &= joined.repeat_interleave(size) & (self.log_weight.view(-1) > -math.inf)
        rows = candidate.nonzero().squeeze(-1)
        kept = self.kept.select(rows // size)
        is_own = torch.arange(stage.max_tokens, device=rows.device) < at
        text = replace(
            kept,
            tokens=torch.where(is_own, run.tokens[rows], kept.tokens),
            token_log_prob=None,
            token_log_mass=None,
        )
        site_rows = self.rows.select(rows)
        text = replace(text, strings=tuple(decode(stage, text, site_rows.prompts)))
        log_prior = stage.log_prob(site_rows, text)
        log_rest = log_prior - run.log_prior[rows]
        possible = (log_rest > -math.inf) & _is_whole(stage, site_rows, text)
        valid = possible.nonzero().squeeze(-1)
        many = self.many.select(rows[valid])
        spliced = many.with_value(stage.name, text.select(valid), log_prior[valid])
        _, log_later = rescored_later(self.target, many, spliced, self.site)
        rows, log_rest = rows[valid], log_rest[valid] + log_later
        if run.steered.log_psi is not None:
            log_rest = log_rest - run.steered.log_psi[rows]
        log_weight = torch.full_like(self.log_weight, -math.inf).view(-1)
        log_weight[rows] = self.log_weight.view(-1)[rows] + log_rest
        log_weight = log_weight.view(num_chains, size)
        # Rounding must not lose the text's own beginning, which is possible.
        alive = joined & (log_weight > -math.inf).any(-1)
        uniforms = self.stream.child("ancestor").uniforms(chains_of(self.target, self.old), at)
        drawn = _drawn(log_weight, uniforms)
        return drawn.masked_fill(~alive, 0), int(text.lengths.sum())

    def chosen(self) -> Move:
        """One particle for each chain, by weight."""
        num_chains, size = self.log_weight.shape
        run, device = self.run, self.log_weight.device
        first = torch.arange(num_chains, device=device) * size
        every = torch.arange(num_chains * size, device=device)
        dead = self.log_weight.view(-1) == -math.inf
        # What is dead holds an unfinished text, which must not be scored.
        run = run.select(torch.where(dead, every // size * size, every))
        log_weight = run.unsteered(self.log_weight.view(-1)).masked_fill(dead, -math.inf)
        value, log_prior = self.stage.finish(run), run.log_prior
        # Rounding can make a token impossible that was not, at the edge of top_p: the text stays.
        lost = (dead | (log_prior == -math.inf))[first]
        if bool(lost.any()):
            own = lost.repeat_interleave(size)
            value = self.many.values[self.stage.name].merge(value, ~own)
            log_prior = torch.where(own, self.many.log_prior[self.stage.name], log_prior)
            log_weight = log_weight.masked_fill(own, -math.inf)
        new = self.many.with_value(self.stage.name, value, log_prior)
        new, log_later = rescored_later(self.target, self.many, new, self.site)
        log_weight = (log_weight + log_later).view(num_chains, size)
        chains = chains_of(self.target, self.old)
        number = _another(
            log_weight,
            self.stream.child("choice").uniforms(chains),
            self.stream.child("accept").uniforms(chains),
        )
        picked = new.select(first + number)
        moved = picked.values[self.stage.name].differs(self.kept)
        return Move(picked, moved, moved, self.num_drawn, self.num_computed, is_proposal=True)


def _another(log_weight: Tensor, choice: Tensor, accept: Tensor) -> Tensor:
    """A column for every row of `log_weight` `[rows, columns]`, if column 0 is where it was.

    Another is proposed in proportion to the weights, and taken with probability
    min(1, (1 − W₀)/(1 − Wᵢ)).
    """
    others = log_weight.clone()
    others[:, 0] = -math.inf
    number = _drawn(others, choice)
    weights = normalise(log_weight).exp()
    left = 1.0 - weights.gather(1, number.unsqueeze(-1)).squeeze(-1)
    taken = accept * left < weights[:, 1:].sum(-1)
    return number.masked_fill(~taken, 0)


def _drawn(log_weight: Tensor, uniforms: Tensor) -> Tensor:
    """A column for every row `[rows]` in proportion to the weights `[rows, columns]`; 0 where none
    is positive."""
    cumulative = normalise(log_weight).exp().cumsum(-1)
    total = cumulative[:, -1:]
    points = torch.minimum(
        uniforms.unsqueeze(-1) * total, torch.nextafter(total, torch.zeros_like(total))
    )
    found = torch.searchsorted(cumulative, points, right=True).squeeze(-1)
    return found.clamp(max=log_weight.shape[1] - 1).masked_fill(total.squeeze(-1) == 0.0, 0)


def _is_whole(stage: TextStage, rows: SiteRows, text: TextBatch) -> Tensor:
    """Which texts have nothing that ends them before their last token, `[rows]`."""
    whole = torch.ones_like(text.finished)
    if not stage.stopping:
        return whole
    automata = stop_automata(stage, rows.prompts)
    states = automata.begin(torch.arange(whole.shape[0], device=whole.device))
    last = text.tokens.gather(1, (text.lengths - 1).unsqueeze(-1)).squeeze(-1)
    by_stop = text.finished & ~stage.is_eos[last]
    for t in range(int(text.lengths.max())):
        states = automata.advance(states, text.tokens[:, t])
        ended = automata.ended(states)
        due = by_stop & (text.lengths == t + 1)
        whole &= (ended == due) | (text.lengths <= t)
    return whole
